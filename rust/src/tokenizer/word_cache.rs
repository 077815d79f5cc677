//! The tokens of words seen before: takes the bytes of a word, gives its ids. Bounded, and compared by bytes.

use super::hash;
use super::simd::prefetch;

/// A word of at most so many bytes takes half a line of the processor's cache, its ids with it.
const SHORT: usize = 15;
/// A word of at most so many bytes takes a line.
const MEDIUM: usize = 31;
/// Longer words are not kept.
const LONGEST: usize = 128;
/// Ids in the slot of a short word.
pub(super) const SHORT_IDS: usize = 3;
/// Ids in the slot of a medium word.
pub(super) const MEDIUM_IDS: usize = 7;
const FIRST_LINES: usize = 1 << 11;
const MOST_LINES: usize = 1 << 16;
const FIRST_LONG_SLOTS: usize = 1 << 9;
const MOST_LONG_SLOTS: usize = 1 << 15;
/// A word lies at the place of its hash, which is a line for all but long words, or in one of the places behind it. If all
/// are taken, it takes the first.
const PLACES: usize = 16;
/// Ids and bytes outside of the slots; when they are full, all is forgotten.
const MOST_IDS: usize = 1 << 19;
const MOST_BYTES: usize = 1 << 20;

/// A word of a text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) end: usize,
    /// A piece of a word is no word: other ids may be its than those of the word of these bytes.
    pub(super) is_piece: bool,
    hash: u64,
    /// Of a short word.
    key: Key<2>,
}

impl Word {
    pub(super) fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.end]
    }

    pub(super) fn length(&self) -> usize {
        self.end - self.start
    }

    /// [`hash_of`] if it is no piece.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    pub(super) fn is_short(&self) -> bool {
        self.length() <= SHORT
    }

    #[inline]
    pub(super) fn is_medium(&self) -> bool {
        self.length() <= MEDIUM
    }

    #[inline]
    fn medium_key(&self, text: &[u8]) -> Key<4> {
        medium_key(text, self.start, self.length(), self.is_piece)
    }

    /// Whether both are the same word.
    pub(super) fn is(&self, other: &Self, text: &str) -> bool {
        self.hash == other.hash && self.is_piece == other.is_piece && self.of(text) == other.of(text)
    }
}

/// The bytes of a word and, highest, their number and whether it is a piece. No word has none, so that 0 is an empty slot.
type Key<const PARTS: usize> = [u64; PARTS];

/// In the number of bytes.
const PIECE: u64 = 0x80;

/// A word and its ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<const PARTS: usize, const IDS: usize> {
    key: Key<PARTS>,
    /// The ids, or where they begin among those outside if they are more than these.
    pub(super) ids: [u32; IDS],
    pub(super) count: u32,
}

impl<const PARTS: usize, const IDS: usize> Slot<PARTS, IDS> {
    const EMPTY: Self = Self { key: [0; PARTS], ids: [0; IDS], count: 0 };

    fn is_empty(&self) -> bool {
        self.key == [0; PARTS]
    }
}

/// What the processor's cache keeps together.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line<const PARTS: usize, const IDS: usize, const SLOTS: usize>([Slot<PARTS, IDS>; SLOTS]);

/// A table twice as large as what it holds, until it is as large as it may be.
pub(super) struct Table<const PARTS: usize, const IDS: usize, const SLOTS: usize> {
    lines: Vec<Line<PARTS, IDS, SLOTS>>,
    kept: usize,
}

impl<const PARTS: usize, const IDS: usize, const SLOTS: usize> Table<PARTS, IDS, SLOTS> {
    const EMPTY: Line<PARTS, IDS, SLOTS> = Line([Slot::EMPTY; SLOTS]);

