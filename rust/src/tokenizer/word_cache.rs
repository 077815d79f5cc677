//! The tokens of words seen before: takes the bytes of a word, gives its ids. Bounded, and compared by bytes.

use super::hash;
use super::simd::prefetch;

/// A word of this many bytes lies in its slot.
const INLINE: usize = 15;
/// Longer words are not kept.
const LONGEST: usize = 64;
/// Ids that lie in the slot of a short word.
const INLINE_IDS: usize = 3;
const FIRST_SLOTS: usize = 1 << 12;
const MOST_SLOTS: usize = 1 << 17;
const FIRST_LONG_SLOTS: usize = 1 << 9;
const MOST_LONG_SLOTS: usize = 1 << 16;
/// A word lies at the place of its hash or in one of the places behind it. If all are taken, it takes the first.
const PLACES: usize = 16;
/// Ids and bytes outside of the slots; when they are full, all is forgotten.
const MOST_IDS: usize = 1 << 19;
const MOST_BYTES: usize = 1 << 20;

/// The bytes of a short word and, highest, their number. No word has none, so that 0 is an empty slot.
type Key = [u64; 2];

/// In a key: a piece of a word and no word.
const PIECE: u64 = 1 << 63;

/// A short word to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Search {
    key: Key,
    hash: u64,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Slot {
    key: Key,
    /// The ids, or where they begin among `ids` if they are more than these.
    ids: [u32; INLINE_IDS],
    count: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct LongSlot {
    hash: u64,
    /// The word's place among `bytes`.
    start: u32,
    /// 0 where the slot is empty.
    length: u32,
    /// The place of its ids among `ids`.
    first: u32,
    count: u32,
}

/// Tables twice as large as what they hold, until they are as large as they may be.
pub(super) struct WordCache {
    slots: Vec<Slot>,
    long_slots: Vec<LongSlot>,
    kept: usize,
    long_kept: usize,
    ids: Vec<u32>,
    bytes: Vec<u8>,
}

impl WordCache {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::default(); FIRST_SLOTS],
            long_slots: vec![LongSlot::default(); FIRST_LONG_SLOTS],
            kept: 0,
            long_kept: 0,
            ids: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Begins to look for the word `text[start..end]`, if it is short.
    #[inline]
    pub(super) fn search(&self, text: &[u8], start: usize, end: usize) -> Option<Search> {
        let key = key(text, start, end)?;
        let hash = hash_of(key);
        prefetch(&raw const self.slots[home(hash, self.slots.len())]);
        Some(Search { key, hash })
    }

    /// The same for a piece of a word, which other ids may have than the word of these bytes.
    #[inline]
    pub(super) fn search_piece(&self, text: &[u8], start: usize, end: usize) -> Option<Search> {
        let [low, high] = key(text, start, end)?;
        let key = [low, high | PIECE];
        Some(Search { key, hash: hash_of(key) })
    }

    /// Appends the ids of a short word, if it is known.
    #[inline]
    pub(super) fn find(&self, search: Search, out: &mut Vec<u32>) -> bool {
        for place in places(home(search.hash, self.slots.len()), self.slots.len()) {
            let slot = &self.slots[place];
            if slot.key == search.key {
                match slot.count {
                    1 => out.push(slot.ids[0]),
                    2 => out.extend_from_slice(&slot.ids[..2]),
                    3 => out.extend_from_slice(&slot.ids),
                    count => out.extend_from_slice(&self.ids[slot.ids[0] as usize..][..count as usize]),
                }
                return true;
            }
            if slot.key == [0; 2] {
                break;
            }
        }
        false
    }

    /// Keeps the ids of a short word that was not found.
    pub(super) fn insert(&mut self, Search { key, .. }: Search, ids: &[u32]) {
        let mut slot = Slot { key, count: ids.len() as u32, ..Slot::default() };
        if ids.len() <= INLINE_IDS {
            slot.ids[..ids.len()].copy_from_slice(ids);
        } else {
            self.make_room(ids.len(), 0);
            slot.ids[0] = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
        }
        if 2 * self.kept >= self.slots.len() && self.slots.len() < MOST_SLOTS {
            let larger = vec![Slot::default(); 2 * self.slots.len()];
            let smaller = std::mem::replace(&mut self.slots, larger);
            self.kept = 0;
            smaller.into_iter().filter(|slot| slot.key != [0; 2]).for_each(|slot| self.put(slot));
        }
        self.put(slot);
    }

    fn put(&mut self, slot: Slot) {
        let first = home(hash_of(slot.key), self.slots.len());
        let empty = places(first, self.slots.len()).find(|&place| self.slots[place].key == [0; 2]);
        self.kept += usize::from(empty.is_some());
        self.slots[empty.unwrap_or(first)] = slot;
    }

    /// Appends the ids of a longer word, if it is known.
    pub(super) fn find_long(&self, word: &[u8], out: &mut Vec<u32>) -> bool {
        if word.len() > LONGEST {
            return false;
        }
        let hash = hash::of_bytes(word);
        for place in places(home(hash, self.long_slots.len()), self.long_slots.len()) {
            let slot = &self.long_slots[place];
            if slot.length == 0 {
                break;
            }
            if slot.hash == hash && self.bytes[slot.start as usize..][..slot.length as usize] == *word {
                out.extend_from_slice(&self.ids[slot.first as usize..][..slot.count as usize]);
                return true;
            }
        }
        false
    }

    /// Keeps the ids of a longer word that was not found.
    pub(super) fn insert_long(&mut self, word: &[u8], ids: &[u32]) {
        if word.len() > LONGEST {
            return;
        }
        self.make_room(ids.len(), word.len());
        let slot = LongSlot {
            hash: hash::of_bytes(word),
            start: self.bytes.len() as u32,
            length: word.len() as u32,
            first: self.ids.len() as u32,
            count: ids.len() as u32,
        };
        self.bytes.extend_from_slice(word);
        self.ids.extend_from_slice(ids);
        if 2 * self.long_kept >= self.long_slots.len() && self.long_slots.len() < MOST_LONG_SLOTS {
            let larger = vec![LongSlot::default(); 2 * self.long_slots.len()];
            let smaller = std::mem::replace(&mut self.long_slots, larger);
            self.long_kept = 0;
            smaller.into_iter().filter(|slot| slot.length > 0).for_each(|slot| self.put_long(slot));
        }
        self.put_long(slot);
    }

    fn put_long(&mut self, slot: LongSlot) {
        let first = home(slot.hash, self.long_slots.len());
        let empty = places(first, self.long_slots.len()).find(|&place| self.long_slots[place].length == 0);
        self.long_kept += usize::from(empty.is_some());
        self.long_slots[empty.unwrap_or(first)] = slot;
    }

    /// Forgets everything if there is no room for that many ids and bytes.
    fn make_room(&mut self, ids: usize, bytes: usize) {
        if self.ids.len() + ids > MOST_IDS || self.bytes.len() + bytes > MOST_BYTES {
            self.slots.fill(Slot::default());
            self.long_slots.fill(LongSlot::default());
            (self.kept, self.long_kept) = (0, 0);
            self.ids.clear();
            self.bytes.clear();
        }
    }
}

