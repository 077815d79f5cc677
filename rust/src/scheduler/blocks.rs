//! The pool of KV blocks: how many sequences hold each block, and which free block is given out next.
//!
//! Takes and gives block numbers, in pairs: every `allocate` or `share` is ended by one `free`. What a block
//! holds is left to others; the pool only remembers whether its last holder thought it worth keeping.

use crate::error::Error;

/// Number of a block in the pool, from 0.
pub type BlockId = u32;

/// Reference counts of all blocks, and the free ones in the order of their reuse. All operations are O(1).
///
/// Free blocks form two rings, threaded through the same two arrays: *blank* blocks, whose contents nobody
/// wants, and *cached* ones, which still hold a prefix. Blank blocks are given out first; only when none is
/// left does the pool take the cached block that was freed longest ago. A free block keeps its contents until
/// then, and `share` brings it back.
#[derive(Debug, Clone)]
pub struct BlockPool {
    /// Holders of each block; 0 for a free one.
    references: Vec<u32>,
    /// Neighbours in the ring, for free blocks and the two sentinels behind them.
    previous: Vec<u32>,
    next: Vec<u32>,
    num_blank: usize,
    num_cached: usize,
}

impl BlockPool {
    /// A pool of `num_blocks` blank blocks; the first ones are given out first.
    pub fn new(num_blocks: u32) -> Self {
        let sentinels = num_blocks as usize + 2;
        let mut pool = Self {
            references: vec![0; num_blocks as usize],
            previous: (0..sentinels as u32).collect(),
            next: (0..sentinels as u32).collect(),
            num_blank: num_blocks as usize,
            num_cached: 0,
        };
        let blank = pool.blank();
        for block in 0..num_blocks {
            pool.append(blank, block);
        }
        pool
    }

    /// All blocks, free or not.
    pub fn num_blocks(&self) -> usize {
        self.references.len()
    }

