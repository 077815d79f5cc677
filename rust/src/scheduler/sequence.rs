//! One sequence's life: how far it has come, and what it may compute next.
//!
//! Takes the scheduler's decisions, gives ranges of positions. Which sequence goes first, and which blocks it
//! gets, are left to the scheduler.

use std::ops::{Index, IndexMut, Range};

use rustc_hash::FxHashMap;

use super::group::Table;
use super::prefix_cache::{PrefixKey, Shown};
use super::turns::Owner;

/// Where a sequence is in its life.
///
/// | state   | admitted | preempted | stopped |
/// | ------- | -------- | --------- | ------- |
/// | Waiting | Running  | -         | Ended   |
/// | Running | -        | Waiting   | Ended   |
/// | Ended   | -        | -         | -       |
///
/// A waiting sequence holds no block and has no step in flight. An ended one keeps its blocks until the last
/// step in flight that uses them is over, and is then forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In the queue: never run, or preempted.
    Waiting,
    /// Holds blocks and gets its share of the steps.
    Running,
    /// Finished, cancelled or failed.
    Ended,
}

/// What moves a sequence from one [`State`] to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was given blocks.
    Admitted,
    /// Its blocks were taken for an earlier sequence.
    Preempted,
    /// It finished, was cancelled, or its step failed.
    Stopped,
}

impl State {
    /// The state after `change`, or None where the table has none.
    pub fn after(self, change: Change) -> Option<Self> {
        match (self, change) {
            (Self::Waiting, Change::Admitted) => Some(Self::Running),
            (Self::Running, Change::Preempted) => Some(Self::Waiting),
            (Self::Waiting | Self::Running, Change::Stopped) => Some(Self::Ended),
            _ => None,
        }
    }
}

/// A prompt and what became of it. Lengths and positions count tokens.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// The submitter's name for it.
    pub id: u64,
    /// Its place in the order of submission.
    pub arrival: u64,
    /// Whose turns it takes.
    pub key: u64,
    /// See [`Owner`].
    pub priority: u32,
    /// See [`State`].
    pub state: State,
    /// The prompt, then the drawn tokens that were committed.
    pub token_ids: Vec<u32>,
    /// Tokens of the prompt, at least 1.
    pub prompt_length: u32,
    /// Most tokens that may be drawn, at least 1.
    pub max_tokens: u32,
    /// Tokens drawn or being drawn: the index of the next draw.
    pub drawn: u32,
    /// Positions computed or being computed.
    pub computed: u32,
    /// Steps in flight that compute a part of it.
    pub in_flight: u32,
    /// Its blocks in each group; none while it waits.
    pub tables: Vec<Table>,
    /// Leading blocks that the prefix cache has been told of, or that came from it.
    pub registered: usize,
    /// Prompt tokens that the prefix cache gave at first admission; None before it.
    pub cached: Option<u32>,
    /// Whether its prompt's tokens are scored; such a prompt takes nothing from the prefix cache.
    pub scored: bool,
    /// Spans of the prompt, in order and apart, that no chunk ends within.
    pub whole: Vec<Range<u32>>,
    /// Whether it is left out of the step that is being put together.
    pub held: bool,
    /// What the prompt shows besides its tokens, in order.
    shown: Vec<Shown>,
    /// The empty prefix of its tenant.
    root: PrefixKey,
    /// Keys of its leading blocks, as many as were ever asked for.
    keys: Vec<PrefixKey>,
}

impl Sequence {
    /// A sequence that waits. `prompt` and `max_tokens` must not be empty; their sum fits a u32.
    pub fn new(id: u64, arrival: u64, prompt: Vec<u32>, max_tokens: u32, owner: Owner<'_>) -> Self {
        Self {
            id,
            arrival,
            key: owner.key,
            priority: owner.priority,
            state: State::Waiting,
            prompt_length: prompt.len() as u32,
            token_ids: prompt,
            max_tokens,
            drawn: 0,
            computed: 0,
            in_flight: 0,
            tables: Vec::new(),
            registered: 0,
            cached: None,
            scored: false,
            held: false,
            whole: Vec::new(),
            shown: Vec::new(),
            root: PrefixKey::root(owner.salt),
            keys: Vec::new(),
        }
    }

    /// Moves to the state after `change`.
    ///
    /// Panics where the table has none: the scheduler's own bookkeeping is broken.
    pub fn advance(&mut self, change: Change) {
        let next = self.state.after(change);
        self.state =
            next.unwrap_or_else(|| panic!("a sequence that is {:?} cannot be {change:?}", self.state));
    }

