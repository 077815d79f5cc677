//! Byte-pair merging: takes the ids of a word's symbols, gives those of its tokens. Which symbols a word begins with
//! is `encoder`'s.

use super::hash;
use super::simd::prefetch;
use super::waves::Waves;

/// Words of more symbols are merged with a queue; shorter ones faster by looking at all pairs each time.
pub(super) const SHORT: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 6;
/// As many ranks leave room for a place beside them. Vocabularies end long before.
pub(super) const MOST_MERGES: usize = 1 << (31 - PLACE_BITS);

/// What a pair of symbols becomes: its rank above, its token below, so that the lowest is the first to merge.
type Merge = u64;

/// No merge.
const NEVER: Merge = u64::MAX;

fn merged(merge: Merge) -> u32 {
    merge as u32
}

/// The pairs that merge, in a table that is looked up by pair.
pub(super) struct Merges {
    /// Pairs and their merges at the places that the pairs hash to, or behind them.
    table: Vec<(u64, Merge)>,
    shift: u32,
    /// The merges of the symbols of two bytes, `[first * 256 + second]`, which words of bytes begin with.
    bytes: Vec<Merge>,
}

impl Merges {
    /// `merges` are `(left, right, merged)` by rank; where a pair comes twice, the last one counts. `bytes` are the
    /// symbols of bytes, if words are made of them.
    pub(super) fn new(merges: &[(u32, u32, u32)], bytes: Option<&[u32; 256]>) -> Self {
        let bits = (merges.len() + merges.len() / 2).next_power_of_two().max(16).ilog2();
        let mut made = Self { table: vec![(0, NEVER); 1 << bits], shift: 64 - bits, bytes: Vec::new() };
        for (rank, &(left, right, merged)) in (0..).zip(merges) {
            let pair = pair(left, right);
            let mut place = made.place(pair);
            while made.table[place].1 != NEVER && made.table[place].0 != pair {
                place = (place + 1) & (made.table.len() - 1);
            }
            made.table[place] = (pair, rank << 32 | Merge::from(merged));
        }
        if let Some(symbols) = bytes {
            let pairs = symbols.iter().flat_map(|&left| symbols.iter().map(move |&right| (left, right)));
            made.bytes = pairs.map(|(left, right)| made.find(left, right)).collect();
        }
        made
    }

    #[inline]
    fn place(&self, pair: u64) -> usize {
        (hash::of_pair(pair, 0) >> self.shift) as usize
    }

