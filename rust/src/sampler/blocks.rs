//! One row of logits as the sampler sees it: blocks of 64 with the largest logit of each.
//!
//! The caller's row is read in place. Blocks that a penalty or a mask changes, and the ragged end of the
//! row, are copied and changed there. The maxima are what makes the rest fast: they tell which blocks a
//! search may skip. NaN never wins a comparison and so counts as impossible, as -inf does.

use super::mask::Mask;
use super::passes::Maxima;
use super::vectors::{Pass, Vectors};

/// What +inf counts as.
const MAX_LOGIT: f32 = f32::MAX;

/// Logits per block.
pub(super) const BLOCK: usize = 64;

/// The buffers behind [`Blocks`], kept from row to row.
#[derive(Debug, Default)]
pub(super) struct BlockStore {
    copies: Vec<[f32; BLOCK]>,
    /// For each block 0 if it is the caller's own, else one more than its place in `copies`.
    moved: Vec<u32>,
    maxima: Vec<f32>,
}

/// The logits of one row, as they are now.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    vectors: Vectors,
    row: &'a [f32],
    store: &'a mut BlockStore,
}

impl<'a> Blocks<'a> {
    /// Takes in a row as it is, but for +inf, which counts as the largest float.
    pub fn new(vectors: Vectors, row: &'a [f32], store: &'a mut BlockStore) -> Self {
        store.copies.clear();
        store.moved.clear();
        store.moved.resize(row.len().div_ceil(BLOCK), 0);
        store.maxima.clear();
        let (whole, rest) = row.as_chunks();
        vectors.run(Maxima { blocks: whole, maxima: &mut store.maxima });
        let mut blocks = Self { vectors, row, store };
        if !rest.is_empty() {
            let largest = maximum(blocks.own(whole.len()));
            blocks.store.maxima.push(largest);
        }
        if blocks.peak() == f32::INFINITY {
            blocks.change_all(|_, logits| logits.iter_mut().for_each(|logit| *logit = bounded(*logit)));
        }
        blocks
    }

    /// Sets the logits of the given ids, which are sorted.
    pub fn patch(&mut self, patches: &[(u32, f32)]) {
        for run in patches.chunk_by(|a, b| a.0 as usize / BLOCK == b.0 as usize / BLOCK) {
            let index = run[0].0 as usize / BLOCK;
            let block = self.own(index);
            for &(id, logit) in run {
                block[id as usize % BLOCK] = bounded(logit);
            }
            self.store.maxima[index] = maximum(self.get(index));
        }
    }

    /// Makes every id impossible that `allowed` does not hold. Comes last: blocks without an allowed id,
    /// which a grammar leaves nearly all of, then share one copy.
    pub fn mask(&mut self, allowed: Mask<'_>) {
        let mut impossible = None;
        for index in 0..self.len() {
            match allowed.word(index) {
                u64::MAX => continue,
                0 => {
                    let store = &mut *self.store;
                    self.store.moved[index] = *impossible.get_or_insert_with(|| {
                        store.copies.push([f32::NEG_INFINITY; BLOCK]);
                        store.copies.len() as u32
                    });
                    self.store.maxima[index] = f32::NEG_INFINITY;
                }
                word => {
                    for (place, logit) in self.own(index).iter_mut().enumerate() {
                        *logit = if word >> place & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                    }
                    self.store.maxima[index] = maximum(self.get(index));
                }
            }
        }
    }

    /// Makes a pass over the row with the vectors that it was given.
    pub fn pass<P: Pass>(&self, pass: P) -> P::Output {
        self.vectors.run(pass)
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.store.moved.len()
    }

    /// Number of logits.
    pub fn vocab_size(&self) -> usize {
        self.row.len()
    }

    /// The logits of a block; beyond the end of the row they are -inf.
    #[inline(always)]
    pub fn get(&self, index: usize) -> &[f32; BLOCK] {
        match self.store.moved[index] {
            0 => whole(self.row, index),
            place => &self.store.copies[place as usize - 1],
        }
    }

    /// All blocks in order.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = &[f32; BLOCK]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The logit of an id.
    pub fn logit(&self, id: u32) -> f32 {
        self.get(id as usize / BLOCK)[id as usize % BLOCK]
    }

    /// The largest logit of each block.
    pub fn maxima(&self) -> &[f32] {
        &self.store.maxima
    }

    /// The largest logit of the row; -inf if nothing is possible.
    pub fn peak(&self) -> f32 {
        maximum(self.maxima())
    }

    /// The lowest id whose logit is `peak`, which the row holds.
    pub fn first(&self, peak: f32) -> u32 {
        let index = self.maxima().iter().position(|&largest| largest == peak).unwrap_or(0);
        let place = self.get(index).iter().position(|&logit| logit == peak).unwrap_or(0);
        (index * BLOCK + place) as u32
    }

