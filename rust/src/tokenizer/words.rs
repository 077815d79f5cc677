//! Text cut into words, as the pattern of a vocabulary cuts it before merging: takes text, gives where words end.
//! The patterns are those of GPT-2, cl100k and o200k; each rule below stands beside the part of the pattern that it is.

use super::classes::{CAPITAL, Classes, LETTER, MARK, NUMBER, SMALL, SPACE};
use super::masks::{Block, Masks};

/// A pattern that cuts text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, where `digits_apart` each
    /// digit is cut out first and the rest is a text of its own on either side.
    Gpt2 { digits_apart: bool },
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    /// with `digits` in the place of 3.
    Cl100k { digits: usize },
    /// With `U` for `\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`, `S` for `\p{Ll}\p{Lm}\p{Lo}\p{M}` and `C` for the contractions of cl100k:
    /// `[^\r\n\p{L}\p{N}]?[U]*[S]+C?|[^\r\n\p{L}\p{N}]?[U]+[S]*C?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    O200k,
}

/// Gives each word of `text` by its place.
pub(super) fn each_word(
    text: &[u8],
    pattern: Pattern,
    starts: &mut Starts,
    mut word: impl FnMut(usize, usize),
) {
    match pattern {
        Pattern::Gpt2 { digits_apart } => starts.each_word(text, &Gpt2 { digits_apart }, &mut word),
        Pattern::Cl100k { digits } => starts.each_word(text, &Cl100k { digits }, &mut word),
        Pattern::O200k => {
            let mut at = 0;
            while at < text.len() {
                let end = o200k(text, at);
                word(at, end);
                at = end;
            }
        }
    }
}

/// Where words start, for patterns whose rules need no more than the classes beside a character: those of 64 bytes are a few
/// operations on numbers, whatever the text.
pub(super) struct Starts {
    masks: Masks,
    /// A bit for each byte of what `masks` looked at.
    starts: Vec<u64>,
}

/// The rules of a pattern.
trait Rules {
    const CONTRACTIONS_OF_ANY_CASE: bool;

    /// Whether digits are cut out first.
    fn digits_apart(&self) -> bool;

    /// The first characters of words among 64 bytes, and what is left to do for them.
    fn starts(&self, around: [&Block; 3], before: &mut Before) -> (u64, Left);

    /// How many numbers make a word.
    fn numbers(&self) -> usize;
}

/// What the rules of a block hand on to those of the next one.
#[derive(Default)]
struct Before {
    others: u64,
    other_starts: u64,
    /// A run that began before goes on.
    next_goes_on: bool,
    absorbed_goes_on: bool,
    /// Spaces that are left, and newlines among these.
    spaces: u64,
    newlines: u64,
}

/// What is rare enough to be done one place at a time.
#[derive(Default)]
struct Left {
    /// Last bytes of characters that start words.
    last_bytes: u64,
    /// Last spaces before a newline: where they follow a newline too, no word starts at the first of them.
    blank_ends: u64,
    /// Whether a run of numbers may be longer than a word.
    numbers: bool,
}

impl Starts {
    pub(super) fn new() -> Self {
        Self { masks: Masks::new(), starts: Vec::new() }
    }

