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

/// Minimax coefficients of 2^f for f in [0, 1].
const R0: f32 = 1.000_002_6;
const R1: f32 = 0.693_003_8;
const R2: f32 = 0.241_442_75;
const R3: f32 = 0.052_011_464;
const R4: f32 = 0.013_534_168;
/// Coefficients of the same for guesses: errors of 1.7e-3 to both sides, zero in the mean.
const G0: f32 = 1.001_665_8;
const G1: f32 = 0.657_597_7;
const G2: f32 = 0.337_169_6;
/// By which part of itself a rough mass may be wrong, besides one unit of 2^-31 for each token: the polynomial makes 2.6e-6,
/// and roundings of distances 1.2e-5 at most, where they are measured from [`FAR`] below the peak.
pub(super) const ROUGHNESS: f64 = 1.0 / (1 << 15) as f64;
/// How many nats a scale for rough masses may be below the peak of the row.
pub(super) const FAR: f32 = 32.0;
/// What is farther than this below the peak weighs less than 2^30.
const LIGHT: f32 = -0.7;
/// How many units a nat of information content has.
pub(super) const CONTENT: f32 = (1 << 20) as f32;
/// Distances below it weigh nothing: 2^31 e^-24 < 0.1.
pub(super) const FLOOR: f32 = -24.0;
/// The same for rough masses, in octaves; far enough below [`FAR`], and within the exponents of floats.
const LOWEST_OCTAVE: f32 = -100.0;

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

    /// So many nats as a difference of logits.
    pub fn nats(self, nats: f32) -> f32 {
        nats / self.inverse
    }

    /// Integer mass of a logit.
    pub fn weight(self, logit: f32) -> u32 {
        exp(self.distance(logit)) as u32
    }

    /// How far below the peak a logit is, in units of [`CONTENT`], rounded down; but for what is the same for all tokens, this
    /// is their information content.
    pub fn content(self, logit: f32) -> u32 {
        (self.distance(logit) * -CONTENT) as u32
    }

    /// The same of so many logits.
    #[inline(always)]
    pub fn contents<L: Lanes, const N: usize>(self, lanes: L, logits: [L::Floats; N]) -> [L::Ints; N] {
        let mut contents = [lanes.splat_int(0); N];
        for (content, &logit) in contents.iter_mut().zip(&logits) {
            let x = lanes.mul(lanes.sub(logit, lanes.splat(self.peak)), lanes.splat(self.inverse));
            *content = lanes.whole(lanes.mul(lanes.max(x, lanes.splat(FLOOR)), lanes.splat(-CONTENT)));
        }
        contents
    }

    /// Integer masses of so many logits.
    ///
    /// The vectors take each step together: one alone waits for each of its steps, and processors do not look far enough
    /// ahead to find the next vector's.
    #[inline(always)]
    pub fn weights<L: Lanes, const N: usize>(self, lanes: L, logits: [L::Floats; N]) -> [L::Ints; N] {
        let constant = |value: f32| lanes.splat(value);
        let mut x = logits;
        for x in &mut x {
            *x = lanes.mul(lanes.sub(*x, constant(self.peak)), constant(self.inverse));
        }
        let mut shifted = x;
        for (x, shifted) in x.iter_mut().zip(&mut shifted) {
            *x = lanes.max(*x, constant(FLOOR));
            *shifted = lanes.add(lanes.mul(*x, constant(LOG2_E)), constant(MAGIC));
        }
        let mut r = x;
        for (r, &shifted) in r.iter_mut().zip(&shifted) {
            let n = lanes.sub(shifted, constant(MAGIC));
            // The product is exact, so that nothing is lost or won by its not being rounded.
            *r = lanes.mul_add(n, constant(-LN2_HIGH), *r);
            *r = lanes.sub(*r, lanes.mul(n, constant(LN2_LOW)));
        }
        let mut q = [constant(C6); N];
        for coefficient in [C5, C4, C3, C2] {
            for (q, &r) in q.iter_mut().zip(&r) {
                *q = lanes.add(lanes.mul(*q, r), constant(coefficient));
            }
        }
        for (q, &r) in q.iter_mut().zip(&r) {
            *q = lanes.add(lanes.add(lanes.mul(lanes.mul(*q, r), r), r), constant(1.0));
        }
        let mut weights = [lanes.splat_int(0); N];
        for (weight, (&e, &shifted)) in weights.iter_mut().zip(q.iter().zip(&shifted)) {
            let n = lanes.sub(shifted, constant(MAGIC - 31.0));
            *weight = lanes.whole(lanes.at_octave(e, n));
        }
        weights
    }

    /// Whether no logit up to this one weighs 2^30 or more.
    #[inline(always)]
    pub fn is_light(self, largest: f32) -> bool {
        self.distance(largest) < LIGHT
    }

    /// About e^x of so many logits, for half the price: see [`ROUGHNESS`]. They may be up to [`FAR`] above the peak.
    ///
    /// e^x is 2^u with u in octaves, and 2^u a polynomial above the next integer below.
    #[inline(always)]
    pub fn roughly<L: Lanes>(self, lanes: L, logits: L::Floats) -> L::Floats {
        let constant = |value: f32| lanes.splat(value);
        let u = lanes.mul(lanes.sub(logits, constant(self.peak)), constant(self.inverse * LOG2_E));
        let (f, octave) = lanes.octaves(lanes.max(u, constant(LOWEST_OCTAVE)));
        let mut e = constant(R4);
        for coefficient in [R3, R2, R1, R0] {
            e = lanes.mul_add(e, f, constant(coefficient));
        }
        lanes.at_octave(e, octave)
    }

    /// Very roughly e^x of so many logits, for guesses: nothing is known of the result where a logit is more than a hundred
    /// octaves below the peak, or far from zero.
    #[inline(always)]
    pub fn very_roughly<L: Lanes>(self, lanes: L, logits: L::Floats) -> L::Floats {
        let constant = |value: f32| lanes.splat(value);
        let octave = self.inverse * LOG2_E;
        let (f, octave) =
            lanes.octaves(lanes.mul_add(logits, constant(octave), constant(-self.peak * octave)));
        let e = lanes.mul_add(lanes.mul_add(constant(G2), f, constant(G1)), f, constant(G0));
        lanes.at_octave(e, octave)
    }

    /// e^x of the peak of another scale of the same temperature.
    pub fn mass_at(self, peak: f32) -> f64 {
        ((f64::from(peak) - f64::from(self.peak)) * f64::from(self.inverse)).exp()
    }

    /// The peak that distances are measured from.
    pub fn peak(self) -> f32 {
        self.peak
    }

    /// The same temperature, measured from another peak.
    pub fn at_peak(self, peak: f32) -> Self {
        Self { peak, ..self }
    }

    /// Whether rough masses by this scale can tell those of a row with this peak.
    pub fn is_near(self, peak: f32) -> bool {
        (peak - self.peak) * self.inverse <= FAR
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
                let [weights] = self.scale.weights(lanes, [logits]);
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
            // Measured from the peak itself, and from as far below as is allowed.
            for by in [scale, scale.at_peak(scale.logit_at(FAR * 0.999))] {
                assert!(by.is_near(0.0));
                let unit = f64::from(ONE) / by.mass_at(0.0);
                for part in logits.chunks(BLOCK) {
                    let mut block = [f32::NEG_INFINITY; BLOCK];
                    block[..part.len()].copy_from_slice(part);
                    let block = block.map(|x| x * temperature as f32);
                    for vectors in Vectors::available() {
                        let rough = vectors.run(Weigh { scale: by, block: &block, rough: true });
                        for (bits, logit) in rough.into_iter().zip(block) {
                            let rough = f64::from(f32::from_bits(bits)) * unit;
                            let weight = f64::from(scale.weight(logit));
                            // A little less than what is promised, so that sums may round too.
                            let bound = weight * ROUGHNESS * 0.9 + 1.0;
                            assert!(
                                (rough - weight).abs() <= bound,
                                "{rough} is not nearly {weight} at {logit}, {vectors:?}, {by:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}
