//! Text to ids by ecocore's own hand: cuts out added tokens, composes, cuts words, looks them up or merges them. Which
//! vocabularies it is exact for is `scheme`'s; it never sees a file.

use std::borrow::Cow;
use std::cell::Cell;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::added_tokens::AddedTokens;
use super::characters::Characters;
use super::composed::composed;
use super::joints::Joints;
use super::merges::{self, Merges};
use super::segments::Segments;
use super::whole_words::WholeWords;
use super::word_cache::{MEDIUM_IDS, SHORT_IDS, Word, WordCache};
use super::words::{Pattern, Starts, each_word};

const NONE: u32 = u32::MAX;

/// What a vocabulary merges.
pub(super) enum Units {
    /// Bytes, within words; a byte without a token vanishes.
    Bytes { pattern: Pattern, ids: Box<[u32; 256]> },
    /// Characters, within whole texts.
    Characters(Box<Characters>),
}

impl Units {
    fn is_bytes(&self) -> bool {
        matches!(self, Self::Bytes { .. })
    }

    /// As many symbols as a word may have: a space that is no token becomes three bytes.
    fn most_symbols(&self, word: &str) -> usize {
        match self {
            Self::Bytes { .. } => word.len(),
            Self::Characters(_) => word.len() + 2 * word.bytes().filter(|&byte| byte == b' ').count(),
        }
    }

    /// Whether a word may be cut into pieces: not where a byte vanishes, since its neighbours meet there, and not what is a
    /// piece already.
    fn may_cut(&self, word: &str) -> bool {
        match self {
            Self::Bytes { ids, .. } => word.bytes().all(|byte| ids[usize::from(byte)] != NONE),
            Self::Characters(_) => false,
        }
    }
}

/// Bytes of a prompt's end. It is the beginning of an answer, and a template may spell it otherwise when the answer is there.
const NOT_REPEATED: usize = 64;

/// A place in a text where it may be cut: the ids before do not depend on what comes behind, nor those behind on what was
/// before.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Of text before it.
    pub bytes: usize,
    /// How many ids there are before it.
    pub ids: usize,
}

