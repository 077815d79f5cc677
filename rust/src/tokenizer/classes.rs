//! What kind of character a code point is, by the reading of the `tokenizers` crate: takes code points, gives class
//! bits. How words are cut by them is `words`'s.

use std::sync::LazyLock;

use super::class_runs::RUNS;

/// `\p{L}`
pub(super) const LETTER: u8 = 1;
/// `\p{N}`
pub(super) const NUMBER: u8 = 2;
/// `\s`
pub(super) const SPACE: u8 = 4;
/// `[\p{Lu}\p{Lt}]`
pub(super) const CAPITAL: u8 = 8;
/// `\p{Ll}`
pub(super) const SMALL: u8 = 16;
/// `\p{M}`
pub(super) const MARK: u8 = 32;
/// NFC changes it neither alone nor beside any other character before it.
pub(super) const INERT: u8 = 64;
/// `char::is_numeric`, whose Unicode is newer than that of the patterns.
pub(super) const DIGIT: u8 = 128;

const BLOCK: usize = 256;
const CODE_POINTS: usize = 0x11_0000;

/// The classes of all code points in two steps: most blocks of 256 are alike, so what is looked at stays in the cache.
pub(super) struct Classes {
    blocks: [u16; CODE_POINTS / BLOCK],
    classes: Vec<[u8; BLOCK]>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| Classes::from_runs(RUNS));

