//! Which vector instructions a row is drawn with.
//!
//! A pass over a row is written once, over the operations of [`Lanes`], and compiled for each width that a
//! processor may have. Every operation is one float32 or integer operation per lane, rounded as scalar ones are,
//! so all widths give the same bits. What sums floats is the exception, and says so.

#![allow(unsafe_code)] // intrinsics

use std::sync::LazyLock;

use super::blocks::BLOCK;

/// A pass over a row. Its `run`, and all that it calls for each lane, must be `#[inline(always)]`: what is not inlined is
/// compiled without the instructions.
pub(super) trait Pass {
    /// What it gives.
    type Output;

    /// Computes it.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Operations on so many lanes at a time. Having a value means that the processor has the instructions.
pub(super) trait Lanes: Copy {
    /// Lanes of `Floats` and `Ints`; divides [`BLOCK`].
    const COUNT: usize;
    /// float32 each.
    type Floats: Copy;
    /// u32 each.
    type Ints: Copy;
    /// u64 each, half as many.
    type Sums: Copy;

    /// The lanes of a block from `at` on.
    fn load(self, block: &[f32; BLOCK], at: usize) -> Self::Floats;
    /// Puts lanes into a block from `at` on.
    fn store(self, ints: Self::Ints, block: &mut [u32; BLOCK], at: usize);
    /// Puts lanes into a block from `at` on.
    fn store_floats(self, floats: Self::Floats, block: &mut [f32; BLOCK], at: usize);
    /// The value in all lanes.
    fn splat(self, value: f32) -> Self::Floats;
    /// The value in all lanes.
    fn splat_int(self, value: u32) -> Self::Ints;
    /// a + b
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a - b
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a * b
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a where a > b, else b; so b where a is NaN.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The bits of floats.
    fn bits(self, floats: Self::Floats) -> Self::Ints;
    /// Bits as floats.
    fn floats(self, bits: Self::Ints) -> Self::Floats;
    /// a + b, wrapping.
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The integer parts of 0 <= floats <= 2^31.
    fn whole(self, floats: Self::Floats) -> Self::Ints;
    /// Where the lanes of `floats` lie: of `ints` those that are above `high`, the others 0; and one bit for each lane from `low` to
    /// `high`, the first lane's the lowest.
    fn split(
        self,
        ints: Self::Ints,
        floats: Self::Floats,
        low: Self::Floats,
        high: Self::Floats,
    ) -> (Self::Ints, u64);
    /// `ints` where a > b, else 0.
    fn where_above(self, ints: Self::Ints, a: Self::Floats, b: Self::Floats) -> Self::Ints;
    /// `sums`, to which each lane of `floats` is added whose `values` is above `bound`.
    fn add_above(
        self,
        sums: Self::Floats,
        floats: Self::Floats,
        values: Self::Floats,
        bound: Self::Floats,
    ) -> Self::Floats;
    /// One bit for each lane, the first lane's the lowest: whether low <= floats <= high.
    fn within(self, floats: Self::Floats, low: Self::Floats, high: Self::Floats) -> u64;
    /// Sums of nothing.
    fn no_sums(self) -> Self::Sums;
    /// Adds all lanes to the sums.
    fn accumulate(self, sums: Self::Sums, ints: Self::Ints) -> Self::Sums;
    /// Adds to the sums the products of all lanes.
    fn accumulate_products(self, sums: Self::Sums, a: Self::Ints, b: Self::Ints) -> Self::Sums;
    /// All sums together.
    fn total(self, sums: Self::Sums) -> u64;
    /// The largest lane of each of the four; none is NaN.
    fn largest_of_each(self, four: [Self::Floats; 4]) -> [f32; 4];
    /// All lanes together of each of the four, in an order of its own.
    fn sum_of_each(self, four: [Self::Floats; 4]) -> [f32; 4];

    // What is rough anyway may use what one processor has and another does not.

