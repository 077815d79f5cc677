//! The rules of continuous batching: who runs, who waits, who gives way.
//!
//! Takes prompts, drawn tokens and endings; gives one [`Batch`] per step. What a position costs to compute,
//! what a token means and what time it is are left to others.

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
        if self.config.prefix_caching {
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

    /// Checks every count, reference and table against what they must be; costs as much as there is to check.
    pub fn check_integrity(&self) -> Result<(), Error> {
        self.pool.check_integrity()?;
        self.cache.check_integrity()?;
        self.check_references()?;
        self.check_lists()?;
        for (handle, sequence) in self.sequences.iter() {
            let rows = self.in_flight.iter().flat_map(|step| &step.rows);
            let in_flight = rows.filter(|row| row.handle == handle).count();
            let fault = self.fault_of(sequence, in_flight);
            if let Some(fault) = fault {
                return Err(Error::Internal(format!("sequence {}: {fault}", sequence.id)));
            }
        }
        Ok(())
    }

    /// Blocks are held as often as sequences list them, and the free ones are kept iff they hold a prefix.
    fn check_references(&self) -> Result<(), Error> {
        let mut held = vec![0; self.pool.num_blocks()];
        for (_, sequence) in self.sequences.iter() {
            for &block in &sequence.blocks {
                held[block as usize] += 1;
            }
        }
        for (block, &held) in (0..).zip(&held) {
            let counted = self.pool.references(block);
            if counted != held {
                return Err(Error::Internal(format!("block {block} is held by {held}, counted {counted}")));
            }
        }
        let kept = self.pool.cached_blocks().filter(|&block| self.cache.holds(block)).count();
        let free_with_prefix =
            (0..).zip(&held).filter(|&(block, &held)| held == 0 && self.cache.holds(block)).count();
        if kept != self.pool.num_cached() || kept != free_with_prefix {
            return Err(Error::Internal(
                "a free block is kept without a prefix, or not kept with one".into(),
            ));
        }
        Ok(())
    }

    /// Each sequence is in the list of its state, and in no other; both lists are in order of arrival.
    fn check_lists(&self) -> Result<(), Error> {
        let arrivals = self.running.iter().map(|&handle| self.sequences[handle].arrival);
        if !arrivals.is_sorted_by(|earlier, later| earlier < later) {
            return Err(Error::Internal("running sequences are out of order".into()));
        }
        let count = |state| self.sequences.iter().filter(|(_, sequence)| sequence.state == state).count();
        let listed_as = |handle: &Handle, state| self.sequences[*handle].state == state;
        if count(State::Running) != self.running.len()
            || !self.running.iter().all(|handle| listed_as(handle, State::Running))
            || count(State::Waiting) != self.waiting.len()
            || !self.waiting.values().all(|handle| listed_as(handle, State::Waiting))
        {
            return Err(Error::Internal("a sequence is not in the list of its state".into()));
        }
        if self.running.len() > self.config.max_sequences {
            return Err(Error::Internal("more sequences run than may".into()));
        }
        Ok(())
    }

    fn fault_of(&self, sequence: &Sequence, in_flight: usize) -> Option<&'static str> {
        let size = self.config.block_size;
        let committed = sequence.token_ids.len() as u32 - sequence.prompt_length;
        let in_prompt = sequence.computed < sequence.prompt_length;
        let written_next = (sequence.computed / size) as usize..sequence.blocks.len();
        if sequence.in_flight as usize != in_flight {
            Some("counts other steps in flight than there are")
        } else if sequence.state == State::Ended && in_flight == 0 {
            Some("has ended and was not forgotten")
        } else if sequence.state == State::Waiting && (in_flight > 0 || !sequence.blocks.is_empty()) {
            Some("waits and holds blocks or steps")
        } else if committed > sequence.drawn || sequence.drawn > sequence.max_tokens {
            Some("drew more tokens than it may")
        } else if sequence.state != State::Ended && committed == sequence.max_tokens {
            Some("drew its last token and goes on")
        } else if sequence.computed > sequence.frontier() || (in_prompt && sequence.computed % size != 0) {
            Some("computed a position out of turn")
        } else if (sequence.computed.div_ceil(size) as usize) > sequence.blocks.len() {
            Some("computed a position without a block")
        } else if written_next.into_iter().any(|index| {
            let block = sequence.blocks[index];
            self.pool.references(block) > 1 || self.cache.holds(block)
        }) {
            Some("is about to write to a block that others may read")
        } else {
            None
        }
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
mod tests {
    use super::*;

    fn scheduler(num_blocks: u32, change: impl FnOnce(&mut SchedulerConfig)) -> Scheduler {
        let mut config = SchedulerConfig { block_size: 4, ..SchedulerConfig::new(num_blocks) };
        change(&mut config);
        Scheduler::new(config).unwrap()
    }

    fn prompt(length: u32) -> Vec<u32> {
        (100..100 + length).collect()
    }

    /// The rows of a step, each as (sequence, positions, whether it samples).
    fn rows(batch: &Batch) -> Vec<(u64, Range<u32>, bool)> {
        let row = |row: &BatchRow| (row.sequence_id, row.start..row.start + row.length, row.samples);
        batch.rows.iter().map(row).collect()
    }

    fn next(scheduler: &mut Scheduler) -> Batch {
        let batch = scheduler.schedule().expect("there is a step");
        scheduler.check_integrity().unwrap();
        batch
    }

    /// Commits a step in which each row draws token 7.
    fn commit(scheduler: &mut Scheduler, batch: &Batch, finished: &[u64]) {
        let sequence_ids: Vec<u64> = batch.sampled_rows().map(|row| row.sequence_id).collect();
        let token_ids = vec![7; sequence_ids.len()];
        let tokens = SampledTokens { sequence_ids, token_ids, logprobs: Vec::new() };
        scheduler.commit(batch.ticket, &tokens, finished).unwrap();
        scheduler.check_integrity().unwrap();
    }

    /// Schedules and commits one step, and tells its rows.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, Range<u32>, bool)> {
        let batch = next(scheduler);
        commit(scheduler, &batch, &[]);
        rows(&batch)
    }

    #[test]
    fn decodes_go_first_and_prompts_share_what_is_left() {
        let mut scheduler = scheduler(32, |config| config.max_batch_tokens = 16);
        scheduler.submit(1, prompt(3), 9, b"").unwrap();
        assert_eq!(step(&mut scheduler), [(1, 0..3, true)]);

        scheduler.submit(2, prompt(9), 9, b"b").unwrap();
        scheduler.submit(3, prompt(9), 9, b"c").unwrap();
        scheduler.submit(4, prompt(2), 9, b"d").unwrap();

        // 1 + 9 leaves 6: a cell of the third prompt; 2 are left, but the third is not done and goes before the fourth.
        assert_eq!(step(&mut scheduler), [(1, 3..4, true), (2, 0..9, true), (3, 0..4, false)]);
        assert_eq!(
            step(&mut scheduler),
            [(1, 4..5, true), (2, 9..10, true), (3, 4..9, true), (4, 0..2, true)]
        );
    }

    #[test]
    fn a_budget_below_a_block_makes_progress() {
        let mut scheduler = scheduler(8, |config| config.max_batch_tokens = 1);
        scheduler.submit(1, prompt(6), 3, b"").unwrap();
        scheduler.submit(2, prompt(2), 3, b"").unwrap();
        assert_eq!(step(&mut scheduler), [(1, 0..4, false)]);
        assert_eq!(step(&mut scheduler), [(1, 4..6, true), (2, 0..2, true)]);
        assert_eq!(step(&mut scheduler), [(1, 6..7, true)]); // one decode row is the budget
        assert_eq!(step(&mut scheduler), [(1, 7..8, true)]); // the last of three draws
        assert_eq!(step(&mut scheduler), [(2, 2..3, true)]);
    }

    #[test]
    fn the_last_of_max_tokens_ends_a_sequence_by_itself() {
        let mut scheduler = scheduler(8, |_| ());
        scheduler.submit(1, prompt(4), 2, b"").unwrap();
        assert_eq!(step(&mut scheduler), [(1, 0..4, true)]);
        assert_eq!(step(&mut scheduler), [(1, 4..5, true)]);
        assert!(!scheduler.has_work());
        assert_eq!(scheduler.stats().free_blocks, 8);
    }

    #[test]
    fn a_second_prompt_finds_the_blocks_of_the_first_but_never_all_of_it() {
        let mut scheduler = scheduler(16, |_| ());
        scheduler.submit(1, prompt(8), 1, b"").unwrap();
        step(&mut scheduler);

        scheduler.submit(2, prompt(8), 1, b"").unwrap();
        scheduler.submit(3, prompt(9), 1, b"").unwrap();
        scheduler.submit(4, prompt(9), 1, b"somebody else").unwrap();
        assert_eq!(step(&mut scheduler), [(2, 4..8, true), (3, 8..9, true), (4, 0..9, true)]);

        let stats = scheduler.stats();
        assert_eq!((stats.prefix_queries, stats.prefix_hits), (8 + 8 + 9 + 9, 4 + 8));
    }

    #[test]
    fn a_prefix_is_offered_only_once_its_step_is_committed() {
        let mut scheduler = scheduler(16, |_| ());
        scheduler.submit(1, prompt(9), 1, b"").unwrap();
        let first = next(&mut scheduler);
        scheduler.submit(2, prompt(9), 1, b"").unwrap();
        let second = next(&mut scheduler);
        assert_eq!(rows(&second), [(2, 0..9, true)]);

        commit(&mut scheduler, &first, &[]);
        scheduler.submit(3, prompt(9), 1, b"").unwrap();
        assert_eq!(rows(&next(&mut scheduler)), [(3, 8..9, true)]);
        assert_eq!(scheduler.cached_tokens(3), 8);
    }

    #[test]
    fn blocks_with_drawn_tokens_are_never_shared() {
        let mut scheduler = scheduler(16, |_| ());
        scheduler.submit(1, prompt(6), 8, b"").unwrap();
        for _ in 0..8 {
            step(&mut scheduler);
        }
        assert!(!scheduler.has_work());
        let mut again = prompt(6);
        again.extend([7; 8]);
        scheduler.submit(2, again, 1, b"").unwrap();
        assert_eq!(step(&mut scheduler), [(2, 4..14, true)]);
    }

    #[test]
    fn the_prefix_freed_longest_ago_is_evicted_first_and_from_its_end() {
        let mut scheduler = scheduler(4, |_| ());
        for (id, salt) in [(1, b"a"), (2, b"b")] {
            scheduler.submit(id, prompt(7), 1, salt).unwrap(); // one full block and a part
            step(&mut scheduler);
        }
        scheduler.submit(3, prompt(11), 1, b"c").unwrap(); // two blank blocks, then the first prefix
        step(&mut scheduler);
        assert_eq!(scheduler.stats().cached_blocks, 3);

        for (id, salt, hit) in [(4, b"b", 4), (5, b"a", 0)] {
            scheduler.submit(id, prompt(7), 2, salt).unwrap();
            step(&mut scheduler);
            assert_eq!(scheduler.cached_tokens(id), hit);
            scheduler.cancel(id);
        }
    }

    #[test]
    fn a_preempted_sequence_computes_its_tokens_again_and_draws_none_twice() {
        let mut scheduler = scheduler(4, |config| config.prefix_caching = false);
        scheduler.submit(1, prompt(3), 9, b"").unwrap();
        scheduler.submit(2, prompt(5), 9, b"").unwrap();
        for _ in 0..5 {
            step(&mut scheduler);
        }
        // Both hold 2 blocks, which hold 8 positions: the second sequence needs a third first, then the first one.
        assert_eq!(step(&mut scheduler), [(1, 7..8, true)]);
        let mut others = Vec::new();
        while scheduler.stats().waiting == 0 || scheduler.sequences.find(1).is_some() {
            others.extend(step(&mut scheduler));
        }
        assert_eq!(others, [(1, 8..9, true), (1, 9..10, true), (1, 10..11, true)]);
        assert_eq!(scheduler.stats().preemptions, 1);

        assert_eq!(step(&mut scheduler), [(2, 0..5, false)]); // the prompt, alone in its row, draws nothing
        let batch = next(&mut scheduler);
        assert_eq!(rows(&batch), [(2, 5..9, true)]); // four drawn tokens at once
        assert_eq!((batch.token_ids[3], batch.rows[0].output_index), (7, 4));
    }

    #[test]
    fn a_sequence_without_a_block_stops_later_ones_so_that_one_gives_way() {
        let mut scheduler = scheduler(4, |config| config.prefix_caching = false);
        scheduler.submit(1, prompt(4), 9, b"").unwrap();
        scheduler.submit(2, prompt(9), 3, b"").unwrap();
        let prefill = next(&mut scheduler);
        assert_eq!(scheduler.stats().free_blocks, 0);

        // The first sequence needs a block. The second has one, but a step in flight, so it can neither give way nor go on.
        assert_eq!(scheduler.schedule(), None);
        commit(&mut scheduler, &prefill, &[]);
        let decode = next(&mut scheduler);
        assert_eq!(rows(&decode), [(1, 4..5, true)]);
        assert_eq!(scheduler.stats().preemptions, 1);
    }

    #[test]
    fn a_step_in_flight_keeps_its_blocks_from_others() {
        let mut scheduler = scheduler(2, |_| ());
        scheduler.submit(1, prompt(5), 3, b"").unwrap();
        let first = next(&mut scheduler);
        let second = next(&mut scheduler);
        assert_eq!((rows(&second), second.token_ids[0]), (vec![(1, 5..6, true)], -1));

        assert!(scheduler.cancel(1) && !scheduler.cancel(1));
        scheduler.submit(2, prompt(5), 3, b"").unwrap();
        assert_eq!(
            scheduler.submit(1, prompt(5), 3, b""),
            Err(Error::parameter("sequence_id", "1 is in use"))
        );
        assert_eq!(scheduler.schedule(), None);
        commit(&mut scheduler, &first, &[1]);
        assert_eq!(scheduler.schedule(), None);
        commit(&mut scheduler, &second, &[]);
        assert_eq!(rows(&next(&mut scheduler)), [(2, 0..5, true)]);
        scheduler.submit(1, prompt(5), 3, b"").unwrap();
    }

    #[test]
    fn an_abandoned_step_ends_its_sequences_and_leaves_no_prefix() {
        let mut scheduler = scheduler(8, |config| config.max_batch_tokens = 4);
        scheduler.submit(1, prompt(9), 3, b"").unwrap();
        let first = next(&mut scheduler);
        let second = next(&mut scheduler);
        scheduler.abandon(first.ticket).unwrap();
        assert_eq!(scheduler.stats().free_blocks, 5);
        commit(&mut scheduler, &second, &[]);

        assert_eq!((scheduler.has_work(), scheduler.stats().free_blocks), (false, 8));
        scheduler.submit(2, prompt(9), 3, b"").unwrap();
        assert_eq!(step(&mut scheduler), [(2, 0..4, false)]);
        assert!(matches!(scheduler.abandon(first.ticket), Err(Error::Internal(_))));
    }

    #[test]
    fn a_commit_out_of_turn_or_with_foreign_tokens_changes_nothing() {
        let mut scheduler = scheduler(8, |_| ());
        let of = |sequence_ids: &[u64]| SampledTokens {
            sequence_ids: sequence_ids.to_vec(),
            token_ids: vec![7; sequence_ids.len()],
            logprobs: Vec::new(),
        };
        assert!(matches!(scheduler.commit(0, &of(&[]), &[]), Err(Error::Internal(_))));
        scheduler.submit(1, prompt(4), 9, b"").unwrap();
        let (first, second) = (next(&mut scheduler), next(&mut scheduler));

        for (ticket, tokens) in [(second.ticket, of(&[1])), (first.ticket, of(&[2])), (first.ticket, of(&[]))]
        {
            assert!(matches!(scheduler.commit(ticket, &tokens, &[]), Err(Error::Internal(_))));
        }
        commit(&mut scheduler, &first, &[]);
        commit(&mut scheduler, &second, &[]);
    }

    #[test]
    fn what_can_never_run_is_refused() {
        let mut scheduler = scheduler(2, |config| config.max_waiting = 1);
        assert_eq!(
            scheduler.submit(1, prompt(5), 4, b""),
            Err(Error::ContextLengthExceeded { needed: 9, available: 8 })
        );
        assert!(matches!(
            scheduler.submit(1, prompt(5), usize::MAX, b""),
            Err(Error::ContextLengthExceeded { .. })
        ));
        assert!(matches!(scheduler.submit(1, vec![], 4, b""), Err(Error::InvalidParameter { .. })));
        assert!(matches!(scheduler.submit(1, prompt(5), 0, b""), Err(Error::InvalidParameter { .. })));
        scheduler.submit(1, prompt(5), 3, b"").unwrap();
        assert_eq!(scheduler.submit(2, prompt(5), 3, b""), Err(Error::QueueFull { limit: 1 }));
        assert_eq!(step(&mut scheduler), [(1, 0..5, true)]);
        scheduler.submit(2, prompt(5), 3, b"").unwrap();
    }

    #[test]
    fn a_pool_of_nothing_is_refused() {
        let fault = |change: fn(&mut SchedulerConfig)| {
            let mut config = SchedulerConfig::new(8);
            change(&mut config);
            match Scheduler::new(config) {
                Err(Error::InvalidParameter { name, .. }) => name,
                _ => panic!("a broken configuration was accepted"),
            }
        };
        assert_eq!(fault(|config| config.num_blocks = 0), "num_blocks");
        assert_eq!(fault(|config| config.block_size = 0), "block_size");
        assert_eq!(fault(|config| config.block_size = 1 << 31), "num_blocks");
        assert_eq!(fault(|config| config.max_sequences = 0), "max_sequences");
        assert_eq!(fault(|config| config.max_batch_tokens = 0), "max_batch_tokens");
        assert_eq!(fault(|config| config.max_waiting = 0), "max_waiting");
    }
}
