//! Stop strings: takes the bytes of a text as they arrive, gives back those that are certainly not part
//! of a stop string and says when one is complete. What the bytes mean as text is `text_stream`'s.
//!
//! A [`StopSet`] is an Aho-Corasick automaton: its states are the prefixes of the stop strings, and after
//! any input the automaton is in the longest prefix that the input ends with. That prefix is exactly what
//! must be held back, and since it *is* the held text, a [`StopMatcher`] remembers a state number and no
//! bytes. Failure links instead of a full transition table keep the largest set (16 stops of 1 kB) below
//! 250 kB, where the table would take 8 MB; the root alone has a full row, because text is nearly always
//! there. docs/text-stream.md has the definition, the argument and the figures.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::error::Error;

/// How many stop strings a choice may have.
pub const MAX_STOPS: usize = 16;
/// How long one stop string may be, in bytes of UTF-8.
pub const MAX_STOP_BYTES: usize = 1024;

/// The state of an input that ends with no prefix of any stop.
const ROOT: u16 = 0;

/// A set of stop strings, compiled once and shared by every stream that uses it.
///
/// Stops are literal. The one that ends first wins; of several that end together, the longest.
#[derive(Debug)]
pub struct StopSet {
    /// Sorted, without duplicates.
    stops: Vec<Box<[u8]>>,
    /// In breadth-first order: a state comes after all shorter ones, and siblings stand side by side.
    states: Vec<State>,
    /// Where each byte leads from the root.
    root: Box<[u16; 256]>,
}

/// One prefix of a stop string.
#[derive(Debug, Clone, Copy)]
struct State {
    /// The longest proper suffix of this prefix that is a prefix of a stop too.
    fail: u16,
    /// The prefixes that are one byte longer: `first_child .. first_child + children`.
    first_child: u16,
    children: u8,
    /// The last byte of this prefix.
    label: u8,
    /// A stop that begins with this prefix; its first `depth` bytes are the prefix.
    stop: u8,
    depth: u16,
    /// Length of the longest stop that the prefix ends with, 0 if none.
    matched: u16,
}

impl StopSet {
    /// Compiles `stops`; none at all is a set that never matches.
    ///
    /// Fails with `InvalidParameter("stop")` for more than [`MAX_STOPS`], an empty one, or one longer than
    /// [`MAX_STOP_BYTES`].
    pub fn new<S: AsRef<[u8]>>(stops: &[S]) -> Result<Self, Error> {
        if stops.len() > MAX_STOPS {
            let message = format!("has {} entries; at most {MAX_STOPS} are possible", stops.len());
            return Err(Error::parameter("stop", message));
        }
        for stop in stops.iter().map(AsRef::as_ref) {
            if stop.is_empty() {
                return Err(Error::parameter("stop", "holds an empty string; leave it out"));
            }
            if stop.len() > MAX_STOP_BYTES {
                let message = format!("holds a string of {} bytes; at most {MAX_STOP_BYTES} fit", stop.len());
                return Err(Error::parameter("stop", message));
            }
        }
        let mut sorted: Vec<Box<[u8]>> = stops.iter().map(|stop| stop.as_ref().into()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        Ok(Self::compile(sorted))
    }

    /// True if nothing ever stops.
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Builds the automaton level by level. Stops that share a prefix are a range of the sorted list, so a
    /// state is its range and its depth, and its children are the runs of equal bytes at that depth.
    fn compile(stops: Vec<Box<[u8]>>) -> Self {
        let root = State { fail: ROOT, first_child: 0, children: 0, label: 0, stop: 0, depth: 0, matched: 0 };
        let mut set = Self { states: vec![root], root: Box::new([ROOT; 256]), stops };
        let mut ranges = vec![(0, set.stops.len())];
        let mut parent = 0;
        while parent < set.states.len() {
            let state = set.states[parent];
            set.states[parent].first_child = set.states.len() as u16;
            // A stream ends at a match, so what would follow one is never reached.
            let (first, end) = if state.matched > 0 { (0, 0) } else { ranges[parent] };
            let mut rest = first..end;
            while let Some(stop) = rest.next() {
                let depth = usize::from(state.depth);
                let label = set.stops[stop][depth];
                let same = set.stops[rest.clone()].iter().take_while(|other| other[depth] == label).count();
                set.add_child(parent, label, stop);
                ranges.push((stop, stop + 1 + same));
                rest.start += same;
            }
            parent += 1;
        }
        set
    }

    fn add_child(&mut self, parent: usize, label: u8, stop: usize) {
        // At most MAX_STOPS * MAX_STOP_BYTES + 1 states: every number below fits.
        let child = self.states.len() as u16;
        let depth = self.states[parent].depth + 1;
        // The links of all shorter states are final, and the failure state is shorter.
        let fail = if parent == 0 { ROOT } else { self.next(self.states[parent].fail, label) };
        let whole = self.stops[stop].len() == usize::from(depth);
        let matched = if whole { depth } else { self.states[usize::from(fail)].matched };
        self.states.push(State {
            fail,
            first_child: 0,
            children: 0,
            label,
            stop: stop as u8,
            depth,
            matched,
        });
        self.states[parent].children += 1;
        if parent == 0 {
            self.root[usize::from(label)] = child;
        }
    }

    /// The state after one more byte. A step down the failure links undoes an earlier step up, so a text
    /// of n bytes takes at most 2 n of them.
    fn next(&self, mut state: u16, byte: u8) -> u16 {
        while state != ROOT {
            let State { first_child, children, fail, .. } = self.states[usize::from(state)];
            let first = usize::from(first_child);
            let siblings = &self.states[first..first + usize::from(children)];
            if let Some(index) = siblings.iter().position(|child| child.label == byte) {
                return first_child + index as u16;
            }
            state = fail;
        }
        self.root[usize::from(byte)]
    }

    /// The bytes that lead to `state`.
    fn prefix(&self, state: u16) -> &[u8] {
        match self.states[usize::from(state)] {
            State { depth: 0, .. } => &[],
            State { stop, depth, .. } => &self.stops[usize::from(stop)][..usize::from(depth)],
        }
    }
}

/// What one [`StopMatcher::push`] lets go: `held` and then `fresh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released<'a> {
    /// Bytes that were held back by earlier pushes.
    pub held: &'a [u8],
    /// Bytes of this push.
    pub fresh: &'a [u8],
    /// Whether a stop string is complete. The text ends with `fresh`, right before it.
    pub stopped: bool,
}

