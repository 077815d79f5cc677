//! Logits to integer probability mass.
//!
//! Float sums depend on their order, integer sums do not, so every sum of the sampler is of integers:
//! a token at distance `x <= 0` from the maximum (after temperature) weighs `floor(2^31 e^x)`.
//!
//! The exponential is our own, because libraries differ in their last bits. Its steps are part of the
//! contract with every other implementation (SIMD, CUDA): each line below is one float32 operation,
//! rounded to nearest, and a multiplication is never fused with an addition.
//!
//! ```text
//! x = (logit - peak) * inverse       inverse = f32(1 / temperature); below -24, and for NaN: x = -24
//! s = x * LOG2_E + MAGIC             rounds x / ln 2 to the nearest integer n, in the low bits of s
//! r = (x - n * LN2_HIGH) - n * LN2_LOW
//! q = ((((C6 r + C5) r + C4) r + C3) r + C2)
//! e = ((q r) r + r) + 1              e^r, for r in [-0.35, 0.35]
//! weight = floor(e * 2^(n + 31))     n is added to the exponent bits, the floor is exact
//! ```
//!
//! Checked over every float32 in [-24, 0]: the relative error of `e * 2^n` is below 2^-23.5, and neither it
//! nor the weight ever decreases as x grows. Selection relies on the latter.

use super::blocks::BLOCK;
use super::candidates::{key, logit_of};

/// The weight of the likeliest token, and the unit that probabilities are told in.
pub(super) const ONE: u32 = 1 << 31;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Adding it rounds a small float to an integer and leaves that integer in the low bits.
const MAGIC: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has nine bits, so that `n * LN2_HIGH` is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Minimax coefficients of (e^r - 1 - r) / r^2.
const C2: f32 = 0.499_999_94;
const C3: f32 = 0.166_665_21;
const C4: f32 = 0.041_668_39;
const C5: f32 = 0.008_368_745;
const C6: f32 = 0.001_381_454;

/// Distances below it weigh nothing: 2^31 e^-24 < 0.1.
const FLOOR: f32 = -24.0;
/// Below it a term changes no bit of a float64 sum that holds a 1.
const SUM_FLOOR: f32 = -80.0;

/// Where the distances of one row are measured from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    peak: f32,
    inverse: f32,
}

impl Scale {
    /// `peak` is the largest logit of the row and finite; `temperature` is above 0.
    pub fn new(peak: f32, temperature: f64) -> Self {
        Self { peak, inverse: (1.0 / temperature) as f32 }
    }

    /// Distance of a logit from the maximum, at least -24.
    #[inline(always)]
    pub fn distance(self, logit: f32) -> f32 {
        at_least((logit - self.peak) * self.inverse, FLOOR)
    }

    /// Integer mass of a logit.
    #[inline(always)]
    pub fn weight(self, logit: f32) -> u32 {
        floor(exp(self.distance(logit), 31)) as u32
    }

    /// The lowest logit that weighs at least `weight`, which is at most [`ONE`]: found by halving, since
    /// weights never decrease.
    pub fn lowest_logit(self, weight: u32) -> f32 {
        let (mut below, mut found) = (key(f32::NEG_INFINITY), key(self.peak));
        while found - below > 1 {
            let middle = below + (found - below) / 2;
            if self.weight(logit_of(middle)) >= weight {
                found = middle;
            } else {
                below = middle;
            }
        }
        logit_of(found)
    }

    /// Integer masses of a block.
    pub fn weigh(self, block: &[f32; BLOCK]) -> [u32; BLOCK] {
        self.unrounded(block).map(|mass| floor(mass) as u32)
    }

    /// Integer mass of a block.
    pub fn mass(self, block: &[f32; BLOCK]) -> u64 {
        let mut lanes = [0u64; 4];
        for part in self.unrounded(block).chunks_exact(4) {
            for (lane, &mass) in lanes.iter_mut().zip(part) {
                *lane += floor(mass);
            }
        }
        lanes.iter().sum()
    }

    /// The masses before the floor. A loop of its own, because the compiler then uses full vectors for it
    /// and half as wide ones for the floor in float64, rather than half as wide ones for both.
    #[inline(always)]
    fn unrounded(self, block: &[f32; BLOCK]) -> [f32; BLOCK] {
        block.map(|logit| exp(self.distance(logit), 31))
    }
}

