//! Blocks to float32, each weight exactly as the format defines it: `d * q`, or `d * q + m`, in float32
//! arithmetic. Takes whole blocks, knows no files; the loops have fixed lengths so that the compiler turns
//! them into vector code.

use half::f16;

use super::{Encoding, super_blocks};

/// Turns whole blocks into float32. Gives false if a block's scale or minimum is infinite or not a number;
/// `out` then holds nothing of use. Stored floats (F32, F16, BF16) pass as they are.
///
/// `data` and `out` must agree: as many blocks as `out` has room for weights of.
///
/// # Panics
/// Never on any bytes; if the two lengths disagree, which is a mistake of the caller.
#[must_use]
pub fn dequantize(encoding: Encoding, data: &[u8], out: &mut [f32]) -> bool {
    match encoding {
        Encoding::F32 => floats(data, out, f32::from_le_bytes),
        Encoding::F16 => floats(data, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Encoding::Bf16 => {
            floats(data, out, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }
        Encoding::Q4_0 => blocks::<18, 32>(data, out, |block, out| {
            let scale = half(block, 0);
            nibbles(block, 2, out, |q| scale * (f32::from(q) - 8.0));
            scale.is_finite()
        }),
        Encoding::Q4_1 => blocks::<20, 32>(data, out, |block, out| {
            let (scale, minimum) = (half(block, 0), half(block, 2));
            nibbles(block, 4, out, |q| scale * f32::from(q) + minimum);
            scale.is_finite() && minimum.is_finite()
        }),
        Encoding::Q5_0 => blocks::<22, 32>(data, out, |block, out| {
            let scale = half(block, 0);
            five_bits(block, 2, out, |q| scale * (f32::from(q) - 16.0));
            scale.is_finite()
        }),
        Encoding::Q5_1 => blocks::<24, 32>(data, out, |block, out| {
            let (scale, minimum) = (half(block, 0), half(block, 2));
            five_bits(block, 4, out, |q| scale * f32::from(q) + minimum);
            scale.is_finite() && minimum.is_finite()
        }),
        Encoding::Q8_0 => blocks::<34, 32>(data, out, |block, out| {
            let scale = half(block, 0);
            for (weight, &q) in out.iter_mut().zip(&block[2..]) {
                *weight = scale * f32::from(i8::from_le_bytes([q]));
            }
            scale.is_finite()
        }),
        Encoding::Iq4Nl => blocks::<18, 32>(data, out, |block, out| {
            let scale = half(block, 0);
            nibbles(block, 2, out, |q| scale * LEVELS[usize::from(q)]);
            scale.is_finite()
        }),
        Encoding::Q2K => blocks(data, out, super_blocks::q2_k),
        Encoding::Q3K => blocks(data, out, super_blocks::q3_k),
        Encoding::Q4K => blocks(data, out, super_blocks::q4_k),
        Encoding::Q5K => blocks(data, out, super_blocks::q5_k),
        Encoding::Q6K => blocks(data, out, super_blocks::q6_k),
        Encoding::Iq4Xs => blocks(data, out, super_blocks::iq4_xs),
    }
}

/// What the 4 bits of the IQ4 types stand for: close together near zero, where most weights are.
pub(super) const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

fn floats<const BYTES: usize>(data: &[u8], out: &mut [f32], read: impl Fn([u8; BYTES]) -> f32) -> bool {
    assert_eq!(data.len(), out.len() * BYTES, "one number for each place");
    for (weight, bytes) in out.iter_mut().zip(data.chunks_exact(BYTES)) {
        *weight = read(bytes.try_into().expect("chunks have this length"));
    }
    true
}

fn blocks<const BYTES: usize, const WEIGHTS: usize>(
    data: &[u8],
    out: &mut [f32],
    read: impl Fn(&[u8; BYTES], &mut [f32; WEIGHTS]) -> bool,
) -> bool {
    assert_eq!((data.len() % BYTES, out.len()), (0, data.len() / BYTES * WEIGHTS), "whole blocks");
    let mut finite = true;
    for (block, weights) in data.chunks_exact(BYTES).zip(out.chunks_exact_mut(WEIGHTS)) {
        let block = block.try_into().expect("chunks have this length");
        finite &= read(block, weights.try_into().expect("chunks have this length"));
    }
    finite
}

/// The float16 at byte `at`.
pub(super) fn half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Byte i from `at` on holds weight i in its low half and weight i + 16 in its high half.
fn nibbles<const BYTES: usize>(
    block: &[u8; BYTES],
    at: usize,
    out: &mut [f32; 32],
    weight: impl Fn(u8) -> f32,
) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[at..]) {
        *low = weight(byte & 15);
        *high = weight(byte >> 4);
    }
}

