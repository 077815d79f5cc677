//! Where letters, spaces and the other classes lie in a stretch of text: takes text, gives one bit per byte and class,
//! so that the end of a run is a count of bits. What the runs mean is `words`'s.

use super::classes::{Classes, DIGIT, LETTER, NUMBER, SPACE};
use super::simd::{BLOCK, Bits, each_block};

/// How much text is looked at in one go, so that the bits stay in the first cache.
const WINDOW: usize = 8 << 10;
/// Bytes that a rule may look at behind a run.
const MARGIN: usize = 16;

/// The bits of one stretch of text: bit `i` stands for the byte at `start + i`, a character has the same in all its bytes.
pub(super) struct Masks {
    start: usize,
    /// Runs that end before this are whole.
    limit: usize,
    end: usize,
    length: usize,
    letters: Vec<u8>,
    spaces: Vec<u8>,
    /// Letters, numbers and spaces.
    known: Vec<u8>,
    /// Bytes of characters beyond ASCII.
    high: Vec<u8>,
}

impl Masks {
    pub(super) fn new() -> Self {
        let none = Vec::new;
        Self {
            start: 0,
            limit: 0,
            end: 0,
            length: WINDOW,
            letters: none(),
            spaces: none(),
            known: none(),
            high: none(),
        }
    }

    /// Looks at `text` from `start` on. Where a word did not fit the last time, `longer` looks further.
    pub(super) fn look(&mut self, text: &[u8], start: usize, digits_apart: bool, longer: bool) {
        self.length = if longer { 2 * self.length } else { WINDOW };
        self.start = start;
        self.end = text.len().min(start + self.length);
        self.limit = if self.end == text.len() { usize::MAX } else { self.end - MARGIN };
        // A read takes eight bytes from any place of a mask.
        let used = (self.end - start).div_ceil(BLOCK) * size_of::<u32>();
        let size = used + size_of::<u64>();
        for mask in [&mut self.letters, &mut self.spaces, &mut self.known, &mut self.high] {
            if mask.len() < size {
                mask.resize(size, 0);
            }
            mask[used..size].fill(0);
        }
        let any_high = self.mark_ascii(&text[start..self.end]);
        if any_high {
            self.mark_others(text, digits_apart);
        }
    }

    /// Marks what is ASCII; says whether anything is not.
    fn mark_ascii(&mut self, text: &[u8]) -> bool {
        let mut any_high = 0;
        let mut at = 0;
        let mut put = |bits: Bits| {
            let place = at..at + size_of::<u32>();
            self.letters[place.clone()].copy_from_slice(&bits.letters.to_le_bytes());
            self.spaces[place.clone()].copy_from_slice(&bits.spaces.to_le_bytes());
            let known = bits.letters | bits.spaces | bits.digits;
            self.known[place.clone()].copy_from_slice(&known.to_le_bytes());
            self.high[place].copy_from_slice(&bits.high.to_le_bytes());
            any_high |= bits.high;
            at += size_of::<u32>();
        };
        let (blocks, rest) = text.as_chunks();
        each_block(blocks, &mut put);
        if !rest.is_empty() {
            let mut block = [0; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            each_block(&[block], &mut put);
        }
        any_high != 0
    }

    /// Marks the characters beyond ASCII, a run of one class at a time.
    fn mark_others(&mut self, text: &[u8], digits_apart: bool) {
        let classes = Classes::shared();
        let apart = if digits_apart { DIGIT } else { 0 };
        let mut at = self.start;
        loop {
            at = self.next(&self.high, at);
            if at >= self.end {
                return;
            }
            let start = at;
            // A window may begin and end inside of a character only where no word begins.
            let (class, size) = classes.at(text, at);
            let kind = class & (LETTER | NUMBER | SPACE | apart);
            at += size;
            while at < self.end && text[at] >= 0x80 {
                let (class, size) = classes.at(text, at);
                if class & (LETTER | NUMBER | SPACE | apart) != kind {
                    break;
                }
                at += size;
            }
            if kind != 0 {
                let (from, to) = (start - self.start, at.min(self.end) - self.start);
                fill(&mut self.known, from, to);
                if kind & (LETTER | apart) == LETTER {
                    fill(&mut self.letters, from, to);
                }
                if kind & (SPACE | apart) == SPACE {
                    fill(&mut self.spaces, from, to);
                }
            }
        }
    }

    /// The letters from `at` on; the lowest bit is that of `at`, at least 57 are there.
    #[inline]
    pub(super) fn letters(&self, at: usize) -> u64 {
        bits(&self.letters, at - self.start)
    }

    /// Where the run of letters around `at` ends; None if that lies beyond what was looked at.
    #[inline]
    pub(super) fn letters_end(&self, at: usize) -> Option<usize> {
        self.whole(self.run(&self.letters, at))
    }

    #[inline]
    pub(super) fn spaces_end(&self, at: usize) -> Option<usize> {
        self.whole(self.run(&self.spaces, at))
    }

    /// Where the run of what is neither letter, number nor space ends.
    #[inline]
    pub(super) fn others_end(&self, at: usize) -> Option<usize> {
        self.whole(self.next(&self.known, at))
    }

    #[inline]
    pub(super) fn whole(&self, end: usize) -> Option<usize> {
        (end <= self.limit).then_some(end)
    }

    /// The end of the run of ones at `at`.
    #[inline]
    fn run(&self, mask: &[u8], mut at: usize) -> usize {
        loop {
            let ones = bits(mask, at - self.start).trailing_ones() as usize;
            at += ones.min(56);
            if ones <= 56 {
                return at.min(self.end);
            }
        }
    }

    /// The first one from `at` on, or the end.
    #[inline]
    fn next(&self, mask: &[u8], mut at: usize) -> usize {
        while at < self.end {
            let zeros = bits(mask, at - self.start).trailing_zeros() as usize;
            if zeros <= 56 {
                return (at + zeros).min(self.end);
            }
            at += 56;
        }
        self.end
    }
}

/// At least 57 bits of a mask from `bit` on.
#[inline]
fn bits(mask: &[u8], bit: usize) -> u64 {
    match mask[bit / 8..].first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes) >> (bit % 8),
        None => 0,
    }
}

/// Sets the bits `from..to`.
fn fill(mask: &mut [u8], from: usize, to: usize) {
    let (first, last) = (from / 8, (to - 1) / 8);
    let (head, tail) = (0xffu8 << (from % 8), 0xffu8 >> (7 - (to - 1) % 8));
    if first == last {
        mask[first] |= head & tail;
    } else {
        mask[first] |= head;
        mask[first + 1..last].fill(0xff);
        mask[last] |= tail;
    }
}
