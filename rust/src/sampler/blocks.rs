//! One row of logits as the sampler sees it: blocks of 64 with the largest logit of each.
//!
//! The caller's row is read in place. Blocks that a penalty or a mask changes, and the ragged end of the
//! row, are copied and changed there. The maxima are what makes the rest fast: they tell which blocks a
//! search may skip. NaN never wins a comparison and so counts as impossible, as -inf does.

use super::mask::Mask;
use super::passes::{GROUP, Maxima, Reaching, Survey};
use super::vectors::{Pass, Vectors};
use super::weights::Scale;

/// What +inf counts as.
const MAX_LOGIT: f32 = f32::MAX;

/// Logits per block.
pub(super) const BLOCK: usize = 64;

/// Padding of the maxima and of the end of a row.
const IMPOSSIBLE: &[f32; BLOCK] = &[f32::NEG_INFINITY; BLOCK];

/// The buffers behind [`Blocks`], kept from row to row.
#[derive(Debug, Default)]
pub(super) struct BlockStore {
    copies: Vec<[f32; BLOCK]>,
    /// For each block 0 if it is the caller's own, else one more than its place in `copies`.
    moved: Vec<u32>,
    /// Whole blocks of them, -inf beyond the end.
    maxima: Vec<f32>,
    /// Whole groups of them.
    rough: Vec<f32>,
}

/// The logits of one row, as they are now.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    vectors: Vectors,
    row: &'a [f32],
    store: &'a mut BlockStore,
    /// The largest logit, once the maxima are known.
    peak: Option<f32>,
    /// What the rough masses are measured by, and their sum.
    rough: Option<(Scale, f64)>,
}

impl<'a> Blocks<'a> {
    /// Takes in a row as it is. Its maxima are known after a survey.
    pub fn new(vectors: Vectors, row: &'a [f32], store: &'a mut BlockStore) -> Self {
        store.copies.clear();
        store.moved.clear();
        store.moved.resize(row.len().div_ceil(BLOCK), 0);
        let mut blocks = Self { vectors, row, store, peak: None, rough: None };
        if !row.len().is_multiple_of(BLOCK) {
            blocks.own(row.len() / BLOCK);
        }
        blocks
    }

    /// Finds the maxima, if they are not known; gives the peak, which is -inf if nothing is possible. From here on +inf is
    /// the largest float.
    pub fn survey(&mut self) -> f32 {
        if let Some(peak) = self.peak {
            return peak;
        }
        let mut maxima = self.maxima_to_fill();
        let groups = self.len().div_ceil(GROUP);
        self.pass(Maxima { blocks: self, maxima: &mut maxima.as_chunks_mut().0[..groups] });
        self.store.maxima = maxima;
        self.found_maxima()
    }

    /// Finds the maxima and rough masses by this temperature; gives the peak.
    pub fn survey_masses(&mut self, temperature: f64) -> f32 {
        // Any peak that is not too far away serves, so that one pass finds maxima and masses.
        let mut scale = Scale::new(self.peak.unwrap_or_else(|| self.glance()), temperature);
        if scale.peak() == f32::NEG_INFINITY {
            scale = scale.at_peak(self.survey());
        }
        loop {
            if self.peak == Some(f32::NEG_INFINITY) {
                return f32::NEG_INFINITY;
            }
            let (mut maxima, mut rough) = (self.maxima_to_fill(), std::mem::take(&mut self.store.rough));
            let groups = self.len().div_ceil(GROUP);
            rough.resize(groups * GROUP, 0.0);
            let total = self.pass(Survey {
                blocks: self,
                scale,
                maxima: &mut maxima.as_chunks_mut().0[..groups],
                rough: rough.as_chunks_mut().0,
            });
            (self.store.maxima, self.store.rough) = (maxima, rough);
            self.rough = Some((scale, total));
            let (seen, peak) = (maximum(&self.store.maxima), self.found_maxima());
            if scale.is_near(seen) {
                return peak;
            }
            scale = scale.at_peak(peak);
        }
    }

    /// The maxima, all -inf, of the right number.
    fn maxima_to_fill(&mut self) -> Vec<f32> {
        let mut maxima = std::mem::take(&mut self.store.maxima);
        maxima.resize(self.len().next_multiple_of(BLOCK), f32::NEG_INFINITY);
        maxima[self.store.moved.len()..].fill(f32::NEG_INFINITY);
        maxima
    }

    /// Notes the peak of new maxima, and makes +inf the largest float.
    fn found_maxima(&mut self) -> f32 {
        if maximum(&self.store.maxima) == f32::INFINITY {
            self.change_all(|logit| *logit = bounded(*logit));
        }
        let peak = maximum(&self.store.maxima);
        self.peak = Some(peak);
        peak
    }

    /// The largest of a few blocks.
    fn glance(&self) -> f32 {
        const FEW: usize = 32;
        let step = self.len().div_ceil(FEW);
        let few = (0..self.len()).step_by(step).map(|index| maximum(self.get(index)));
        bounded(few.fold(f32::NEG_INFINITY, f32::max))
    }