    /// End of the positions worth computing: all tokens drawn or being drawn, but never the last of
    /// `max_tokens`, after which nothing is drawn.
    pub fn frontier(&self) -> u32 {
        self.prompt_length + self.drawn.min(self.max_tokens - 1)
    }

    /// Whether all it needs is one row for its newest token.
    pub fn decodes(&self) -> bool {
        self.computed >= self.prompt_length && self.computed + 1 == self.frontier()
    }

    /// Whether it has more to compute than that: prompt, or drawn tokens after a preemption.
    pub fn catches_up(&self) -> bool {
        self.computed < self.prompt_length || self.computed + 1 < self.frontier()
    }

    /// Whether it has anything to compute.
    pub fn is_due(&self) -> bool {
        self.decodes() || self.catches_up()
    }

    /// What it may compute from `start` in one step with `budget` tokens; empty if that is too little.
    ///
    /// A range never crosses the end of the prompt. Within the prompt it ends on a multiple of the block size, at the prompt's
    /// end, or where a span of `whole` begins that the multiple lies in, wherever the budget would have cut: load moves no
    /// boundary of the arithmetic. It goes beyond the budget where it starts with such a span or within it.
    /// After the prompt each position is a row of its own, so any cut is as good.
    pub fn range(&self, start: u32, budget: u32, block_size: u32) -> Range<u32> {
        let reach = start.saturating_add(budget);
        let end = if start >= self.prompt_length {
            reach.min(self.frontier())
        } else if reach >= self.prompt_length {
            self.prompt_length
        } else {
            let end = reach - reach % block_size;
            match self.span_around(end) {
                // It starts with the span, or behind a prefix that ends within it.
                Some(span) if span.start <= start && start < end => self.edge_behind(span, block_size),
                Some(span) => span.start,
                None => end,
            }
        };
        start..end.max(start)
    }

    /// `end`, which lies on the grid, or where the span begins that it would cut.
    pub fn before_whole(&self, end: u32) -> u32 {
        self.span_around(end).map_or(end, |span| span.start)
    }

    /// Whether a chunk of the prompt may start at `position`: on the grid, and where a span of `whole` begins. A cell of the
    /// arithmetic ends there in any case.
    pub fn is_edge(&self, position: u32, block_size: u32) -> bool {
        position.is_multiple_of(block_size)
            || self.whole.binary_search_by_key(&position, |span| span.start).is_ok()
    }

    /// Length of the longest piece that no chunk can cut: a span, and what follows it up to the next edge.
    pub fn longest_whole(&self, block_size: u32) -> u32 {
        let lengths = self.whole.iter().map(|span| self.edge_behind(span, block_size) - span.start);
        lengths.max().unwrap_or(0)
    }

    /// The span that a cut at `position` would go through.
    fn span_around(&self, position: u32) -> Option<&Range<u32>> {
        let index = self.whole.partition_point(|span| span.end <= position);
        self.whole.get(index).filter(|span| span.start < position)
    }

    /// Where the first chunk ends that has all of `span`: on the grid, or where the next span begins.
    fn edge_behind(&self, span: &Range<u32>, block_size: u32) -> u32 {
        self.before_whole(span.end.next_multiple_of(block_size)).min(self.prompt_length)
    }

    /// End of the positions that have blocks in every group.
    pub fn covered(&self, block_size: u32) -> u32 {
        self.tables.iter().map(|table| table.blocks.len() as u32 * block_size).min().unwrap_or(0)
    }

    /// Whether the step that ends before `end` draws a token: its last position is the newest there is.
    pub fn samples_at(&self, end: u32) -> bool {
        end == self.prompt_length + self.drawn
    }

    /// The token at `position`, or -1 while it is being drawn.
    pub fn token_at(&self, position: u32) -> i64 {
        self.token_ids.get(position as usize).map_or(-1, |&id| i64::from(id))
    }

    /// Whether as many tokens were drawn and committed as it may have.
    pub fn is_exhausted(&self) -> bool {
        self.token_ids.len() as u32 == self.prompt_length + self.max_tokens
    }

    /// Says what the prompt shows besides its tokens, before a key was asked for.
    pub fn show(&mut self, mut shown: Vec<Shown>) {
        debug_assert!(self.keys.is_empty(), "keys cover what is shown");
        shown.sort_by_key(|one| one.start);
        self.shown = shown;
    }

