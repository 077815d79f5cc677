//! The rules of continuous batching: who runs, who waits, who gives way.
//!
//! Takes prompts, drawn tokens and endings; gives one [`Batch`] per step. What a position costs to compute,
//! what a token means and what time it is are left to others.

mod integrity;
mod scores;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::blocks::{BlockId, BlockPool};
use super::prefix_cache::PrefixCache;
use super::sequence::{Change, Handle, Sequence, Sequences, State};
use crate::batch::{Batch, BatchRow};
use crate::error::Error;
use crate::sampled::SampledTokens;

/// What a scheduler may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Blocks in the KV pool.
    pub num_blocks: u32,
    /// Positions per block, and the grid on which prompts are cut.
    pub block_size: u32,
    /// Most sequences that run at a time.
    pub max_sequences: usize,
    /// Token budget of a step. Decode rows take from it first; what they leave, but at least one block, goes
    /// to prompts. So a step has at most `max(max_batch_tokens, decode rows + block_size)` tokens.
    pub max_batch_tokens: u32,
    /// Most sequences that wait; one more is refused.
    pub max_waiting: usize,
    /// Whether sequences share the blocks of equal beginnings.
    pub prefix_caching: bool,
}

impl SchedulerConfig {
    /// The defaults over a pool of `num_blocks`.
    pub fn new(num_blocks: u32) -> Self {
        Self {
            num_blocks,
            block_size: 64,
            max_sequences: 64,
            max_batch_tokens: 512,
            max_waiting: 256,
            prefix_caching: true,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let sizes = [
            ("num_blocks", self.num_blocks as usize),
            ("block_size", self.block_size as usize),
            ("max_sequences", self.max_sequences),
            ("max_batch_tokens", self.max_batch_tokens as usize),
            ("max_waiting", self.max_waiting),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::parameter(*name, "must be at least 1"));
        }
        if self.num_blocks.checked_mul(self.block_size).is_none() {
            let message =
                format!("times block_size must be below 2^32, got {} * {}", self.num_blocks, self.block_size);
            return Err(Error::parameter("num_blocks", message));
        }
        Ok(())
    }
}

/// What a scheduler is doing, for metrics. Counters (the last three) only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences in the queue, preempted ones included.
    pub waiting: usize,
    /// Sequences that hold blocks and get their share of the steps.
    pub running: usize,
    /// Blocks that no sequence holds.
    pub free_blocks: usize,
    /// Those of them that still hold a prefix.
    pub cached_blocks: usize,
    /// All blocks.
    pub total_blocks: usize,
    /// Prompt tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
    /// Times that a sequence gave its blocks back to an earlier one.
    pub preemptions: u64,
}

/// A row of a step in flight, as the scheduler remembers it.
#[derive(Debug, Clone, Copy)]
struct PendingRow {
    handle: Handle,
    end: u32,
    samples: bool,
}

/// A step that was scheduled and neither committed nor abandoned.
#[derive(Debug, Clone)]
struct PendingStep {
    ticket: u64,
    rows: Vec<PendingRow>,
}

/// Continuous batching over a pool of KV blocks. See docs/scheduling.md.
#[derive(Debug, Clone)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    cache: PrefixCache,
    sequences: Sequences,
    /// The queue, by arrival: a preempted sequence comes back to its old place, which is before all that
    /// never ran.
    waiting: BTreeMap<u64, Handle>,
    /// In order of arrival.
    running: Vec<Handle>,
    /// In order of ticket.
    in_flight: VecDeque<PendingStep>,
    arrivals: u64,
    tickets: u64,
    prefix_queries: u64,
    prefix_hits: u64,
    preemptions: u64,
}