/// Four bytes from `at` on hold the fifth bit of each weight, the first weight's lowest; nibbles follow.
fn five_bits<const BYTES: usize>(
    block: &[u8; BYTES],
    at: usize,
    out: &mut [f32; 32],
    weight: impl Fn(u8) -> f32,
) {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), &byte)) in low.iter_mut().zip(high).zip(&block[at + 4..]).enumerate() {
        *low = weight(byte & 15 | ((bits >> i & 1) as u8) << 4);
        *high = weight(byte >> 4 | ((bits >> (i + 16) & 1) as u8) << 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODINGS: [(Encoding, usize, usize); 15] = [
        (Encoding::F32, 4, 1),
        (Encoding::F16, 2, 1),
        (Encoding::Bf16, 2, 1),
        (Encoding::Q4_0, 18, 32),
        (Encoding::Q4_1, 20, 32),
        (Encoding::Q5_0, 22, 32),
        (Encoding::Q5_1, 24, 32),
        (Encoding::Q8_0, 34, 32),
        (Encoding::Q2K, 84, 256),
        (Encoding::Q3K, 110, 256),
        (Encoding::Q4K, 144, 256),
        (Encoding::Q5K, 176, 256),
        (Encoding::Q6K, 210, 256),
        (Encoding::Iq4Nl, 18, 32),
        (Encoding::Iq4Xs, 136, 256),
    ];

    fn block(halves: &[f32], rest: impl Iterator<Item = u8>) -> Vec<u8> {
        let halves = halves.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes());
        halves.chain(rest).collect()
    }

    #[test]
    fn nibbles_are_the_first_and_the_second_half_of_a_block() {
        let data = block(&[0.5, -3.0], (0..16).map(|i| i | (15 - i) << 4));
        let mut out = [0.0; 32];
        assert!(dequantize(Encoding::Q4_1, &data, &mut out));
        let expected: Vec<f32> = (0..16).chain((0..16).rev()).map(|q: u8| 0.5 * f32::from(q) - 3.0).collect();
        assert_eq!(out.as_slice(), expected);
    }

    #[test]
    fn q4_0_is_centred_on_eight() {
        let data = block(&[2.0], (0..16).map(|_| 0xF0));
        let mut out = [0.0; 32];
        assert!(dequantize(Encoding::Q4_0, &data, &mut out));
        assert_eq!((out[0], out[15], out[16], out[31]), (-16.0, -16.0, 14.0, 14.0));
    }

    #[test]
    fn fifth_bits_belong_to_the_weights_in_order() {
        // The fifth bits of weights 0 and 17 alone are set, all nibbles are 1.
        let rest = (1u32 | 1 << 17).to_le_bytes().into_iter().chain([0x11; 16]);
        let mut expected = [1.0f32; 32];
        (expected[0], expected[17]) = (17.0, 17.0);
        let mut out = [0.0; 32];
        assert!(dequantize(Encoding::Q5_1, &block(&[2.0, 0.5], rest.clone()), &mut out));
        assert_eq!(out, expected.map(|q| 2.0 * q + 0.5));
        assert!(dequantize(Encoding::Q5_0, &block(&[2.0], rest), &mut out));
        assert_eq!(out, expected.map(|q| 2.0 * (q - 16.0)));
    }

    #[test]
    fn levels_are_named_by_nibbles() {
        let mut out = [0.0; 32];
        assert!(dequantize(Encoding::Iq4Nl, &block(&[0.5], (0..16).map(|i| i | (15 - i) << 4)), &mut out));
        let expected: Vec<f32> = LEVELS.iter().chain(LEVELS.iter().rev()).map(|level| 0.5 * level).collect();
        assert_eq!(out.as_slice(), expected);
    }

    #[test]
    fn q8_0_bytes_are_signed() {
        let data = block(&[0.25], (0..32).map(|i: u8| if i == 7 { 0x80 } else { i }));
        let mut out = [0.0; 32];
        assert!(dequantize(Encoding::Q8_0, &data, &mut out));
        assert_eq!((out[0], out[7], out[31]), (0.0, -32.0, 7.75));
    }

    #[test]
    fn scales_that_are_no_numbers_are_reported() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let zeros = || std::iter::repeat_n(0, 32);
            assert!(!dequantize(Encoding::Q4_0, &block(&[bad], zeros().take(16)), &mut [0.0; 32]));
            assert!(!dequantize(Encoding::Q4_1, &block(&[bad, 1.0], zeros().take(16)), &mut [0.0; 32]));
            assert!(!dequantize(Encoding::Q4_1, &block(&[1.0, bad], zeros().take(16)), &mut [0.0; 32]));
            assert!(!dequantize(Encoding::Q5_0, &block(&[bad], zeros().take(20)), &mut [0.0; 32]));
            assert!(!dequantize(Encoding::Q5_1, &block(&[1.0, bad], zeros().take(20)), &mut [0.0; 32]));
            assert!(!dequantize(Encoding::Q8_0, &block(&[bad], zeros()), &mut [0.0; 32]));
            assert!(!dequantize(Encoding::Iq4Nl, &block(&[bad], zeros().take(16)), &mut [0.0; 32]));
        }
    }

    #[test]
    fn one_bad_block_among_many_is_noticed() {
        let good = block(&[1.0], std::iter::repeat_n(0, 32));
        let bad = block(&[f32::NAN], std::iter::repeat_n(0, 32));
        let data = [good.clone(), bad, good].concat();
        assert!(!dequantize(Encoding::Q8_0, &data, &mut [0.0; 96]));
    }

    #[test]
    fn nothing_is_no_error() {
        for (encoding, _, _) in ENCODINGS {
            assert!(dequantize(encoding, &[], &mut []));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        for (encoding, bytes, weights) in ENCODINGS {
            for byte in 0..=255 {
                let _ = dequantize(encoding, &vec![byte; 3 * bytes], &mut vec![0.0; 3 * weights]);
            }
        }
    }
}