    /// Name of the prefix that ends with block `index`, which must lie wholly inside the prompt. It covers what is shown from
    /// that block or an earlier one on: an image that begins behind it does not matter, and one that goes on behind it does.
    ///
    /// Hashed when first asked for: a prompt that finds nothing in the cache costs one hash at admission and
    /// then one for each block as it is computed.
    pub fn prefix_key(&mut self, index: usize, block_size: u32) -> PrefixKey {
        let size = block_size as usize;
        debug_assert!((index + 1) * size <= self.prompt_length as usize, "a key names prompt tokens only");
        for block in self.keys.len()..=index {
            let before = block.checked_sub(1).map_or(self.root, |last| self.keys[last]);
            let (start, end) = (block * size, (block + 1) * size);
            let shown_before =
                |position: usize| self.shown.partition_point(|one| (one.start as usize) < position);
            let shown = &self.shown[shown_before(start)..shown_before(end)];
            self.keys.push(before.followed_by_showing(&self.token_ids[start..end], shown));
        }
        self.keys[index]
    }
}

/// Names a sequence inside the scheduler, from its submission to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(u32);

/// All sequences that are not forgotten, by handle without hashing and by id with.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    entries: Vec<Option<Sequence>>,
    vacant: Vec<Handle>,
    by_id: FxHashMap<u64, Handle>,
}

impl Sequences {
    /// Takes in a sequence whose id is not yet known.
    pub fn insert(&mut self, sequence: Sequence) -> Handle {
        let handle = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            Handle(self.entries.len() as u32 - 1)
        });
        self.by_id.insert(sequence.id, handle);
        self.entries[handle.0 as usize] = Some(sequence);
        handle
    }

    /// Forgets a sequence; its handle must not be used again.
    pub fn remove(&mut self, handle: Handle) {
        if let Some(sequence) = self.entries[handle.0 as usize].take() {
            self.by_id.remove(&sequence.id);
            self.vacant.push(handle);
        }
    }

    /// The sequence of that id.
    pub fn find(&self, id: u64) -> Option<Handle> {
        self.by_id.get(&id).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All of them, in no meaningful order.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Sequence)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| entry.as_ref().map(|sequence| (Handle(index as u32), sequence)))
    }
}

impl Index<Handle> for Sequences {
    type Output = Sequence;
    fn index(&self, handle: Handle) -> &Sequence {
        self.entries[handle.0 as usize].as_ref().expect("a handle lives as long as its sequence")
    }
}

