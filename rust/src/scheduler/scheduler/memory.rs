//! Blocks: who gets how many, who gives way when there are none, and which prefixes are shared.

use std::cmp::Reverse;

use super::{PendingRow, Scheduler};
use crate::error::Error;
use crate::scheduler::group::{Group, PrefixSearch, Table};
use crate::scheduler::sequence::{Change, Handle, Sequence};

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
    /// least as much gives way: of the key that had most, the one that has least to compute again. So who asks for little
    /// need not wait until those who asked for much have ended.
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
        (0..).zip(&self.groups).all(|(index, group)| {
            let held = |&victim: &Handle| self.sequences[victim].tables[index].held().len();
            let held: usize = victims.clone().map(held).sum();
            self.most_blocks(group, &self.sequences[next]) <= group.pool.num_free() + held
        })
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

    /// Sees to it that the running sequence has blocks for its positions up to `end` in every group. If a pool is exhausted,
    /// one of those behind it that have no step in flight gives way: the latest of the key that had most. False if there
    /// is none.
    ///
    /// Without a window only decode rows come here without a block: prompts got all of theirs at admission.
    pub(super) fn cover(&mut self, handle: Handle, end: u32) -> bool {
        let wanted = end.div_ceil(self.config.block_size) as usize;
        // Those that can get blocks do: with some in every group there is a shorter step.
        let mut covered = true;
        for group in 0..self.groups.len() {
            covered &= self.cover_in(group, handle, wanted);
        }
        covered
    }

    fn cover_in(&mut self, group: usize, handle: Handle, wanted: usize) -> bool {
        while self.sequences[handle].tables[group].blocks.len() < wanted {
            if let Some(block) = self.groups[group].allocate() {
                self.sequences[handle].tables[group].blocks.push(block);
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
        let start = num_found(&shared) as u32 * self.config.block_size;
        if sequence.range(start, budget, self.config.block_size).is_empty() {
            return Room::NoBudget;
        }
        if !self.has_room(handle, &shared) {
            return Room::None;
        }
        self.enter(handle, shared);
        Room::Found
    }

    fn has_room(&self, handle: Handle, shared: &[Table]) -> bool {
        let sequence = &self.sequences[handle];
        // One that gave way comes back when the others can grow, unless it is all that its key has.
        let returns = sequence.cached.is_some() && self.turns.running(sequence.key) > 0;
        let headroom = if returns { self.running.len() } else { 0 };
        let reserved = if self.runs_few(sequence.key, 0) { 0 } else { self.config.reserved_sequences };
        self.running.len() + reserved < self.config.max_sequences
            && self.groups.iter().zip(shared).all(|(group, table)| {
                let shared = table.held();
                let revived = shared.iter().filter(|&&block| group.pool.references(block) == 0).count();
                let new = self.most_blocks(group, sequence).saturating_sub(shared.len());
                new + headroom + revived <= group.pool.num_free()
            })
    }

    /// Whether a key runs so few sequences, besides `own`, that it is let in before one that fills the engine.
    pub(super) fn runs_few(&self, key: u64, own: u32) -> bool {
        self.turns.running(key) - own < (self.config.reserved_sequences as u32).max(1)
    }

    /// Fails with `ContextLengthExceeded` if a sequence of so many tokens, of which `whole` cannot be cut, could not run even
    /// alone.
    pub(super) fn check_fits(&self, needed: usize, whole: u32) -> Result<(), Error> {
        let size = self.config.block_size;
        // With less than a chunk, a prompt is read in smaller ones.
        let least = size.max(whole) as usize;
        let lacks = |group: &&Group| group.blocks_for(needed, least, size) > group.pool.num_blocks();
        let available = match self.groups.iter().find(lacks) {
            Some(group) => group.pool.num_blocks() * size as usize,
            None if u32::try_from(needed).is_err() => u32::MAX as usize,
            None => return Ok(()),
        };
        Err(Error::ContextLengthExceeded { needed, available })
    }

    /// Most blocks of a group that a sequence holds until all of its tokens are computed, with one chunk computed and one in
    /// flight; all of the pool where that is less.
    fn most_blocks(&self, group: &Group, sequence: &Sequence) -> usize {
        let size = self.config.block_size;
        let chunk = self.config.max_batch_tokens.max(size) as usize + sequence.longest_whole(size) as usize;
        group.blocks_for(sequence.token_ids.len(), 2 * chunk, size).min(group.pool.num_blocks())
    }

    /// Gives a waiting sequence its `shared` blocks, and without a window all the others that its tokens need.
    fn enter(&mut self, handle: Handle, shared: Vec<Table>) {
        let registered = num_found(&shared);
        let found = registered as u32 * self.config.block_size;
        // Shared blocks first: allocating could otherwise evict one of them.
        for (group, table) in self.groups.iter_mut().zip(&shared) {
            table.held().iter().for_each(|&block| group.pool.share(block));
        }
        let sequence = &mut self.sequences[handle];
        sequence.registered = registered;
        sequence.computed = found;
        sequence.tables = shared;
        if sequence.cached.is_none() {
            // A sequence that comes back mostly finds what it left; only what it found at first counts.
            sequence.cached = Some(found);
            if self.config.prefix_caching {
                self.prefix_queries += u64::from(sequence.prompt_length);
                self.prefix_hits += u64::from(found);
            }
        }
        let wanted = sequence.token_ids.len().div_ceil(self.config.block_size as usize);
        let unbounded = self.groups.iter_mut().zip(&mut sequence.tables);
        for (group, table) in unbounded.filter(|(group, _)| group.window.is_none()) {
            while table.blocks.len() < wanted {
                table.blocks.push(group.allocate().expect("has_room counted the free blocks"));
            }
        }
        sequence.advance(Change::Admitted);
        self.turns.dequeue(sequence.key, sequence.priority, sequence.arrival);
        self.turns.start(sequence.key);
        let (Ok(place) | Err(place)) = self.place_in_running(handle);
        self.running.insert(place, handle);
    }

    /// Blocks of the longest known prefix of the sequence's prompt, in each group. It never covers the whole prompt: the last
    /// prompt token is always computed, because a token is drawn from it.
    fn known_prefix(&mut self, handle: Handle) -> Vec<Table> {
        let sequence = &mut self.sequences[handle];
        let size = self.config.block_size;
        let asks = self.config.prefix_caching && !sequence.scored;
        let whole = if asks { ((sequence.prompt_length - 1) / size) as usize } else { 0 };
        let mut search = PrefixSearch::new(&self.groups, size);
        for index in 0..whole {
            let key = sequence.prefix_key(index, size);
            if !search.push(self.groups.iter().map(|group| group.cache.find(&key))) {
                break;
            }
        }
        search.into_tables()
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
            let key = sequence.prefix_key(index, self.config.block_size);
            for (group, table) in self.groups.iter_mut().zip(&sequence.tables) {
                group.cache.insert(key, table.blocks[index]);
            }
        }
        sequence.registered = sequence.registered.max(complete);
    }

    /// Gives back the blocks that no position from the end of the committed row on will look at. Rows in flight start
    /// there or later, so none of them does.
    pub(super) fn release_behind_windows(&mut self, row: PendingRow) {
        let tables = &mut self.sequences[row.handle].tables;
        for (group, table) in self.groups.iter_mut().zip(tables) {
            group.release_behind(table, row.end, self.config.block_size);
        }
    }

    /// Gives back all blocks of a sequence.
    pub(super) fn free_blocks(&mut self, handle: Handle) {
        let tables = std::mem::take(&mut self.sequences[handle].tables);
        self.groups.iter_mut().zip(&tables).for_each(|(group, table)| group.free_all(table));
    }
}

/// How many blocks long the prefix is whose tables these are.
fn num_found(shared: &[Table]) -> usize {
    shared.first().map_or(0, |table| table.blocks.len())
}
