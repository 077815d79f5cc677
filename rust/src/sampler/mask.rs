//! Which tokens may be drawn, as callers have it: one bool or one bit for each.

use super::blocks::BLOCK;

/// Tokens that may be drawn. Ids beyond the end of the mask may not.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// One flag for each token.
    Bools(&'a [bool]),
    /// One bit for each token, the lowest id in the lowest bit.
    Bits(&'a [u32]),
}

impl Mask<'_> {
    /// The bits of one block of 64 tokens.
    pub(super) fn word(self, block: usize) -> u64 {
        match self {
            Self::Bools(flags) => {
                let flags = flags.iter().skip(block * BLOCK).take(BLOCK).enumerate();
                flags.fold(0, |word, (place, &allowed)| word | u64::from(allowed) << place)
            }
            Self::Bits(words) => {
                let half = |index: usize| u64::from(words.get(index).copied().unwrap_or(0));
                half(2 * block) | half(2 * block + 1) << 32
            }
        }
    }

    /// The lowest id that may be drawn.
    #[must_use]
    pub fn lowest(self) -> Option<u32> {
        match self {
            Self::Bools(flags) => flags.iter().position(|&allowed| allowed).map(|id| id as u32),
            Self::Bits(words) => {
                let index = words.iter().position(|&word| word != 0)?;
                Some(32 * index as u32 + words[index].trailing_zeros())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_bools_tell_the_same() {
        for length in [1usize, 31, 32, 63, 64, 65, 200] {
            let flags: Vec<bool> = (0..length).map(|id| id % 7 == 3 || id + 1 == length).collect();
            let mut words = vec![0u32; length.div_ceil(32)];
            flags.iter().enumerate().for_each(|(id, &flag)| words[id / 32] |= u32::from(flag) << (id % 32));
            let (bools, bits) = (Mask::Bools(&flags), Mask::Bits(&words));
            assert!((0..5).all(|block| bools.word(block) == bits.word(block)), "length {length}");
            assert_eq!((bools.lowest(), bits.lowest()), (Some(3.min(length as u32 - 1)), bools.lowest()));
        }
        assert_eq!((Mask::Bools(&[false; 9]).lowest(), Mask::Bits(&[0; 3]).lowest()), (None, None));
    }
}
