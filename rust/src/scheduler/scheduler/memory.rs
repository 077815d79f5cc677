//! Blocks: who gets how many, who gives way when there are none, and which prefixes are shared.

use std::cmp::Reverse;

use super::{PendingRow, Scheduler};
use crate::scheduler::blocks::BlockId;
use crate::scheduler::sequence::{Change, Handle, NO_BLOCK};

/// Whether a waiting sequence may run now.
#[derive(PartialEq, Eq)]
pub(super) enum Room {
    /// It does.
    Found,
    /// There are no blocks for it, or as many run as may.
    None,
    /// The rest of the step's budget is too little for its first chunk.
    NoBudget,
}

impl Scheduler {
    /// Where the next in line has nothing running and finds no room, a sequence of a key that runs several and had at
    /// least as much gives way: of the key that had most, the one that has least to compute again. So who asks for little need not wait until those
    /// who asked for much have ended.
    ///
    /// One that has steps in flight is left out of the next ones, and gives way when they are over.
    pub(super) fn make_way(&mut self) {
        self.yielding = None;
        let Some((_, next)) = self.turns.next() else { return };
        if self.turns.running(self.sequences[next].key) > 0 {
            return;
        }
        loop {
            let shared = self.known_prefix(next);
            if self.has_room(next, &shared) {
                return;
            }
            if !self.could_find_room(next) {
                return;
            }
            let Some(index) = self.victim_for(next) else { return };
            let handle = self.running[index];
            if self.sequences[handle].in_flight > 0 {
                self.yielding = Some(handle);
                return;
            }
            self.preempt(index);
        }
    }

    /// Whether there would be blocks for a waiting sequence if all that may gave way to it: nobody does so in vain.
    fn could_find_room(&self, next: Handle) -> bool {
        let victims = self.running.iter().filter(|&&victim| self.gives_way(victim, next));
        let held: usize = victims.map(|&victim| self.sequences[victim].blocks.len()).sum();
        self.blocks_for(self.sequences[next].token_ids.len()) <= self.pool.num_free() + held
    }

    /// Whether a running sequence may give way to a waiting one of another key, which runs nothing yet.
    fn gives_way(&self, victim: Handle, next: Handle) -> bool {
        let (victim, next) = (&self.sequences[victim], &self.sequences[next]);
        victim.key != next.key
            && victim.priority >= next.priority
            && self.turns.running(victim.key) > 1
            && self.turns.spent(victim.key) >= self.turns.spent(next.key)
    }

    /// Place in `running` of the sequence that gives way to one of another key, which runs nothing yet.
    fn victim_for(&self, next: Handle) -> Option<usize> {
        let places = (0..self.running.len()).filter(|&index| self.gives_way(self.running[index], next));
        // Of that key, the one that has least to compute again; of these the latest.
        places.max_by_key(|&index| {
            let victim = &self.sequences[self.running[index]];
            (self.turns.spent(victim.key), Reverse(victim.computed), index)
        })
    }

    /// Sees to it that the running sequence has blocks for its positions up to `end`. If the pool is exhausted, one of those
    /// behind it that have no step in flight gives way: the latest of the key that had most. False if there is none.
    ///
    /// Without a window only decode rows come here without a block: prompts got all of theirs at admission.
    pub(super) fn cover(&mut self, handle: Handle, end: u32) -> bool {
        let wanted = end.div_ceil(self.config.block_size) as usize;
        while self.sequences[handle].blocks.len() < wanted {
            if let Some(block) = self.allocate() {
                self.sequences[handle].blocks.push(block);
                continue;
            }
            let first = self.place_in_running(handle).expect("a running sequence is in the list") + 1;
            let may_give_way = |&later: &usize| self.sequences[self.running[later]].in_flight == 0;
            let behind = (first..self.running.len()).filter(may_give_way);
            match behind
                .max_by_key(|&later| (self.turns.spent(self.sequences[self.running[later]].key), later))
            {
                Some(latest) => self.preempt(latest),
                None => return false,
            }
        }
        true
    }

    /// Moves a waiting sequence into the pool if there is room for it, behind the blocks of a known prefix.
    ///
    /// Without a window, blocks for the whole prompt are taken at once, so that prompts never compete with each other
    /// half-way. A sequence that was preempted comes back only if each running one could still grow by a block; it
    /// would soon give way again.
    pub(super) fn admit(&mut self, handle: Handle, budget: u32) -> Room {
        let shared = self.known_prefix(handle);
        let sequence = &self.sequences[handle];
        let start = shared.len() as u32 * self.config.block_size;
        if sequence.range(start, budget, self.config.block_size).is_empty() {
            return Room::NoBudget;
        }
        if !self.has_room(handle, &shared) {
            return Room::None;
        }
        self.enter(handle, shared);
        Room::Found
    }

    fn has_room(&self, handle: Handle, shared: &[BlockId]) -> bool {
        let sequence = &self.sequences[handle];
        let shared = shared.iter().filter(|&&block| block != NO_BLOCK);
        let revived = shared.clone().filter(|&&block| self.pool.references(block) == 0).count();
        let new = self.blocks_for(sequence.token_ids.len()).saturating_sub(shared.count());
        // One that gave way comes back when the others can grow, unless it is all that its key has.
        let returns = sequence.cached.is_some() && self.turns.running(sequence.key) > 0;
        let headroom = if returns { self.running.len() } else { 0 };
        let reserved = if self.runs_few(sequence.key, 0) { 0 } else { self.config.reserved_sequences };
        self.running.len() + reserved < self.config.max_sequences
            && new + headroom + revived <= self.pool.num_free()
    }

