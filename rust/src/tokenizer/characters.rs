//! The symbols of a text, one per character, for vocabularies whose words are whole texts: takes text, gives ids.
//!
//! Spaces are U+2581 to the vocabulary. They stay spaces here, so that no text is copied.

use rustc_hash::FxHashMap;

/// What stands for a space.
const SPACE: char = '\u{2581}';
const NONE: u32 = u32::MAX;
const ASCII: usize = 128;

/// The characters of a vocabulary.
pub(super) struct Characters {
    ascii: [u32; ASCII],
    others: FxHashMap<char, u32>,
    /// The tokens `<0x00>` to `<0xFF>` for characters that are no token.
    bytes: Box<[u32; 256]>,
}

impl Characters {
    /// `characters` are the tokens of one character, `bytes` those of byte fallback.
    pub(super) fn new(characters: impl Iterator<Item = (char, u32)>, bytes: Box<[u32; 256]>) -> Self {
        let mut made = Self { ascii: [NONE; ASCII], others: FxHashMap::default(), bytes };
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
        made
    }

    /// The character that the vocabulary has for one of a text, told by a space for U+2581.
    #[inline]
    pub(super) fn read(character: char) -> char {
        if character == SPACE { ' ' } else { character }
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
