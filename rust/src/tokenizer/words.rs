//! Text cut into words, as the pattern of a vocabulary cuts it before merging: takes text, gives where words end.
//! The patterns are those of GPT-2, cl100k and o200k; each rule below stands beside the part of the pattern that it is.

use super::classes::{CAPITAL, Classes, DIGIT, LETTER, MARK, NUMBER, SMALL, SPACE};
use super::masks::Masks;

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
    masks: &mut Masks,
    mut word: impl FnMut(usize, usize),
) {
    match pattern {
        Pattern::Gpt2 { digits_apart: false } => walk(text, &Gpt2::<false>, masks, &mut word),
        Pattern::Gpt2 { digits_apart: true } => walk(text, &Gpt2::<true>, masks, &mut word),
        Pattern::Cl100k { digits } => walk(text, &Cl100k { digits }, masks, &mut word),
        Pattern::O200k => walk(text, &O200k, masks, &mut word),
    }
}

/// The rules of a pattern.
trait Rules {
    /// Whether digits are no part of any run.
    const DIGITS_APART: bool = false;

    /// The end of the word at `at`, or None where more text must be looked at.
    fn word(&self, text: &[u8], at: usize, masks: &Masks) -> Option<usize>;
}

#[inline]
fn walk<R: Rules>(text: &[u8], rules: &R, masks: &mut Masks, word: &mut impl FnMut(usize, usize)) {
    let mut at = 0;
    let mut longer = false;
    while at < text.len() {
        masks.look(text, at, R::DIGITS_APART, longer);
        longer = true;
        while at < text.len() {
            let Some(end) = rules.word(text, at, masks) else { break };
            word(at, end);
            at = end;
            longer = false;
        }
    }
}

/// The end of a word of letters, the most frequent one, which a byte may begin that `before` allows. Some(None) is one
/// that goes on beyond what was looked at.
#[inline]
fn letters(text: &[u8], at: usize, masks: &Masks, before: fn(u8) -> bool) -> Option<Option<usize>> {
    let letters = masks.letters(at);
    let start = u32::from(letters & 1 == 0);
    if start == 1 && !(letters & 2 != 0 && before(text[at])) {
        return None;
    }
    let run = (letters >> start).trailing_ones();
    let end = at + (start + run) as usize;
    Some(if start + run < 56 { masks.whole(end) } else { masks.letters_end(end) })
}

struct Gpt2<const DIGITS_APART: bool>;

impl<const APART: bool> Rules for Gpt2<APART> {
    const DIGITS_APART: bool = APART;

    #[inline]
    fn word(&self, text: &[u8], at: usize, masks: &Masks) -> Option<usize> {
        // ` ?\p{L}+`
        if let Some(end) = letters(text, at, masks, |byte| byte == b' ') {
            return end;
        }
        let classes = Classes::shared();
        if text[at] == b'\''
            && let Some(end) = contraction(text, at, false)
        {
            return masks.whole(end);
        }
        // ` ?` before letters, numbers or others.
        let start = at + usize::from(text[at] == b' ');
        if start < text.len() {
            let (class, size) = classes.at(text, start);
            match class {
                _ if APART && class & DIGIT != 0 && start == at => return masks.whole(at + size),
                _ if APART && class & DIGIT != 0 => {}
                _ if class & LETTER != 0 => return masks.letters_end(start),
                _ if class & NUMBER != 0 => return masks.whole(numbers_end(text, start, usize::MAX, APART)),
                _ if class & SPACE == 0 => return masks.others_end(start),
                _ => {}
            }
        }
        let end = masks.spaces_end(at)?;
        let at_end = end == text.len() || (APART && classes.at(text, end).0 & DIGIT != 0);
        Some(spaces(text, at, end, at_end))
    }
}

struct Cl100k {
    digits: usize,
}

