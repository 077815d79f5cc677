//! What each token stands for, in bytes: takes tokens as a model file spells them, gives a table that text
//! streams, log-probabilities and server-sent events read. How text becomes tokens is `tokenizer`'s.

use std::borrow::Cow;
use std::fmt::Display;

use crate::error::Error;

/// How a vocabulary spells bytes as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spelling {
    /// GPT-2's alphabet: each character stands for one byte. A token with a character outside of the
    /// alphabet stands for itself.
    ByteLevel,
    /// A token stands for itself after these replacements, such as U+2581 by a space.
    Text {
        /// What is replaced by what, in this order.
        replacements: Vec<(String, String)>,
        /// Whether a token spelled `<0xNN>` stands for one byte.
        byte_fallback: bool,
    },
}

impl Spelling {
    /// Appends the bytes that `token` stands for; says whether it is the `<0xNN>` of byte fallback.
    fn append(&self, token: &str, bytes: &mut Vec<u8>) -> bool {
        match self {
            Self::ByteLevel => {
                let start = bytes.len();
                bytes.extend(token.chars().map_while(byte_of));
                if bytes.len() - start < token.chars().count() {
                    bytes.truncate(start);
                    bytes.extend_from_slice(token.as_bytes());
                }
                false
            }
            Self::Text { replacements, byte_fallback } => {
                let mut text = Cow::Borrowed(token);
                for (from, to) in replacements {
                    if text.contains(from.as_str()) {
                        text = Cow::Owned(text.replace(from.as_str(), to));
                    }
                }
                let byte = fallback_byte(&text).filter(|_| *byte_fallback);
                match &byte {
                    Some(byte) => bytes.push(*byte),
                    None => bytes.extend_from_slice(text.as_bytes()),
                }
                byte.is_some()
            }
        }
    }
}

/// The byte that a character of GPT-2's alphabet stands for.
///
/// | characters | bytes |
/// | --- | --- |
/// | `!` to `~`, U+A1 to U+AC, U+AE to U+FF | the code point itself |
/// | U+100 to U+120 | 00 to 20 |
/// | U+121 to U+142 | 7F to A0 |
/// | U+143 | AD |
pub(crate) fn byte_of(character: char) -> Option<u8> {
    let byte = match u32::from(character) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte of a token spelled `<0xNN>`, in either case, by the reading of the `tokenizers` crate.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

const PRESENT: u8 = 1;
const SPECIAL: u8 = 2;
const BYTE: u8 = 4;

/// The table from token id to bytes: one flat buffer and offsets into it.
///
/// An id below `len()` may be a hole: it has no token, so no bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocab {
    buffer: Vec<u8>,
    /// `offsets[id]..offsets[id + 1]` are the bytes of `id`.
    offsets: Vec<usize>,
    flags: Vec<u8>,
}

impl Vocab {
    /// A table of `(bytes, is special)`, where the index is the id and empty bytes are a hole.
    pub fn from_entries(entries: Vec<(Vec<u8>, bool)>) -> Self {
        let mut vocab = Self::with_capacity(entries.len());
        for (bytes, special) in entries {
            let flags = if bytes.is_empty() { 0 } else { PRESENT | if special { SPECIAL } else { 0 } };
            vocab.buffer.extend_from_slice(&bytes);
            vocab.end(flags);
        }
        vocab
    }

    /// An empty table with room for `num_tokens` tokens.
    pub(crate) fn with_capacity(num_tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(num_tokens + 1);
        offsets.push(0);
        Self { buffer: Vec::with_capacity(8 * num_tokens), offsets, flags: Vec::with_capacity(num_tokens) }
    }

    /// Gives the next id to a token as the model file spells it.
    pub(crate) fn push_token(&mut self, token: &str, special: bool, spelling: &Spelling) {
        let is_byte = spelling.append(token, &mut self.buffer);
        self.end(PRESENT | if special { SPECIAL } else { 0 } | if is_byte { BYTE } else { 0 });
    }

    /// Leaves the next id without a token.
    pub(crate) fn push_hole(&mut self) {
        self.end(0);
    }

    /// Ends the bytes of the next id.
    fn end(&mut self, flags: u8) {
        self.offsets.push(self.buffer.len());
        self.flags.push(flags);
    }

