//! Text to ids by ecocore's own hand: cuts out added tokens, composes, cuts words, looks them up or merges them. Which
//! vocabularies it is exact for is `scheme`'s; it never sees a file.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::added_tokens::AddedTokens;
use super::characters::Characters;
use super::composed::composed;
use super::hash;
use super::masks::Masks;
use super::merges::{self, Merges};
use super::segments::Segments;
use super::word_cache::{self, WordCache};
use super::words::{Pattern, each_word};
use crate::vocab::Vocab;

const NONE: u32 = u32::MAX;

/// What a vocabulary merges.
pub(super) enum Units {
    /// Bytes, within words; a byte without a token vanishes.
    Bytes { pattern: Pattern, ids: Box<[u32; 256]> },
    /// Characters, within whole texts.
    Characters(Box<Characters>),
}

/// See the file's head.
pub(crate) struct Encoder {
    pub(super) added_tokens: AddedTokens,
    pub(super) composes: bool,
    pub(super) units: Units,
    pub(super) merges: Merges,
    pub(super) whole_words: WholeWords,
    /// Whether words of the vocabulary win over merges.
    pub(super) ignores_merges: bool,
    pub(super) workspaces: Workspaces,
    pub(super) segments: Mutex<Segments>,
}

impl Encoder {
    /// Appends the ids of `text`.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut workspace = self.workspaces.borrow();
        let mut start = 0;
        while let Some(found) = self.added_tokens.find(text.as_bytes(), start) {
            self.encode_plain(&text[start..found.start], &mut workspace, out);
            out.push(found.id);
            start = found.end;
        }
        self.encode_plain(&text[start..], &mut workspace, out);
    }

    /// The same for a chat that grows: the texts between its added tokens are remembered. Added tokens stand for
    /// themselves whatever is beside them, so that the ids of a text are the same wherever it stands.
    pub(crate) fn encode_chat(&self, text: &str, out: &mut Vec<u32>) {
        let lock = || self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let mut segments = lock();
        let mut start = 0;
        loop {
            let found = self.added_tokens.find(text.as_bytes(), start);
            let segment = &text[start..found.as_ref().map_or(text.len(), |found| found.start)];
            if !segment.is_empty() && !segments.find(segment, out) {
                // Others need not wait for the work.
                drop(segments);
                let before = out.len();
                self.encode_plain(segment, &mut self.workspaces.borrow(), out);
                segments = lock();
                segments.insert(segment, &out[before..]);
            }
            let Some(found) = found else { return };
            out.push(found.id);
            start = found.end;
        }
    }

    /// Appends the ids of a text between added tokens.
    fn encode_plain(&self, text: &str, workspace: &mut Workspace, out: &mut Vec<u32>) {
        let text = if self.composes { composed(text) } else { Cow::Borrowed(text) };
        let bytes = text.as_bytes();
        let Workspace { masks, words } = workspace;
        match &self.units {
            Units::Bytes { pattern, .. } => {
                each_word(bytes, *pattern, masks, |at, end| self.word(&text, at, end, words, out));
            }
            Units::Characters(characters) => {
                characters.each_piece(&text, |at, end| self.word(&text, at, end, words, out));
            }
        }
    }

    /// Appends the ids of the word `text[at..end]`.
    #[inline]
    fn word(&self, text: &str, at: usize, end: usize, words: &mut Words, out: &mut Vec<u32>) {
        if end - at > word_cache::INLINE {
            return self.long_word(&text[at..end], words, out);
        }
        let key = word_cache::key(text.as_bytes(), at, end);
        if !words.cache.find(key, out) {
            self.merge(&text[at..end], words, out);
            words.cache.insert(key, &words.symbols);
        }
    }

    #[inline(never)]
    fn long_word(&self, word: &str, words: &mut Words, out: &mut Vec<u32>) {
        if !words.cache.find_long(word.as_bytes(), out) {
            self.merge(word, words, out);
            words.cache.insert_long(word.as_bytes(), &words.symbols);
        }
    }

    /// Appends the ids of a word and leaves them in `words.symbols`.
    #[cold]
    #[inline(never)]
    fn merge(&self, word: &str, words: &mut Words, out: &mut Vec<u32>) {
        let known = self.whole_words.find(word.as_bytes());
        match known.filter(|&id| self.ignores_merges || self.whole_words.is_sure(id)) {
            Some(id) => {
                words.symbols.clear();
                words.symbols.push(id);
            }
            None => self.merge_symbols(word, words),
        }
        out.extend_from_slice(&words.symbols);
        // One giant word must not hold its memory forever.
        words.symbols.shrink_to(1 << 16);
    }

    /// Leaves what the symbols of a word merge to in `words.symbols`.
    fn merge_symbols(&self, word: &str, words: &mut Words) {
        let Words { symbols, kept, merging, .. } = words;
        symbols.clear();
        match &self.units {
            Units::Characters(characters) => {
                characters.symbols(word, symbols);
                self.merges.merge(symbols, merging);
            }
            Units::Bytes { ids, .. } => {
                kept.clear();
                kept.extend(word.bytes().filter(|&byte| ids[usize::from(byte)] != NONE));
                symbols.extend(kept.iter().map(|&byte| ids[usize::from(byte)]));
                self.merges.merge_bytes(kept, symbols, merging);
                kept.shrink_to(1 << 16);
            }
        }
    }

    /// Finds out which tokens their own text merges to. Until that is done every word is merged, to the same ids.
    pub(super) fn make_sure(&self) {
        let mut words = Words::new();
        for id in self.whole_words.table.iter().copied().filter(|&id| id != NONE) {
            let text = self.whole_words.vocab.bytes(id).and_then(|bytes| std::str::from_utf8(bytes).ok());
            if let Some(text) = text.filter(|text| text.len() <= LONGEST_SURE) {
                self.merge_symbols(text, &mut words);
                if words.symbols == [id] {
                    self.whole_words.set_sure(id);
                }
            }
        }
    }
}