    fn new() -> Self {
        Self { lines: vec![Self::EMPTY; FIRST_LINES], kept: 0 }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.lines.len() - 1)
    }

    #[inline]
    fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.lines[self.home(hash)]);
    }

    /// A place of the line is chosen by arithmetic: which one it is could not be foretold.
    #[inline]
    fn find(&self, key: Key<PARTS>, hash: u64) -> Option<&Slot<PARTS, IDS>> {
        let home = self.home(hash);
        let Line(slots) = &self.lines[home];
        let last = SLOTS - 1;
        let slot = &slots[last * usize::from(slots[last].key == key)];
        if slot.key == key {
            return Some(slot);
        }
        if slots[last].is_empty() { None } else { self.find_behind(key, home) }
    }

    #[inline(never)]
    fn find_behind(&self, key: Key<PARTS>, home: usize) -> Option<&Slot<PARTS, IDS>> {
        for line in home + 1..home + PLACES / SLOTS {
            let Line(slots) = &self.lines[line & (self.lines.len() - 1)];
            if let Some(slot) = slots.iter().find(|slot| slot.key == key) {
                return Some(slot);
            }
            if slots[SLOTS - 1].is_empty() {
                return None;
            }
        }
        None
    }

    fn insert(&mut self, slot: Slot<PARTS, IDS>, hash: impl Fn(Key<PARTS>) -> u64) {
        if 2 * self.kept >= SLOTS * self.lines.len() && self.lines.len() < MOST_LINES {
            let larger = vec![Self::EMPTY; 2 * self.lines.len()];
            let smaller = std::mem::replace(&mut self.lines, larger);
            self.kept = 0;
            for slot in smaller.iter().flat_map(|line| &line.0).filter(|slot| !slot.is_empty()) {
                self.put(*slot, hash(slot.key));
            }
        }
        self.put(slot, hash(slot.key));
    }

    /// Lines fill from their first place on.
    fn put(&mut self, slot: Slot<PARTS, IDS>, hash: u64) {
        let home = self.home(hash);
        for line in home..home + PLACES / SLOTS {
            let line = line & (self.lines.len() - 1);
            if let Some(empty) = self.lines[line].0.iter_mut().find(|slot| slot.is_empty()) {
                *empty = slot;
                self.kept += 1;
                return;
            }
        }
        self.lines[home].0[0] = slot;
    }

    fn clear(&mut self) {
        self.lines.fill(Self::EMPTY);
        self.kept = 0;
    }
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

/// See the file's head.
pub(super) struct WordCache {
    short: Table<2, SHORT_IDS, 2>,
    medium: Table<4, MEDIUM_IDS, 1>,
    long_slots: Vec<LongSlot>,
    long_kept: usize,
    ids: Vec<u32>,
    bytes: Vec<u8>,
}

