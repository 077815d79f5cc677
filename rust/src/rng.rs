//! Philox 4x32-10, the counter-based generator behind every draw (Salmon et al., "Parallel random numbers:
//! as easy as 1, 2, 3", 2011).
//!
//! A random number is a function of what it is for, not of how many were drawn before it: no state, no
//! order, no neighbours. That is what lets a seed mean something in a batch.

/// What a random number is used for. Different purposes never share a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Which token comes next.
    Draw = 0,
}

/// Sixty-four random bits for one use of one sequence.
///
/// The key is `seed` (low word first), the counter is (`position`, `choice`, `purpose`, 0), and the answer
/// is word 0 of the block with word 1 above it.
#[must_use]
pub fn random_bits(seed: u64, position: u32, choice: u32, purpose: Purpose) -> u64 {
    let [low, high, ..] =
        philox_4x32_10([position, choice, purpose as u32, 0], [seed as u32, (seed >> 32) as u32]);
    u64::from(low) | u64::from(high) << 32
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// One block of the generator.
fn philox_4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        let check = |counter, key, expected: [u32; 4]| assert_eq!(philox_4x32_10(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn bits_are_the_first_two_words_of_the_block() {
        assert_eq!(random_bits(0, 0, 0, Purpose::Draw), 0xe169_c58d_6627_e8d5);
    }

    #[test]
    fn seed_position_and_choice_each_change_the_bits() {
        let bits = |seed, position, choice| random_bits(seed, position, choice, Purpose::Draw);
        let all = [bits(7, 0, 0), bits(7 + (1 << 32), 0, 0), bits(7, 1, 0), bits(7, 0, 1), bits(8, 0, 0)];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
    }
}
