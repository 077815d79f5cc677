//! Log-probabilities of the raw distribution: before any bias, penalty, mask or temperature.

use super::blocks::{BLOCK, Blocks, bounded};
use super::candidates::{logit_of, order};
use super::nucleus::BlockMass;
use super::weights::{ONE, Scale};
use crate::sampled::Logprobs;

/// What stands for the logarithm of zero: JSON knows no infinity.
const LOWEST: f64 = -9999.0;

/// The raw distribution of a row, taken before the row is changed.
#[derive(Debug)]
pub(super) struct RawDistribution {
    peak: f32,
    /// Logarithm of the sum of e^(logit - peak).
    log_sum: f64,
    top: Vec<(u32, f64)>,
}

impl RawDistribution {
    /// Reads the distribution and its `count` likeliest tokens (all, if there are fewer), ties by lower id.
    pub fn read(blocks: &mut Blocks<'_>, count: usize, mass: &mut BlockMass, work: &mut Vec<f32>) -> Self {
        let peak = blocks.survey();
        let mass = if peak == f32::NEG_INFINITY { 0 } else { mass.sum(blocks, Scale::new(peak, 1.0)) };
        let mut raw = Self { peak, log_sum: (mass as f64 / f64::from(ONE)).ln(), top: Vec::new() };
        if count > 0 {
            let mut likeliest = likeliest(blocks, count, work);
            likeliest.sort_unstable_by(|a, b| b.cmp(a));
            likeliest.truncate(count);
            let logit = |order: u64| logit_of((order >> 32) as u32);
            raw.top = likeliest.iter().map(|&order| (!(order as u32), raw.log(logit(order)))).collect();
        }
        raw
    }

    /// The log-probabilities of a draw whose raw logit is `logit`.
    pub fn of(self, logit: f32) -> Logprobs {
        Logprobs { chosen: self.log(bounded(logit)), top: self.top }
    }

    fn log(&self, logit: f32) -> f64 {
        let log = f64::from(logit) - f64::from(self.peak) - self.log_sum;
        // The comparison is false for NaN, which counts as impossible.
        if log > LOWEST { log } else { LOWEST }
    }
}

/// Orders of at least `count` tokens, among them the `count` likeliest.
fn likeliest(blocks: &Blocks<'_>, count: usize, work: &mut Vec<f32>) -> Vec<u64> {
    let bound = blocks.reached_by(count, work);
    let mut orders = Vec::with_capacity(2 * count);
    for (index, _) in blocks.maxima().iter().enumerate().filter(|(_, largest)| **largest >= bound) {
        for (place, &logit) in blocks.get(index).iter().enumerate() {
            let id = index * BLOCK + place;
            // Without a bound even the impossible is listed: exactly `count` were asked for.
            if id < blocks.vocab_size() && (logit >= bound || bound == f32::NEG_INFINITY) {
                orders.push(order(id as u32, logit));
            }
        }
    }
    orders
}