impl Scheduler {
    /// An idle scheduler. Fails with `InvalidParameter` where a size is 0 or the pool too large to number.
    pub fn new(config: SchedulerConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            pool: BlockPool::new(config.num_blocks),
            cache: PrefixCache::new(config.num_blocks),
            config,
            sequences: Sequences::default(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            in_flight: VecDeque::new(),
            arrivals: 0,
            tickets: 0,
            prefix_queries: 0,
            prefix_hits: 0,
            preemptions: 0,
        })
    }

    /// Queues a sequence: `prompt`, and up to `max_tokens` drawn ones. Only sequences of equal `salt` ever share
    /// blocks. An id may be used again once no step in flight knows it.
    ///
    /// Fails with `InvalidParameter`, with `ContextLengthExceeded` if the sequence could not run even alone, and
    /// with `QueueFull`.
    pub fn submit(&mut self, id: u64, prompt: Vec<u32>, max_tokens: usize, salt: &[u8]) -> Result<(), Error> {
        if prompt.is_empty() {
            return Err(Error::parameter("prompt", "must have at least one token"));
        }
        if max_tokens == 0 {
            return Err(Error::parameter("max_tokens", "must be at least 1"));
        }
        if self.sequences.find(id).is_some() {
            return Err(Error::parameter("sequence_id", format!("{id} is in use")));
        }
        let needed = prompt.len().saturating_add(max_tokens);
        let available = self.config.num_blocks as usize * self.config.block_size as usize;
        if needed > available {
            return Err(Error::ContextLengthExceeded { needed, available });
        }
        if self.waiting.len() >= self.config.max_waiting {
            return Err(Error::QueueFull { limit: self.config.max_waiting });
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        let sequence = Sequence::new(id, arrival, prompt, max_tokens as u32, salt);
        let handle = self.sequences.insert(sequence);
        self.waiting.insert(arrival, handle);
        Ok(())
    }

    /// Ends a sequence, whatever it is doing; false if there is none of that id or it has ended already. Its
    /// blocks are free once no step in flight uses them.
    pub fn cancel(&mut self, id: u64) -> bool {
        match self.sequences.find(id) {
            Some(handle) if self.sequences[handle].state != State::Ended => {
                self.end(handle);
                true
            }
            _ => false,
        }
    }

    /// The next step, or None if nothing can run before a step in flight is over. With none in flight and
    /// [`has_work`](Self::has_work), there is always one.
    pub fn schedule(&mut self) -> Option<Batch> {
        let mut step = Step::new(self.running.len());
        let ready = self.schedule_decodes(&mut step);
        let decodes = step.batch.token_ids.len() as u32;
        let mut budget = self.config.max_batch_tokens.saturating_sub(decodes).max(self.config.block_size);
        let may_admit = self.schedule_catch_ups(&mut step, &mut budget, ready) && ready == self.running.len();
        if may_admit {
            self.schedule_waiting(&mut step, &mut budget);
        }
        self.finish(step)
    }

    /// Takes the tokens of the oldest step in flight and the sequences that ended with it: one token for each
    /// row that samples, in order. Tokens of sequences that ended meanwhile are dropped; ids in `finished` that
    /// have ended already are ignored. A sequence also ends with the last of its `max_tokens`.
    ///
    /// Fails with `Internal`, and changes nothing, if it is not that step's turn or the tokens are not its own.
    pub fn commit(&mut self, ticket: u64, tokens: &SampledTokens, finished: &[u64]) -> Result<(), Error> {
        self.check_commit(ticket, tokens)?;
        let step = self.in_flight.pop_front().expect("check_commit found it");
        let mut token_ids = tokens.token_ids.iter();
        for row in step.rows {
            let token = if row.samples { token_ids.next() } else { None };
            if !self.leave_step(row.handle) {
                continue;
            }
            self.register_prefix(row);
            let sequence = &mut self.sequences[row.handle];
            sequence.token_ids.extend(token);
            if sequence.is_exhausted() {
                self.end(row.handle);
            }
        }
        for &id in finished {
            self.cancel(id); // to the scheduler, one who is done and one who left are the same
        }
        Ok(())
    }

    /// Gives back a step that failed: its sequences end, with nothing of it remembered. Any step in flight may be.
    ///
    /// Fails with `Internal` if the ticket is not in flight.
    pub fn abandon(&mut self, ticket: u64) -> Result<(), Error> {
        let Some(index) = self.in_flight.iter().position(|step| step.ticket == ticket) else {
            return Err(Error::Internal(format!("step {ticket} was abandoned, which is not in flight")));
        };
        let step = self.in_flight.remove(index).expect("position found it");
        for row in step.rows {
            if self.leave_step(row.handle) {
                self.end(row.handle);
            }
        }
        Ok(())
    }

    /// Prompt tokens that the sequence found in the prefix cache when it first ran; 0 if unknown.
    pub fn cached_tokens(&self, id: u64) -> u32 {
        self.sequences.find(id).and_then(|handle| self.sequences[handle].cached).unwrap_or(0)
    }

    /// Whether a sequence waits or runs, or a step is in flight.
    pub fn has_work(&self) -> bool {
        !self.sequences.is_empty() || !self.in_flight.is_empty()
    }

    /// The numbers of this moment.
    pub fn stats(&self) -> Stats {
        Stats {
            waiting: self.waiting.len(),
            running: self.running.len(),
            free_blocks: self.pool.num_free(),
            cached_blocks: self.pool.num_cached(),
            total_blocks: self.pool.num_blocks(),
            prefix_queries: self.prefix_queries,
            prefix_hits: self.prefix_hits,
            preemptions: self.preemptions,
        }
    }

    // --- one step ---------------------------------------------------------------------------------------

    /// One row for each running sequence that decodes, the earliest first, each with a block for it.
    ///
    /// Gives the number of leading running sequences that may do more in this step: where one is left without a
    /// block, it and all later ones pause, so that their steps in flight run out and one of them can give way.
    fn schedule_decodes(&mut self, step: &mut Step) -> usize {
        let mut index = 0;
        while index < self.running.len() && (step.rows.len() as u32) < self.config.max_batch_tokens {
            let handle = self.running[index];
            if self.sequences[handle].decodes() {
                if !self.grow(index) {
                    return index;
                }
                let position = self.sequences[handle].computed;
                step.push(
                    handle,
                    &mut self.sequences[handle],
                    position..position + 1,
                    self.config.block_size,
                );
            }
            index += 1;
        }
        self.running.len()
    }

    /// Chunks of prompts, and of drawn tokens after a preemption, for the first `ready` running sequences. Their
    /// blocks were allocated at admission. True if the next in line may have its turn.
    fn schedule_catch_ups(&mut self, step: &mut Step, budget: &mut u32, ready: usize) -> bool {
        (0..ready).all(|index| {
            let handle = self.running[index];
            !self.sequences[handle].catches_up() || self.push_chunk(step, budget, handle)
        })
    }

    /// Admits the head of the queue, again and again, as long as there is room for it.
    fn schedule_waiting(&mut self, step: &mut Step, budget: &mut u32) {
        while *budget > 0 && self.running.len() < self.config.max_sequences {
            let Some((_, &handle)) = self.waiting.first_key_value() else { return };
            if !self.admit(handle, *budget) || !self.push_chunk(step, budget, handle) {
                return;
            }
        }
    }

    /// Adds the sequence's next chunk to the step, if the budget is enough for one. True if that leaves it with
    /// nothing to catch up, so that the next in line may have its turn: what an earlier sequence cannot use, a
    /// later one does not get, and so prompts are read strictly in order.
    fn push_chunk(&mut self, step: &mut Step, budget: &mut u32, handle: Handle) -> bool {
        let sequence = &mut self.sequences[handle];
        let chunk = sequence.range(sequence.computed, *budget, self.config.block_size);
        if !chunk.is_empty() {
            *budget -= chunk.len() as u32;
            step.push(handle, sequence, chunk, self.config.block_size);
        }
        !sequence.catches_up()
    }

    /// Gives the step its ticket and its block tables, and remembers it.
    fn finish(&mut self, step: Step) -> Option<Batch> {
        if step.rows.is_empty() {
            return None;
        }
        let Step { mut batch, rows } = step;
        let width_of = |row: &PendingRow| row.end.div_ceil(self.config.block_size) as usize;
        let width = rows.iter().map(width_of).max().unwrap_or(0);
        batch.block_tables.reserve(rows.len() * width);
        for (index, row) in rows.iter().enumerate() {
            let blocks = &self.sequences[row.handle].blocks[..width_of(row)];
            batch.block_tables.extend(blocks.iter().map(|&block| i64::from(block)));
            batch.block_tables.resize((index + 1) * width, -1);
        }
        batch.block_table_width = width;
        batch.block_size = self.config.block_size;
        batch.ticket = self.tickets;
        self.in_flight.push_back(PendingStep { ticket: self.tickets, rows });
        self.tickets += 1;
        Some(batch)
    }

    // --- blocks -----------------------------------------------------------------------------------------

    /// Sees to it that the running sequence has a block for its next position. If the pool is exhausted, the
    /// latest sequence that arrived after it and has no step in flight gives way. False if there is none.
    fn grow(&mut self, index: usize) -> bool {
        let handle = self.running[index];
        let sequence = &self.sequences[handle];
        if (sequence.computed / self.config.block_size) < sequence.blocks.len() as u32 {
            return true;
        }
        loop {
            if let Some(block) = self.allocate() {
                self.sequences[handle].blocks.push(block);
                return true;
            }
            let may_give_way = |&later: &usize| self.sequences[self.running[later]].in_flight == 0;
            match (index + 1..self.running.len()).rev().find(may_give_way) {
                Some(latest) => self.preempt(latest),
                None => return false,
            }
        }
    }

    /// Moves a waiting sequence into the pool with blocks for all its tokens, those of a known prefix first. False
    /// if it has to wait: for blocks, or for a step with a budget for its first chunk.
    ///
    /// Blocks for the whole prompt are taken at once, so that prompts never compete with each other half-way. A
    /// sequence that was preempted comes back only if each running one could still grow by a block; it would
    /// soon give way again.
    fn admit(&mut self, handle: Handle, budget: u32) -> bool {
        let shared = self.find_prefix(handle);
        let sequence = &self.sequences[handle];
        let start = shared.len() as u32 * self.config.block_size;
        if sequence.range(start, budget, self.config.block_size).is_empty() {
            return false;
        }
        let total = sequence.token_ids.len().div_ceil(self.config.block_size as usize);
        let headroom = if sequence.cached.is_some() { self.running.len() } else { 0 };
        let revived = shared.iter().filter(|&&block| self.pool.references(block) == 0).count();
        let new = total - shared.len();
        if new + headroom + revived > self.pool.num_free() {
            return false;
        }
        self.enter(handle, shared, new);
        true
    }

    /// Gives a waiting sequence its `shared` blocks and `new` more, which must be free.
    fn enter(&mut self, handle: Handle, shared: Vec<BlockId>, new: usize) {
        // Shared blocks first: allocating could otherwise evict one of them.
        for &block in &shared {
            self.pool.share(block);
        }
        let found = shared.len() as u32 * self.config.block_size;
        let sequence = &mut self.sequences[handle];
        sequence.registered = shared.len();
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
        for _ in 0..new {
            let block = self.allocate().expect("admit counted the free blocks");
            self.sequences[handle].blocks.push(block);
        }
        let sequence = &mut self.sequences[handle];
        sequence.advance(Change::Admitted);
        self.waiting.remove(&sequence.arrival);
        let (Ok(place) | Err(place)) = self.place_in_running(handle);
        self.running.insert(place, handle);
    }

    /// Blocks of the longest known prefix of the sequence's prompt. It never covers the whole prompt: the last
    /// prompt token is always computed, because a token is drawn from it.
    fn find_prefix(&mut self, handle: Handle) -> Vec<BlockId> {
        let mut shared = Vec::new();
        if self.config.prefix_caching && !self.sequences[handle].scored {
            let sequence = &mut self.sequences[handle];
            for index in 0..((sequence.prompt_length - 1) / self.config.block_size) as usize {
                match self.cache.find(&sequence.key(index, self.config.block_size)) {
                    Some(block) => shared.push(block),
                    None => break,
                }
            }
        }
        shared
    }

    /// Tells the prefix cache of the blocks that the committed row has completed: those wholly inside the prompt,
    /// which were computed as prefill. A block with drawn tokens would differ in its bits from a cold prefill.
    fn register_prefix(&mut self, row: PendingRow) {
        if !self.config.prefix_caching {
            return;
        }
        let sequence = &mut self.sequences[row.handle];
        let complete = (row.end.min(sequence.prompt_length) / self.config.block_size) as usize;
        for index in sequence.registered..complete {
            self.cache.insert(sequence.key(index, self.config.block_size), sequence.blocks[index]);
        }
        sequence.registered = sequence.registered.max(complete);
    }

    fn allocate(&mut self) -> Option<BlockId> {
        let block = self.pool.allocate()?;
        self.cache.forget(block);
        Some(block)
    }

    /// Frees the last block first, so that the beginning of a prefix is evicted after what follows it.
    fn free_blocks(&mut self, handle: Handle) {
        for block in std::mem::take(&mut self.sequences[handle].blocks).into_iter().rev() {
            self.pool.free(block, self.cache.holds(block));
        }
    }

    // --- lives ------------------------------------------------------------------------------------------

    /// Sends a running sequence without steps in flight back to its place in the queue. It keeps its tokens and
    /// will compute them anew: prompt positions as prefill, drawn ones as decode rows, as they were at first.
    fn preempt(&mut self, index: usize) {
        let handle = self.running.remove(index);
        self.free_blocks(handle);
        let sequence = &mut self.sequences[handle];
        sequence.advance(Change::Preempted);
        sequence.computed = 0;
        self.waiting.insert(sequence.arrival, handle);
        self.preemptions += 1;
    }

    /// Ends a waiting or running sequence.
    fn end(&mut self, handle: Handle) {
        match self.sequences[handle].state {
            State::Waiting => {
                self.waiting.remove(&self.sequences[handle].arrival);
            }
            State::Running => {
                let place = self.place_in_running(handle).expect("a running sequence is in the list");
                self.running.remove(place);
            }
            State::Ended => {}
        }
        self.sequences[handle].advance(Change::Stopped);
        self.forget_if_over(handle);
    }

    /// Takes a sequence out of one step that is over; false if it has ended, and may now be forgotten.
    fn leave_step(&mut self, handle: Handle) -> bool {
        self.sequences[handle].in_flight -= 1;
        let lives = self.sequences[handle].state != State::Ended;
        if !lives {
            self.forget_if_over(handle);
        }
        lives
    }

    /// Forgets an ended sequence and frees its blocks, unless a step in flight may still touch them.
    fn forget_if_over(&mut self, handle: Handle) {
        if self.sequences[handle].in_flight == 0 {
            self.free_blocks(handle);
            self.sequences.remove(handle);
        }
    }

    fn place_in_running(&self, handle: Handle) -> Result<usize, usize> {
        let arrival = self.sequences[handle].arrival;
        self.running.binary_search_by_key(&arrival, |&other| self.sequences[other].arrival)
    }

    // --- checks -----------------------------------------------------------------------------------------

    fn check_commit(&self, ticket: u64, tokens: &SampledTokens) -> Result<(), Error> {
        let Some(step) = self.in_flight.front() else {
            return Err(Error::Internal(format!("step {ticket} was committed, but none is in flight")));
        };
        if step.ticket != ticket {
            return Err(Error::Internal(format!(
                "step {ticket} was committed before step {}; steps are committed in their order",
                step.ticket
            )));
        }
        let sampled = step.rows.iter().filter(|row| row.samples).map(|row| self.sequences[row.handle].id);
        if !sampled.eq(tokens.sequence_ids.iter().copied())
            || tokens.token_ids.len() != tokens.sequence_ids.len()
        {
            return Err(Error::Internal(format!(
                "step {ticket} was committed with tokens of other sequences"
            )));
        }
        Ok(())
    }
}

