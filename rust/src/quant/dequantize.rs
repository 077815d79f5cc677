//! Blocks to float32, each weight exactly as the format defines it: `d * q`, or `d * q + m`, in float32
//! arithmetic. Takes whole blocks, knows no files; the loops have fixed lengths so that the compiler turns
//! them into vector code.

use half::f16;

use super::Encoding;

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
        Encoding::Q4_0 => blocks::<18>(data, out, |block, out| {
            let scale = half(block, 0);
            nibbles(block, 2, out, |q| scale * (f32::from(q) - 8.0));
            scale.is_finite()
        }),
        Encoding::Q4_1 => blocks::<20>(data, out, |block, out| {
            let (scale, minimum) = (half(block, 0), half(block, 2));
            nibbles(block, 4, out, |q| scale * f32::from(q) + minimum);
            scale.is_finite() && minimum.is_finite()
        }),
        Encoding::Q8_0 => blocks::<34>(data, out, |block, out| {
            let scale = half(block, 0);
            for (weight, &q) in out.iter_mut().zip(&block[2..]) {
                *weight = scale * f32::from(i8::from_le_bytes([q]));
            }
            scale.is_finite()
        }),
    }
}

fn floats<const BYTES: usize>(data: &[u8], out: &mut [f32], read: impl Fn([u8; BYTES]) -> f32) -> bool {
    assert_eq!(data.len(), out.len() * BYTES, "one number for each place");
    for (weight, bytes) in out.iter_mut().zip(data.chunks_exact(BYTES)) {
        *weight = read(bytes.try_into().expect("chunks have this length"));
    }
    true
}

/// Weights in a block of each quantised type that is read here.
const BLOCK: usize = 32;

fn blocks<const BYTES: usize>(
    data: &[u8],
    out: &mut [f32],
    read: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]) -> bool,
) -> bool {
    assert_eq!((data.len() % BYTES, out.len()), (0, data.len() / BYTES * BLOCK), "whole blocks");
    let mut finite = true;
    for (block, weights) in data.chunks_exact(BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let block = block.try_into().expect("chunks have this length");
        finite &= read(block, weights.try_into().expect("chunks have this length"));
    }
    finite
}

/// The float16 at byte `at`.
fn half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Byte i from `at` on holds weight i in its low half and weight i + 16 in its high half.
fn nibbles<const BYTES: usize>(
    block: &[u8; BYTES],
    at: usize,
    out: &mut [f32; BLOCK],
    weight: impl Fn(u8) -> f32,
) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[at..]) {
        *low = weight(byte & 15);
        *high = weight(byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODINGS: [(Encoding, usize, usize); 6] = [
        (Encoding::F32, 4, 1),
        (Encoding::F16, 2, 1),
        (Encoding::Bf16, 2, 1),
        (Encoding::Q4_0, 18, 32),
        (Encoding::Q4_1, 20, 32),
        (Encoding::Q8_0, 34, 32),
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
            assert!(!dequantize(Encoding::Q8_0, &block(&[bad], zeros()), &mut [0.0; 32]));
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
