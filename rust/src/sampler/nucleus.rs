//! Rows that are not gathered into a list: all of the vocabulary, or a nucleus that holds much of it.
//!
//! Such a row is summed block by block, and the drawn token found in the block that the random number
//! points at. For a nucleus, a sample of the row tells where its last token lies about; everything likelier
//! is only summed, and the exact last token is selected from the narrow window that remains. A bad guess
//! costs another pass, never the result.

use super::blocks::{BLOCK, Blocks};
use super::candidates::{Candidate, logit_of, order, part_of, reach, target};
use super::passes::{self, Masses, Places, RoughMass};
use super::weights::{ONE, ROUGHNESS, Scale};

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
        blocks.pass(Masses { blocks, scale, masses: &mut self.sums })
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

    /// Between which two the mass of a row lies, about 2^-14 of it apart.
    pub fn bounds(blocks: &Blocks<'_>, scale: Scale) -> (u64, u64) {
        let rough = blocks.pass(RoughMass { blocks, scale }) * f64::from(ONE);
        let floors = (blocks.len() * BLOCK) as f64;
        ((rough * (1.0 - ROUGHNESS) - floors) as u64, (rough * (1.0 + ROUGHNESS) + floors) as u64)
    }

    /// Fills `work` with tokens from all over the row.
    fn sample(&mut self, blocks: &Blocks<'_>, scale: Scale) {
        self.work.clear();
        for part in 0..SAMPLE {
            let id = (part * blocks.vocab_size() / SAMPLE) as u32;
            let logit = blocks.logit(id);
            self.work.push(Candidate::new(id, logit, scale.weight(logit)));
        }
    }

    /// Two logits between which the nucleus of this part of the mass probably ends: within two and a half
    /// standard deviations of the sample's guess.
    fn guess(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64) -> (f32, f32) {
        self.sample(blocks, scale);
        let weights = self.work.iter().map(|one| f64::from(one.weight));
        let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
        let margin = 2.5 * (part * (1.0 - part) * squares).sqrt();
        let mut end = |need: f64| {
            self.window.clone_from(&self.work);
            match reach(&mut self.window, need as u64) {
                0 => f32::NEG_INFINITY,
                last => logit_of((last >> 32) as u32),
            }
        };
        let low = end(part * sum + margin);
        let high = if part * sum > margin { end(part * sum - margin) } else { f32::INFINITY };
        (low, high)
    }

    /// Puts the tokens from `low` to `high` into the window, and what is above into the sums.
    fn split(&mut self, blocks: &Blocks<'_>, scale: Scale, low: f32, high: f32) -> Split {
        self.sums.clear();
        self.window.clear();
        let window = &mut self.window;
        let found =
            |index: usize, places: Places, weights: &[u32; BLOCK]| {
                let block = blocks.get(index);
                window.extend(places.map(|place| {
                    Candidate::new((index * BLOCK + place) as u32, block[place], weights[place])
                }));
            };
        let mass = blocks.pass(passes::Split { blocks, scale, low, high, above: &mut self.sums, found });
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
        for (place, &logit) in blocks.get(index).iter().enumerate() {
            let id = (index * BLOCK + place) as u32;
            if order(id, logit) < last {
                continue;
            }
            match left.checked_sub(u64::from(scale.weight(logit))) {
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