impl WordCache {
    pub(super) fn new() -> Self {
        Self {
            short: Table::new(),
            medium: Table::new(),
            long_slots: vec![LongSlot::default(); FIRST_LONG_SLOTS],
            long_kept: 0,
            ids: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// The word `text[start..end]`; asks memory for what is known about it.
    pub(super) fn word(&self, text: &[u8], start: usize, end: usize, is_piece: bool) -> Word {
        let mut word = Word::default();
        self.read_word(text, start, end, is_piece, &mut word);
        word
    }

    /// The same, put where it stays: a copy would wait for what was just written.
    #[inline]
    pub(super) fn read_word(&self, text: &[u8], start: usize, end: usize, is_piece: bool, word: &mut Word) {
        (word.start, word.end, word.is_piece) = (start, end, is_piece);
        if end - start <= SHORT {
            let key = short_key(text, start, end - start, is_piece);
            let hash = short_hash(key);
            self.short.prefetch(hash);
            (word.key, word.hash) = (key, hash);
        } else {
            self.longer_word(text, word);
        }
    }

    #[inline(never)]
    fn longer_word(&self, text: &[u8], word: &mut Word) {
        if word.is_medium() {
            word.hash = medium_hash(word.medium_key(text));
            self.medium.prefetch(word.hash);
        } else {
            word.hash = hash::of_bytes(&text[word.start..word.end]);
        }
    }

    /// What is known of a short word.
    #[inline]
    pub(super) fn find_short(&self, word: &Word) -> Option<&Slot<2, SHORT_IDS>> {
        self.short.find(word.key, word.hash)
    }

    /// What is known of a medium word.
    #[inline]
    pub(super) fn find_medium(&self, text: &[u8], word: &Word) -> Option<&Slot<4, MEDIUM_IDS>> {
        self.medium.find(word.medium_key(text), word.hash)
    }

    /// The ids of any word.
    #[inline]
    pub(super) fn find(&self, text: &[u8], word: &Word) -> Option<&[u32]> {
        if word.is_short() {
            self.find_short(word).map(|slot| self.ids_of(slot))
        } else if word.is_medium() {
            self.find_medium(text, word).map(|slot| self.ids_of(slot))
        } else {
            self.find_long(text, word)
        }
    }

    fn ids_of<'a, const PARTS: usize, const IDS: usize>(&'a self, slot: &'a Slot<PARTS, IDS>) -> &'a [u32] {
        let count = slot.count as usize;
        slot.ids.get(..count).unwrap_or_else(|| &self.ids[slot.ids[0] as usize..][..count])
    }

    fn find_long(&self, text: &[u8], word: &Word) -> Option<&[u32]> {
        if !is_kept_long(word) {
            return None;
        }
        let bytes = &text[word.start..word.end];
        for place in places(word.hash, self.long_slots.len()) {
            let slot = &self.long_slots[place];
            if slot.length == 0 {
                break;
            }
            if slot.hash == word.hash && self.bytes[slot.start as usize..][..slot.length as usize] == *bytes {
                return Some(&self.ids[slot.first as usize..][..slot.count as usize]);
            }
        }
        None
    }

    /// Keeps the ids of a word that was not found.
    pub(super) fn insert(&mut self, text: &[u8], word: &Word, ids: &[u32]) {
        if word.is_short() {
            let slot = self.slot(word.key, ids);
            self.short.insert(slot, short_hash);
        } else if word.is_medium() {
            let slot = self.slot(word.medium_key(text), ids);
            self.medium.insert(slot, medium_hash);
        } else if is_kept_long(word) {
            self.insert_long(&text[word.start..word.end], word.hash, ids);
        }
    }

    fn slot<const PARTS: usize, const IDS: usize>(
        &mut self,
        key: Key<PARTS>,
        ids: &[u32],
    ) -> Slot<PARTS, IDS> {
        let mut slot = Slot { key, count: ids.len() as u32, ..Slot::EMPTY };
        if let Some(kept) = slot.ids.get_mut(..ids.len()) {
            kept.copy_from_slice(ids);
        } else {
            self.make_room(ids.len(), 0);
            slot.ids[0] = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
        }
        slot
    }

    fn insert_long(&mut self, word: &[u8], hash: u64, ids: &[u32]) {
        self.make_room(ids.len(), word.len());
        let slot = LongSlot {
            hash,
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
        let mut places = places(slot.hash, self.long_slots.len());
        let first = places.clone().next().expect("more than none");
        let empty = places.find(|&place| self.long_slots[place].length == 0);
        self.long_kept += usize::from(empty.is_some());
        self.long_slots[empty.unwrap_or(first)] = slot;
    }

    /// Forgets everything if there is no room for that many ids and bytes.
    fn make_room(&mut self, ids: usize, bytes: usize) {
        if self.ids.len() + ids > MOST_IDS || self.bytes.len() + bytes > MOST_BYTES {
            self.short.clear();
            self.medium.clear();
            self.long_slots.fill(LongSlot::default());
            self.long_kept = 0;
            self.ids.clear();
            self.bytes.clear();
        }
    }
}

/// Pieces of words are shorter as a rule.
fn is_kept_long(word: &Word) -> bool {
    !word.is_piece && word.length() <= LONGEST
}

/// What a short word's bytes are cut to, by their number.
const MASKS: [Key<2>; 16] = {
    let mut masks = [[0; 2]; 16];
    let mut length = 1;
    while length < 16 {
        masks[length] =
            if length <= 8 { [!0 >> (64 - 8 * length), 0] } else { [!0, !0 >> (128 - 8 * length)] };
        length += 1;
    }
    masks
};

#[inline]
fn short_key(text: &[u8], start: usize, length: usize, is_piece: bool) -> Key<2> {
    let [low, high]: Key<2> = match text[start..].first_chunk::<16>() {
        Some(chunk) => parts(chunk),
        None => parts(&padded::<16>(text, start, length)),
    };
    let mask = MASKS[length & 15];
    [low & mask[0], high & mask[1] | top(length, is_piece)]
}

#[inline]
fn medium_key(text: &[u8], start: usize, length: usize, is_piece: bool) -> Key<4> {
    let [first, second, third, fourth]: Key<4> = match text[start..].first_chunk::<32>() {
        Some(chunk) => parts(chunk),
        None => parts(&padded::<32>(text, start, length)),
    };
    let mask = MASKS[(length - 16) & 15];
    [first, second, third & mask[0], fourth & mask[1] | top(length, is_piece)]
}

/// The bytes as numbers.
#[inline]
fn parts<const BYTES: usize, const PARTS: usize>(bytes: &[u8; BYTES]) -> Key<PARTS> {
    let (eights, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|part| u64::from_le_bytes(eights[part]))
}

/// A word at the end of a text.
#[inline(never)]
fn padded<const BYTES: usize>(text: &[u8], start: usize, length: usize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..length].copy_from_slice(&text[start..start + length]);
    bytes
}

/// The highest byte of a key.
#[inline]
fn top(length: usize, is_piece: bool) -> u64 {
    (length as u64 | if is_piece { PIECE } else { 0 }) << 56
}

/// The hash of a word: of all but long ones that of their key, which is at hand.
pub(super) fn hash_of(word: &[u8]) -> u64 {
    if word.len() <= SHORT {
        short_hash(short_key(word, 0, word.len(), false))
    } else if word.len() <= MEDIUM {
        medium_hash(medium_key(word, 0, word.len(), false))
    } else {
        hash::of_bytes(word)
    }
}

#[inline]
fn short_hash(key: Key<2>) -> u64 {
    hash::of_pair(key[0], key[1])
}

#[inline]
fn medium_hash(key: Key<4>) -> u64 {
    hash::of_four(key)
}

/// Where a longer word may lie in a table of `length`, a power of two.
fn places(hash: u64, length: usize) -> impl Iterator<Item = usize> + Clone {
    let home = (hash >> 32) as usize;
    (home..home + PLACES).map(move |place| place & (length - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cache: &WordCache, word: &str) -> Option<Vec<u32>> {
        let text = word.as_bytes();
        cache.find(text, &cache.word(text, 0, text.len(), false)).map(<[u32]>::to_vec)
    }

    fn insert(cache: &mut WordCache, word: &str, ids: &[u32]) {
        let text = word.as_bytes();
        cache.insert(text, &cache.word(text, 0, text.len(), false), ids);
    }

    #[test]
    fn words_of_all_lengths_keep_their_ids() {
        let mut cache = WordCache::new();
        for length in 1..200 {
            let (word, ids) = ("x".repeat(length), vec![length as u32; length % 7]);
            assert_eq!(found(&cache, &word), None);
            insert(&mut cache, &word, &ids);
            assert_eq!(found(&cache, &word), (length <= LONGEST).then_some(ids));
        }
    }

    #[test]
    fn nearly_all_words_stay_until_the_table_is_full() {
        for name in ["", "of 16 and more ", "a word of more than thirty-one bytes "] {
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
            let length = [1, 20, 40][number as usize % 3];
            let word = format!("{number:0>length$}");
            insert(&mut cache, &word, &[number, 1, 2, 3]);
            assert_eq!(found(&cache, &word), Some(vec![number, 1, 2, 3]));
        }
        assert!(cache.short.lines.len() <= MOST_LINES && cache.medium.lines.len() <= MOST_LINES);
        assert!(cache.long_slots.len() <= MOST_LONG_SLOTS);
        assert!(cache.ids.len() <= MOST_IDS && cache.bytes.len() <= MOST_BYTES);
    }

    #[test]
    fn a_piece_is_not_the_word_of_its_bytes() {
        for word in ["ab", "as many bytes as take a line"] {
            let mut cache = WordCache::new();
            insert(&mut cache, word, &[1]);
            let text = word.as_bytes();
            let piece = cache.word(text, 0, text.len(), true);
            assert_eq!(cache.find(text, &piece), None);
            cache.insert(text, &piece, &[2]);
            assert_eq!(cache.find(text, &piece), Some(&[2][..]));
            assert_eq!(found(&cache, word), Some(vec![1]));
        }
    }

    #[test]
    fn words_differ_by_any_byte_and_by_their_length() {
        let text: String = ('\u{1}'..='\u{7f}').collect();
        let mut cache = WordCache::new();
        let words: Vec<String> = (1..=40)
            .flat_map(|length| {
                let word = &text[..length];
                let changed = (0..length).map(move |at| [&word[..at], "~", &word[at + 1..]].concat());
                changed.chain([word.to_owned()])
            })
            .collect();
        (0..).zip(&words).for_each(|(id, word)| insert(&mut cache, word, &[id]));
        for (id, word) in (0..).zip(&words) {
            assert_eq!(found(&cache, word), Some(vec![id]), "{word:?}");
            // The same in the midst of a text.
            let within = format!("{word}and what is behind it, longer than a line");
            let other = cache.word(within.as_bytes(), 0, word.len(), false);
            assert_eq!(cache.find(within.as_bytes(), &other), Some(&[id][..]), "{word:?}");
        }
    }
}
