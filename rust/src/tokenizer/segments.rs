//! The ids of texts between added tokens, as a chat repeats them with every turn: takes a text, gives its ids if they are
//! known. Bounded, and compared as a whole.

use std::mem;

use rustc_hash::FxHashMap;

use super::hash;

/// Bytes of texts and ids in each half.
const MOST: usize = 8 << 20;

/// Two halves, so that what was used lately stays: a text found in the older one is copied, and when the newer one is full
/// it becomes the older.
#[derive(Default)]
pub(super) struct Segments {
    newer: Half,
    older: Half,
}

/// Texts and ids lie one behind the other, so that those of one chat are neighbours.
#[derive(Default)]
struct Half {
    places: FxHashMap<u64, Place>,
    text: Vec<u8>,
    ids: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Place {
    text: u32,
    length: u32,
    ids: u32,
    count: u32,
}

impl Half {
    fn find(&self, hash: u64, text: &[u8]) -> Option<&[u32]> {
        let place = self.places.get(&hash)?;
        let known = &self.text[place.text as usize..][..place.length as usize];
        (known == text).then(|| &self.ids[place.ids as usize..][..place.count as usize])
    }

    fn insert(&mut self, hash: u64, text: &[u8], ids: &[u32]) {
        let place = Place {
            text: self.text.len() as u32,
            length: text.len() as u32,
            ids: self.ids.len() as u32,
            count: ids.len() as u32,
        };
        self.text.extend_from_slice(text);
        self.ids.extend_from_slice(ids);
        self.places.insert(hash, place);
    }

    fn size(&self) -> usize {
        self.places.len() * size_of::<(u64, Place)>() + self.text.len() + size_of_val(&*self.ids)
    }
}

impl Segments {
    /// Appends the ids of `text`, if they are known.
    pub(super) fn find(&mut self, text: &str, out: &mut Vec<u32>) -> bool {
        let hash = hash::of_bytes(text.as_bytes());
        if let Some(ids) = self.newer.find(hash, text.as_bytes()) {
            out.extend_from_slice(ids);
            return true;
        }
        let Some(ids) = self.older.find(hash, text.as_bytes()) else { return false };
        out.extend_from_slice(ids);
        let ids = ids.to_vec();
        self.insert_hashed(hash, text, &ids);
        true
    }

    /// Keeps the ids of a text.
    pub(super) fn insert(&mut self, text: &str, ids: &[u32]) {
        self.insert_hashed(hash::of_bytes(text.as_bytes()), text, ids);
    }

    fn insert_hashed(&mut self, hash: u64, text: &str, ids: &[u32]) {
        let size = size_of::<(u64, Place)>() + text.len() + size_of_val(ids);
        if size > MOST / 4 {
            return;
        }
        if self.newer.size() + size > MOST {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(hash, text.as_bytes(), ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(segments: &mut Segments, text: &str) -> Option<Vec<u32>> {
        let mut ids = vec![];
        segments.find(text, &mut ids).then_some(ids)
    }

    #[test]
    fn what_is_used_stays_and_memory_is_bounded() {
        let mut segments = Segments::default();
        let text = |number: usize| format!("{number:0>60000}");
        segments.insert("kept", &[7]);
        for number in 0..1000 {
            assert_eq!(found(&mut segments, "kept"), Some(vec![7]), "{number}");
            segments.insert(&text(number), &[number as u32]);
            assert!(segments.newer.size() <= MOST && segments.older.size() <= MOST);
        }
        assert_eq!(found(&mut segments, &text(999)), Some(vec![999]));
        assert_eq!(found(&mut segments, &text(0)), None);
        segments.insert(&text(999), &[3]);
        assert_eq!(found(&mut segments, &text(999)), Some(vec![3]));
        segments.insert(&"a".repeat(MOST), &[]);
        assert_eq!(found(&mut segments, &"a".repeat(MOST)), None);
    }
}