    /// The bytes that `id` stands for, or None if there is no such token.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        self.has(id, PRESENT).then(|| &self.buffer[self.offsets[index]..self.offsets[index + 1]])
    }

    /// The text that `id` stands for, or None if there is no such token or its bytes are not whole characters.
    pub fn text(&self, id: u32) -> Option<&str> {
        str::from_utf8(self.bytes(id)?).ok()
    }

    /// Whether `id` is a special token, such as the end of a turn. False for an unknown id.
    pub fn is_special(&self, id: u32) -> bool {
        self.has(id, SPECIAL)
    }

    /// Whether `id` is one byte of byte fallback: `<0xNN>`.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.has(id, BYTE)
    }

    fn has(&self, id: u32, flag: u8) -> bool {
        self.flags.get(id as usize).is_some_and(|flags| flags & flag != 0)
    }

    /// One more than the highest id.
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// Whether there is no id at all.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// The error for an id that `bytes` knows nothing of; `parameter` is its name at the caller's.
    pub fn unknown(&self, parameter: &str, id: impl Display) -> Error {
        let message = match self.len() {
            0 => format!("must be tokens of the vocabulary, which is empty; {id} is none"),
            len => format!("must be tokens of the vocabulary, which has ids 0 to {}; {id} is none", len - 1),
        };
        Error::parameter(parameter, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(replacements: &[(&str, &str)], byte_fallback: bool) -> Spelling {
        let replacements = replacements.iter().map(|&(from, to)| (from.into(), to.into())).collect();
        Spelling::Text { replacements, byte_fallback }
    }

    fn check(spelling: &Spelling, token: &str, expected: &[u8], is_byte: bool) {
        let mut bytes = vec![];
        let byte = spelling.append(token, &mut bytes);
        assert_eq!((bytes.as_slice(), byte), (expected, is_byte), "{token:?}");
    }

    #[test]
    fn the_byte_alphabet_has_one_character_for_each_byte() {
        let mut seen = [false; 256];
        for character in '\0'..='\u{ffff}' {
            if let Some(byte) = byte_of(character) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true), "{byte:#x} twice");
            }
        }
        assert_eq!(seen, [true; 256]);
    }

    #[test]
    fn byte_level_tokens_are_undone_and_others_are_literal() {
        check(&Spelling::ByteLevel, "Ġthe", b" the", false);
        check(&Spelling::ByteLevel, "Ċ", b"\n", false);
        check(&Spelling::ByteLevel, "ł", b"\xa0", false);
        check(&Spelling::ByteLevel, "Ń", b"\xad", false);
        check(&Spelling::ByteLevel, "é", b"\xe9", false);
        check(&Spelling::ByteLevel, "Ġ中", "Ġ中".as_bytes(), false);
        check(&Spelling::ByteLevel, "<|im_end|>", b"<|im_end|>", false);
        check(&Spelling::ByteLevel, "a b", b"a b", false);
    }

    #[test]
    fn byte_fallback_reads_exactly_two_digits() {
        let gemma = text(&[("\u{2581}", " ")], true);
        check(&gemma, "\u{2581}the\u{2581}", b" the ", false);
        check(&gemma, "<0x0A>", b"\n", true);
        check(&gemma, "<0xff>", b"\xff", true);
        check(&gemma, "<0xGG>", b"<0xGG>", false);
        check(&gemma, "<0xA>", b"<0xA>", false);
        check(&gemma, "<0x0é>", "<0x0é>".as_bytes(), false);
        check(&gemma, "<0x0A0B>", b"<0x0A0B>", false);
        check(&text(&[], false), "<0x0A>", b"<0x0A>", false);
    }

    #[test]
    fn empty_entries_are_holes_and_unknown_ids_have_no_bytes() {
        let vocab =
            Vocab::from_entries(vec![(b"a".to_vec(), false), (vec![], true), (b"<e>".to_vec(), true)]);
        assert_eq!(vocab.bytes(0), Some(&b"a"[..]));
        assert_eq!(vocab.bytes(1), None);
        assert_eq!(vocab.bytes(2), Some(&b"<e>"[..]));
        assert_eq!(vocab.bytes(3), None);
        assert_eq!(vocab.bytes(u32::MAX), None);
        let special: Vec<bool> = (0..5).map(|id| vocab.is_special(id)).collect();
        assert_eq!(special, [false, false, true, false, false]);
        assert_eq!(vocab.len(), 3);
        assert!(Vocab::from_entries(vec![]).is_empty());
    }

    #[test]
    fn a_token_that_spells_nothing_is_no_hole() {
        let mut vocab = Vocab::with_capacity(2);
        vocab.push_token("", false, &Spelling::ByteLevel);
        vocab.push_hole();
        assert_eq!((vocab.bytes(0), vocab.bytes(1)), (Some(&b""[..]), None));
    }

    #[test]
    fn a_token_has_a_text_where_its_bytes_are_whole_characters() {
        let entries = [&b"a"[..], "€".as_bytes(), b"\xe2", b"a\xe2", b"\x82\xac", b"\xff", b"", b"<e>"];
        let vocab =
            Vocab::from_entries(entries.iter().map(|bytes| (bytes.to_vec(), *bytes == b"<e>")).collect());
        let texts: Vec<_> = (0..9).map(|id| vocab.text(id)).collect();
        assert_eq!(texts, [Some("a"), Some("€"), None, None, None, None, None, Some("<e>"), None]);
    }
}