impl IndexMut<Handle> for Sequences {
    fn index_mut(&mut self, handle: Handle) -> &mut Sequence {
        self.entries[handle.0 as usize].as_mut().expect("a handle lives as long as its sequence")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(prompt_length: u32, max_tokens: u32) -> Sequence {
        Sequence::new(1, 0, (0..prompt_length).collect(), max_tokens, Owner::default())
    }

    #[test]
    fn chunks_end_on_the_prompts_own_grid() {
        let sequence = sequence(10, 5);
        for (start, budget, expected) in [
            (0, 3, 0..0),    // less than a cell: nothing
            (0, 4, 0..4),    // one cell
            (0, 7, 0..4),    // a cell and a part: the part waits
            (0, 9, 0..8),    // never cut inside the last, short cell
            (0, 10, 0..10),  // all of it
            (0, 500, 0..10), // never beyond the prompt
            (8, 1, 8..8),    // the short cell is not cut either
            (8, 2, 8..10),
        ] {
            assert_eq!(sequence.range(start, budget, 4), expected, "start {start}, budget {budget}");
        }
    }

    #[test]
    fn no_range_ends_within_a_span_that_is_whole() {
        let mut sequence = Sequence::new(1, 0, vec![0; 30], 5, b"".into());
        sequence.whole = vec![5..11, 13..14, 15..18];
        for (start, budget, expected) in [
            (0, 3, 0..0),  // less than a cell: nothing
            (0, 7, 0..4),  // one cell, which no span begins in
            (0, 8, 0..5),  // it would end within a span, and ends before it
            (4, 4, 4..5),  // also where the span begins in the very next cell
            (5, 2, 5..5),  // from there on the rest of a cell at least
            (5, 3, 5..12), // and then all of the span, whatever the budget
            (8, 4, 8..12), // a prefix that was found ended within it
            (8, 3, 8..8),
            (12, 4, 12..15), // the grid lies in the last span
            (15, 1, 15..20),
            (15, 9, 15..24),
            (24, 9, 24..30),
        ] {
            assert_eq!(sequence.range(start, budget, 4), expected, "start {start}, budget {budget}");
        }
        sequence.whole = vec![1..2, 21..30];
        assert_eq!(sequence.range(20, 5, 4), 20..21);
        assert_eq!(sequence.range(21, 5, 4), 21..30);
    }

    #[test]
    fn spans_that_meet_in_a_block_are_computed_one_by_one() {
        let mut sequence = Sequence::new(1, 0, vec![0; 60], 5, b"".into());
        sequence.whole = vec![5..19, 21..35, 35..50];
        let mut ends = vec![0];
        while ends.last() != Some(&60) {
            ends.push(sequence.range(ends[ends.len() - 1], 4, 4).end);
        }
        assert_eq!(ends, [0, 4, 5, 20, 21, 35, 52, 56, 60]);
        assert_eq!(sequence.longest_whole(4), 17); // 35..52
        assert!([0, 5, 20, 21, 35, 52].into_iter().all(|position| sequence.is_edge(position, 4)));
        assert!(![6, 19, 22, 50].into_iter().any(|position| sequence.is_edge(position, 4)));
    }

    #[test]
    fn keys_cover_images_from_the_block_on_in_which_they_begin() {
        let keys = |shown: &[(u32, u8)]| {
            let mut sequence = sequence(16, 1);
            sequence.show(shown.iter().map(|&(start, name)| Shown { start, digest: vec![name] }).collect());
            [0, 1, 2, 3].map(|index| sequence.prefix_key(index, 4))
        };
        // How many leading keys stay the same with another image.
        let shared = |one: &[(u32, u8)], other: &[(u32, u8)]| {
            keys(one).iter().zip(keys(other)).take_while(|&(one, other)| *one == other).count()
        };
        assert_eq!(shared(&[], &[]), 4);
        assert_eq!(shared(&[(5, 1)], &[(5, 1)]), 4);
        assert_eq!(shared(&[(8, 2), (5, 1)], &[(5, 1), (8, 2)]), 4);
        for (start, expected) in [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (15, 3)] {
            assert_eq!(shared(&[(start, 1)], &[(start, 2)]), expected, "at {start}");
            assert_eq!(shared(&[], &[(start, 2)]), expected, "at {start}");
        }
        assert_eq!(shared(&[(1, 1), (9, 2)], &[(1, 1), (9, 3)]), 2);
    }

    #[test]
    fn a_range_that_blocks_cut_ends_before_a_span_that_is_whole() {
        let mut sequence = Sequence::new(1, 0, vec![0; 40], 5, b"".into());
        sequence.whole = vec![5..11, 13..14, 15..18, 21..23, 24..32];
        for (end, expected) in [(4, 4), (8, 5), (12, 12), (16, 15), (20, 20), (24, 24), (28, 24), (32, 32)] {
            assert_eq!(sequence.before_whole(end), expected, "end {end}");
        }
        assert_eq!(sequence.longest_whole(4), 8); // 24..32; 5..12 and 15..20 are shorter
    }

    #[test]
    fn drawn_tokens_are_recomputed_in_rows_that_any_budget_may_cut() {
        let mut sequence = sequence(3, 9);
        sequence.token_ids.extend([7, 7, 7, 7]);
        sequence.drawn = 4;
        assert_eq!(sequence.range(0, 100, 4), 0..3); // the prompt first, alone
        assert_eq!(sequence.range(3, 1, 4), 3..4);
        assert_eq!(sequence.range(3, 100, 4), 3..7);
        assert!(!sequence.samples_at(3) && !sequence.samples_at(6) && sequence.samples_at(7));
    }

    #[test]
    fn nothing_is_computed_for_the_last_token() {
        let mut sequence = sequence(3, 2);
        sequence.drawn = 2;
        sequence.computed = 4;
        assert_eq!(sequence.frontier(), 4);
        assert!(!sequence.decodes() && !sequence.catches_up());
    }

    #[test]
    fn a_waiting_sequence_can_not_be_preempted() {
        assert_eq!(State::Waiting.after(Change::Preempted), None);
        assert_eq!(State::Ended.after(Change::Admitted), None);
        assert_eq!(State::Running.after(Change::Preempted), Some(State::Waiting));
    }

    #[test]
    fn a_token_that_is_being_drawn_reads_minus_one() {
        let sequence = sequence(2, 2);
        assert_eq!([0, 1, 2].map(|position| sequence.token_at(position)), [0, 1, -1]);
    }

    #[test]
    fn handles_are_reused_and_ids_are_found() {
        let mut sequences = Sequences::default();
        let first = sequences.insert(Sequence::new(10, 0, vec![1], 1, Owner::default()));
        sequences.insert(Sequence::new(11, 1, vec![1], 1, Owner::default()));
        sequences.remove(first);
        assert_eq!((sequences.find(10), sequences.len()), (None, 1));
        let again = sequences.insert(Sequence::new(12, 2, vec![1], 1, Owner::default()));
        assert_eq!((again, sequences[again].id), (first, 12));
    }
}