impl Rules for Cl100k {
    #[inline]
    fn word(&self, text: &[u8], at: usize, masks: &Masks) -> Option<usize> {
        // `[^\r\n\p{L}\p{N}]?\p{L}+`. The apostrophe may begin a contraction, which goes before; a character beyond
        // ASCII has several bytes.
        let before = |byte| !matches!(byte, b'\r' | b'\n' | b'0'..=b'9' | b'\'' | 0x80..);
        if let Some(end) = letters(text, at, masks, before) {
            return end;
        }
        let classes = Classes::shared();
        if text[at] == b'\''
            && let Some(end) = contraction(text, at, true)
        {
            return masks.whole(end);
        }
        let (class, size) = classes.at(text, at);
        // `\p{N}{1,3}`
        if class & NUMBER != 0 {
            return masks.whole(numbers_end(text, at, self.digits, false));
        }
        // `[^\r\n\p{L}\p{N}]?\p{L}+`
        let next = at + size;
        let is_newline = matches!(text[at], b'\r' | b'\n');
        if !is_newline && next < text.len() && classes.at(text, next).0 & LETTER != 0 {
            return masks.letters_end(next);
        }
        others_or_spaces(text, at, next, masks, |byte| matches!(byte, b'\r' | b'\n'))
    }
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+` at a character that ends at `next`; `after` are the bytes that may
/// follow others.
#[inline]
fn others_or_spaces(
    text: &[u8],
    at: usize,
    next: usize,
    masks: &Masks,
    after: fn(u8) -> bool,
) -> Option<usize> {
    let other = if text[at] == b' ' { next } else { at };
    if other < text.len() && Classes::shared().at(text, other).0 & (LETTER | NUMBER | SPACE) == 0 {
        let mut end = masks.others_end(other)?;
        while end < text.len() && after(text[end]) {
            end += 1;
        }
        return masks.whole(end);
    }
    // `\s*[\r\n]+` takes back spaces up to the last newline of the run.
    let end = masks.spaces_end(at)?;
    match text[at..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(newline) => Some(at + newline + 1),
        None => Some(spaces(text, at, end, end == text.len())),
    }
}

struct O200k;

impl Rules for O200k {
    fn word(&self, text: &[u8], at: usize, masks: &Masks) -> Option<usize> {
        let (class, size) = Classes::shared().at(text, at);
        let next = at + size;
        // `[^\r\n\p{L}\p{N}]?` is taken if what follows matches with it, and else left out, which helps marks alone.
        let may_begin = class & (LETTER | NUMBER) == 0 && !matches!(text[at], b'\r' | b'\n');
        let end =
            Some(next).filter(|_| may_begin).and_then(|next| cased(text, next)).or_else(|| cased(text, at));
        if let Some(end) = end {
            let end =
                if text.get(end) == Some(&b'\'') { contraction(text, end, true).unwrap_or(end) } else { end };
            return masks.whole(end);
        }
        if class & NUMBER != 0 {
            return masks.whole(numbers_end(text, at, 3, false));
        }
        others_or_spaces(text, at, next, masks, |byte| matches!(byte, b'\r' | b'\n' | b'/'))
    }
}

/// The end of `[U]*[S]+` at `at`, and if that does not match, of `[U]+[S]*`.
fn cased(text: &[u8], at: usize) -> Option<usize> {
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
    if end > upper_end { Some(end) } else { shared.or_else(|| (upper_end > at).then_some(upper_end)) }
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

/// The end of at most `most` numbers in a row. Digits that are cut out before are no part of it.
#[inline]
fn numbers_end(text: &[u8], mut at: usize, most: usize, digits_apart: bool) -> usize {
    let classes = Classes::shared();
    let wanted = if digits_apart { NUMBER | DIGIT } else { NUMBER };
    for _ in 0..most {
        if at == text.len() {
            break;
        }
        let (class, size) = classes.at(text, at);
        if class & wanted != NUMBER {
            break;
        }
        at += size;
    }
    at
}

/// `\s+(?!\S)|\s+` for the run `at..end`: all but the last space, which goes to the word behind, if there is one.
#[inline]
fn spaces(text: &[u8], at: usize, end: usize, at_end: bool) -> usize {
    if at_end {
        return end;
    }
    let is_start = |byte: &u8| byte & 0xc0 != 0x80;
    let last = at + text[at..end].iter().rposition(is_start).unwrap_or(0);
    if last == at { end } else { last }
}