    #[inline]
    fn each_word<R: Rules>(&mut self, text: &[u8], rules: &R, word: &mut impl FnMut(usize, usize)) {
        let (mut start, mut longer) = (0, false);
        while start < text.len() {
            self.masks.look(text, start, rules.digits_apart(), longer);
            self.mark(text, rules);
            let (first, limit) = (start, self.masks.limit());
            let bits = limit - first;
            // The first word starts where it is looked at, and the last one ends where the text does.
            self.starts[0] &= !1;
            if limit == text.len() {
                self.set(bits);
            }
            let last = bits / 64;
            self.starts[last] &= !0 >> (63 - bits % 64);
            for (turn, &bits) in self.starts[..=last].iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    let end = first + 64 * turn + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    word(start, end);
                    start = end;
                }
            }
            longer = start == first;
        }
    }

    /// Finds all starts in what was looked at.
    #[inline]
    fn mark<R: Rules>(&mut self, text: &[u8], rules: &R) {
        let Self { masks, starts } = self;
        starts.clear();
        starts.shrink_to(2 * masks.blocks().len().max(256));
        let mut before = Before::default();
        let (mut any_apostrophe, mut any_numbers) = (false, false);
        for (turn, around) in masks.blocks().enumerate() {
            let (found, left) = rules.starts(around, &mut before);
            starts.push(found);
            any_apostrophe |= found & around[1].apostrophes != 0;
            any_numbers |= left.numbers;
            each_bit(left.last_bytes, |bit| {
                let at = masks.character_start(64 * turn + bit);
                starts[at / 64] |= 1 << (at % 64);
            });
            each_bit(left.blank_ends, |bit| {
                if let Some(at) = masks.start_behind_newline(64 * turn + bit) {
                    starts[at / 64] &= !(1 << (at % 64));
                }
            });
        }
        starts.push(0);
        starts.push(0);
        if any_numbers {
            self.cut_numbers(text, rules.numbers());
        }
        if any_apostrophe {
            self.cut_contractions(text, R::CONTRACTIONS_OF_ANY_CASE);
        }
    }

    fn set(&mut self, at: usize) {
        self.starts[at / 64] |= 1 << (at % 64);
    }

    /// Words of numbers have at most so many.
    #[inline(never)]
    fn cut_numbers(&mut self, text: &[u8], most: usize) {
        if self.masks.blocks().any(|[_, block, _]| block.numbers & block.inside != 0) {
            return self.cut_wide_numbers(text, most);
        }
        let (mut last, mut cut) = (usize::MAX - 1, 0);
        for (turn, [behind, block, _]) in self.masks.blocks().enumerate() {
            each_bit(too_many(behind.numbers, block.numbers, most), |bit| {
                let at = 64 * turn + bit;
                if at != last + 1 || at == cut + most {
                    self.starts[turn] |= 1 << bit;
                    cut = at;
                }
                last = at;
            });
        }
    }

    /// The same for numbers of more than one byte.
    fn cut_wide_numbers(&mut self, text: &[u8], most: usize) {
        let classes = Classes::shared();
        let Self { masks, starts } = self;
        let start = masks.start();
        let mut before = 0;
        for (turn, [_, block, _]) in masks.blocks().enumerate() {
            let run_starts = block.numbers & !(block.numbers << 1 | before >> 63);
            before = block.numbers;
            each_bit(run_starts, |bit| {
                let (mut at, mut count) = (start + 64 * turn + bit, 0);
                let end = masks.end();
                while at < end {
                    let (class, size) = classes.at(text, at);
                    if class & NUMBER == 0 {
                        break;
                    }
                    if count == most {
                        starts[(at - start) / 64] |= 1 << ((at - start) % 64);
                        count = 0;
                    }
                    count += 1;
                    at += size;
                }
            });
        }
    }

    /// A contraction is a word of its own, whatever is behind it.
    #[inline(never)]
    fn cut_contractions(&mut self, text: &[u8], any_case: bool) {
        let Self { masks, starts } = self;
        let start = masks.start();
        for (turn, [_, block, _]) in masks.blocks().enumerate() {
            each_bit(starts[turn] & block.apostrophes, |bit| {
                let at = 64 * turn + bit;
                if let Some(end) = contraction(text, start + at, any_case) {
                    let end = end - start;
                    for inside in at + 1..end {
                        starts[inside / 64] &= !(1 << (inside % 64));
                    }
                    starts[end / 64] |= 1 << (end % 64);
                }
            });
        }
    }
}