/// A step being put together.
struct Step {
    batch: Batch,
    rows: Vec<PendingRow>,
}

impl Step {
    fn new(num_rows: usize) -> Self {
        let batch = Batch {
            rows: Vec::with_capacity(num_rows),
            token_ids: Vec::with_capacity(num_rows),
            positions: Vec::with_capacity(num_rows),
            slots: Vec::with_capacity(num_rows),
            ..Batch::default()
        };
        Self { batch, rows: Vec::with_capacity(num_rows) }
    }

    /// Adds a row that computes `range` of the sequence, whose blocks reach that far, and moves the sequence on.
    fn push(&mut self, handle: Handle, sequence: &mut Sequence, range: Range<u32>, block_size: u32) {
        let samples = sequence.samples_at(range.end);
        self.rows.push(PendingRow { handle, end: range.end, samples });
        self.batch.rows.push(BatchRow {
            sequence_id: sequence.id,
            start: range.start,
            length: range.len() as u32,
            prompt_length: sequence.prompt_length,
            samples,
            output_index: sequence.drawn,
        });
        self.push_scores(sequence, &range);
        for position in range.clone() {
            let block = sequence.blocks[(position / block_size) as usize];
            self.batch.token_ids.push(sequence.token_at(position));
            self.batch.positions.push(i64::from(position));
            self.batch
                .slots
                .push(i64::from(block) * i64::from(block_size) + i64::from(position % block_size));
        }
        sequence.computed = range.end;
        sequence.in_flight += 1;
        sequence.drawn += u32::from(samples);
    }
}

#[cfg(test)]
mod tests;
