//! Byte-pair merging: takes the ids of a word's symbols, gives those of its tokens. Which symbols a word begins with
//! is `encoder`'s.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::hash;
use super::simd::prefetch;

/// Words of more symbols are merged with a heap; shorter ones faster by looking at all pairs each time.
const SHORT: usize = 64;

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

    /// Merges the symbols until no pair does: always the pair of the lowest rank, the first of equals.
    pub(super) fn merge(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        match symbols.len() {
            0 | 1 => {}
            length @ 2..=SHORT => {
                let mut merges = [NEVER; SHORT];
                for at in 0..length - 1 {
                    merges[at] = self.find(symbols[at], symbols[at + 1]);
                }
                self.merge_short(symbols, &mut merges);
            }
            _ => self.merge_long(symbols, scratch),
        }
    }

    /// The same for the symbols of these bytes, all of which have one.
    pub(super) fn merge_bytes(&self, bytes: &[u8], symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        if !(2..=SHORT).contains(&bytes.len()) {
            return self.merge(symbols, scratch);
        }
        let mut merges = [NEVER; SHORT];
        for (merge, pair) in merges.iter_mut().zip(bytes.windows(2)) {
            *merge = self.bytes[usize::from(pair[0]) * 256 + usize::from(pair[1])];
        }
        // When the first two bytes of a pair have merged, these pairs may follow: about half of all that are looked up.
        // Memory answers for all of them at once.
        for at in (0..bytes.len() - 1).filter(|&at| merges[at] != NEVER) {
            let token = merged(merges[at]);
            if let Some(&behind) = symbols.get(at + 2) {
                prefetch(&raw const self.table[self.place(pair(token, behind))]);
            }
            if at > 0 {
                prefetch(&raw const self.table[self.place(pair(symbols[at - 1], token))]);
            }
        }
        self.merge_short(symbols, &mut merges);
    }

    /// `merges[at]` is that of `at` and the symbol behind it; the last has none.
    fn merge_short(&self, symbols: &mut Vec<u32>, merges: &mut [Merge; SHORT]) {
        let mut length = symbols.len();
        loop {
            let (mut best, mut lowest) = (0, NEVER);
            for (at, &merge) in merges[..length - 1].iter().enumerate() {
                if merge < lowest {
                    (best, lowest) = (at, merge);
                }
            }
            if lowest == NEVER {
                break;
            }
            symbols[best] = merged(lowest);
            symbols.copy_within(best + 2..length, best + 1);
            merges.copy_within(best + 1..length, best);
            length -= 1;
            if length == 1 {
                break;
            }
            if best > 0 {
                merges[best - 1] = self.find(symbols[best - 1], symbols[best]);
            }
            merges[best] =
                if best + 1 < length { self.find(symbols[best], symbols[best + 1]) } else { NEVER };
        }
        symbols.truncate(length);
    }

    /// Merges with a heap of `(merge, place)` over a linked list: n log n whatever the text.
    fn merge_long(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        let length = symbols.len();
        let Scratch { merges, next, previous, heap } = scratch;
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

#[inline]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Memory of `Merges::merge`, to be used again.
#[derive(Default)]
pub(super) struct Scratch {
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