/// Where one text stands in a [`StopSet`]. Every call takes the same set.
#[derive(Debug, Clone, Copy, Default)]
pub struct StopMatcher {
    state: u16,
}

impl StopMatcher {
    /// Takes the next bytes and lets go of all but the longest end of the text that begins a stop.
    /// Once stopped, nothing more may be pushed.
    pub fn push<'a>(&mut self, stops: &'a StopSet, bytes: &'a [u8]) -> Released<'a> {
        let held = stops.prefix(self.state);
        let release = |count: usize, stopped| Released {
            held: &held[..count.min(held.len())],
            fresh: &bytes[..count.saturating_sub(held.len())],
            stopped,
        };
        let mut state = self.state;
        for (index, &byte) in bytes.iter().enumerate() {
            state = stops.next(state, byte);
            // Text is nearly always at the root, where nothing can match: that saves a load per byte.
            if state == ROOT {
                continue;
            }
            let matched = usize::from(stops.states[usize::from(state)].matched);
            if matched > 0 {
                self.state = ROOT;
                return release(held.len() + index + 1 - matched, true);
            }
        }
        self.state = state;
        release(held.len() + bytes.len() - self.held(stops).len(), false)
    }

    /// Whether these bytes would be let go at once, and nothing before them: nothing is held, and no stop begins with any of them.
    pub fn passes(&self, stops: &StopSet, bytes: &[u8]) -> bool {
        self.state == ROOT && bytes.iter().all(|&byte| stops.root[usize::from(byte)] == ROOT)
    }

    /// What is held back now.
    pub fn held<'a>(&self, stops: &'a StopSet) -> &'a [u8] {
        stops.prefix(self.state)
    }

    /// Ends the text: gives what was held back.
    pub fn finish<'a>(&mut self, stops: &'a StopSet) -> &'a [u8] {
        stops.prefix(std::mem::take(&mut self.state))
    }
}

/// Gives streams with the same stop strings the same [`StopSet`], for as long as one of them uses it.
#[derive(Debug, Default)]
pub struct StopCache {
    /// Keyed by sorted stops. The keys come from clients, hence the standard, seeded hash.
    sets: HashMap<Vec<String>, Weak<StopSet>>,
}

