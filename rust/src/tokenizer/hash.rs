//! Hashes of words and pairs. They choose places in tables that compare what they hold, so that a collision costs
//! time and never a wrong id.

const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xd1b5_4a32_d192_ed03;

/// Both halves of a product, mixed.
#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// Of two numbers. The higher bits are the better ones.
#[inline]
pub(super) fn of_pair(left: u64, right: u64) -> u64 {
    fold(left ^ FIRST, right ^ SECOND)
}

/// Of four numbers.
#[inline]
pub(super) fn of_four(numbers: [u64; 4]) -> u64 {
    of_pair(of_pair(numbers[0], numbers[1]) ^ numbers[2], numbers[3])
}

/// Of bytes, sixteen at a time; of long texts in four sums side by side, as none has to wait for another.
#[inline]
pub(super) fn of_bytes(bytes: &[u8]) -> u64 {
    let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let (blocks, rest) = bytes.as_chunks::<8>();
    let (pairs, single) = blocks.as_chunks::<2>();
    let (fours, pairs) = pairs.as_chunks::<4>();
    let step =
        |hash: u64, [left, right]: &[[u8; 8]; 2]| fold(hash ^ number(left) ^ FIRST, number(right) ^ SECOND);
    let mut sums = [bytes.len() as u64; 4];
    for four in fours {
        for (sum, pair) in sums.iter_mut().zip(four) {
            *sum = step(*sum, pair);
        }
    }
    let mut hash = sums[0] ^ sums[1].rotate_left(16) ^ sums[2].rotate_left(32) ^ sums[3].rotate_left(48);
    for pair in pairs {
        hash = step(hash, pair);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let single = single.first().map_or(0, number);
    of_pair(hash ^ single, u64::from_le_bytes(last).wrapping_add(hash.rotate_left(32)))
}