    #[inline]
    fn find(&self, left: u32, right: u32) -> Merge {
        let pair = pair(left, right);
        let mut place = self.place(pair);
        loop {
            let (other, merge) = self.table[place];
            if other == pair || merge == NEVER {
                return merge;
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    /// Merges the symbols until no pair does: always the pair of the lowest rank, the first of equals. Where they are those
    /// of bytes, these come with them.
    pub(super) fn merge(&self, symbols: &mut Vec<u32>, bytes: Option<&[u8]>, scratch: &mut Scratch) {
        if symbols.len() > SHORT {
            return self.merge_long(symbols, scratch);
        }
        let lane = &mut scratch.lane;
        self.begin(lane, symbols, bytes);
        while self.step(lane) {}
        symbols.clear();
        lane.take(symbols);
    }

    /// Merges words side by side: a pair of each in turn, so that memory answers for all of them at once. `refill` takes
    /// what became of the word in a lane, if one was begun there, and begins another one or says that there is none.
    pub(super) fn merge_lanes(&self, lanes: &mut [Lane], mut refill: impl FnMut(usize, &mut Lane) -> bool) {
        let mut places: [usize; LANES] = std::array::from_fn(|place| place);
        let mut count = 0;
        while count < lanes.len() && refill(count, &mut lanes[count]) {
            count += 1;
        }
        let mut asked = Vec::with_capacity(2 * LANES);
        while count > 0 {
            // Memory is asked for all lanes in one short loop: a processor that waits to learn where a page lies looks only
            // some hundred instructions ahead.
            let begun = places[..count].iter().map(|&place| &lanes[place]);
            asked.extend(begun.flat_map(Lane::unknown_pairs).map(|pair| self.place(pair)));
            asked.drain(..).for_each(|place| prefetch(&raw const self.table[place]));
            let mut kept = 0;
            for turn in 0..count {
                let place = places[turn];
                places[kept] = place;
                kept += usize::from(self.step(&mut lanes[place]) || refill(place, &mut lanes[place]));
            }
            count = kept;
        }
    }

    /// Puts at most `SHORT` symbols into a lane.
    pub(super) fn begin(&self, lane: &mut Lane, symbols: &[u32], bytes: Option<&[u8]>) {
        lane.symbols[..symbols.len()].copy_from_slice(symbols);
        lane.starts = if symbols.is_empty() { 0 } else { !0 >> (SHORT - symbols.len()) };
        lane.groups = symbols.len().div_ceil(GROUP).max(1);
        lane.firsts[..lane.groups * GROUP].fill(NO_PLACE);
        lane.unknown = 0;
        if let Some(bytes) = bytes {
            for (at, pair) in bytes.windows(2).enumerate() {
                lane.set(at, self.bytes[usize::from(pair[0]) * 256 + usize::from(pair[1])]);
            }
        } else {
            lane.unknown = lane.starts >> 1;
        }
    }

    /// Merges the first pair of the lowest rank. Gives whether there was one.
    #[inline]
    fn step(&self, lane: &mut Lane) -> bool {
        // Before the new ones are written, which would have to be waited for.
        let mut lowest = lane.lowest();
        let mut unknown = lane.unknown;
        while unknown != 0 {
            let at = unknown.trailing_zeros() as usize;
            unknown &= unknown - 1;
            lowest = lowest.min(lane.set(at, self.find(lane.symbols[at], lane.symbols[lane.next(at)])));
        }
        if lowest == NO_PLACE {
            return false;
        }
        let at = lowest as usize % SHORT;
        let next = lane.next(at);
        lane.symbols[at] = lane.merged[at];
        lane.firsts[at] = NO_PLACE;
        lane.firsts[next] = NO_PLACE;
        lane.starts &= !(1 << next);
        let before = lane.starts & ((1 << at) - 1);
        let has_next = lane.starts >> at > 1;
        let before = if before == 0 {
            0
        } else {
            lane.firsts[before.ilog2() as usize] = NO_PLACE;
            1 << before.ilog2()
        };
        lane.unknown = before | u64::from(has_next) << at;
        true
    }

    /// Merges with a queue of ranks and places over a linked list: n log n whatever the text.
    fn merge_long(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        let length = symbols.len();
        let Scratch { merges, next, previous, queue, .. } = scratch;
        merges.clear();
        merges.extend(symbols.windows(2).map(|pair| self.find(pair[0], pair[1])));
        merges.push(NEVER);
        next.clear();
        next.extend(1..=length as u32);
        previous.clear();
        previous.extend((0..length as u32).map(|at| at.wrapping_sub(1)));
        queue.clear();
        (0..).zip(&*merges).for_each(|(at, &merge)| await_turn(queue, merge, at));
        while let Some(entry) = queue.pop() {
            let at = entry as u32;
            let left = at as usize;
            let merge = merges[left];
            // The pair has changed since, or its left part has gone into another.
            if merge >> 32 != entry >> 32 {
                continue;
            }
            let right = next[left] as usize;
            let behind = next[right];
            symbols[left] = merged(merge);
            next[left] = behind;
            merges[right] = NEVER;
            merges[left] = NEVER;
            if (behind as usize) < length {
                previous[behind as usize] = at;
                merges[left] = self.find(symbols[left], symbols[behind as usize]);
                await_turn(queue, merges[left], at);
            }
            if left > 0 {
                let before = previous[left];
                merges[before as usize] = self.find(symbols[before as usize], symbols[left]);
                await_turn(queue, merges[before as usize], before);
            }
        }
        let (mut kept, mut at) = (0, 0);
        while at < length {
            symbols[kept] = symbols[at];
            kept += 1;
            at = next[at] as usize;
        }
        symbols.truncate(kept);
        scratch.shrink();
    }
}

/// Queues the pair at a place, if it merges.
fn await_turn(queue: &mut Waves, merge: Merge, at: u32) {
    if merge != NEVER {
        queue.push(merge >> 32 << 32 | u64::from(at));
    }
}

/// As many words as merge side by side.
pub(super) const LANES: usize = 32;

/// Places that are compared side by side.
const GROUP: usize = 8;

/// No pair merges. Signed, since every processor compares signed numbers side by side.
const NO_PLACE: i32 = i32::MAX;

/// A short word that is being merged: each symbol stays at its place, and one that goes into another leaves a hole.
#[derive(Clone)]
pub(super) struct Lane {
    symbols: [u32; SHORT],
    /// For the pair that begins at a place: its rank and, lowest, the place; so that the lowest of all is the first to merge.
    firsts: [i32; SHORT],
    /// What the pair becomes.
    merged: [u32; SHORT],
    /// A bit for each place that has a symbol.
    starts: u64,
    /// The pairs that are to be looked up yet.
    unknown: u64,
    /// Groups of places that are in use.
    groups: usize,
}

impl Default for Lane {
    fn default() -> Self {
        let (symbols, merged) = ([0; SHORT], [0; SHORT]);
        Self { symbols, firsts: [NO_PLACE; SHORT], merged, starts: 0, unknown: 0, groups: 1 }
    }
}

impl Lane {
    /// Appends the symbols to `out`.
    pub(super) fn take(&self, out: &mut Vec<u32>) {
        let mut starts = self.starts;
        while starts != 0 {
            out.push(self.symbols[starts.trailing_zeros() as usize]);
            starts &= starts - 1;
        }
    }

    /// Gives what stands at the place now.
    #[inline]
    fn set(&mut self, at: usize, merge: Merge) -> i32 {
        self.merged[at] = merged(merge);
        self.firsts[at] =
            if merge == NEVER { NO_PLACE } else { ((merge >> 32) as i32) << PLACE_BITS | at as i32 };
        self.firsts[at]
    }

    /// The pairs that are to be looked up yet.
    fn unknown_pairs(&self) -> impl Iterator<Item = u64> {
        let mut unknown = self.unknown;
        std::iter::from_fn(move || {
            let at = unknown.trailing_zeros() as usize;
            unknown &= unknown.wrapping_sub(1);
            (at < SHORT).then(|| pair(self.symbols[at], self.symbols[self.next(at)]))
        })
    }

    /// The symbol behind one that is not the last.
    #[inline]
    fn next(&self, at: usize) -> usize {
        (self.starts & (!1 << at)).trailing_zeros() as usize % SHORT
    }

    #[inline]
    fn lowest(&self) -> i32 {
        let (groups, _) = self.firsts.as_chunks::<GROUP>();
        let mut lowest = groups[0];
        for group in &groups[1..self.groups] {
            for (lowest, &first) in lowest.iter_mut().zip(group) {
                *lowest = (*lowest).min(first);
            }
        }
        lowest.into_iter().fold(NO_PLACE, i32::min)
    }
}

#[inline]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Memory of `Merges::merge`, to be used again.
#[derive(Default)]
pub(super) struct Scratch {
    lane: Lane,
    merges: Vec<Merge>,
    next: Vec<u32>,
    previous: Vec<u32>,
    queue: Waves,
}

impl Scratch {
    /// One giant word must not hold its memory forever.
    fn shrink(&mut self) {
        if self.merges.capacity() > 1 << 16 {
            *self = Self::default();
        }
    }
}
