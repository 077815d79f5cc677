//! Where letters, spaces and the other classes lie in a stretch of text: takes text, gives one bit per byte and class,
//! so that the rules of 64 bytes are a few operations on numbers. What the classes mean is `words`'s.

use super::classes::{Classes, DIGIT, LETTER, NUMBER, SPACE};
use super::simd::{self, Bits, each_block};

/// How much text is looked at in one go, so that the bits stay in the first cache.
const WINDOW: usize = 8 << 10;
/// More than the bytes behind a character that decide about it: the character behind, or a contraction's letters.
const MARGIN: usize = 16;

/// The bytes of a block: as many as a number has bits.
const BLOCK: usize = 64;

/// The classes of 64 bytes: bit `i` stands for the byte `i`, a character has the same in all its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block {
    pub letters: u64,
    pub numbers: u64,
    pub spaces: u64,
    /// Digits that are cut out first, and no numbers.
    pub digits: u64,
    pub newlines: u64,
    pub blanks: u64,
    pub apostrophes: u64,
    /// First bytes of characters beyond ASCII.
    pub leads: u64,
    /// Bytes that begin no character.
    pub inside: u64,
}

/// The bits of one stretch of text.
pub(super) struct Masks {
    start: usize,
    end: usize,
    is_last: bool,
    length: usize,
    /// One block more stands before the text and one behind.
    blocks: Vec<Block>,
}

impl Masks {
    pub(super) fn new() -> Self {
        Self { start: 0, end: 0, is_last: true, length: WINDOW, blocks: Vec::new() }
    }

    /// Looks at `text` from `start` on. Where a word did not fit the last time, `longer` looks further.
    pub(super) fn look(&mut self, text: &[u8], start: usize, digits_apart: bool, longer: bool) {
        self.length = if longer { 2 * self.length } else { WINDOW };
        self.start = start;
        self.end = text.len().min(start + self.length);
        self.is_last = self.end == text.len();
        let count = (self.end - start).div_ceil(BLOCK);
        if !longer {
            // One giant word must not hold its memory forever.
            self.blocks.truncate(count + 2);
            self.blocks.shrink_to(WINDOW / BLOCK + 2);
        }
        self.blocks.resize(count + 2, Block::default());
        self.blocks[0] = Block::default();
        self.blocks[count + 1] = Block { spaces: !0, ..Block::default() };
        let any_high = self.mark_ascii(&text[start..self.end], digits_apart);
        if any_high {
            self.mark_others(text, digits_apart);
        }
        // What is behind the text counts as a space, so that nothing ends before it but the text.
        let rest = (self.end - start) % BLOCK;
        if rest > 0 {
            self.blocks[count].spaces |= !0 << rest;
        }
    }

    /// Each block with the one before and the one behind it.
    #[inline]
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = [&Block; 3]> {
        self.blocks.windows(3).map(|three| [&three[0], &three[1], &three[2]])
    }

    /// Where the bits begin in the text.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Where they end.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The first byte of the character that has the byte of bit `at`.
    pub(super) fn character_start(&self, at: usize) -> usize {
        self.back(at + 1, |block| block.inside) - 1
    }

    /// Where the spaces that end with bit `at` begin, if that is behind a newline which is left to spaces.
    pub(super) fn start_behind_newline(&self, at: usize) -> Option<usize> {
        let start = self.back(at, |block| block.spaces & !block.newlines);
        let newlines = self.back(start, |block| block.newlines);
        let is_other = |at: usize| !self.is(at, |block| block.letters | block.numbers | block.spaces);
        (newlines < start && !(newlines > 0 && is_other(newlines - 1))).then_some(start)
    }

    /// The first bit of the run that ends before `at`.
    fn back(&self, mut at: usize, of: fn(&Block) -> u64) -> usize {
        while at > 0 && self.is(at - 1, of) {
            at -= 1;
        }
        at
    }

    fn is(&self, at: usize, of: fn(&Block) -> u64) -> bool {
        of(&self.blocks[1 + at / BLOCK]) >> (at % BLOCK) & 1 == 1
    }

    /// Up to where words may end: all that decides about it was seen. Words that go on beyond it are looked at again.
    pub(super) fn limit(&self) -> usize {
        if self.is_last {
            return self.end;
        }
        // What becomes of spaces depends on all that follow.
        let limit = self.end - MARGIN - self.start;
        self.start + self.back(limit + 1, |block| block.spaces).saturating_sub(1)
    }

    /// Marks what is ASCII; says whether anything is not.
    fn mark_ascii(&mut self, text: &[u8], digits_apart: bool) -> bool {
        let (mut turn, mut any_high) = (0, 0);
        let mut put = |bits: Bits| {
            // Each number is put where it stays: a block that was copied would wait for what was just written.
            let block = &mut self.blocks[1 + turn / 2];
            let put = |mask: &mut u64, bits: u32| {
                *mask = if turn % 2 == 0 { bits.into() } else { *mask | u64::from(bits) << simd::BLOCK };
            };
            put(&mut block.letters, bits.letters);
            put(&mut block.numbers, if digits_apart { 0 } else { bits.digits });
            put(&mut block.digits, if digits_apart { bits.digits } else { 0 });
            put(&mut block.spaces, bits.spaces);
            put(&mut block.newlines, bits.newlines);
            put(&mut block.blanks, bits.blanks);
            put(&mut block.apostrophes, bits.apostrophes);
            put(&mut block.leads, bits.high & !bits.inside);
            put(&mut block.inside, bits.inside);
            any_high |= bits.high;
            turn += 1;
        };
        let (blocks, rest) = text.as_chunks();
        each_block(blocks, &mut put);
        if !rest.is_empty() {
            let mut block = [0; simd::BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            each_block(&[block], &mut put);
        }
        any_high != 0
    }

    /// Marks the characters beyond ASCII.
    fn mark_others(&mut self, text: &[u8], digits_apart: bool) {
        let classes = Classes::shared();
        let apart = if digits_apart { DIGIT } else { 0 };
        let mut before = Block::default();
        for (from, block) in (self.start..).step_by(BLOCK).zip(&mut self.blocks[1..]) {
            let (mut letters, mut numbers, mut spaces, mut digits) = (0, 0, 0, 0);
            let mut leads = block.leads;
            while leads != 0 {
                let at = leads.trailing_zeros();
                leads &= leads - 1;
                let class = classes.at(text, from + at as usize).0;
                let bit = |wanted: u8| u64::from(class & wanted != 0) << at;
                if class & apart == 0 {
                    letters |= bit(LETTER);
                    numbers |= bit(NUMBER);
                    spaces |= bit(SPACE);
                } else {
                    digits |= bit(DIGIT);
                }
            }
            block.letters |= letters;
            block.numbers |= numbers;
            block.spaces |= spaces;
            block.digits |= digits;
            // What a character is, so are the bytes behind its first.
            let inside = block.inside;
            let spread = |mask: &mut u64, before: u64| {
                *mask |= before >> 63 & inside;
                for _ in 0..3 {
                    *mask |= *mask << 1 & inside;
                }
            };
            spread(&mut block.letters, before.letters);
            spread(&mut block.numbers, before.numbers);
            spread(&mut block.spaces, before.spaces);
            spread(&mut block.digits, before.digits);
            before = *block;
        }
    }
}