/// See the file's head.
pub(crate) struct Encoder {
    pub(super) added_tokens: AddedTokens,
    pub(super) composes: bool,
    pub(super) units: Units,
    pub(super) merges: Merges,
    pub(super) joints: Joints,
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
    ///
    /// Gives the last cut behind an added token and before the prompt's end. That token is this one in every text that goes on
    /// from there, unless the end of what lies before could be the beginning of another: then there is no cut.
    pub(crate) fn encode_chat(&self, text: &str, out: &mut Vec<u32>) -> Option<Cut> {
        let mut last = None;
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
            let Some(found) = found else { break };
            out.push(found.id);
            start = found.end;
            if start + NOT_REPEATED <= text.len() {
                last = Some(Cut { bytes: start, ids: out.len() });
            }
        }
        last.filter(|cut| !self.added_tokens.may_end_in_one(&text.as_bytes()[..cut.bytes]))
    }

    /// Appends the ids of a text between added tokens.
    fn encode_plain(&self, text: &str, workspace: &mut Workspace, out: &mut Vec<u32>) {
        let text = if self.composes { composed(text) } else { Cow::Borrowed(text) };
        let bytes = text.as_bytes();
        let Workspace { starts, words } = workspace;
        match &self.units {
            Units::Bytes { pattern, .. } => {
                each_word(bytes, *pattern, starts, |start, end| self.word(&text, start, end, words, out));
            }
            Units::Characters(_) => {
                self.joints.each_piece(&text, Characters::read, |start, end| {
                    self.word(&text, start, end, words, out)
                });
            }
        }
        self.look_up(&text, words, out);
        if !words.new.is_empty() {
            self.new_words(&text, words, out);
        }
    }

    /// Takes the word `text[start..end]`. Its ids are appended when enough words wait: while memory answers what the cache
    /// has of them, more words are cut.
    #[inline]
    fn word(&self, text: &str, start: usize, end: usize, words: &mut Words, out: &mut Vec<u32>) {
        if words.num_waiting == WAITING {
            self.look_up(text, words, out);
        }
        let word = &mut words.waiting[words.num_waiting];
        words.cache.read_word(text.as_bytes(), start, end, false, word);
        words.num_waiting += 1;
    }

    /// Appends the ids of the words that wait. As many ids are copied from a slot as it has room for, and counted after:
    /// how many it is could not be foretold.
    fn look_up(&self, text: &str, words: &mut Words, out: &mut Vec<u32>) {
        let mut length = 0;
        for turn in 0..mem::take(&mut words.num_waiting) {
            let word = &words.waiting[turn];
            if word.is_short() {
                if let Some(slot) = words.cache.find_short(word)
                    && slot.count as usize <= SHORT_IDS
                {
                    words.found[length..length + SHORT_IDS].copy_from_slice(&slot.ids);
                    length += slot.count as usize;
                    continue;
                }
            } else if word.is_medium()
                && let Some(slot) = words.cache.find_medium(text.as_bytes(), word)
                && slot.count as usize <= MEDIUM_IDS
            {
                words.found[length..length + MEDIUM_IDS].copy_from_slice(&slot.ids);
                length += slot.count as usize;
                continue;
            }
            out.extend_from_slice(&words.found[..mem::take(&mut length)]);
            if let Some(ids) = words.cache.find(text.as_bytes(), word) {
                out.extend_from_slice(ids);
            } else {
                self.new_word(text, words.waiting[turn], words, out);
            }
        }
        out.extend_from_slice(&words.found[..length]);
    }

    /// Takes a word that is not known.
    #[inline(never)]
    fn new_word(&self, text: &str, word: Word, words: &mut Words, out: &mut Vec<u32>) {
        if word.is_short() {
            self.put_off(text, word, words, out);
        } else {
            self.long_word(text, word, words, out);
        }
    }

    /// Takes a word that the cache does not have. The ids of the words behind it are appended at once, and its own are put
    /// between when enough of these words wait to be merged side by side.
    fn put_off(&self, text: &str, word: Word, words: &mut Words, out: &mut Vec<u32>) {
        let turn = words.new.len();
        let mut place = (word.hash() >> 32) as usize;
        let same = loop {
            let other = &mut words.places[place % words.places.len()];
            if *other == FREE {
                *other = turn as u8;
                break turn;
            }
            if words.new[usize::from(*other)].word.is(&word, text) {
                break usize::from(*other);
            }
            place += 1;
        };
        words.new.push(New { word, same, at: out.len(), ids: 0..0 });
        if words.new.len() == PUT_OFF {
            self.new_words(text, words, out);
        }
    }

    /// Puts the ids of the words that the cache does not have to their places.
    #[inline(never)]
    fn new_words(&self, text: &str, words: &mut Words, out: &mut Vec<u32>) {
        let mut new = mem::take(&mut words.new);
        self.make_ids(text, &mut new, words);
        // From the last to the first, so that every id moves once.
        let mut end = out.len();
        let mut shift: usize = new.iter().map(|word| new[word.same].ids.len()).sum();
        out.resize(end + shift, 0);
        for word in new.iter().rev() {
            out.copy_within(word.at..end, word.at + shift);
            let ids = &words.made[new[word.same].ids.clone()];
            shift -= ids.len();
            out[word.at + shift..][..ids.len()].copy_from_slice(ids);
            end = word.at;
        }
        for (_, word) in new.iter().enumerate().filter(|&(turn, word)| word.same == turn) {
            let ids = &words.made[word.ids.clone()];
            words.cache.insert(text.as_bytes(), &word.word, ids);
        }
        new.clear();
        words.new = new;
        words.places.fill(FREE);
    }

    /// Leaves the ids of new words in `words.made`.
    fn make_ids(&self, text: &str, new: &mut [New], words: &mut Words) {
        words.made.clear();
        words.made.shrink_to(1 << 16);
        new.iter().for_each(|new| self.whole_words.prefetch(new.word.hash()));
        let mut to_merge = [0; PUT_OFF];
        let mut count = 0;
        for (turn, New { word, ids, .. }) in
            new.iter_mut().enumerate().filter(|(turn, new)| new.same == *turn)
        {
            let first = words.made.len();
            let bytes = word.of(text);
            // A long word was looked up before, and a piece is no word.
            let known =
                if word.is_short() && !word.is_piece { self.whole_word(bytes, word.hash()) } else { None };
            if let Some(id) = known {
                words.made.push(id);
            } else if self.units.most_symbols(bytes) > merges::SHORT {
                self.read_symbols(bytes, &mut words.symbols, &mut words.kept);
                self.merge_symbols(words);
                words.made.extend_from_slice(&words.symbols);
            } else {
                to_merge[count] = turn;
                count += 1;
            }
            *ids = first..words.made.len();
        }
        let Words { made, symbols, kept, lanes, .. } = words;
        let mut to_merge = to_merge[..count].iter();
        let mut in_lanes: [Option<usize>; merges::LANES] = [None; merges::LANES];
        self.merges.merge_lanes(lanes, |number, lane| {
            if let Some(turn) = in_lanes[number] {
                let first = made.len();
                lane.take(made);
                new[turn].ids = first..made.len();
            }
            in_lanes[number] = to_merge.next().copied();
            let Some(turn) = in_lanes[number] else { return false };
            self.read_symbols(new[turn].word.of(text), symbols, kept);
            self.merges.begin(lane, symbols, self.units.is_bytes().then_some(kept));
            true
        });
    }

    /// The token that is this word, if merging need not be asked.
    fn whole_word(&self, word: &str, hash: u64) -> Option<u32> {
        let known = self.whole_words.find(word.as_bytes(), hash);
        known.filter(|&id| self.ignores_merges || self.whole_words.is_sure(id))
    }

    /// Takes a word that is not known and long enough to be cut. Its pieces come again more often than the word; it is kept
    /// itself when all of them are known.
    fn long_word(&self, text: &str, word: Word, words: &mut Words, out: &mut Vec<u32>) {
        let bytes = word.of(text);
        let known = out.len();
        let (mut is_cut, mut is_known) = (false, true);
        if let Some(id) = self.whole_word(bytes, word.hash()) {
            out.push(id);
        } else if self.units.may_cut(bytes) {
            let read = |character| character;
            self.joints.each_piece(bytes, read, |from, to| {
                is_cut |= to - from < bytes.len();
                if is_cut {
                    is_known &= self.piece(text, word.start + from, word.start + to, words, out);
                }
            });
            is_known &= is_cut;
        } else {
            is_known = false;
        }
        if is_known {
            words.cache.insert(text.as_bytes(), &word, &out[known..]);
        } else if !is_cut {
            self.put_off(text, word, words, out);
        }
    }

    /// Takes a piece of a word, which merges alone and is no word for the vocabulary. Says whether it is known.
    #[inline]
    fn piece(&self, text: &str, start: usize, end: usize, words: &mut Words, out: &mut Vec<u32>) -> bool {
        let piece = words.cache.word(text.as_bytes(), start, end, true);
        if let Some(ids) = words.cache.find(text.as_bytes(), &piece) {
            out.extend_from_slice(ids);
            return true;
        }
        self.put_off(text, piece, words, out);
        false
    }

    /// Leaves the symbols of a word in `symbols` and, where they are those of bytes, these in `kept`.
    fn read_symbols(&self, word: &str, symbols: &mut Vec<u32>, kept: &mut Vec<u8>) {
        symbols.clear();
        kept.clear();
        // One giant word must not hold its memory forever.
        symbols.shrink_to(1 << 16);
        kept.shrink_to(1 << 16);
        match &self.units {
            Units::Characters(characters) => characters.symbols(word, symbols),
            Units::Bytes { ids, .. } => {
                kept.extend(word.bytes().filter(|&byte| ids[usize::from(byte)] != NONE));
                symbols.extend(kept.iter().map(|&byte| ids[usize::from(byte)]));
            }
        }
    }

    /// Leaves in `words.symbols` what they merge to.
    fn merge_symbols(&self, words: &mut Words) {
        let bytes = self.units.is_bytes().then_some(&*words.kept);
        self.merges.merge(&mut words.symbols, bytes, &mut words.merging);
    }

    /// Finds out which tokens their own text merges to. Until that is done every word is merged, to the same ids.
    pub(super) fn make_sure(&self) {
        let mut words = Words::new();
        for id in self.whole_words.ids() {
            let text = self.whole_words.text(id);
            if let Some(text) = text.filter(|text| text.len() <= LONGEST_SURE) {
                self.read_symbols(text, &mut words.symbols, &mut words.kept);
                self.merge_symbols(&mut words);
                if words.symbols == [id] {
                    self.whole_words.set_sure(id);
                }
            }
        }
    }
}

