//! The vocabulary by the bytes of its tokens: takes a word, gives the token that is this word. Whether a word may be looked
//! up at all is `encoder`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::simd::prefetch;
use super::word_cache::hash_of;
use crate::vocab::Vocab;

/// A word of this many bytes lies in its entry, so that looking it up costs one place in memory.
const INLINE: usize = 12;
/// What stands for the length of a longer word.
const LONG: u128 = 0xff;
/// Bits below the id: the bytes of a short word or the hash of a long one, and its length.
const ID: u32 = 104;

/// See the file's head.
pub(super) struct WholeWords {
    vocab: Arc<Vocab>,
    /// Words and their ids at the places that the words hash to, or behind them; 0 where there is none.
    table: Vec<u128>,
    /// A bit for each id: whether the token's own text merges to it.
    sure: Vec<AtomicU64>,
}

impl WholeWords {
    /// `ids` are those of tokens that a word can be.
    pub(super) fn new(vocab: Arc<Vocab>, ids: impl ExactSizeIterator<Item = u32>) -> Self {
        let table = vec![0; (ids.len() + ids.len() / 2 + 1).next_power_of_two()];
        let sure = (0..=vocab.len() / 64).map(|_| AtomicU64::new(0)).collect();
        let mut words = Self { vocab, table, sure };
        for id in ids {
            let word = words.vocab.bytes(id).unwrap_or_default();
            let (key, mut place) = words.search(word, hash_of(word));
            while words.table[place] != 0 {
                place = (place + 1) & (words.table.len() - 1);
            }
            words.table[place] = key | u128::from(id) << ID;
        }
        words
    }

    /// Asks memory for what `find` looks at.
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.table[self.place(hash)]);
    }

    /// The token that is `word`, with its `hash_of`.
    pub(super) fn find(&self, word: &[u8], hash: u64) -> Option<u32> {
        let (key, mut place) = self.search(word, hash);
        loop {
            let entry = self.table[place];
            if entry == 0 {
                return None;
            }
            let id = (entry >> ID) as u32;
            if entry & ((1 << ID) - 1) == key && (word.len() <= INLINE || self.vocab.bytes(id) == Some(word))
            {
                return Some(id);
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    /// What the entry of a word has beside its id, and where the search for it begins.
    fn search(&self, word: &[u8], hash: u64) -> (u128, usize) {
        let mut bytes = [0; 16];
        let key = match bytes.get_mut(..word.len()) {
            Some(start) if word.len() <= INLINE => {
                start.copy_from_slice(word);
                u128::from_le_bytes(bytes) | (word.len() as u128) << (ID - 8)
            }
            _ => u128::from(hash) | LONG << (ID - 8),
        };
        (key, self.place(hash))
    }

    fn place(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.table.len() - 1)
    }

    /// The ids of all words.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.table.iter().filter(|&&entry| entry != 0).map(|&entry| (entry >> ID) as u32)
    }

    /// The text of a token, if it is one.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.vocab.bytes(id)?).ok()
    }

    /// Whether the token's own text merges to it, as far as that is known.
    pub(super) fn is_sure(&self, id: u32) -> bool {
        self.sure[id as usize / 64].load(Ordering::Relaxed) >> (id % 64) & 1 == 1
    }

    pub(super) fn set_sure(&self, id: u32) {
        self.sure[id as usize / 64].fetch_or(1 << (id % 64), Ordering::Relaxed);
    }
}
