//! The blocks of those layers of a model that keep equally much: every position, or those within a window.
//!
//! Takes positions and prefixes, gives block numbers. Which sequence may have them is the scheduler's.

use super::blocks::{BlockId, BlockPool};
use super::prefix_cache::PrefixCache;

/// Stands in a table for a block that was given back because it lies behind the window.
pub const NO_BLOCK: BlockId = BlockId::MAX;

/// What the layers of one group have, and how much they keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupConfig {
    /// Blocks in the group's pool.
    pub num_blocks: u32,
    /// How many positions a position attends to, itself included; None for all before it. Blocks behind the window are
    /// given back, so a long sequence needs no more blocks than its window and the steps in flight.
    pub window: Option<u32>,
}

/// A sequence's blocks in one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// In order of position; [`NO_BLOCK`] for the first `released` of them.
    pub blocks: Vec<BlockId>,
    /// Leading blocks that lie behind the window and were given back.
    pub released: usize,
}

impl Table {
    /// The blocks that are still held.
    pub fn held(&self) -> &[BlockId] {
        &self.blocks[self.released..]
    }
}

/// The pool of one group, and the prefixes in it.
#[derive(Debug, Clone)]
pub struct Group {
    /// See [`GroupConfig`].
    pub window: Option<u32>,
    /// Which block is free.
    pub pool: BlockPool,
    /// Which block holds what.
    pub cache: PrefixCache,
}

impl Group {
    /// All blocks blank.
    pub fn new(config: GroupConfig) -> Self {
        Self {
            window: config.window,
            pool: BlockPool::new(config.num_blocks),
            cache: PrefixCache::new(config.num_blocks),
        }
    }

    /// A free block, whose contents are forgotten; None if all are held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.pool.allocate()?;
        self.cache.forget(block);
        Some(block)
    }

    /// Ends one hold on a block.
    pub fn free(&mut self, block: BlockId) {
        self.pool.free(block, self.cache.holds(block));
    }

    /// Gives back all that a sequence holds: the last block first, so that the beginning of a prefix is evicted after
    /// what follows it.
    pub fn free_all(&mut self, table: &Table) {
        table.held().iter().rev().for_each(|&block| self.free(block));
    }

    /// Gives back the blocks that no position from `position` on will look at.
    pub fn release_behind(&mut self, table: &mut Table, position: u32, block_size: u32) {
        let Some(window) = self.window else { return };
        let unseen = ((position + 1).saturating_sub(window) / block_size) as usize;
        let unseen = unseen.min(table.blocks.len());
        for index in table.released..unseen {
            let block = std::mem::replace(&mut table.blocks[index], NO_BLOCK);
            self.free(block);
        }
        table.released = table.released.max(unseen);
    }

    /// Most blocks that a sequence of so many tokens holds at a time: all of them, or those of its window and of
    /// `in_flight` positions that are being computed.
    pub fn blocks_for(&self, num_tokens: usize, in_flight: usize, block_size: u32) -> usize {
        let size = block_size as usize;
        let all = num_tokens.div_ceil(size);
        self.window.map_or(all, |window| all.min((window as usize + in_flight).div_ceil(size) + 1))
    }

    /// How many blocks before its own the first position of a block looks at.
    fn seen(&self, block_size: u32) -> usize {
        self.window.map_or(usize::MAX, |window| (window - 1).div_ceil(block_size) as usize)
    }
}

/// What the groups know of a prompt, block by block from its beginning.
///
/// A prefix is found in a group if the blocks are known that a position behind it looks at, and found at all if it is
/// in every group.
pub struct PrefixSearch {
    runs: Vec<Run>,
    /// Blocks of the longest prefix that every group has.
    found: usize,
}

/// The blocks that one group knows.
struct Run {
    /// How many blocks back a position looks; `usize::MAX` for all.
    seen: usize,
    /// [`NO_BLOCK`] for those that are not known.
    blocks: Vec<BlockId>,
    /// How many of the last `blocks` are known without a gap.
    length: usize,
}

impl PrefixSearch {
    /// Before the first block.
    pub fn new(groups: &[Group], block_size: u32) -> Self {
        let run = |group: &Group| Run { seen: group.seen(block_size), blocks: Vec::new(), length: 0 };
        Self { runs: groups.iter().map(run).collect(), found: 0 }
    }

    /// Takes what each group knows of the next block; false if nothing further on can be found.
    pub fn push(&mut self, known: impl Iterator<Item = Option<BlockId>>) -> bool {
        let (mut complete, mut goes_on) = (true, true);
        for (run, block) in self.runs.iter_mut().zip(known) {
            run.length = if block.is_some() { run.length + 1 } else { 0 };
            run.blocks.push(block.unwrap_or(NO_BLOCK));
            let lacks = run.length < run.seen.min(run.blocks.len());
            complete &= !lacks;
            goes_on &= !(lacks && run.seen == usize::MAX);
        }
        if complete {
            self.found = self.runs.first().map_or(0, |run| run.blocks.len());
        }
        goes_on
    }

    /// The blocks of the longest prefix that was found: in each group those that a position behind it looks at.
    pub fn into_tables(self) -> Vec<Table> {
        let found = self.found;
        let table = |mut run: Run| {
            let released = found.saturating_sub(run.seen);
            run.blocks.truncate(found);
            run.blocks[..released].fill(NO_BLOCK);
            Table { blocks: run.blocks, released }
        };
        self.runs.into_iter().map(table).collect()
    }
}
