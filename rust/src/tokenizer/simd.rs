//! The classes of ASCII, many bytes at a time: takes blocks of text, gives a bit per byte and class. The widest way that
//! the processor knows is chosen at run time; the portable one is eight bytes in one number. And what a table holds, asked for ahead.
#![expect(
    unsafe_code,
    reason = "what one kind of processor knows is called by its own name, after asking for it"
)]

/// The bytes of a block.
pub(super) const BLOCK: usize = 32;

/// One bit per byte of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bits {
    pub letters: u32,
    pub digits: u32,
    /// Spaces, tabs and what else ASCII has of `\s`.
    pub spaces: u32,
    pub newlines: u32,
    pub blanks: u32,
    pub apostrophes: u32,
    /// Bytes beyond ASCII, which have no other bit.
    pub high: u32,
    /// Those of them that begin no character.
    pub inside: u32,
}

/// Gives the bits of each block.
pub(super) fn each_block(blocks: &[[u8; BLOCK]], put: impl FnMut(Bits)) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just asked.
        return unsafe { avx2::each_block(blocks, put) };
    }
    blocks.iter().map(portable).for_each(put);
}

/// Asks for what lies at `place`, which may be anywhere, before it is looked at.
#[inline]
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this kind knows the hint, no address is wrong for it, and a program sees no change.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// The bits of one block.
pub(super) fn portable(block: &[u8; BLOCK]) -> Bits {
    let (eights, _) = block.as_chunks::<8>();
    let mut bits = Bits::default();
    for (turn, eight) in eights.iter().enumerate() {
        let bytes = u64::from_le_bytes(*eight);
        let ascii = bytes & !HIGH;
        // Adding carries into the highest bit of a byte that is at least as large as asked.
        let from = |bytes: u64, first: u8| bytes + splat(0x80 - first);
        let within = |bytes, first, last| from(bytes, first) & !from(bytes, last + 1);
        let is = |byte| within(ascii, byte, byte);
        let put = |found: u64| movemask(found & HIGH & !bytes) << (8 * turn);
        bits.letters |= put(within(ascii | splat(0x20), b'a', b'z'));
        bits.digits |= put(within(ascii, b'0', b'9'));
        bits.spaces |= put(within(ascii, b'\t', b'\r') | is(b' '));
        bits.newlines |= put(is(b'\n') | is(b'\r'));
        bits.blanks |= put(is(b' '));
        bits.apostrophes |= put(is(b'\''));
        bits.high |= movemask(bytes & HIGH) << (8 * turn);
        bits.inside |= movemask(bytes & !(bytes << 1) & HIGH) << (8 * turn);
    }
    bits
}

const HIGH: u64 = splat(0x80);

const fn splat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The highest bit of each byte.
fn movemask(bytes: u64) -> u32 {
    ((bytes >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_min_epu8,
        _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };

    use super::{BLOCK, Bits};

    #[target_feature(enable = "avx2")]
    pub(super) fn each_block(blocks: &[[u8; BLOCK]], mut put: impl FnMut(Bits)) {
        for block in blocks {
            // SAFETY: a block has the 32 bytes that are read, and no alignment is asked for.
            let bytes = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
            let blank = is(bytes, b' ');
            put(Bits {
                letters: mask(within(_mm256_or_si256(bytes, splat(0x20)), b'a', b'z')),
                digits: mask(within(bytes, b'0', b'9')),
                spaces: mask(_mm256_or_si256(within(bytes, b'\t', b'\r'), blank)),
                newlines: mask(_mm256_or_si256(is(bytes, b'\n'), is(bytes, b'\r'))),
                blanks: mask(blank),
                apostrophes: mask(is(bytes, b'\'')),
                high: mask(bytes),
                inside: mask(_mm256_cmpgt_epi8(splat(0xc0), bytes)),
            });
        }
    }

    /// Which bytes lie in `first..=last`: the distance from `first` wraps around below it.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn within(bytes: __m256i, first: u8, last: u8) -> __m256i {
        let distance = _mm256_sub_epi8(bytes, splat(first));
        _mm256_cmpeq_epi8(_mm256_min_epu8(distance, splat(last - first)), distance)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn is(bytes: __m256i, byte: u8) -> __m256i {
        _mm256_cmpeq_epi8(bytes, splat(byte))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(byte: u8) -> __m256i {
        _mm256_set1_epi8(byte.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mask(bytes: __m256i) -> u32 {
        _mm256_movemask_epi8(bytes).cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the bits say, byte by byte.
    fn expected(block: &[u8; BLOCK]) -> Bits {
        let mask = |is: fn(u8) -> bool| {
            (0..).zip(block).fold(0, |bits, (at, &byte)| bits | u32::from(is(byte)) << at)
        };
        Bits {
            letters: mask(|byte| byte.is_ascii_alphabetic()),
            digits: mask(|byte| byte.is_ascii_digit()),
            spaces: mask(|byte| matches!(byte, b'\t'..=b'\r' | b' ')),
            newlines: mask(|byte| matches!(byte, b'\n' | b'\r')),
            blanks: mask(|byte| byte == b' '),
            apostrophes: mask(|byte| byte == b'\''),
            high: mask(|byte| !byte.is_ascii()),
            inside: mask(|byte| byte & 0xc0 == 0x80),
        }
    }

    #[test]
    fn every_byte_in_every_place_has_its_bits_in_every_way() {
        for byte in 0..=u8::MAX {
            for place in 0..BLOCK {
                let mut block = [byte.wrapping_mul(7).wrapping_add(place as u8); BLOCK];
                block[place] = byte;
                assert_eq!(portable(&block), expected(&block), "{block:?}");
                each_block(&[block], |bits| assert_eq!(bits, expected(&block), "{block:?}"));
            }
        }
    }
}