#[inline]
fn each_bit(mut bits: u64, mut each: impl FnMut(usize)) {
    while bits != 0 {
        each(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

/// The bits one byte later.
#[inline]
fn later(bits: u64, before: u64) -> u64 {
    bits << 1 | before >> 63
}

/// The bits one byte earlier.
#[inline]
fn earlier(bits: u64, behind: u64) -> u64 {
    bits >> 1 | behind << 63
}

/// What is left of `runs` without those that begin at `starts`, which are first bits of runs: adding carries through a run
/// and leaves none of it, but a bit behind it. `goes_on` says that a run without a start here began in the block before.
#[inline]
fn without_runs(runs: u64, starts: u64, goes_on: &mut bool) -> u64 {
    let (sum, first) = runs.overflowing_add(starts);
    let (sum, second) = sum.overflowing_add(u64::from(*goes_on));
    *goes_on = first | second;
    sum
}

/// Which numbers have as many numbers as a word may have before them, byte by byte.
#[inline]
fn too_many(behind: u64, numbers: u64, most: usize) -> u64 {
    (1..=most as u32).fold(numbers, |run, by| run & (numbers << by | behind >> (64 - by)))
}

struct Gpt2 {
    digits_apart: bool,
}

impl Rules for Gpt2 {
    const CONTRACTIONS_OF_ANY_CASE: bool = false;

    fn digits_apart(&self) -> bool {
        self.digits_apart
    }

    fn numbers(&self) -> usize {
        usize::MAX
    }

    #[inline]
    fn starts(&self, [behind, block, next]: [&Block; 3], before: &mut Before) -> (u64, Left) {
        let &Block { letters, numbers, spaces, digits, inside, .. } = block;
        let others = !(letters | numbers | spaces | digits);
        // ` ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`: a run, and a space before it that no other space keeps.
        let same = letters & later(letters, behind.letters)
            | numbers & later(numbers, behind.numbers)
            | others & later(others, before.others);
        let words = (letters | numbers | others) & !same & !later(block.blanks, behind.blanks);
        // `\s+(?!\S)|\s+`: the last space before a word stands apart from those before it. Digits are no words here.
        let last = spaces & !earlier(spaces | digits, next.spaces | next.digits);
        let runs = spaces & !later(spaces, behind.spaces);
        before.others = others;
        let found = words | runs | last & !inside | digits & !inside;
        (found, Left { last_bytes: last & inside, ..Left::default() })
    }
}

struct Cl100k {
    digits: usize,
}

impl Rules for Cl100k {
    const CONTRACTIONS_OF_ANY_CASE: bool = true;

    fn digits_apart(&self) -> bool {
        false
    }

    fn numbers(&self) -> usize {
        self.digits
    }

    #[inline]
    fn starts(&self, [behind, block, next]: [&Block; 3], before: &mut Before) -> (u64, Left) {
        let &Block { letters, numbers, spaces, inside, newlines, .. } = block;
        let others = !(letters | numbers | spaces);
        let after_others = later(others, before.others);
        // ` ?[^\s\p{L}\p{N}]+`
        let other_starts = others & !after_others & !later(block.blanks, behind.blanks);
        // `[^\r\n\p{L}\p{N}]?\p{L}+`: what may stand before is a space or the one other of a run.
        let next_start = later(other_starts, before.other_starts);
        let behind_other = next_start & !inside
            | without_runs(inside, next_start & inside, &mut before.next_goes_on) & !inside;
        let behind_space = later(spaces & !newlines, behind.spaces & !behind.newlines);
        let letter_starts = letters & !later(letters, behind.letters) & !behind_other & !behind_space;
        // `\p{N}{1,3}`
        let number_starts = match self.digits {
            1 => numbers & !inside,
            _ => numbers & !later(numbers, behind.numbers),
        };
        // `[\r\n]*` behind others.
        let left = without_runs(newlines, after_others & newlines, &mut before.absorbed_goes_on);
        let left_spaces = spaces & (!newlines | left);
        let left_newlines = newlines & left;
        // `\s*[\r\n]+` goes on to the last newline of a run; then `\s+(?!\S)|\s+`.
        let runs = left_spaces & !later(left_spaces, before.spaces);
        let plain = spaces & !newlines;
        let behind_newline = plain & later(left_newlines, before.newlines);
        let last = plain & !earlier(spaces, next.spaces);
        let blank_ends = plain & earlier(newlines, next.newlines);
        *before = Before {
            others,
            other_starts,
            spaces: left_spaces,
            newlines: left_newlines,
            next_goes_on: before.next_goes_on,
            absorbed_goes_on: before.absorbed_goes_on,
        };
        let found = other_starts | letter_starts | number_starts | runs | behind_newline | last & !inside;
        let numbers =
            self.digits > 1 && (too_many(behind.numbers, numbers, self.digits) | numbers & inside) != 0;
        (found, Left { last_bytes: last & inside, blank_ends, numbers })
    }
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+` at a character that ends at `next`; `after` are the bytes that may
/// follow others.
fn others_or_spaces(text: &[u8], at: usize, next: usize, after: fn(u8) -> bool) -> usize {
    let other = if text[at] == b' ' { next } else { at };
    let mut end = run_end(text, other, |class| class & (LETTER | NUMBER | SPACE) == 0);
    if end > other {
        while end < text.len() && after(text[end]) {
            end += 1;
        }
        return end;
    }
    // `\s*[\r\n]+` takes back spaces up to the last newline of the run.
    let end = run_end(text, at, |class| class & SPACE != 0);
    match text[at..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(newline) => at + newline + 1,
        None => spaces(text, at, end),
    }
}

/// The end of the characters from `at` on whose class is wanted.
fn run_end(text: &[u8], mut at: usize, wanted: fn(u8) -> bool) -> usize {
    while at < text.len() {
        let (class, size) = Classes::shared().at(text, at);
        if !wanted(class) {
            break;
        }
        at += size;
    }
    at
}

/// The end of the word at `at`. Its words end where large letters follow small ones, which takes a look at each.
fn o200k(text: &[u8], at: usize) -> usize {
    let (class, size) = Classes::shared().at(text, at);
    let next = at + size;
    // `[^\r\n\p{L}\p{N}]?` is taken if what follows matches with it, and else left out, which helps marks alone. Each alternative
    // tries both before the next one is tried.
    let may_begin = class & (LETTER | NUMBER) == 0 && !matches!(text[at], b'\r' | b'\n');
    let with = if may_begin { cased(text, next) } else { Cased::default() };
    let end = with.small_at_last.or_else(|| {
        let without = cased(text, at);
        without.small_at_last.or(with.capital_first).or(without.capital_first)
    });
    if let Some(end) = end {
        return if text.get(end) == Some(&b'\'') { contraction(text, end, true).unwrap_or(end) } else { end };
    }
    if class & NUMBER != 0 {
        return numbers_end(text, at, 3);
    }
    others_or_spaces(text, at, next, |byte| matches!(byte, b'\r' | b'\n' | b'/'))
}

/// Where what the two alternatives for letters match ends.
#[derive(Default)]
struct Cased {
    /// `[U]*[S]+`, which is tried with and without a character before it first.
    small_at_last: Option<usize>,
    /// `[U]+[S]*`
    capital_first: Option<usize>,
}

/// What letters of both cases match at `at`.
fn cased(text: &[u8], at: usize) -> Cased {
    let classes = Classes::shared();
    let is_upper = |class: u8| class & MARK != 0 || class & (LETTER | SMALL) == LETTER;
    let is_lower = |class: u8| class & MARK != 0 || class & (LETTER | CAPITAL) == LETTER;
    // `[U]*` takes all it can; `[S]+` begins there, or takes back the last one that is its own too.
    let (mut end, mut shared) = (at, None);
    while end < text.len() {
        let (class, size) = classes.at(text, end);
        if !is_upper(class) {
            break;
        }
        end += size;
        if is_lower(class) {
            shared = Some(end);
        }
    }
    let upper_end = end;
    while end < text.len() {
        let (class, size) = classes.at(text, end);
        if !is_lower(class) {
            break;
        }
        end += size;
    }
    let small_at_last = if end > upper_end { Some(end) } else { shared };
    Cased { small_at_last, capital_first: (upper_end > at).then_some(end) }
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at an apostrophe.
#[inline]
fn contraction(text: &[u8], at: usize, any_case: bool) -> Option<usize> {
    let letter = |offset: usize| {
        let byte = *text.get(at + offset)?;
        Some(if any_case { byte.to_ascii_lowercase() } else { byte })
    };
    match letter(1)? {
        b's' | b't' | b'm' | b'd' => Some(at + 2),
        b'r' if letter(2) == Some(b'e') => Some(at + 3),
        b'v' if letter(2) == Some(b'e') => Some(at + 3),
        b'l' if letter(2) == Some(b'l') => Some(at + 3),
        // The long s is the one other character that is an s in any case.
        _ if any_case && text[at + 1..].starts_with("\u{17f}".as_bytes()) => Some(at + 3),
        _ => None,
    }
}

/// The end of at most `most` numbers in a row.
fn numbers_end(text: &[u8], mut at: usize, most: usize) -> usize {
    for _ in 0..most {
        let Some(_) = text.get(at) else { break };
        let (class, size) = Classes::shared().at(text, at);
        if class & NUMBER == 0 {
            break;
        }
        at += size;
    }
    at
}

/// `\s+(?!\S)|\s+` for the run `at..end`: all but the last space, which goes to the word behind, if there is one.
fn spaces(text: &[u8], at: usize, end: usize) -> usize {
    if end == text.len() {
        return end;
    }
    let is_start = |byte: &u8| byte & 0xc0 != 0x80;
    let last = at + text[at..end].iter().rposition(is_start).unwrap_or(0);
    if last == at { end } else { last }
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::digits::Digits;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
        SplitDelimiterBehavior,
    };

    use super::*;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// What the classes and the rules tell apart, and what they look at beyond a character.
    const PARTS: &[&str] = &[
        "a", "word", "Ab", "ABC", "é", "ß", "中", "日本", "я", "ก", "\u{301}", "\u{94d}", "1", "22", "4444",
        "٣", "Ⅷ", "²", " ", "  ", "\t", "\n", "\r\n", "\n\n", "\u{a0}", "\u{3000}", "\u{2028}", "'", "'s",
        "'LL", "'re", "'ve", "'\u{17f}", "!", "...", "/", "(", "—", "…", "🙂", "\u{200d}", "_",
    ];

    /// Spaces, whose words depend on all that follow, and what ends them.
    const BLANKS: &[&str] = &[" ", "\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "a", "!", "1"];

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 33) as usize % bound
        }

        /// A few kinds of parts, some of them many times, so that runs of one kind and what ends them are met.
        fn text(&mut self, least: usize) -> String {
            let parts = if self.below(3) == 0 { BLANKS } else { PARTS };
            let kinds: Vec<&str> = (0..1 + self.below(5)).map(|_| parts[self.below(parts.len())]).collect();
            let mut text = String::new();
            while text.len() < least {
                let times = 1 + [0, 1, 4, 90][self.below(4)];
                text.push_str(&kinds[self.below(kinds.len())].repeat(1 + self.below(times)));
            }
            (0..self.below(8)).for_each(|_| text.push_str(PARTS[self.below(PARTS.len())]));
            text
        }
    }

    fn split(regex: &str) -> PreTokenizerWrapper {
        let pattern = SplitPattern::Regex(regex.to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("a pattern").into()
    }

    /// Where words end for us and for the crate, on short texts and on some whose windows are cut where it matters.
    fn check(pattern: Pattern, oracle: &[PreTokenizerWrapper]) {
        let (mut dice, mut starts) = (Dice(7), Starts::new());
        for case in 0..3000 {
            let least = match case % 10 {
                0 => 8192 - 64 + dice.below(192),
                turn => turn,
            };
            let text = dice.text(least);
            let mut ends = vec![];
            each_word(text.as_bytes(), pattern, &mut starts, |_, end| ends.push(end));
            let mut words = PreTokenizedString::from(text.as_str());
            oracle.iter().for_each(|step| step.pre_tokenize(&mut words).expect("any text"));
            let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let expected: Vec<usize> = words.into_iter().map(|(_, (_, end), _)| end).collect();
            assert_eq!(ends, expected, "case {case}: {text:?}");
        }
    }

    #[test]
    fn words_of_gpt2_are_those_of_its_pattern() {
        check(Pattern::Gpt2 { digits_apart: false }, &[split(GPT2)]);
        check(Pattern::Gpt2 { digits_apart: true }, &[Digits::new(true).into(), split(GPT2)]);
    }

    #[test]
    fn words_of_cl100k_are_those_of_its_pattern() {
        for digits in 1..=3 {
            let most = format!("{{1,{digits}}}");
            check(Pattern::Cl100k { digits }, &[split(&CL100K.replace("{1,3}", &most))]);
        }
    }

    #[test]
    fn words_of_o200k_are_those_of_its_pattern() {
        check(Pattern::O200k, &[split(O200K)]);
    }
}
