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

use super::candidates::{key, logit_of};
use super::vectors::Lanes;

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

/// Minimax coefficients of 2^f for f in [-1/2, 1/2].
const R0: f32 = 0.999_999_3;
const R1: f32 = 0.693_121_8;
const R2: f32 = 0.240_247_44;
const R3: f32 = 0.055_917_86;
const R4: f32 = 0.009_570_101;
/// By which part of itself a rough mass may be wrong, besides one unit of 2^-31 for each token: more than twice the
/// polynomial's 2.6e-6 and what roundings do to distances of up to 24.
pub(super) const ROUGHNESS: f64 = 1.0 / (1 << 15) as f64;

/// Distances below it weigh nothing: 2^31 e^-24 < 0.1.
const FLOOR: f32 = -24.0;

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

    /// The logit that lies `nats` below the peak, about.
    pub fn logit_at(self, nats: f32) -> f32 {
        self.peak - nats / self.inverse
    }

    /// Integer mass of a logit.
    pub fn weight(self, logit: f32) -> u32 {
        exp(self.distance(logit)) as u32
    }

    /// Integer masses of so many logits.
    #[inline(always)]
    pub fn weights<L: Lanes>(self, lanes: L, logits: L::Floats) -> L::Ints {
        let constant = |value: f32| lanes.splat(value);
        let x = lanes.mul(lanes.sub(logits, constant(self.peak)), constant(self.inverse));
        let x = lanes.max(x, constant(FLOOR));
        let shifted = lanes.add(lanes.mul(x, constant(LOG2_E)), constant(MAGIC));
        let n = lanes.sub(shifted, constant(MAGIC));
        let r = lanes.sub(x, lanes.mul(n, constant(LN2_HIGH)));
        let r = lanes.sub(r, lanes.mul(n, constant(LN2_LOW)));
        let mut q = constant(C6);
        for coefficient in [C5, C4, C3, C2] {
            q = lanes.add(lanes.mul(q, r), constant(coefficient));
        }
        let e = lanes.add(lanes.add(lanes.mul(lanes.mul(q, r), r), r), constant(1.0));
        let octaves = lanes.add_ints(lanes.to_exponent(lanes.bits(shifted)), lanes.splat_int(31 << 23));
        lanes.whole(lanes.floats(lanes.add_ints(lanes.bits(e), octaves)))
    }

    /// About e^x of so many logits, for half the price: see [`ROUGHNESS`].
    ///
    /// e^x is 2^u with u in octaves, and 2^u a polynomial around the nearest integer.
    #[inline(always)]
    pub fn roughly<L: Lanes>(self, lanes: L, logits: L::Floats) -> L::Floats {
        let constant = |value: f32| lanes.splat(value);
        let u = lanes.mul(lanes.sub(logits, constant(self.peak)), constant(self.inverse * LOG2_E));
        let u = lanes.max(u, constant(FLOOR * LOG2_E));
        let shifted = lanes.add(u, constant(MAGIC));
        let f = lanes.sub(u, lanes.sub(shifted, constant(MAGIC)));
        let mut e = constant(R4);
        for coefficient in [R3, R2, R1, R0] {
            e = lanes.add(lanes.mul(e, f), constant(coefficient));
        }
        lanes.floats(lanes.add_ints(lanes.bits(e), lanes.to_exponent(lanes.bits(shifted))))
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
}

/// `value`, or `bound` where it is smaller or NaN; one instruction, unlike `f32::max`.
#[inline(always)]
fn at_least(value: f32, bound: f32) -> f32 {
    if value > bound { value } else { bound }
}

/// e^x * 2^31 for -24 <= x <= 0.
fn exp(x: f32) -> f32 {
    let shifted = x * LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let q = (((C6 * r + C5) * r + C4) * r + C3) * r + C2;
    let e = ((q * r) * r + r) + 1.0;
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23).wrapping_add(31 << 23))
}

#[cfg(test)]
mod tests {
    use super::super::blocks::BLOCK;
    use super::super::vectors::{Pass, Vectors};
    use super::*;

    const PLAIN: Scale = Scale { peak: 0.0, inverse: 1.0 };

    /// Every 97th float of [-24, 0], from 0 downwards.
    fn distances() -> impl Iterator<Item = f32> {
        (0..=24.0f32.to_bits()).step_by(97).map(|bits| -f32::from_bits(bits))
    }

    /// The weights of a block, and its rough masses where `rough`, which are bits of floats.
    struct Weigh<'a> {
        scale: Scale,
        block: &'a [f32; BLOCK],
        rough: bool,
    }

    impl Pass for Weigh<'_> {
        type Output = [u32; BLOCK];

        fn run<L: Lanes>(self, lanes: L) -> [u32; BLOCK] {
            let mut result = [0; BLOCK];
            for at in (0..BLOCK).step_by(L::COUNT) {
                let logits = lanes.load(self.block, at);
                let weights = self.scale.weights(lanes, logits);
                let rough = lanes.bits(self.scale.roughly(lanes, logits));
                lanes.store(if self.rough { rough } else { weights }, &mut result, at);
            }
            result
        }
    }

    #[test]
    fn exponential_is_true_to_float64_and_never_decreases() {
        let mut last = f32::INFINITY;
        for x in distances() {
            let y = exp(x);
            let truth = f64::from(x).exp() * f64::from(ONE);
            assert!((f64::from(y) - truth).abs() < truth * 2f64.powf(-23.5), "2^31 e^{x} = {truth}, not {y}");
            assert!(y <= last, "2^31 e^{x} = {y} is above its neighbour's {last}");
            last = y;
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
    fn all_vectors_weigh_alike() {
        let special = [0.0, -0.0, -1e30, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE];
        let logits: Vec<f32> = special.into_iter().chain(distances()).collect();
        for scale in [PLAIN, Scale::new(0.0, 0.7), Scale::new(3.0, 30.0), Scale::new(0.0, 1e-5)] {
            for block in logits.as_chunks::<BLOCK>().0 {
                let weights = block.map(|logit| scale.weight(logit));
                for vectors in Vectors::available() {
                    let found = vectors.run(Weigh { scale, block, rough: false });
                    assert_eq!(found, weights, "{vectors:?}, {scale:?}, {block:?}");
                }
            }
        }
    }

    #[test]
    fn a_rough_mass_is_as_near_as_it_says() {
        let logits: Vec<f32> = distances().chain([f32::NEG_INFINITY, f32::NAN]).collect();
        for temperature in [0.01, 0.7, 1.0, 30.0] {
            let scale = Scale::new(0.0, temperature);
            for part in logits.chunks(BLOCK) {
                let mut block = [f32::NEG_INFINITY; BLOCK];
                block[..part.len()].copy_from_slice(part);
                let block = block.map(|x| x * temperature as f32);
                for vectors in Vectors::available() {
                    let rough = vectors.run(Weigh { scale, block: &block, rough: true });
                    for (bits, logit) in rough.into_iter().zip(block) {
                        let rough = f64::from(f32::from_bits(bits)) * f64::from(ONE);
                        let weight = f64::from(scale.weight(logit));
                        // Half of what is promised, so that sums may round too.
                        let bound = weight * ROUGHNESS / 2.0 + 1.0;
                        assert!(
                            (rough - weight).abs() <= bound,
                            "{rough} is not nearly {weight} at {logit}, {vectors:?}"
                        );
                    }
                }
            }
        }
    }
}