/// Longer tokens are merged each time, so that a strange file makes no long work.
const LONGEST_SURE: usize = 256;

/// What one thread works with.
pub(super) struct Workspace {
    starts: Starts,
    words: Words,
}

/// As many words wait as memory can be asked for at a time.
const WAITING: usize = 32;

/// As many new words are merged at a time, so that some are left to begin when others are done.
const PUT_OFF: usize = 64;

/// No new word.
const FREE: u8 = u8::MAX;

/// As many ids as all words that wait may have in their slots.
const MOST_FOUND: usize = WAITING * if MEDIUM_IDS > SHORT_IDS { MEDIUM_IDS } else { SHORT_IDS };

struct Words {
    cache: WordCache,
    waiting: [Word; WAITING],
    num_waiting: usize,
    /// Ids of theirs, until they are appended.
    found: [u32; MOST_FOUND],
    /// Words that wait to be merged.
    new: Vec<New>,
    /// Where each of them lies, at the place of its hash or behind it.
    places: [u8; 2 * PUT_OFF],
    /// Their ids, one word behind the other.
    made: Vec<u32>,
    lanes: Box<[merges::Lane]>,
    symbols: Vec<u32>,
    /// The bytes of a word that are tokens.
    kept: Vec<u8>,
    merging: merges::Scratch,
}

/// A word that the cache does not have.
struct New {
    word: Word,
    /// The first of those that wait that is the same word.
    same: usize,
    /// Where its ids belong among those of the known words.
    at: usize,
    /// Its ids among `made`.
    ids: Range<usize>,
}

impl Words {
    fn new() -> Self {
        Self {
            cache: WordCache::new(),
            waiting: [Word::default(); WAITING],
            num_waiting: 0,
            found: [0; MOST_FOUND],
            new: Vec::new(),
            places: [FREE; 2 * PUT_OFF],
            made: Vec::new(),
            lanes: vec![merges::Lane::default(); merges::LANES].into(),
            symbols: Vec::new(),
            kept: Vec::new(),
            merging: merges::Scratch::default(),
        }
    }
}

impl Workspace {
    fn new() -> Self {
        Self { starts: Starts::new(), words: Words::new() }
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