/// Longer tokens are merged each time, so that a strange file makes no long work.
const LONGEST_SURE: usize = 256;

/// The vocabulary by the bytes of its tokens.
pub(super) struct WholeWords {
    vocab: Arc<Vocab>,
    table: Vec<u32>,
    /// A bit for each id: whether the token's own text merges to it.
    sure: Vec<AtomicU64>,
}

impl WholeWords {
    /// `ids` are those of tokens that a word can be.
    pub(super) fn new(vocab: Arc<Vocab>, ids: impl ExactSizeIterator<Item = u32>) -> Self {
        let table = vec![NONE; (2 * ids.len() + 1).next_power_of_two()];
        let sure = (0..=vocab.len() / 64).map(|_| AtomicU64::new(0)).collect();
        let mut words = Self { vocab, table, sure };
        for id in ids {
            let mut place = words.place(words.vocab.bytes(id).unwrap_or_default());
            while words.table[place] != NONE {
                place = (place + 1) & (words.table.len() - 1);
            }
            words.table[place] = id;
        }
        words
    }

    fn find(&self, word: &[u8]) -> Option<u32> {
        let mut place = self.place(word);
        loop {
            match self.table[place] {
                NONE => return None,
                id if self.vocab.bytes(id) == Some(word) => return Some(id),
                _ => place = (place + 1) & (self.table.len() - 1),
            }
        }
    }

    fn place(&self, word: &[u8]) -> usize {
        (hash::of_bytes(word) >> 32) as usize & (self.table.len() - 1)
    }

    fn is_sure(&self, id: u32) -> bool {
        self.sure[id as usize / 64].load(Ordering::Relaxed) >> (id % 64) & 1 == 1
    }

    fn set_sure(&self, id: u32) {
        self.sure[id as usize / 64].fetch_or(1 << (id % 64), Ordering::Relaxed);
    }
}

/// What one thread works with.
pub(super) struct Workspace {
    masks: Masks,
    words: Words,
}

struct Words {
    cache: WordCache,
    symbols: Vec<u32>,
    /// The bytes of a word that are tokens.
    kept: Vec<u8>,
    merging: merges::Scratch,
}

impl Words {
    fn new() -> Self {
        let merging = merges::Scratch::default();
        Self { cache: WordCache::new(), symbols: Vec::new(), kept: Vec::new(), merging }
    }
}

impl Workspace {
    fn new() -> Self {
        Self { masks: Masks::new(), words: Words::new() }
    }
}

/// A workspace for each core, so that threads wait for none and the words that one has seen stay with it.
pub(super) struct Workspaces(Box<[Mutex<Option<Workspace>>]>);

impl Workspaces {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self((0..cores).map(|_| Mutex::new(None)).collect())
    }

    /// A free workspace, the one that this thread had before if possible.
    fn borrow(&self) -> Borrowed<'_> {
        let first = thread_number();
        let of = |turn: usize| &self.0[(first + turn) % self.0.len()];
        for turn in 0..self.0.len() {
            match of(turn).try_lock() {
                Ok(guard) => return Borrowed::new(guard),
                // A panic may have left it half done.
                Err(TryLockError::Poisoned(poisoned)) => {
                    of(turn).clear_poison();
                    let mut guard = poisoned.into_inner();
                    *guard = None;
                    return Borrowed::new(guard);
                }
                Err(TryLockError::WouldBlock) => {}
            }
        }
        Borrowed::new(of(0).lock().unwrap_or_else(|poisoned| {
            of(0).clear_poison();
            let mut guard = poisoned.into_inner();
            *guard = None;
            guard
        }))
    }
}

struct Borrowed<'a>(MutexGuard<'a, Option<Workspace>>);

impl<'a> Borrowed<'a> {
    fn new(mut guard: MutexGuard<'a, Option<Workspace>>) -> Self {
        guard.get_or_insert_with(Workspace::new);
        Self(guard)
    }
}

impl std::ops::Deref for Borrowed<'_> {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        self.0.as_ref().expect("made in `new`")
    }
}

impl std::ops::DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Workspace {
        self.0.as_mut().expect("made in `new`")
    }
}

/// A number that stays with the thread.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    NUMBER.get()
}