    /// Blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        self.num_blank + self.num_cached
    }

    /// Free blocks that were worth keeping when they were freed.
    pub fn num_cached(&self) -> usize {
        self.num_cached
    }

    /// How many hold the block.
    pub fn references(&self, block: BlockId) -> u32 {
        self.references[block as usize]
    }

    /// Gives a free block to one holder, or None if all are held. Whoever knew its old contents must forget them.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = if self.num_blank > 0 {
            self.num_blank -= 1;
            self.next[self.blank() as usize]
        } else if self.num_cached > 0 {
            self.num_cached -= 1;
            self.next[self.cached() as usize]
        } else {
            return None;
        };
        self.unlink(block);
        self.references[block as usize] = 1;
        Some(block)
    }

    /// Adds a holder to a block that is held, or free and cached.
    pub fn share(&mut self, block: BlockId) {
        if self.references[block as usize] == 0 {
            self.num_cached -= 1;
            self.unlink(block);
        }
        self.references[block as usize] += 1;
    }

    /// Takes one holder away. After the last one the block is free; `keep` says whether its contents are worth
    /// keeping as long as there are others to reuse.
    ///
    /// Panics if nobody holds the block: our own bookkeeping is broken, and going on would let two sequences
    /// write to the same place.
    pub fn free(&mut self, block: BlockId, keep: bool) {
        let references = &mut self.references[block as usize];
        assert!(*references > 0, "block {block} was freed twice");
        *references -= 1;
        if *references > 0 {
            return;
        }
        if keep {
            self.num_cached += 1;
            self.append(self.cached(), block);
        } else {
            self.num_blank += 1;
            self.append(self.blank(), block);
        }
    }

    /// Cached free blocks, the next one to be reused first.
    pub fn cached_blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.ring(self.cached())
    }

    /// Checks that each block is either held or in exactly one ring, and that the counts agree.
    pub fn check_integrity(&self) -> Result<(), Error> {
        let mut seen = vec![false; self.num_blocks()];
        for (sentinel, count) in [(self.blank(), self.num_blank), (self.cached(), self.num_cached)] {
            let mut length = 0;
            for block in self.ring(sentinel) {
                if self.references[block as usize] > 0 {
                    return Err(Error::Internal(format!("block {block} is held and free")));
                }
                if std::mem::replace(&mut seen[block as usize], true) {
                    return Err(Error::Internal(format!("block {block} is twice in the free rings")));
                }
                if self.previous[self.next[block as usize] as usize] != block {
                    return Err(Error::Internal(format!("the free ring is broken after block {block}")));
                }
                length += 1;
            }
            if length != count {
                return Err(Error::Internal(format!(
                    "a free ring has {length} blocks, {count} were counted"
                )));
            }
        }
        match (0..self.num_blocks()).find(|&block| !seen[block] && self.references[block] == 0) {
            Some(block) => Err(Error::Internal(format!("block {block} is lost: neither held nor free"))),
            None => Ok(()),
        }
    }

    /// Index of the sentinel that starts and ends the ring of blank blocks.
    fn blank(&self) -> u32 {
        self.references.len() as u32
    }

    /// Index of the sentinel that starts and ends the ring of cached blocks.
    fn cached(&self) -> u32 {
        self.references.len() as u32 + 1
    }

    fn ring(&self, sentinel: u32) -> impl Iterator<Item = BlockId> + '_ {
        let after = move |node: u32| Some(self.next[node as usize]).filter(|&next| next != sentinel);
        std::iter::successors(after(sentinel), move |&block| after(block))
    }

    fn append(&mut self, sentinel: u32, block: BlockId) {
        let last = self.previous[sentinel as usize];
        self.next[last as usize] = block;
        self.previous[block as usize] = last;
        self.next[block as usize] = sentinel;
        self.previous[sentinel as usize] = block;
    }

    fn unlink(&mut self, block: BlockId) {
        let (previous, next) = (self.previous[block as usize], self.next[block as usize]);
        self.next[previous as usize] = next;
        self.previous[next as usize] = previous;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_blocks_are_given_out_before_cached_ones() {
        let mut pool = BlockPool::new(3);
        let held: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(held, [0, 1, 2]);

        pool.free(0, true);
        pool.free(1, true);
        pool.free(2, false);

        assert_eq!(pool.num_cached(), 2);
        assert_eq!(std::iter::from_fn(|| pool.allocate()).collect::<Vec<_>>(), [2, 0, 1]);
        pool.check_integrity().unwrap();
    }

    #[test]
    fn sharing_a_free_block_saves_it_from_reuse() {
        let mut pool = BlockPool::new(3);
        for _ in 0..3 {
            pool.allocate().unwrap();
        }
        for block in 0..3 {
            pool.free(block, true);
        }

        pool.share(1); // from the middle of the ring

        assert_eq!(pool.references(1), 1);
        assert_eq!(pool.cached_blocks().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(std::iter::from_fn(|| pool.allocate()).collect::<Vec<_>>(), [0, 2]);
        pool.check_integrity().unwrap();
    }

    #[test]
    fn a_block_is_free_only_after_its_last_holder() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        pool.share(block);
        pool.free(block, false);
        assert_eq!((pool.num_free(), pool.allocate()), (0, None));
        pool.free(block, false);
        assert_eq!((pool.num_free(), pool.allocate()), (1, Some(block)));
    }

    #[test]
    #[should_panic(expected = "block 0 was freed twice")]
    fn freeing_twice_is_never_silent() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        pool.free(block, false);
        pool.free(block, false);
    }

    #[test]
    fn integrity_notices_a_lost_block() {
        let mut pool = BlockPool::new(2);
        pool.allocate().unwrap();
        pool.references[0] = 0;
        assert_eq!(
            pool.check_integrity(),
            Err(Error::Internal("block 0 is lost: neither held nor free".into()))
        );
    }
}
