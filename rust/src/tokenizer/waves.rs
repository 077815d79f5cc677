//! A queue for entries that come in waves: takes numbers, gives the lowest first. Merging a giant word makes one wave of pairs
//! after the other, each in order as a rule; sorting what is in order is one look, where a heap moves every entry to the depth
//! of its tree.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// See the file's head.
#[derive(Default)]
pub(super) struct Waves {
    /// The wave that is given out, in order, from `next` on.
    wave: Vec<u64>,
    next: usize,
    /// Entries that came since and belong before its end.
    among: BinaryHeap<Reverse<u64>>,
    /// Entries that belong behind it.
    behind: Vec<u64>,
}

impl Waves {
    pub(super) fn push(&mut self, entry: u64) {
        match self.wave.last() {
            Some(&last) if entry < last => self.among.push(Reverse(entry)),
            _ => self.behind.push(entry),
        }
    }

    /// The lowest of all. An entry that was pushed twice is given twice.
    pub(super) fn pop(&mut self) -> Option<u64> {
        if self.next == self.wave.len() && self.among.is_empty() {
            std::mem::swap(&mut self.wave, &mut self.behind);
            self.behind.clear();
            self.wave.sort_unstable();
            self.next = 0;
        }
        let first = self.wave.get(self.next).copied();
        if let Some(&Reverse(other)) = self.among.peek()
            && first.is_none_or(|first| other < first)
        {
            self.among.pop();
            return Some(other);
        }
        self.next += usize::from(first.is_some());
        first
    }

    /// Forgets what it holds.
    pub(super) fn clear(&mut self) {
        self.wave.clear();
        self.next = 0;
        self.among.clear();
        self.behind.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_lowest_comes_first_whatever_came_when(turns in prop::collection::vec(prop::option::weighted(0.6, 0u64..40), 0..200)) {
            let (mut waves, mut heap) = (Waves::default(), BinaryHeap::new());
            for turn in turns.into_iter().chain([None; 201]) {
                match turn {
                    Some(entry) => {
                        waves.push(entry);
                        heap.push(Reverse(entry));
                    }
                    None => prop_assert_eq!(waves.pop(), heap.pop().map(|Reverse(entry)| entry)),
                }
            }
        }
    }
}
