//! Blocks of 256 weights that are cut into groups, each with a small scale of its own (and some with a minimum)
//! beside the float16 ones of the whole block. Takes one block, gives its weights in float32; says false if a
//! float16 is infinite or not a number.

use super::dequantize::{LEVELS, half};

const WEIGHTS: usize = 256;

/// Scales and minimums of 4 bits each for sixteen weights (16 bytes), 2 bits a weight (64), scale, minimum.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; WEIGHTS]) -> bool {
    let (scale, minimum) = (half(block, 80), half(block, 82));
    let groups = out.chunks_exact_mut(16).zip(&block[..16]).enumerate();
    for (group, (out, &pair)) in groups {
        let (scale, minimum) = (scale * f32::from(pair & 15), minimum * f32::from(pair >> 4));
        for (weight, q) in out.iter_mut().zip(two_bits(&block[16..80], group)) {
            *weight = scale * f32::from(q) - minimum;
        }
    }
    scale.is_finite() && minimum.is_finite()
}

/// The third bits (32 bytes), the lower two (64), scales of 6 bits for sixteen weights (12), scale.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; WEIGHTS]) -> bool {
    let scale = half(block, 108);
    let (low, high) = block[96..108].split_at(8);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = low[group % 8] >> (group / 8 * 4) & 15;
        let high = high[group % 4] >> (group / 4 * 2) & 3;
        let scale = scale * (f32::from(low | high << 4) - 32.0);
        let third = &block[group % 2 * 16..][..16];
        for ((weight, q), third) in out.iter_mut().zip(two_bits(&block[32..96], group)).zip(third) {
            // A third bit that is missing takes four away.
            let offset = if third >> (group / 2) & 1 == 0 { 4.0 } else { 0.0 };
            *weight = scale * (f32::from(q) - offset);
        }
    }
    scale.is_finite()
}

/// Scale, minimum, scales and minimums of 6 bits for 32 weights (12 bytes), 4 bits a weight (128).
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; WEIGHTS]) -> bool {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (small_scale, small_minimum) = six_bits(&block[4..16], group);
        let (scale, minimum) = (scale * small_scale, minimum * small_minimum);
        for (weight, q) in out.iter_mut().zip(four_bits(&block[16..], group)) {
            *weight = scale * f32::from(q) - minimum;
        }
    }
    scale.is_finite() && minimum.is_finite()
}

/// As `q4_k`, with the fifth bits (32 bytes) before the lower four.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; WEIGHTS]) -> bool {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (small_scale, small_minimum) = six_bits(&block[4..16], group);
        let (scale, minimum) = (scale * small_scale, minimum * small_minimum);
        let fifth = &block[16..48];
        for ((weight, q), fifth) in out.iter_mut().zip(four_bits(&block[48..], group)).zip(fifth) {
            *weight = scale * f32::from(q | (fifth >> group & 1) << 4) - minimum;
        }
    }
    scale.is_finite() && minimum.is_finite()
}

/// The lower four bits (128 bytes), the upper two (64), signed scales of a byte for sixteen weights (16), scale.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; WEIGHTS]) -> bool {
    let scale = half(block, 208);
    for (group, (out, &small_scale)) in out.chunks_exact_mut(16).zip(&block[192..208]).enumerate() {
        let scale = scale * f32::from(i8::from_le_bytes([small_scale]));
        // Of 128 weights, the first 64 are low nibbles and the others the high nibbles of the same bytes.
        let low = &block[group / 8 * 64 + group % 4 * 16..][..16];
        let shift = group / 4 % 2 * 4;
        for ((weight, low), high) in out.iter_mut().zip(low).zip(two_bits(&block[128..192], group)) {
            *weight = scale * (f32::from(low >> shift & 15 | high << 4) - 32.0);
        }
    }
    scale.is_finite()
}

/// Scale, the upper two bits of scales for 32 weights (2 bytes), their lower four (4), 4 bits a weight (128).
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; WEIGHTS]) -> bool {
    let scale = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let scale = scale * (f32::from(u16::from(low) | (high >> (group * 2) & 3) << 4) - 32.0);
        let bytes = &block[8 + group * 16..][..16];
        let (first, second) = out.split_at_mut(16);
        for ((first, second), byte) in first.iter_mut().zip(second).zip(bytes) {
            *first = scale * LEVELS[usize::from(byte & 15)];
            *second = scale * LEVELS[usize::from(byte >> 4)];
        }
    }
    scale.is_finite()
}