impl StopCache {
    /// The set of these stops. Fails as [`StopSet::new`].
    pub fn get(&mut self, stops: &[String]) -> Result<Arc<StopSet>, Error> {
        let mut key = stops.to_vec();
        key.sort_unstable();
        key.dedup();
        if let Some(set) = self.sets.get(&key).and_then(Weak::upgrade) {
            return Ok(set);
        }
        let set = Arc::new(StopSet::new(stops)?);
        if self.sets.len() == self.sets.capacity() {
            // Rather than grow, forget sets that nobody uses: the cache stays as large as what is in use.
            self.sets.retain(|_, set| set.strong_count() > 0);
        }
        self.sets.insert(key, Arc::downgrade(&set));
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `pieces` and gives what each released, and what was left at the end unless a stop came.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let set = StopSet::new(stops).unwrap();
        let mut matcher = StopMatcher::default();
        let mut released = Vec::new();
        for piece in pieces {
            let Released { held, fresh, stopped } = matcher.push(&set, piece.as_bytes());
            released.push(String::from_utf8([held, fresh].concat()).unwrap());
            if stopped {
                return (released, true);
            }
        }
        released.push(String::from_utf8(matcher.finish(&set).to_vec()).unwrap());
        (released, false)
    }

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], released: &[&str], stopped: bool) {
        let (actual, did_stop) = run(stops, pieces);
        assert_eq!(actual, released);
        assert_eq!(did_stop, stopped);
    }

    #[test]
    fn without_stops_everything_passes_at_once() {
        check(&[], &["any", "", "thing"], &["any", "", "thing", ""], false);
    }

    #[test]
    fn a_stop_may_lie_inside_a_piece_or_across_many() {
        check(&["STOP"], &["a STOP b"], &["a "], true);
        check(&["STOP"], &["a S", "T", "OP b"], &["a ", "", ""], true);
        check(&["STOP"], &["STOP"], &[""], true);
    }

    #[test]
    fn only_what_may_become_a_stop_is_held_and_only_as_long() {
        check(&["\n\n"], &["a\n", "b"], &["a", "\nb", ""], false);
        check(&["abcabd"], &["abcab", "cab", "d"], &["", "abc", ""], true);
        check(&["abab"], &["aba", "aba", "b"], &["", "aba", ""], true);
        check(&["END"], &["E", "E", "EN"], &["", "E", "E", "EN"], false);
    }

    #[test]
    fn what_was_held_is_given_at_the_end() {
        check(&["STOP"], &["STO"], &["", "STO"], false);
    }

    #[test]
    fn the_earliest_end_wins_over_an_earlier_start() {
        check(&["abcde", "c"], &["xabcde"], &["xab"], true);
        check(&["ab", "abc"], &["xabc"], &["x"], true);
    }

    #[test]
    fn of_stops_with_the_same_end_the_longest_wins() {
        check(&["c", "bc", "abc"], &["xabc"], &["x"], true);
        check(&["abc", "c"], &["xa", "b", "c"], &["x", "", ""], true);
        check(&["abc", "c"], &["xb", "c"], &["xb", ""], true);
    }

    #[test]
    fn stops_are_literal_and_may_repeat() {
        check(&[".*", ".*"], &["abc", ".", "*"], &["abc", "", ""], true);
    }

    #[test]
    fn a_stop_may_begin_inside_a_character_of_two_tokens() {
        let set = StopSet::new(&["é"]).unwrap();
        let mut matcher = StopMatcher::default();
        let first = matcher.push(&set, b"caf\xc3");
        assert_eq!((first.fresh, first.stopped), (&b"caf"[..], false));
        let second = matcher.push(&set, b"\xa9!");
        assert_eq!((second.held, second.fresh, second.stopped), (&b""[..], &b""[..], true));
    }

    #[test]
    fn unusable_stops_are_refused_by_name() {
        let seventeen = vec!["x"; 17];
        let long = "x".repeat(1025);
        for stops in [&seventeen[..], &[""], &["a", ""], &[&long]] {
            let error = StopSet::new(stops).unwrap_err();
            assert!(matches!(error, Error::InvalidParameter { name, .. } if name == "stop"));
        }
    }

    #[test]
    fn the_largest_set_stays_small_and_right() {
        let stops: Vec<String> = (0..16)
            .map(|i| (0..1024).map(|j| char::from(b'a' + ((i * 7 + j * j) % 26) as u8)).collect())
            .collect();
        let set = StopSet::new(&stops).unwrap();
        assert!(set.states.len() * size_of::<State>() < 230_000);
        let mut matcher = StopMatcher::default();
        assert!(!matcher.push(&set, &stops[3].as_bytes()[1..]).stopped);
        assert!(matcher.push(&set, stops[3].as_bytes()).stopped);
    }

    #[test]
    fn a_set_is_shared_while_it_is_used_and_forgotten_afterwards() {
        let mut cache = StopCache::default();
        let first = cache.get(&["b".into(), "a".into()]).unwrap();
        let second = cache.get(&["a".into(), "b".into(), "a".into()]).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        for i in 0..1000 {
            cache.get(&[i.to_string()]).unwrap();
        }
        assert!(cache.sets.len() < 100);
        assert!(Arc::ptr_eq(&first, &cache.get(&["a".into(), "b".into()]).unwrap()));
    }

    #[test]
    fn bytes_pass_where_no_stop_begins_and_nothing_is_held() {
        let set = StopSet::new(&["ab", "cd"]).unwrap();
        let mut matcher = StopMatcher::default();
        let passing = [&b""[..], b"b", b"xdx", b"xa", b"c"].map(|bytes| matcher.passes(&set, bytes));
        assert_eq!(passing, [true, true, true, false, false]);
        matcher.push(&set, b"a");
        assert!(!matcher.passes(&set, b"x"));
    }
}