impl Classes {
    /// The table of all tokenizers.
    pub(super) fn shared() -> &'static Self {
        &CLASSES
    }

    fn from_runs(runs: &[(u32, u8)]) -> Self {
        let mut table = Self { blocks: [0; CODE_POINTS / BLOCK], classes: Vec::new() };
        let mut runs = runs.iter().peekable();
        let mut class = 0;
        for (number, block) in table.blocks.iter_mut().enumerate() {
            let mut filled = [0; BLOCK];
            for (code, filled) in (number * BLOCK..).zip(&mut filled) {
                if let Some(&(_, next)) = runs.next_if(|&&(start, _)| start as usize == code) {
                    class = next;
                }
                *filled = class;
            }
            // Large scripts and the unassigned planes repeat the block before or one of the first.
            let known = table.classes.iter().rposition(|block| *block == filled);
            *block = known.unwrap_or(table.classes.len()) as u16;
            if known.is_none() {
                table.classes.push(filled);
            }
        }
        table
    }

    /// The class bits of a code point.
    #[inline]
    pub(super) fn of(&self, code: u32) -> u8 {
        let block = self.blocks[code as usize / BLOCK];
        self.classes[usize::from(block)][code as usize % BLOCK]
    }

    /// The class bits of the character that starts at `text[at]`, and how many bytes it has.
    #[inline]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u8, usize) {
        // Four bytes at once, or as many as are left.
        let bytes = text[at..].first_chunk().copied().unwrap_or_else(|| {
            let mut bytes = [0; 4];
            bytes[..text.len() - at].copy_from_slice(&text[at..]);
            bytes
        });
        let lead = u32::from(bytes[0]);
        let next = |offset: usize| u32::from(bytes[offset]) & 0x3f;
        match lead {
            0..0x80 => (self.classes[0][lead as usize], 1),
            0x80..0xe0 => (self.of((lead & 0x1f) << 6 | next(1)), 2),
            0xe0..0xf0 => (self.of((lead & 0xf) << 12 | next(1) << 6 | next(2)), 3),
            _ => (self.of((lead & 7) << 18 | next(1) << 12 | next(2) << 6 | next(3)), 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokenizers::pre_tokenizers::digits::Digits;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::tokenizer::SplitDelimiterBehavior;
    use tokenizers::{NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    const HEAD: &str = "//! Generated: the classes of all code points, see `classes`. Do not edit; its test says how to write it anew.

/// Where a run of code points of one class starts, and their class.
#[rustfmt::skip]
pub(super) static RUNS: &[(u32, u8)] = &[
";

    fn characters() -> impl Iterator<Item = char> {
        '\0'..=char::MAX
    }

    /// The characters that a pre-tokenizer cuts out.
    fn cut_out(pre_tokenizer: &impl PreTokenizer, mut found: impl FnMut(char)) {
        let all: Vec<char> = characters().collect();
        for chunk in all.chunks(4096) {
            let text: String = chunk.iter().collect();
            let mut left = PreTokenizedString::from(text.as_str());
            pre_tokenizer.pre_tokenize(&mut left).expect("any text");
            let splits = left.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let mut kept = vec![false; text.len()];
            splits.iter().for_each(|(_, (start, end), _)| kept[*start..*end].fill(true));
            text.char_indices().filter(|&(at, _)| !kept[at]).for_each(|(_, character)| found(character));
        }
    }

    fn matching(pattern: &str, found: impl FnMut(char)) {
        let pattern = SplitPattern::Regex(pattern.into());
        cut_out(&Split::new(pattern, SplitDelimiterBehavior::Removed, false).expect("a pattern"), found);
    }

    fn normalized(text: &str, form: fn(&mut NormalizedString) -> &mut NormalizedString) -> String {
        let mut text = NormalizedString::from(text);
        form(&mut text).get().to_owned()
    }

    /// What composition neither changes nor joins to what stands before it.
    fn inert() -> Vec<char> {
        let nfd = |text: &str| normalized(text, NormalizedString::nfd);
        let parts: HashMap<char, String> = characters()
            .map(|character| (character, nfd(character.encode_utf8(&mut [0; 4]))))
            .filter(|(character, parts)| !parts.chars().eq([*character]))
            .collect();
        let joins: Vec<char> = parts.values().flat_map(|parts| parts.chars().skip(1)).collect();
        let joins: std::collections::HashSet<char> = joins.into_iter().collect();
        // A mark changes places with another one of a lower or a higher class; U+0334 and U+0345 have the extremes.
        let is_mark = |character: char| {
            let (after, before) = (format!("{character}\u{334}"), format!("\u{345}{character}"));
            nfd(&after) != after || nfd(&before) != before
        };
        let is_inert = |&character: &char| {
            let first =
                parts.get(&character).map_or(character, |parts| parts.chars().next().expect("not empty"));
            let alone = String::from(character);
            !joins.contains(&character)
                && !joins.contains(&first)
                && !is_mark(first)
                && (!parts.contains_key(&character) || normalized(&alone, NormalizedString::nfc) == alone)
        };
        characters().filter(is_inert).collect()
    }

    /// The classes by the `tokenizers` crate. Surrogates, which are no characters, have that of their neighbour.
    fn asked() -> Vec<(u32, u8)> {
        let mut classes = vec![0; CODE_POINTS];
        let patterns = [
            (r"\p{L}", LETTER),
            (r"\p{N}", NUMBER),
            (r"\s", SPACE),
            (r"[\p{Lu}\p{Lt}]", CAPITAL),
            (r"\p{Ll}", SMALL),
            (r"\p{M}", MARK),
        ];
        for (pattern, class) in patterns {
            matching(pattern, |character| classes[character as usize] |= class);
        }
        // Each digit is a piece of its own between letters.
        for character in characters() {
            let text = format!("a{character}a");
            let mut pieces = PreTokenizedString::from(text.as_str());
            Digits::new(true).pre_tokenize(&mut pieces).expect("any text");
            if pieces.get_splits(OffsetReferential::Original, OffsetType::Byte).len() == 3 {
                classes[character as usize] |= DIGIT;
            }
        }
        inert().into_iter().for_each(|character| classes[character as usize] |= INERT);
        let mut runs: Vec<(u32, u8)> = vec![];
        for character in characters() {
            let class = classes[character as usize];
            if runs.last().is_none_or(|&(_, last)| last != class) {
                runs.push((character.into(), class));
            }
        }
        runs
    }

    /// `ECOCORE_WRITE_CLASSES=1 cargo test classes` writes the table anew, for a new version of the crate.
    #[test]
    fn classes_are_those_of_the_crate() {
        let asked = asked();
        if std::env::var_os("ECOCORE_WRITE_CLASSES").is_some() {
            let mut text = HEAD.to_owned();
            let mut line = String::from("   ");
            for (start, class) in &asked {
                let entry = format!(" ({start:#x}, {class}),");
                if line.len() + entry.len() > 110 {
                    text.push_str(&std::mem::replace(&mut line, "   ".into()));
                    text.push('\n');
                }
                line.push_str(&entry);
            }
            text.push_str(&format!("{line}\n];\n"));
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/rust/src/tokenizer/class_runs.rs");
            std::fs::write(path, text).expect("the file is ours");
        } else {
            assert_eq!(asked, RUNS);
        }
    }

    #[test]
    fn the_table_is_its_runs() {
        let classes = Classes::shared();
        let mut bytes = [0; 4];
        for (run, &(start, class)) in RUNS.iter().enumerate() {
            let end = RUNS.get(run + 1).map_or(0x11_0000, |next| next.0);
            for character in (start..end).filter_map(char::from_u32) {
                let text = character.encode_utf8(&mut bytes).as_bytes();
                assert_eq!(classes.of(character.into()), class);
                assert_eq!(classes.at(text, 0), (class, text.len()));
            }
        }
    }
}
