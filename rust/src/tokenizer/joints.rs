//! Where merges may join what a text is made of: takes the two parts of each merge, gives the pieces of a text that no merge
//! can join. Long words and whole texts are cut there first, and the pieces merge as they would together.

/// Bits of the set of pairs of characters. It may say yes for a pair that it does not hold, which costs a cut.
const SET_BITS: u32 = 21;

/// The neighbours that some merge puts side by side.
pub(super) struct Joints {
    /// By the last byte before the joint and the first one behind it: pairs of ASCII, and merges that know no more of a
    /// character there.
    bytes: Box<[[bool; 256]; 256]>,
    /// By both characters, if not both are ASCII.
    characters: Vec<u64>,
}

impl Joints {
    pub(super) fn new() -> Self {
        let bytes = vec![[false; 256]; 256].try_into().expect("as many");
        Self { bytes, characters: vec![0; 1 << (SET_BITS - 6)] }
    }

    /// Takes the bytes of both parts of a merge; the last and the first four are enough. What the parts hold inside was
    /// joined by the merges that made them.
    pub(super) fn insert(&mut self, left: &[u8], right: &[u8]) {
        let (Some(&last), Some(&first)) = (left.last(), right.first()) else { return };
        if is_inside(first) {
            // The joint lies within a character, where no text is cut.
            return;
        }
        match (last_character(left), first_character(right)) {
            (Some(before), Some(behind)) => self.insert_characters(before, behind),
            _ => self.bytes[usize::from(last)][usize::from(first)] = true,
        }
    }

    /// Takes the last character before the joint of a merge and the first one behind it.
    pub(super) fn insert_characters(&mut self, before: char, behind: char) {
        if before.is_ascii() && behind.is_ascii() {
            self.bytes[before as usize][behind as usize] = true;
        } else {
            let bit = bit_of(before, behind);
            self.characters[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Gives each piece of `text` by its place. `read` says which character stands in the text for the vocabulary.
    #[inline]
    pub(super) fn each_piece(
        &self,
        text: &str,
        read: impl Fn(char) -> char,
        mut piece: impl FnMut(usize, usize),
    ) {
        let (mut start, mut before) = (0, '\0');
        for (at, character) in text.char_indices() {
            let character = read(character);
            if at > start && !self.may_join(before, character) {
                piece(start, at);
                start = at;
            }
            before = character;
        }
        if start < text.len() {
            piece(start, text.len());
        }
    }

    #[inline]
    fn may_join(&self, before: char, behind: char) -> bool {
        if self.bytes[usize::from(last_byte(before))][usize::from(first_byte(behind))] {
            return true;
        }
        if before.is_ascii() && behind.is_ascii() {
            return false;
        }
        let bit = bit_of(before, behind);
        self.characters[bit / 64] >> (bit % 64) & 1 == 1
    }
}

/// Whether a byte is not the first of its character.
fn is_inside(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// The character that `bytes` end with, if it is whole.
fn last_character(bytes: &[u8]) -> Option<char> {
    let start = bytes.iter().rposition(|&byte| !is_inside(byte))?;
    std::str::from_utf8(&bytes[start..]).ok()?.chars().next()
}

/// The character that `bytes` begin with, if it is whole.
fn first_character(bytes: &[u8]) -> Option<char> {
    let rest = bytes.get(1..)?.iter().take_while(|&&byte| is_inside(byte)).count();
    std::str::from_utf8(&bytes[..=rest]).ok()?.chars().next()
}

/// The last byte of a character in UTF-8.
#[inline]
fn last_byte(character: char) -> u8 {
    let code = u32::from(character);
    if code < 0x80 { code as u8 } else { 0x80 | (code & 0x3f) as u8 }
}

/// The first byte of a character in UTF-8.
#[inline]
fn first_byte(character: char) -> u8 {
    let code = u32::from(character);
    match code {
        0..0x80 => code as u8,
        0x80..0x800 => 0xc0 | (code >> 6) as u8,
        0x800..0x1_0000 => 0xe0 | (code >> 12) as u8,
        _ => 0xf0 | (code >> 18) as u8,
    }
}

#[inline]
fn bit_of(before: char, behind: char) -> usize {
    let pair = u64::from(u32::from(before)) << 32 | u64::from(u32::from(behind));
    (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SET_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'a>(merges: &[(&[u8], &[u8])], text: &'a str) -> Vec<&'a str> {
        let mut joints = Joints::new();
        merges.iter().for_each(|(left, right)| joints.insert(left, right));
        let mut pieces = vec![];
        joints.each_piece(text, |character| character, |start, end| pieces.push(&text[start..end]));
        pieces
    }

    #[test]
    fn text_is_cut_where_nothing_joins() {
        assert_eq!(pieces(&[], "aé語😀"), ["a", "é", "語", "😀"]);
        assert_eq!(pieces(&[(b"xa", b"bx")], "aabba"), ["a", "ab", "b", "a"]);
        assert_eq!(pieces(&[("日本".as_bytes(), "語".as_bytes())], "日本語本"), ["日", "本語", "本"]);
        assert_eq!(pieces(&[(b" ", "é".as_bytes())], " é é"), [" é", " é"]);
        assert_eq!(pieces(&[], ""), [""; 0]);
    }

    #[test]
    fn a_part_of_a_character_joins_all_that_have_it() {
        // U+8A9E ends in 9E; U+65E5 and U+672C begin with E6, U+8A9E with E8.
        let (left, right) = ("\u{8a9e}".as_bytes(), "\u{65e5}".as_bytes());
        let text = "\u{8a9e}\u{672c}\u{8a9e}\u{8a9e}";
        let cut = ["\u{8a9e}\u{672c}", "\u{8a9e}", "\u{8a9e}"];
        assert_eq!(pieces(&[(left, &right[..1])], text), cut);
        assert_eq!(pieces(&[(&left[2..], &right[..2])], text), cut);
        assert_eq!(pieces(&[(&left[1..], right)], text), cut);
    }

    #[test]
    fn joints_within_a_character_cut_nothing() {
        let character = "語".as_bytes();
        assert_eq!(pieces(&[(&character[..1], &character[1..])], "語語"), ["語", "語"]);
    }

    #[test]
    fn first_and_last_bytes_are_those_of_utf8() {
        let mut bytes = [0; 4];
        for character in '\0'..=char::MAX {
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            assert_eq!((first_byte(character), last_byte(character)), (bytes[0], bytes[bytes.len() - 1]));
            assert_eq!((first_character(bytes), last_character(bytes)), (Some(character), Some(character)));
        }
    }
}