    /// a * b + c, rounded once or twice.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Numbers from -100 to 100 in two parts: what is above the next integer below, and that integer as `at_octave` takes it.
    fn octaves(self, floats: Self::Floats) -> (Self::Floats, Self::Floats);
    /// `floats`, from 1 to 2, times two to the power of an integer of `octaves`.
    fn at_octave(self, floats: Self::Floats, octave: Self::Floats) -> Self::Floats;
}

/// A set of vector instructions that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vectors(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Vectors {
    /// All that this processor has, the narrowest first.
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut kinds = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            // Processors with the one and without the other are rarities that may do without both.
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                kinds.push(Self(Kind::Avx2));
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                kinds.push(Self(Kind::Avx512));
            }
        }
        kinds
    }

    /// The widest that this processor has.
    pub fn widest() -> Self {
        static WIDEST: LazyLock<Vectors> =
            LazyLock::new(|| *Vectors::available().last().expect("the portable one is always there"));
        *WIDEST
    }

    /// Makes a pass with them.
    pub(super) fn run<P: Pass>(self, pass: P) -> P::Output {
        match self.0 {
            Kind::Portable => pass.run(Portable),
            // SAFETY: `available` made this value after it had seen that the processor has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::with_avx2(pass) },
            // SAFETY: the same of AVX-512F and DQ.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { x86::with_avx512(pass) },
        }
    }
}

/// Arrays, of which the compiler makes what vectors every processor has.
#[derive(Clone, Copy)]
struct Portable;

const WIDTH: usize = 8;

#[inline(always)]
fn each<T, R>(a: [T; WIDTH], b: [T; WIDTH], op: impl Fn(T, T) -> R) -> [R; WIDTH]
where
    T: Copy,
    R: Copy + Default,
{
    let mut result = [R::default(); WIDTH];
    for lane in 0..WIDTH {
        result[lane] = op(a[lane], b[lane]);
    }
    result
}

impl Lanes for Portable {
    const COUNT: usize = WIDTH;
    type Floats = [f32; WIDTH];
    type Ints = [u32; WIDTH];
    type Sums = [u64; WIDTH / 2];