/// The key of `text[start..end]`, if it is short.
#[inline]
fn key(text: &[u8], start: usize, end: usize) -> Option<Key> {
    let length = end - start;
    if length > INLINE {
        return None;
    }
    let bytes = match text[start..].first_chunk() {
        Some(chunk) => u128::from_le_bytes(*chunk) & ((1 << (8 * length)) - 1),
        None => {
            let mut chunk = [0; 16];
            chunk[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(chunk)
        }
    };
    Some([bytes as u64, (bytes >> 64) as u64 | (length as u64) << 56])
}

#[inline]
fn hash_of(key: Key) -> u64 {
    hash::of_pair(key[0], key[1])
}

/// The place of a hash in a table of `length`, a power of two: an even one, so that a line of the processor's cache holds
/// two short words that may lie there.
#[inline]
fn home(hash: u64, length: usize) -> usize {
    (hash >> 32) as usize & (length - 2)
}

/// Where a word may lie whose hash leads to `home`.
#[inline]
fn places(home: usize, length: usize) -> impl Iterator<Item = usize> {
    (home..home + PLACES).map(move |place| place & (length - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cache: &WordCache, word: &str) -> Option<Vec<u32>> {
        let mut ids = vec![];
        let known = match cache.search(word.as_bytes(), 0, word.len()) {
            Some(search) => cache.find(search, &mut ids),
            None => cache.find_long(word.as_bytes(), &mut ids),
        };
        known.then_some(ids)
    }

    fn insert(cache: &mut WordCache, word: &str, ids: &[u32]) {
        match cache.search(word.as_bytes(), 0, word.len()) {
            Some(search) => cache.insert(search, ids),
            None => cache.insert_long(word.as_bytes(), ids),
        }
    }

    #[test]
    fn words_of_all_lengths_keep_their_ids() {
        let mut cache = WordCache::new();
        for length in 1..100 {
            let (word, ids) = ("x".repeat(length), vec![length as u32; length % 7]);
            assert_eq!(found(&cache, &word), None);
            insert(&mut cache, &word, &ids);
            assert_eq!(found(&cache, &word), (length <= LONGEST).then_some(ids));
        }
    }

    #[test]
    fn nearly_all_words_stay_until_the_table_is_full() {
        for name in ["", "a word of more than fifteen bytes "] {
            let mut cache = WordCache::new();
            let words: Vec<String> = (0..20_000).map(|number| format!("{name}{number}")).collect();
            (0..).zip(&words).for_each(|(id, word)| insert(&mut cache, word, &[id]));
            let kept = (0..).zip(&words).filter(|&(id, word)| found(&cache, word) == Some(vec![id])).count();
            assert!(kept > 19_900, "{kept}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_last_word_is_known() {
        let mut cache = WordCache::new();
        for number in 0..400_000 {
            let word = if number % 2 == 0 { format!("{number}") } else { format!("{number:0>40}") };
            insert(&mut cache, &word, &[number, 1, 2, 3]);
            assert_eq!(found(&cache, &word), Some(vec![number, 1, 2, 3]));
        }
        assert!(cache.slots.len() <= MOST_SLOTS && cache.long_slots.len() <= MOST_LONG_SLOTS);
        assert!(cache.ids.len() <= MOST_IDS && cache.bytes.len() <= MOST_BYTES);
    }

    #[test]
    fn a_piece_is_not_the_word_of_its_bytes() {
        let mut cache = WordCache::new();
        insert(&mut cache, "ab", &[1]);
        let piece = cache.search_piece(b"ab", 0, 2).expect("short");
        assert!(!cache.find(piece, &mut vec![]));
        cache.insert(piece, &[2]);
        assert_eq!(found(&cache, "ab"), Some(vec![1]));
    }
}