    /// A logit that at least `count` of the row reach, close to the `count`-th largest: the `count`-th
    /// largest of the maxima, or -inf where there are fewer blocks.
    pub fn reached_by(&self, count: usize, work: &mut Vec<f32>) -> f32 {
        if count > self.len() {
            return f32::NEG_INFINITY;
        }
        work.clear();
        work.extend_from_slice(self.maxima());
        *work.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
    }

    /// The block as a copy that may be changed.
    fn own(&mut self, index: usize) -> &mut [f32; BLOCK] {
        let place = match self.store.moved[index] {
            0 => {
                let mut copy = [f32::NEG_INFINITY; BLOCK];
                let rest = &self.row[index * BLOCK..];
                let length = rest.len().min(BLOCK);
                copy[..length].copy_from_slice(&rest[..length]);
                self.store.copies.push(copy);
                self.store.moved[index] = self.store.copies.len() as u32;
                self.store.copies.len()
            }
            place => place as usize,
        };
        &mut self.store.copies[place - 1]
    }

    /// Copies every block and changes it; `change` also gets the first id of the block.
    fn change_all(&mut self, change: impl Fn(usize, &mut [f32])) {
        for index in 0..self.len() {
            let start = index * BLOCK;
            let length = BLOCK.min(self.row.len() - start);
            change(start, &mut self.own(index)[..length]);
            self.store.maxima[index] = maximum(self.get(index));
        }
    }
}

fn whole(row: &[f32], index: usize) -> &[f32; BLOCK] {
    row[index * BLOCK..][..BLOCK].try_into().expect("a block that is not copied is whole")
}

/// The logit as it counts.
pub(super) fn bounded(logit: f32) -> f32 {
    if logit > MAX_LOGIT { MAX_LOGIT } else { logit }
}

/// The largest of some logits, in eight lanes so that it vectorises; -inf if there is none.
fn maximum(logits: &[f32]) -> f32 {
    let larger = |most: f32, logit: f32| if logit > most { logit } else { most };
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (parts, rest) = logits.as_chunks::<8>();
    for part in parts {
        for lane in 0..8 {
            lanes[lane] = larger(lanes[lane], part[lane]);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(length: usize) -> Vec<f32> {
        (0..length).map(|index| (index * 37 % 101) as f32).collect()
    }

    #[test]
    fn a_row_reads_as_it_is_whatever_its_length() {
        for length in [1, 63, 64, 65, 200] {
            let (row, mut store) = (row(length), BlockStore::default());
            let blocks = Blocks::new(Vectors::widest(), &row, &mut store);
            assert!((0..length).all(|id| blocks.logit(id as u32) == row[id]), "length {length}");
            assert_eq!(blocks.peak(), row.iter().copied().fold(f32::MIN, f32::max));
            assert!(blocks.iter().flatten().skip(length).all(|&logit| logit == f32::NEG_INFINITY));
        }
    }

    #[test]
    fn patches_and_masks_change_the_view_and_its_maxima() {
        let (row, mut store) = (row(150), BlockStore::default());
        let mut blocks = Blocks::new(Vectors::widest(), &row, &mut store);
        blocks.patch(&[(3, 500.0), (70, f32::INFINITY), (149, 600.0)]);
        assert_eq!(blocks.maxima(), [500.0, MAX_LOGIT, 600.0]);
        let allowed: Vec<bool> = (0..150).map(|id| id == 5 || id == 149).collect();
        blocks.mask(Mask::Bools(&allowed));
        assert_eq!(blocks.maxima(), [row[5], f32::NEG_INFINITY, 600.0]);
        assert_eq!((blocks.logit(3), blocks.logit(5)), (f32::NEG_INFINITY, row[5]));
    }

    #[test]
    fn nan_loses_and_plus_infinity_is_the_largest_float() {
        let mut store = BlockStore::default();
        let row = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY];
        let blocks = Blocks::new(Vectors::widest(), &row, &mut store);
        assert_eq!((blocks.peak(), blocks.first(blocks.peak())), (MAX_LOGIT, 2));
        let blocks = Blocks::new(Vectors::widest(), &[f32::NAN; 70], &mut store);
        assert_eq!(blocks.peak(), f32::NEG_INFINITY);
    }

    #[test]
    fn enough_logits_reach_the_bound() {
        let (row, mut store, mut work) = (row(1000), BlockStore::default(), Vec::new());
        let blocks = Blocks::new(Vectors::widest(), &row, &mut store);
        for count in 1..30 {
            let bound = blocks.reached_by(count, &mut work);
            assert!(row.iter().filter(|&&logit| logit >= bound).count() >= count);
        }
        assert_eq!(blocks.reached_by(1000, &mut work), f32::NEG_INFINITY);
    }
}