    #[inline(always)]
    fn load(self, block: &[f32; BLOCK], at: usize) -> Self::Floats {
        block[at..at + WIDTH].try_into().expect("WIDTH of them")
    }
    #[inline(always)]
    fn store(self, ints: Self::Ints, block: &mut [u32; BLOCK], at: usize) {
        block[at..at + WIDTH].copy_from_slice(&ints);
    }
    #[inline(always)]
    fn store_floats(self, floats: Self::Floats, block: &mut [f32; BLOCK], at: usize) {
        block[at..at + WIDTH].copy_from_slice(&floats);
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [value; WIDTH]
    }
    #[inline(always)]
    fn splat_int(self, value: u32) -> Self::Ints {
        [value; WIDTH]
    }
    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn bits(self, floats: Self::Floats) -> Self::Ints {
        floats.map(f32::to_bits)
    }
    #[inline(always)]
    fn floats(self, bits: Self::Ints) -> Self::Floats {
        bits.map(f32::from_bits)
    }
    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        each(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn whole(self, floats: Self::Floats) -> Self::Ints {
        // `as u32` saturates, and then nothing vectorises. y - 1/2 + 2^-27 rounds to the integer part of y: where y may be
        // odd it is below 2^24 and the sum is exact, above that the tie goes to the even y itself. Adding 3 * 2^51 makes
        // that rounding and leaves it in the low bits.
        const HALF: f64 = 0.5 - 1.0 / (1 << 27) as f64;
        const MAGIC: f64 = 6_755_399_441_055_744.0;
        floats.map(|y| ((f64::from(y) - HALF) + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as u32)
    }
    #[inline(always)]
    fn split(
        self,
        ints: Self::Ints,
        floats: Self::Floats,
        low: Self::Floats,
        high: Self::Floats,
    ) -> (Self::Ints, u64) {
        (self.where_above(ints, floats, high), self.within(floats, low, high))
    }
    #[inline(always)]
    fn add_above(
        self,
        sums: Self::Floats,
        floats: Self::Floats,
        values: Self::Floats,
        bound: Self::Floats,
    ) -> Self::Floats {
        self.add(sums, self.floats(self.where_above(self.bits(floats), values, bound)))
    }
    #[inline(always)]
    fn where_above(self, ints: Self::Ints, a: Self::Floats, b: Self::Floats) -> Self::Ints {
        let masks = each(a, b, |a, b| if a > b { u32::MAX } else { 0 });
        each(ints, masks, |int, mask| int & mask)
    }
    #[inline(always)]
    fn within(self, floats: Self::Floats, low: Self::Floats, high: Self::Floats) -> u64 {
        let flags = each(
            each(floats, low, |a, b| u8::from(a >= b)),
            each(floats, high, |a, b| u8::from(a <= b)),
            |a, b| a & b,
        );
        // The multiplication collects the lowest bit of each byte in the topmost byte.
        u64::from_le_bytes(flags).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }
    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        [0; WIDTH / 2]
    }
    #[inline(always)]
    fn accumulate(self, mut sums: Self::Sums, ints: Self::Ints) -> Self::Sums {
        for lane in 0..WIDTH / 2 {
            sums[lane] += u64::from(ints[lane]) + u64::from(ints[lane + WIDTH / 2]);
        }
        sums
    }
    #[inline(always)]
    fn accumulate_products(self, mut sums: Self::Sums, a: Self::Ints, b: Self::Ints) -> Self::Sums {
        let products = each(a.map(u64::from), b.map(u64::from), |a, b| a * b);
        for lane in 0..WIDTH / 2 {
            sums[lane] += products[lane] + products[lane + WIDTH / 2];
        }
        sums
    }
    #[inline(always)]
    fn total(self, sums: Self::Sums) -> u64 {
        sums.iter().sum()
    }
    #[inline(always)]
    fn largest_of_each(self, four: [Self::Floats; 4]) -> [f32; 4] {
        four.map(|floats| floats.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a }))
    }
    #[inline(always)]
    fn sum_of_each(self, four: [Self::Floats; 4]) -> [f32; 4] {
        four.map(|floats| floats.into_iter().sum())
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn octaves(self, floats: Self::Floats) -> (Self::Floats, Self::Floats) {
        // As in the weights: adding it rounds to the nearest integer, here to that of what is half less.
        const MAGIC: f32 = 12_582_912.0;
        let whole = floats.map(|u| ((u - 0.5) + MAGIC) - MAGIC);
        (self.sub(floats, whole), whole)
    }
    #[inline(always)]
    fn at_octave(self, floats: Self::Floats, octave: Self::Floats) -> Self::Floats {
        const MAGIC: f32 = 12_582_912.0;
        let shifted = octave.map(|n| (n + MAGIC).to_bits() << 23);
        self.floats(each(self.bits(floats), shifted, u32::wrapping_add))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same by intrinsics. Each call of one is sound because its value, [`Avx2`] or [`Avx512`], is only made
    //! in a function that has the instructions enabled.

    use std::arch::x86_64::*;

    use super::{BLOCK, Lanes, Pass};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn with_avx2<P: Pass>(pass: P) -> P::Output {
        pass.run(Avx2(()))
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn with_avx512<P: Pass>(pass: P) -> P::Output {
        pass.run(Avx512(()))
    }

    /// Proof of AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// Proof of AVX-512F and DQ.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// A method of one expression of intrinsics.
    macro_rules! method {
        ($name:ident($($argument:ident: $kind:ty),*) -> $result:ty = $value:expr) => {
            #[inline(always)]
            fn $name(self, $($argument: $kind),*) -> $result {
                // SAFETY: `self` proves that the processor has the instructions.
                unsafe { $value }
            }
        };
    }

    /// Lanes of four vectors, brought together by `op` until each group of four holds one of each.
    macro_rules! of_each {
        ($four:ident, $op:ident, $low:ident, $high:ident, $low_pairs:ident, $high_pairs:ident, $pairs:ident, $singles:ident) => {{
            let [a, b, c, d] = $four;
            let ab = $op($low(a, b), $high(a, b));
            let cd = $op($low(c, d), $high(c, d));
            $op($singles($low_pairs($pairs(ab), $pairs(cd))), $singles($high_pairs($pairs(ab), $pairs(cd))))
        }};
    }

    #[inline(always)]
    fn told(four: __m128) -> [f32; 4] {
        // SAFETY: both are four floats, and every bit pattern is one.
        unsafe { std::mem::transmute(four) }
    }

    impl Lanes for Avx2 {
        const COUNT: usize = 8;
        type Floats = __m256;
        type Ints = __m256i;
        type Sums = __m256i;

        #[inline(always)]
        fn load(self, block: &[f32; BLOCK], at: usize) -> __m256 {
            let lanes = &block[at..at + Self::COUNT];
            // SAFETY: as everywhere here, and the slice is as long as what is read; no alignment is needed.
            unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, ints: __m256i, block: &mut [u32; BLOCK], at: usize) {
            let lanes = &mut block[at..at + Self::COUNT];
            // SAFETY: as everywhere here, and the slice is as long as what is written; no alignment is needed.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), ints) }
        }
        #[inline(always)]
        fn store_floats(self, floats: __m256, block: &mut [f32; BLOCK], at: usize) {
            let lanes = &mut block[at..at + Self::COUNT];
            // SAFETY: as everywhere here, and the slice is as long as what is written; no alignment is needed.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), floats) }
        }
        method!(splat(value: f32) -> __m256 = _mm256_set1_ps(value));
        method!(splat_int(value: u32) -> __m256i = _mm256_set1_epi32(value.cast_signed()));
        method!(add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b));
        method!(sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b));
        method!(mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b));
        method!(max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b));
        method!(bits(floats: __m256) -> __m256i = _mm256_castps_si256(floats));
        method!(floats(bits: __m256i) -> __m256 = _mm256_castsi256_ps(bits));
        method!(add_ints(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b));
        // Beyond i32, which here is 2^31 alone, the instruction gives just these bits.
        method!(whole(floats: __m256) -> __m256i = _mm256_cvttps_epi32(floats));
        method!(split(ints: __m256i, floats: __m256, low: __m256, high: __m256) -> (__m256i, u64) = {
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(floats, high);
            let within = _mm256_andnot_ps(above, _mm256_cmp_ps::<_CMP_GE_OQ>(floats, low));
            let places = u64::from(_mm256_movemask_ps(within).cast_unsigned());
            (_mm256_and_si256(ints, _mm256_castps_si256(above)), places)
        });
        method!(add_above(sums: __m256, floats: __m256, values: __m256, bound: __m256) -> __m256 =
            _mm256_add_ps(sums, _mm256_and_ps(floats, _mm256_cmp_ps::<_CMP_GT_OQ>(values, bound))));
        method!(where_above(ints: __m256i, a: __m256, b: __m256) -> __m256i =
            _mm256_and_si256(ints, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b))));
        method!(within(floats: __m256, low: __m256, high: __m256) -> u64 = {
            let (above, below) = (_mm256_cmp_ps::<_CMP_GE_OQ>(floats, low), _mm256_cmp_ps::<_CMP_LE_OQ>(floats, high));
            u64::from(_mm256_movemask_ps(_mm256_and_ps(above, below)).cast_unsigned())
        });
        method!(no_sums() -> __m256i = _mm256_setzero_si256());
        method!(accumulate(sums: __m256i, ints: __m256i) -> __m256i = {
            let even = _mm256_and_si256(ints, _mm256_set1_epi64x(0xffff_ffff));
            _mm256_add_epi64(sums, _mm256_add_epi64(even, _mm256_srli_epi64::<32>(ints)))
        });
        method!(accumulate_products(sums: __m256i, a: __m256i, b: __m256i) -> __m256i = {
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            _mm256_add_epi64(sums, _mm256_add_epi64(_mm256_mul_epu32(a, b), odd))
        });
        method!(total(sums: __m256i) -> u64 = {
            let halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            _mm_cvtsi128_si64(_mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves))).cast_unsigned()
        });
        method!(largest_of_each(four: [__m256; 4]) -> [f32; 4] = {
            let eight = of_each!(four, _mm256_max_ps, _mm256_unpacklo_ps, _mm256_unpackhi_ps, _mm256_unpacklo_pd,
                _mm256_unpackhi_pd, _mm256_castps_pd, _mm256_castpd_ps);
            told(_mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight)))
        });
        method!(sum_of_each(four: [__m256; 4]) -> [f32; 4] = {
            let eight = of_each!(four, _mm256_add_ps, _mm256_unpacklo_ps, _mm256_unpackhi_ps, _mm256_unpacklo_pd,
                _mm256_unpackhi_pd, _mm256_castps_pd, _mm256_castpd_ps);
            told(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight)))
        });
        method!(mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c));
        method!(octaves(floats: __m256) -> (__m256, __m256) = {
            let whole = _mm256_floor_ps(floats);
            (_mm256_sub_ps(floats, whole), whole)
        });
        method!(at_octave(floats: __m256, octave: __m256) -> __m256 = {
            let shifted = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(octave));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(floats), shifted))
        });
    }

    impl Lanes for Avx512 {
        const COUNT: usize = 16;
        type Floats = __m512;
        type Ints = __m512i;
        type Sums = __m512i;

        #[inline(always)]
        fn load(self, block: &[f32; BLOCK], at: usize) -> __m512 {
            let lanes = &block[at..at + Self::COUNT];
            // SAFETY: as everywhere here, and the slice is as long as what is read; no alignment is needed.
            unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, ints: __m512i, block: &mut [u32; BLOCK], at: usize) {
            let lanes = &mut block[at..at + Self::COUNT];
            // SAFETY: as everywhere here, and the slice is as long as what is written; no alignment is needed.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), ints) }
        }
        #[inline(always)]
        fn store_floats(self, floats: __m512, block: &mut [f32; BLOCK], at: usize) {
            let lanes = &mut block[at..at + Self::COUNT];
            // SAFETY: as everywhere here, and the slice is as long as what is written; no alignment is needed.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), floats) }
        }
        method!(splat(value: f32) -> __m512 = _mm512_set1_ps(value));
        method!(splat_int(value: u32) -> __m512i = _mm512_set1_epi32(value.cast_signed()));
        method!(add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b));
        method!(sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b));
        method!(mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b));
        method!(max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b));
        method!(bits(floats: __m512) -> __m512i = _mm512_castps_si512(floats));
        method!(floats(bits: __m512i) -> __m512 = _mm512_castsi512_ps(bits));
        method!(add_ints(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b));
        method!(whole(floats: __m512) -> __m512i = _mm512_cvttps_epi32(floats));
        method!(split(ints: __m512i, floats: __m512, low: __m512, high: __m512) -> (__m512i, u64) = {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(floats, high);
            let within = !above & _mm512_cmp_ps_mask::<_CMP_GE_OQ>(floats, low);
            (_mm512_maskz_mov_epi32(above, ints), u64::from(within))
        });
        method!(add_above(sums: __m512, floats: __m512, values: __m512, bound: __m512) -> __m512 =
            _mm512_mask_add_ps(sums, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, bound), sums, floats));
        method!(where_above(ints: __m512i, a: __m512, b: __m512) -> __m512i =
            _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), ints));
        method!(within(floats: __m512, low: __m512, high: __m512) -> u64 = {
            let (above, below) =
                (_mm512_cmp_ps_mask::<_CMP_GE_OQ>(floats, low), _mm512_cmp_ps_mask::<_CMP_LE_OQ>(floats, high));
            u64::from(above & below)
        });
        method!(no_sums() -> __m512i = _mm512_setzero_si512());
        method!(accumulate(sums: __m512i, ints: __m512i) -> __m512i = {
            let even = _mm512_and_si512(ints, _mm512_set1_epi64(0xffff_ffff));
            _mm512_add_epi64(sums, _mm512_add_epi64(even, _mm512_srli_epi64::<32>(ints)))
        });
        method!(accumulate_products(sums: __m512i, a: __m512i, b: __m512i) -> __m512i = {
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            _mm512_add_epi64(sums, _mm512_add_epi64(_mm512_mul_epu32(a, b), odd))
        });
        method!(total(sums: __m512i) -> u64 = _mm512_reduce_add_epi64(sums).cast_unsigned());
        method!(largest_of_each(four: [__m512; 4]) -> [f32; 4] = {
            let sixteen = of_each!(four, _mm512_max_ps, _mm512_unpacklo_ps, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
                _mm512_unpackhi_pd, _mm512_castps_pd, _mm512_castpd_ps);
            let eight = _mm256_max_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps::<1>(sixteen));
            told(_mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight)))
        });
        method!(sum_of_each(four: [__m512; 4]) -> [f32; 4] = {
            let sixteen = of_each!(four, _mm512_add_ps, _mm512_unpacklo_ps, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
                _mm512_unpackhi_pd, _mm512_castps_pd, _mm512_castpd_ps);
            let eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps::<1>(sixteen));
            told(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight)))
        });
        method!(mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c));
        // The other instruction rounds downwards on its own, so that the number stands for its integer.
        method!(octaves(floats: __m512) -> (__m512, __m512) =
            (_mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(floats), floats));
        method!(at_octave(floats: __m512, octave: __m512) -> __m512 = _mm512_scalef_ps(floats, octave));
    }
}