/// Sum of e^(logit - peak) in float64: lane j of four adds the elements j, j + 4, ... in order.
pub(super) fn sum_exp<'a>(blocks: impl Iterator<Item = &'a [f32; BLOCK]>, peak: f32) -> f64 {
    let mut lanes = [0.0f64; 4];
    for block in blocks {
        let terms = block.map(|logit| exp(at_least(logit - peak, SUM_FLOOR), 0));
        for part in terms.chunks_exact(4) {
            for (lane, &term) in lanes.iter_mut().zip(part) {
                *lane += f64::from(term);
            }
        }
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}

/// `value`, or `bound` where it is smaller or NaN; one instruction, unlike `f32::max`.
#[inline(always)]
fn at_least(value: f32, bound: f32) -> f32 {
    if value > bound { value } else { bound }
}

/// e^x * 2^octaves for -80 <= x <= 0.
#[inline(always)]
fn exp(x: f32, octaves: u32) -> f32 {
    let shifted = x * LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let q = (((C6 * r + C5) * r + C4) * r + C3) * r + C2;
    let e = ((q * r) * r + r) + 1.0;
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23).wrapping_add(octaves << 23))
}

/// The integer part of 0 <= y <= 2^31, as `y as u32`, which does not vectorise since it saturates.
///
/// y - 1/2 + 2^-27 rounds to floor(y): where y may be odd it is below 2^24 and the sum is exact, above that
/// the tie goes to the even y itself. Adding 3 * 2^51 makes that rounding and leaves it in the low bits.
#[inline(always)]
fn floor(y: f32) -> u64 {
    const HALF: f64 = 0.5 - 1.0 / (1 << 27) as f64;
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    ((f64::from(y) - HALF) + MAGIC).to_bits() - MAGIC.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Scale = Scale { peak: 0.0, inverse: 1.0 };

    /// Every 97th float of [-24, 0], from 0 downwards.
    fn distances() -> impl Iterator<Item = f32> {
        (0..=24.0f32.to_bits()).step_by(97).map(|bits| -f32::from_bits(bits))
    }

    #[test]
    fn exponential_is_true_to_float64_and_never_decreases() {
        let mut last = f32::INFINITY;
        for x in distances() {
            let y = exp(x, 0);
            let truth = f64::from(x).exp();
            assert!((f64::from(y) - truth).abs() < truth * 2f64.powf(-23.5), "e^{x} = {truth}, not {y}");
            assert!(y <= last, "e^{x} = {y} is above its neighbour's {last}");
            last = y;
        }
    }

    #[test]
    fn weights_are_the_floor() {
        for x in distances() {
            assert_eq!(PLAIN.weight(x), exp(x, 31) as u32, "at {x}");
        }
    }

    #[test]
    fn the_likeliest_token_weighs_one_and_the_impossible_nothing() {
        let check = |logit, weight| assert_eq!(PLAIN.weight(logit), weight, "weight of {logit}");
        check(0.0, ONE);
        check(-21.4, 1);
        check(-21.5, 0);
        check(-1e30, 0);
        check(f32::NEG_INFINITY, 0);
        check(f32::NAN, 0);
    }

    #[test]
    fn a_block_weighs_what_its_logits_weigh() {
        let scale = Scale::new(3.0, 0.7);
        let block = std::array::from_fn(|index| 3.0 - index as f32 * 0.31);
        let weights = block.map(|logit| scale.weight(logit));
        assert_eq!(scale.weigh(&block), weights);
        assert_eq!(scale.mass(&block), weights.iter().copied().map(u64::from).sum::<u64>());
    }

    #[test]
    fn sum_is_that_of_float64_and_skips_what_is_no_number() {
        let mut block: [f32; BLOCK] = std::array::from_fn(|index| 5.0 - index as f32 * 0.7);
        let truth: f64 = block[3..].iter().map(|&logit| (f64::from(logit) - 5.0).exp()).sum();
        block[..3].copy_from_slice(&[f32::NAN, f32::NEG_INFINITY, -3e38]);
        let sum = sum_exp([&block].into_iter(), 5.0);
        assert!((sum / truth - 1.0).abs() < 2e-7, "{sum} is not {truth}");
    }
}
