//! Byte-pair merging: takes the ids of a word's symbols, gives those of its tokens. Which symbols a word begins with
//! is `encoder`'s.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::hash;
use super::simd::prefetch;

/// Words of more symbols are merged with a heap; shorter ones faster by looking at all pairs each time.
pub(super) const SHORT: usize = 64;

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
        symbols.extend_from_slice(lane.symbols());
    }

    /// Merges words side by side: a pair of each in turn, so that memory answers for all of them at once.
    pub(super) fn merge_lanes(&self, lanes: &mut [Lane]) {
        let mut places: [usize; LANES] = std::array::from_fn(|place| place);
        let mut count = lanes.len();
        while count > 0 {
            let mut kept = 0;
            for turn in 0..count {
                let place = places[turn];
                places[kept] = place;
                kept += usize::from(self.step(&mut lanes[place]));
            }
            count = kept;
        }
    }

    /// Puts at most `SHORT` symbols into a lane, and asks memory for what their pairs may merge to.
    pub(super) fn begin(&self, lane: &mut Lane, symbols: &[u32], bytes: Option<&[u8]>) {
        lane.length = symbols.len();
        lane.symbols[..symbols.len()].copy_from_slice(symbols);
        if let Some(bytes) = bytes {
            for (merge, pair) in lane.merges.iter_mut().zip(bytes.windows(2)) {
                *merge = self.bytes[usize::from(pair[0]) * 256 + usize::from(pair[1])];
            }
            lane.unknown = 0..0;
        } else {
            lane.unknown = 0..symbols.len().saturating_sub(1);
            self.ask_ahead(lane);
        }
    }

    /// Merges the first pair of the lowest rank, and asks memory for the pairs that come of it. Gives whether there was one.
    #[inline]
    fn step(&self, lane: &mut Lane) -> bool {
        for at in lane.unknown.clone() {
            lane.merges[at] = self.find(lane.symbols[at], lane.symbols[at + 1]);
        }
        let Lane { symbols, merges, length, unknown } = lane;
        let (mut best, mut lowest) = (0, NEVER);
        for (at, &merge) in merges[..length.saturating_sub(1)].iter().enumerate() {
            if merge < lowest {
                (best, lowest) = (at, merge);
            }
        }
        if lowest == NEVER {
            return false;
        }
        symbols[best] = merged(lowest);
        symbols.copy_within(best + 2..*length, best + 1);
        merges.copy_within(best + 1..*length - 1, best);
        *length -= 1;
        *unknown = best.saturating_sub(1)..(best + 1).min(*length - 1);
        self.ask_ahead(lane);
        true
    }

    #[inline]
    fn ask_ahead(&self, lane: &Lane) {
        for at in lane.unknown.clone() {
            prefetch(&raw const self.table[self.place(pair(lane.symbols[at], lane.symbols[at + 1]))]);
        }
    }

    /// Merges with a heap of `(merge, place)` over a linked list: n log n whatever the text.
    fn merge_long(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        let length = symbols.len();
        let Scratch { merges, next, previous, heap, .. } = scratch;
        merges.clear();
        merges.extend(symbols.windows(2).map(|pair| self.find(pair[0], pair[1])));
        merges.push(NEVER);
        next.clear();
        next.extend(1..=length as u32);
        previous.clear();
        previous.extend((0..length as u32).map(|at| at.wrapping_sub(1)));
        let mut entries = std::mem::take(heap);
        entries.clear();
        entries.extend(
            (0..)
                .zip(&*merges)
                .filter(|&(_, &merge)| merge != NEVER)
                .map(|(at, &merge)| Reverse((merge, at))),
        );
        let mut queue = BinaryHeap::from(entries);
        while let Some(Reverse((merge, at))) = queue.pop() {
            let left = at as usize;
            // The pair has changed since, or its left part has gone into another.
            if merges[left] != merge {
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
                if merges[left] != NEVER {
                    queue.push(Reverse((merges[left], at)));
                }
            }
            if left > 0 {
                let before = previous[left];
                merges[before as usize] = self.find(symbols[before as usize], symbols[left]);
                if merges[before as usize] != NEVER {
                    queue.push(Reverse((merges[before as usize], before)));
                }
            }
        }
        *heap = queue.into_vec();
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

/// As many words as merge side by side.
pub(super) const LANES: usize = 16;

/// A short word that is being merged.
#[derive(Clone)]
pub(super) struct Lane {
    symbols: [u32; SHORT],
    /// `merges[at]` is that of the symbols `at` and `at + 1`.
    merges: [Merge; SHORT],
    length: usize,
    /// Which of `merges` are to be looked up yet.
    unknown: Range<usize>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { symbols: [0; SHORT], merges: [NEVER; SHORT], length: 0, unknown: 0..0 }
    }
}

impl Lane {
    pub(super) fn symbols(&self) -> &[u32] {
        &self.symbols[..self.length]
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
    heap: Vec<Reverse<(Merge, u32)>>,
}

impl Scratch {
    /// One giant word must not hold its memory forever.
    fn shrink(&mut self) {
        if self.merges.capacity() > 1 << 16 {
            *self = Self::default();
        }
    }
}