    /// Sets the logits of the given ids, which are sorted.
    pub fn patch(&mut self, patches: &[(u32, f32)]) {
        for run in patches.chunk_by(|a, b| a.0 as usize / BLOCK == b.0 as usize / BLOCK) {
            let index = run[0].0 as usize / BLOCK;
            let block = self.own(index);
            for &(id, logit) in run {
                block[id as usize % BLOCK] = bounded(logit);
            }
        }
        self.forget(patches.is_empty());
    }

    /// What was found out holds no longer, unless nothing changed.
    fn forget(&mut self, unchanged: bool) {
        if !unchanged {
            (self.peak, self.rough) = (None, None);
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
                        store.copies.push(*IMPOSSIBLE);
                        store.copies.len() as u32
                    });
                }
                word => {
                    for (place, logit) in self.own(index).iter_mut().enumerate() {
                        *logit = if word >> place & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
        self.forget(false);
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

    /// The blocks of a group, with impossible ones beyond the last.
    #[inline(always)]
    pub fn group(&self, group: usize) -> [&[f32; BLOCK]; GROUP] {
        let start = group * GROUP;
        match (self.store.moved[start..].first_chunk(), self.row.get(start * BLOCK..)) {
            (Some(&[0, 0, 0, 0]), Some(logits)) => {
                let blocks: &[_; GROUP] =
                    logits.as_chunks().0.first_chunk().expect("blocks that are not copied are whole");
                blocks.each_ref()
            }
            _ => std::array::from_fn(|one| match start + one < self.len() {
                true => self.get(start + one),
                false => IMPOSSIBLE,
            }),
        }
    }

    /// The logit of an id.
    pub fn logit(&self, id: u32) -> f32 {
        self.get(id as usize / BLOCK)[id as usize % BLOCK]
    }

    /// The largest logit of each block.
    #[inline(always)]
    pub fn maxima(&self) -> &[f32] {
        &self.store.maxima[..self.store.moved.len()]
    }

    /// The same as whole blocks, -inf beyond the end.
    pub fn blocks_of_maxima(&self) -> &[[f32; BLOCK]] {
        self.store.maxima.as_chunks().0
    }

    /// Writes down the indices of the blocks that reach a bound.
    pub fn reaching(&self, bound: f32, found: &mut Vec<u32>) {
        found.clear();
        self.pass(Reaching { values: self.blocks_of_maxima(), bound, found });
        // The padding of the maxima reaches -inf too.
        found.truncate(self.len());
    }

    /// About what each block weighs, by which scale, and the sum.
    pub fn rough_masses(&self) -> (&[f32], Scale, f64) {
        let (scale, total) = self.rough.expect("a survey of masses comes first");
        (&self.store.rough[..self.store.moved.len()], scale, total)
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

    /// Copies every block, changes its logits and sees what is the largest now.
    fn change_all(&mut self, change: impl Fn(&mut f32)) {
        for index in 0..self.len() {
            self.own(index).iter_mut().for_each(&change);
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
            let mut blocks = Blocks::new(Vectors::widest(), &row, &mut store);
            assert!((0..length).all(|id| blocks.logit(id as u32) == row[id]), "length {length}");
            assert_eq!(blocks.survey(), row.iter().copied().fold(f32::MIN, f32::max));
            let last = blocks.get(blocks.len() - 1);
            assert!(last[(length - 1) % BLOCK + 1..].iter().all(|&logit| logit == f32::NEG_INFINITY));
        }
    }

    #[test]
    fn patches_and_masks_change_the_view_and_its_maxima() {
        let (row, mut store) = (row(150), BlockStore::default());
        let mut blocks = Blocks::new(Vectors::widest(), &row, &mut store);
        blocks.patch(&[(3, 500.0), (70, f32::INFINITY), (149, 600.0)]);
        blocks.survey();
        assert_eq!(blocks.maxima(), [500.0, MAX_LOGIT, 600.0]);
        let allowed: Vec<bool> = (0..150).map(|id| id == 5 || id == 149).collect();
        blocks.mask(Mask::Bools(&allowed));
        blocks.survey();
        assert_eq!(blocks.maxima(), [row[5], f32::NEG_INFINITY, 600.0]);
        assert_eq!((blocks.logit(3), blocks.logit(5)), (f32::NEG_INFINITY, row[5]));
    }

    #[test]
    fn nan_loses_and_plus_infinity_is_the_largest_float() {
        let mut store = BlockStore::default();
        let row = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY];
        let mut blocks = Blocks::new(Vectors::widest(), &row, &mut store);
        assert_eq!((blocks.survey(), blocks.first(MAX_LOGIT)), (MAX_LOGIT, 2));
        let mut blocks = Blocks::new(Vectors::widest(), &[f32::NAN; 70], &mut store);
        assert_eq!(blocks.survey(), f32::NEG_INFINITY);
    }

    #[test]
    fn enough_logits_reach_the_bound() {
        let (row, mut store, mut work) = (row(1000), BlockStore::default(), Vec::new());
        let mut blocks = Blocks::new(Vectors::widest(), &row, &mut store);
        blocks.survey();
        for count in 1..30 {
            let bound = blocks.reached_by(count, &mut work);
            assert!(row.iter().filter(|&&logit| logit >= bound).count() >= count);
        }
        assert_eq!(blocks.reached_by(1000, &mut work), f32::NEG_INFINITY);
    }
}