/// The weights of a group of sixteen, two bits each. Of 128 weights, each 32 are one pair of bits of the same bytes.
fn two_bits(bytes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let shift = group / 2 % 4 * 2;
    bytes[group / 8 * 32 + group % 2 * 16..][..16].iter().map(move |byte| byte >> shift & 3)
}

/// The weights of a group of 32, four bits each. Two groups are the low and the high halves of the same bytes.
fn four_bits(bytes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let shift = group % 2 * 4;
    bytes[group / 2 * 32..][..32].iter().map(move |byte| byte >> shift & 15)
}

/// Scale and minimum of a group, 6 bits each, where eight of both share 12 bytes: those of the first four groups
/// lie in bytes of their own, whose upper two bits complete the nibbles that are left to the others.
fn six_bits(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let nibbles = packed[group + 4];
        (nibbles & 15 | packed[group - 4] >> 2 & 48, nibbles >> 4 | packed[group] >> 2 & 48)
    };
    (f32::from(scale), f32::from(minimum))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the float16 numbers of a block lie.
    const HALVES: [(&str, &[usize]); 6] = [
        ("q2_k", &[80, 82]),
        ("q3_k", &[108]),
        ("q4_k", &[0, 2]),
        ("q5_k", &[0, 2]),
        ("q6_k", &[208]),
        ("iq4_xs", &[0]),
    ];

    fn read(name: &str, block: &[u8]) -> (bool, [f32; WEIGHTS]) {
        let mut out = [f32::NAN; WEIGHTS];
        let fits = "has the length of its type";
        let finite = match name {
            "q2_k" => q2_k(block[..84].try_into().expect(fits), &mut out),
            "q3_k" => q3_k(block[..110].try_into().expect(fits), &mut out),
            "q4_k" => q4_k(block[..144].try_into().expect(fits), &mut out),
            "q5_k" => q5_k(block[..176].try_into().expect(fits), &mut out),
            "q6_k" => q6_k(block[..210].try_into().expect(fits), &mut out),
            _ => iq4_xs(block[..136].try_into().expect(fits), &mut out),
        };
        (finite, out)
    }

    #[test]
    fn every_weight_is_written_and_every_float16_is_watched() {
        for (name, halves) in HALVES {
            let (finite, out) = read(name, &[0; 210]);
            assert!(finite && out.iter().all(|weight| *weight == 0.0), "{name}");
            for &at in halves {
                let mut block = [0; 210];
                block[at + 1] = 0x7C; // infinity
                assert!(!read(name, &block).0, "{name} at {at}");
            }
        }
    }

    #[test]
    fn scales_of_six_bits_are_those_that_were_packed() {
        let scales: Vec<u8> = (0..8).map(|i| 63 - 7 * i).collect();
        let minimums: Vec<u8> = (0..8).map(|i| 5 + 8 * i).map(|minimum| minimum & 63).collect();
        let mut packed = [0; 12];
        for i in 0..4 {
            packed[i] = scales[i] | (scales[i + 4] & 48) << 2;
            packed[i + 4] = minimums[i] | (minimums[i + 4] & 48) << 2;
            packed[i + 8] = scales[i + 4] & 15 | minimums[i + 4] << 4;
        }
        for group in 0..8 {
            let expected = (f32::from(scales[group]), f32::from(minimums[group]));
            assert_eq!(six_bits(&packed, group), expected, "{group}");
        }
    }

    #[test]
    fn a_weight_of_q4_k_is_its_groups_scale_times_q_less_its_minimum() {
        let mut block = [0; 210];
        block[..4].copy_from_slice(&[0x00, 0x3C, 0x00, 0x38]); // 1 and 0.5
        (block[4], block[8]) = (3, 6); // of the first group
        block[16 + 7] = 0x05; // weight 7 of the first, weight 7 of the second
        let (_, out) = read("q4_k", &block);
        assert_eq!((out[7], out[8], out[32 + 7]), (3.0 * 5.0 - 3.0, -3.0, 0.0));
    }
}
