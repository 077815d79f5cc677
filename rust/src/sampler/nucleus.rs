//! Rows that are not gathered into a list: all of the vocabulary, or a nucleus that holds much of it.
//!
//! Such a row is summed block by block, and the drawn token found in the block that the random number
//! points at. For a nucleus, a sample of the row tells where its last token lies about; everything likelier
//! is only summed, and the exact last token is selected from the narrow window that remains. A bad guess
//! costs another pass, never the result.

use std::cmp::Reverse;

use super::blocks::{BLOCK, Blocks};
use super::candidates::{Candidate, Places, order, part_of, reach, target};
use super::weights::Scale;

/// The mass of each block, of all its tokens or of those that are kept.
#[derive(Debug, Default)]
pub(super) struct BlockMass {
    sums: Vec<u64>,
    /// Tokens that a nucleus may end at, in id order.
    window: Vec<Candidate>,
    work: Vec<Candidate>,
}

/// Tokens sampled to guess where a nucleus ends.
const SAMPLE: usize = 2048;

impl BlockMass {
    /// The vocabulary from which on a guess beats gathering every token.
    pub const WORTH_GUESSING: usize = 4 * SAMPLE;

    /// Sums a row; gives its mass.
    pub fn sum(&mut self, blocks: &Blocks<'_>, scale: Scale) -> u64 {
        self.sums.clear();
        self.sums.extend(blocks.iter().map(|block| scale.mass(block)));
        self.sums.iter().sum()
    }

    /// The token that the random bits point at, in id order, of a row that `sum` has seen.
    pub fn pick(&self, blocks: &Blocks<'_>, scale: Scale, random: u64) -> Option<u32> {
        self.pick_from(blocks, scale, 0, random)
    }

    /// The same among the fewest likeliest whose mass reaches the part `part` of the row's.
    pub fn pick_nucleus(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64, random: u64) -> Option<u32> {
        let (mut low, mut high) = self.guess(blocks, scale, part);
        let last = loop {
            let Split { sure, open, mass } = self.split(blocks, scale, low, high);
            let need = part_of(mass, part);
            if sure >= need {
                (low, high) = (high, f32::INFINITY);
            } else if sure + open < need {
                (low, high) = (f32::NEG_INFINITY, low);
            } else {
                self.work.clone_from(&self.window);
                break reach(&mut self.work, need - sure);
            }
        };
        for one in self.window.iter().filter(|one| one.order >= last) {
            self.sums[one.id() as usize / BLOCK] += u64::from(one.weight);
        }
        self.pick_from(blocks, scale, last, random)
    }

    /// About the mass of a row, if no token is far likelier than most.
    pub fn estimate(&mut self, blocks: &Blocks<'_>, scale: Scale) -> f64 {
        self.sample(blocks, scale);
        let sum: f64 = self.work.iter().map(|one| f64::from(one.weight)).sum();
        sum * blocks.vocab_size() as f64 / SAMPLE as f64
    }

    /// Fills `work` with tokens from all over the row.
    fn sample(&mut self, blocks: &Blocks<'_>, scale: Scale) {
        self.work.clear();
        for part in 0..SAMPLE / BLOCK {
            let id = |place: usize| ((part * BLOCK + place) * blocks.vocab_size() / SAMPLE) as u32;
            let logits = std::array::from_fn(|place| blocks.logit(id(place)));
            let weights = scale.weigh(&logits);
            self.work
                .extend((0..BLOCK).map(|place| Candidate::new(id(place), logits[place], weights[place])));
        }
    }

    /// Two logits between which the nucleus of this part of the mass probably ends: within two and a half
    /// standard deviations of the sample's guess.
    fn guess(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64) -> (f32, f32) {
        self.sample(blocks, scale);
        self.work.sort_unstable_by_key(|one| Reverse(one.order));
        let weights = self.work.iter().map(|one| f64::from(one.weight));
        let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
        let margin = 2.5 * (part * (1.0 - part) * squares).sqrt();
        let (mut low, mut high, mut seen) = (f32::NEG_INFINITY, f32::INFINITY, 0.0);
        for one in &self.work {
            if seen <= part * sum - margin {
                high = one.logit();
            }
            seen += f64::from(one.weight);
            if seen >= part * sum + margin {
                low = one.logit();
                break;
            }
        }
        (low, high)
    }

    /// Puts the tokens from `low` to `high` into the window, and what is above into the sums.
    fn split(&mut self, blocks: &Blocks<'_>, scale: Scale, low: f32, high: f32) -> Split {
        self.sums.clear();
        self.window.clear();
        let mut mass = 0;
        for (index, block) in blocks.iter().enumerate() {
            let weights = scale.weigh(block);
            let above = |(&logit, &weight): (&f32, &u32)| if logit > high { u64::from(weight) } else { 0 };
            mass += weights.iter().copied().map(u64::from).sum::<u64>();
            self.sums.push(block.iter().zip(&weights).map(above).sum());
            let places = Places::within(block, low, high);
            self.window.extend(
                places.iter().map(|place| {
                    Candidate::new((index * BLOCK + place) as u32, block[place], weights[place])
                }),
            );
        }
        let open = self.window.iter().map(|one| u64::from(one.weight)).sum();
        Split { sure: self.sums.iter().sum(), open, mass }
    }

    /// The token that the random bits point at among those from `last` upwards in order, whose masses by
    /// block are in the sums.
    fn pick_from(&self, blocks: &Blocks<'_>, scale: Scale, last: u64, random: u64) -> Option<u32> {
        let mut left = target(random, self.sums.iter().sum());
        let index = self.sums.iter().position(|&sum| match left.checked_sub(sum) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })?;
        let block = blocks.get(index);
        for (place, (&logit, &weight)) in block.iter().zip(&scale.weigh(block)).enumerate() {
            let id = (index * BLOCK + place) as u32;
            if order(id, logit) < last {
                continue;
            }
            match left.checked_sub(u64::from(weight)) {
                Some(rest) => left = rest,
                None => return Some(id),
            }
        }
        None
    }
}

/// The masses of a row that two logits cut in three.
struct Split {
    /// Above the window.
    sure: u64,
    /// In the window.
    open: u64,
    /// All.
    mass: u64,
}
