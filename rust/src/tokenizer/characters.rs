//! Text cut where no merge can join what lies on both sides, for vocabularies whose words are whole texts: takes text,
//! gives where pieces end; and the symbols of a piece, one per character.
//!
//! Spaces are U+2581 to the vocabulary. They stay spaces here, so that no text is copied.

use rustc_hash::FxHashMap;

use super::hash;

/// What stands for a space.
const SPACE: char = '\u{2581}';
const NONE: u32 = u32::MAX;
const ASCII: usize = 128;
/// Bits of the set of pairs beyond ASCII. It may say yes for a pair that it does not hold, which costs a cut.
const SET_BITS: u32 = 21;

/// The characters of a vocabulary and which of them may be joined.
pub(super) struct Characters {
    ascii: [u32; ASCII],
    others: FxHashMap<char, u32>,
    /// The tokens `<0x00>` to `<0xFF>` for characters that are no token.
    bytes: Box<[u32; 256]>,
    /// Whether some merge makes a token with these two side by side: `[first * 128 + second]`.
    joined: Box<[bool; ASCII * ASCII]>,
    others_joined: Vec<u64>,
}

impl Characters {
    /// `characters` are the tokens of one character, `bytes` those of byte fallback, `merged` the two texts of each merge.
    pub(super) fn new<'a>(
        characters: impl Iterator<Item = (char, u32)>,
        bytes: Box<[u32; 256]>,
        merged: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut made = Self {
            ascii: [NONE; ASCII],
            others: FxHashMap::default(),
            bytes,
            joined: vec![false; ASCII * ASCII].try_into().expect("as many"),
            others_joined: vec![0; 1 << (SET_BITS - 6)],
        };
        for (character, id) in characters {
            match character {
                // No text holds a space when it is merged.
                ' ' => {}
                SPACE => {
                    made.ascii[usize::from(b' ')] = id;
                    made.others.insert(SPACE, id);
                }
                '\0'..='\x7f' => made.ascii[character as usize] = id,
                _ => {
                    made.others.insert(character, id);
                }
            }
        }
        // What a merge puts side by side. The pairs within its two parts are those of the merges that made them.
        for (left, right) in merged {
            if let (Some(first), Some(second)) = (left.chars().next_back(), right.chars().next()) {
                let (first, second) = (as_space(first), as_space(second));
                if first.is_ascii() && second.is_ascii() {
                    made.joined[first as usize * ASCII + second as usize] = true;
                } else {
                    let bit = bit_of(first, second);
                    made.others_joined[bit / 64] |= 1 << (bit % 64);
                }
            }
        }
        made
    }

    /// Gives each piece of `text` by its place.
    pub(super) fn each_piece(&self, text: &str, mut piece: impl FnMut(usize, usize)) {
        let bytes = text.as_bytes();
        let (mut start, mut at) = (0, 0);
        // The character before `at`; only looked at behind the start.
        let mut before = '\0';
        while at < bytes.len() {
            let byte = bytes[at];
            let (character, size) = if byte < 0x80 {
                (char::from(byte), 1)
            } else {
                let character = text[at..].chars().next().expect("not at the end");
                (as_space(character), character.len_utf8())
            };
            if at > start && !self.may_join(before, character) {
                piece(start, at);
                start = at;
            }
            before = character;
            at += size;
        }
        if start < at {
            piece(start, at);
        }
    }

    #[inline]
    fn may_join(&self, first: char, second: char) -> bool {
        if first.is_ascii() && second.is_ascii() {
            return self.joined[first as usize * ASCII + second as usize];
        }
        let bit = bit_of(first, second);
        self.others_joined[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Appends the symbols of `text`: a token for each character, or one for each byte of one that is no token.
    pub(super) fn symbols(&self, text: &str, symbols: &mut Vec<u32>) {
        for character in text.chars() {
            let id = match character {
                '\0'..='\x7f' => self.ascii[character as usize],
                _ => self.others.get(&character).copied().unwrap_or(NONE),
            };
            if id != NONE {
                symbols.push(id);
                continue;
            }
            let mut bytes = [0; 4];
            // A space that is no token is U+2581 by now.
            let character = if character == ' ' { SPACE } else { character };
            symbols
                .extend(character.encode_utf8(&mut bytes).bytes().map(|byte| self.bytes[usize::from(byte)]));
        }
    }
}

fn as_space(character: char) -> char {
    if character == SPACE { ' ' } else { character }
}

#[inline]
fn bit_of(first: char, second: char) -> usize {
    (hash::of_pair(u64::from(u32::from(first)) << 32 | u64::from(u32::from(second)), 0) >> (64 - SET_BITS))
        as usize
}
