//! The tokens of words seen before: takes the bytes of a word, gives its ids. Bounded, and compared by bytes.

use super::hash;

/// A word of this many bytes lies in its slot.
pub(super) const INLINE: usize = 15;
/// Longer words are not kept.
const LONGEST: usize = 256;
/// Ids that lie in the slot of a short word.
const INLINE_IDS: usize = 3;
const FIRST_SLOTS: usize = 1 << 12;
const MOST_SLOTS: usize = 1 << 17;
const FIRST_LONG_SLOTS: usize = 1 << 9;
const MOST_LONG_SLOTS: usize = 1 << 14;
/// Ids and bytes outside of the slots; when they are full, all is forgotten.
const MOST_IDS: usize = 1 << 18;
const MOST_BYTES: usize = 1 << 20;

/// The bytes of a short word and, highest, their number. No word has none, so that 0 is an empty slot.
pub(super) type Key = u128;

/// The key of `text[at..end]`, which has at most `INLINE` bytes.
#[inline]
pub(super) fn key(text: &[u8], at: usize, end: usize) -> Key {
    let length = end - at;
    let bytes = match text[at..].first_chunk() {
        Some(chunk) => Key::from_le_bytes(*chunk) & ((1 << (8 * length)) - 1),
        None => {
            let mut chunk = [0; 16];
            chunk[..length].copy_from_slice(&text[at..end]);
            Key::from_le_bytes(chunk)
        }
    };
    bytes | (length as Key) << 120
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Slot {
    key: [u64; 2],
    /// The ids, or where they begin among `ids` if they are more than these.
    ids: [u32; INLINE_IDS],
    count: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct LongSlot {
    hash: u64,
    /// The word's place among `bytes`.
    start: u32,
    length: u32,
    /// The place of its ids among `ids`.
    first: u32,
    count: u32,
}

/// Two words for each hash, the newer one first.
pub(super) struct WordCache {
    slots: Vec<[Slot; 2]>,
    long_slots: Vec<[LongSlot; 2]>,
    kept: usize,
    long_kept: usize,
    ids: Vec<u32>,
    bytes: Vec<u8>,
}

impl WordCache {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Default::default(); FIRST_SLOTS / 2],
            long_slots: vec![Default::default(); FIRST_LONG_SLOTS / 2],
            kept: 0,
            long_kept: 0,
            ids: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Appends the ids of a short word, if it is known.
    #[inline]
    pub(super) fn find(&self, key: Key, out: &mut Vec<u32>) -> bool {
        let key = [key as u64, (key >> 64) as u64];
        for slot in &self.slots[place(hash_of(key), self.slots.len())] {
            if slot.key == key {
                match slot.count {
                    1 => out.push(slot.ids[0]),
                    2 => out.extend_from_slice(&slot.ids[..2]),
                    3 => out.extend_from_slice(&slot.ids),
                    count => out.extend_from_slice(&self.ids[slot.ids[0] as usize..][..count as usize]),
                }
                return true;
            }
        }
        false
    }

    /// Keeps the ids of a short word that was not found.
    pub(super) fn insert(&mut self, key: Key, ids: &[u32]) {
        let key = [key as u64, (key >> 64) as u64];
        let mut slot = Slot { key, count: ids.len() as u32, ..Slot::default() };
        if ids.len() <= INLINE_IDS {
            slot.ids[..ids.len()].copy_from_slice(ids);
        } else {
            self.make_room(ids.len(), 0);
            slot.ids[0] = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
        }
        if self.kept >= self.slots.len() && 4 * self.slots.len() <= MOST_SLOTS {
            let larger = vec![Default::default(); 2 * self.slots.len()];
            let smaller = std::mem::replace(&mut self.slots, larger);
            self.kept = 0;
            for slot in smaller.into_iter().flat_map(|[newer, older]| [older, newer]) {
                if slot.key != [0; 2] {
                    self.put(slot);
                }
            }
        }
        self.put(slot);
    }

    fn put(&mut self, slot: Slot) {
        let at = place(hash_of(slot.key), self.slots.len());
        let [newer, older] = &mut self.slots[at];
        self.kept += usize::from(older.key == [0; 2]);
        *older = std::mem::replace(newer, slot);
    }

    /// Appends the ids of a longer word, if it is known.
    pub(super) fn find_long(&self, word: &[u8], out: &mut Vec<u32>) -> bool {
        if word.len() > LONGEST {
            return false;
        }
        let hash = hash::of_bytes(word);
        for slot in &self.long_slots[place(hash, self.long_slots.len())] {
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
        if self.long_kept >= self.long_slots.len() && 4 * self.long_slots.len() <= MOST_LONG_SLOTS {
            let larger = vec![Default::default(); 2 * self.long_slots.len()];
            let smaller = std::mem::replace(&mut self.long_slots, larger);
            self.long_kept = 0;
            for slot in smaller.into_iter().flat_map(|[newer, older]| [older, newer]) {
                if slot.length > 0 {
                    self.put_long(slot);
                }
            }
        }
        self.put_long(slot);
    }

    fn put_long(&mut self, slot: LongSlot) {
        let at = place(slot.hash, self.long_slots.len());
        let [newer, older] = &mut self.long_slots[at];
        self.long_kept += usize::from(older.length == 0);
        *older = std::mem::replace(newer, slot);
    }

    /// Forgets everything if there is no room for that many ids and bytes.
    fn make_room(&mut self, ids: usize, bytes: usize) {
        if self.ids.len() + ids > MOST_IDS || self.bytes.len() + bytes > MOST_BYTES {
            self.slots.fill(Default::default());
            self.long_slots.fill(Default::default());
            (self.kept, self.long_kept) = (0, 0);
            self.ids.clear();
            self.bytes.clear();
        }
    }
}

#[inline]
fn hash_of(key: [u64; 2]) -> u64 {
    hash::of_pair(key[0], key[1])
}

/// The place of a hash in a table of `length`, a power of two.
#[inline]
fn place(hash: u64, length: usize) -> usize {
    (hash >> 32) as usize & (length - 1)
}