    /// Whether a key runs so few sequences, besides `own`, that it is let in before one that fills the engine.
    pub(super) fn runs_few(&self, key: u64, own: u32) -> bool {
        self.turns.running(key) - own < (self.config.reserved_sequences as u32).max(1)
    }

    /// Most blocks that a sequence of so many tokens holds at a time: all of them, or those of its window and of two
    /// chunks, one computed and one in flight.
    pub(super) fn blocks_for(&self, num_tokens: usize) -> usize {
        let size = self.config.block_size as usize;
        let all = num_tokens.div_ceil(size);
        let chunks = 2 * (self.config.max_batch_tokens as usize).max(size);
        let seen = |window: u32| (window as usize + chunks).div_ceil(size) + 1;
        self.config.window.map_or(all, |window| all.min(seen(window)))
    }

    /// Gives a waiting sequence its `shared` blocks, and without a window all the others that its tokens need.
    fn enter(&mut self, handle: Handle, shared: Vec<BlockId>) {
        let found = shared.len() as u32 * self.config.block_size;
        let released = shared.iter().take_while(|&&block| block == NO_BLOCK).count();
        // Shared blocks first: allocating could otherwise evict one of them.
        for &block in &shared[released..] {
            self.pool.share(block);
        }
        let sequence = &mut self.sequences[handle];
        sequence.registered = shared.len();
        sequence.released = released;
        sequence.computed = found;
        sequence.blocks = shared;
        if sequence.cached.is_none() {
            // A sequence that comes back mostly finds what it left; only what it found at first counts.
            sequence.cached = Some(found);
            if self.config.prefix_caching {
                self.prefix_queries += u64::from(sequence.prompt_length);
                self.prefix_hits += u64::from(found);
            }
        }
        if self.config.window.is_none() {
            let wanted = sequence.token_ids.len().div_ceil(self.config.block_size as usize);
            while self.sequences[handle].blocks.len() < wanted {
                let block = self.allocate().expect("has_room counted the free blocks");
                self.sequences[handle].blocks.push(block);
            }
        }
        let sequence = &mut self.sequences[handle];
        sequence.advance(Change::Admitted);
        self.turns.dequeue(sequence.key, sequence.priority, sequence.arrival);
        self.turns.start(sequence.key);
        let (Ok(place) | Err(place)) = self.place_in_running(handle);
        self.running.insert(place, handle);
    }

    /// Blocks of the longest known prefix of the sequence's prompt, [`NO_BLOCK`] for those that nobody will look at. It
    /// never covers the whole prompt: the last prompt token is always computed, because a token is drawn from it.
    fn known_prefix(&mut self, handle: Handle) -> Vec<BlockId> {
        let sequence = &mut self.sequences[handle];
        if !self.config.prefix_caching || sequence.scored {
            return Vec::new();
        }
        let size = self.config.block_size;
        let whole = ((sequence.prompt_length - 1) / size) as usize;
        let known = (0..whole).map(|index| self.cache.find(&sequence.prefix_key(index, size)));
        match self.config.window {
            None => known.map_while(|block| block).collect(),
            Some(window) => visible_run(&known.collect::<Vec<_>>(), (window - 1).div_ceil(size) as usize),
        }
    }

    /// Tells the prefix cache of the blocks that the committed row has completed: those wholly inside the prompt,
    /// which were computed as prefill. A block with drawn tokens would differ in its bits from a cold prefill.
    pub(super) fn register_prefix(&mut self, row: PendingRow) {
        if !self.config.prefix_caching {
            return;
        }
        let sequence = &mut self.sequences[row.handle];
        let complete = (row.end.min(sequence.prompt_length) / self.config.block_size) as usize;
        for index in sequence.registered..complete {
            self.cache.insert(sequence.prefix_key(index, self.config.block_size), sequence.blocks[index]);
        }
        sequence.registered = sequence.registered.max(complete);
    }

    /// Gives back the blocks that no position from the end of the committed row on will look at. Rows in flight start
    /// there or later, so none of them does.
    pub(super) fn release_behind_window(&mut self, row: PendingRow) {
        let Some(window) = self.config.window else { return };
        let unseen = ((row.end + 1).saturating_sub(window) / self.config.block_size) as usize;
        let sequence = &mut self.sequences[row.handle];
        let unseen = unseen.min(sequence.blocks.len());
        for index in sequence.released..unseen {
            let block = std::mem::replace(&mut sequence.blocks[index], NO_BLOCK);
            self.pool.free(block, self.cache.holds(block));
        }
        sequence.released = sequence.released.max(unseen);
    }

    fn allocate(&mut self) -> Option<BlockId> {
        let block = self.pool.allocate()?;
        self.cache.forget(block);
        Some(block)
    }

    /// Frees the last block first, so that the beginning of a prefix is evicted after what follows it.
    pub(super) fn free_blocks(&mut self, handle: Handle) {
        let blocks = std::mem::take(&mut self.sequences[handle].blocks);
        for block in blocks.into_iter().rev().filter(|&block| block != NO_BLOCK) {
            self.pool.free(block, self.cache.holds(block));
        }
    }
}

/// The longest beginning of `known` whose last `seen` blocks, or all of them if they are fewer, are there.
fn visible_run(known: &[Option<BlockId>], seen: usize) -> Vec<BlockId> {
    let (mut run, mut end) = (0, 0);
    for (index, block) in known.iter().enumerate() {
        run = if block.is_some() { run + 1 } else { 0 };
        if run >= seen.min(index + 1) {
            end = index + 1;
        }
    }
    let first = end.saturating_sub(seen);
    (0..end).map(|index| known[index].filter(|_| index >= first).unwrap_or(NO_BLOCK)).collect()
}
