//! The rules of continuous batching: who runs, who waits, who gives way.
//!
//! Takes prompts, drawn tokens and endings; gives one [`Batch`] per step. What a position costs to compute,
//! what a token means and what time it is are left to others. Here are the calls and the lives of sequences; `step`
//! puts a step together, `memory` gives out its blocks.

mod integrity;
mod memory;
mod scores;
mod step;

use std::collections::VecDeque;

use super::blocks::BlockPool;
use super::group::{Group, GroupConfig};
use super::sequence::{Change, Handle, Sequence, Sequences, State};
use super::turns::{Owner, Turns};
use crate::batch::Batch;
use crate::error::Error;
use crate::sampled::SampledTokens;

/// What a scheduler may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The kinds of layers, each with a pool of its own: those that keep every position before those that keep a window.
    /// At least one.
    pub groups: Vec<GroupConfig>,
    /// Positions per block, and the grid on which prompts are cut.
    pub block_size: u32,
    /// Most sequences that run at a time.
    pub max_sequences: usize,
    /// So many of them only for keys that run fewer, so that one which fills the engine need not give way to them.
    pub reserved_sequences: usize,
    /// Token budget of a step. Decode rows take from it first; what they leave, but at least one block, goes
    /// to prompts. So a step has at most `max(max_batch_tokens, decode rows + block_size)` tokens.
    pub max_batch_tokens: u32,
    /// Most sequences that wait; one more is refused.
    pub max_waiting: usize,
    /// Whether sequences share the blocks of equal beginnings.
    pub prefix_caching: bool,
}

/// What one step may do.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits<'a> {
    /// Most tokens of prompts if others decode in the step, though never less than a block: so that they do not wait for it
    /// too long.
    pub prompt_tokens: u32,
    /// Sequences that are left out of this step; unknown ids are ignored.
    pub held: &'a [u64],
}

impl Default for StepLimits<'_> {
    fn default() -> Self {
        Self { prompt_tokens: u32::MAX, held: &[] }
    }
}

impl SchedulerConfig {
    /// The defaults for layers that all keep every position, in a pool of `num_blocks`.
    pub fn new(num_blocks: u32) -> Self {
        Self {
            groups: vec![GroupConfig { num_blocks, window: None }],
            block_size: 64,
            max_sequences: 64,
            reserved_sequences: 0,
            max_batch_tokens: 512,
            max_waiting: 256,
            prefix_caching: true,
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.groups.is_empty() {
            return Err(Error::parameter("groups", "must be at least one"));
        }
        let least = |size: fn(&GroupConfig) -> u32| self.groups.iter().map(size).min().unwrap_or(0) as usize;
        let sizes = [
            ("num_blocks", least(|group| group.num_blocks)),
            ("window", least(|group| group.window.unwrap_or(1))),
            ("block_size", self.block_size as usize),
            ("max_sequences", self.max_sequences),
            ("max_batch_tokens", self.max_batch_tokens as usize),
            ("max_waiting", self.max_waiting),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::parameter(*name, "must be at least 1"));
        }
        if self.reserved_sequences >= self.max_sequences {
            return Err(Error::parameter("reserved_sequences", "must be fewer than max_sequences"));
        }
        for GroupConfig { num_blocks, .. } in &self.groups {
            if num_blocks.checked_mul(self.block_size).is_none() {
                let message =
                    format!("times block_size must be below 2^32, got {num_blocks} * {}", self.block_size);
                return Err(Error::parameter("num_blocks", message));
            }
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
    /// Blocks that no sequence holds, of all groups.
    pub free_blocks: usize,
    /// Those of them that still hold a prefix.
    pub cached_blocks: usize,
    /// All blocks.
    pub total_blocks: usize,
    /// Those of `free_blocks` that are of layers with a window.
    pub windowed_free_blocks: usize,
    /// Those of `total_blocks` that are.
    pub windowed_total_blocks: usize,
    /// Prompt tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
    /// Times that a sequence gave its blocks back to another.
    pub preemptions: u64,
    /// Whether the last step left somebody waiting for blocks or a place, and not just for its prompt's turn.
    pub blocked: bool,
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

/// Continuous batching over pools of KV blocks. See docs/scheduling.md.
#[derive(Debug, Clone)]
pub struct Scheduler {
    config: SchedulerConfig,
    groups: Vec<Group>,
    sequences: Sequences,
    /// The queue, and what was spent on whom.
    turns: Turns,
    /// By priority, then in order of arrival: the order in which they may take each other's blocks.
    running: Vec<Handle>,
    /// Is left out of steps until it has none in flight, and then gives way.
    yielding: Option<Handle>,
    /// In order of ticket.
    in_flight: VecDeque<PendingStep>,
    arrivals: u64,
    tickets: u64,
    prefix_queries: u64,
    prefix_hits: u64,
    preemptions: u64,
    blocked: bool,
}

impl Scheduler {
    /// An idle scheduler. Fails with `InvalidParameter` where a size is 0 or the pool too large to number.
    pub fn new(config: SchedulerConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            groups: config.groups.iter().map(|&group| Group::new(group)).collect(),
            config,
            sequences: Sequences::default(),
            turns: Turns::default(),
            running: Vec::new(),
            yielding: None,
            in_flight: VecDeque::new(),
            arrivals: 0,
            tickets: 0,
            prefix_queries: 0,
            prefix_hits: 0,
            preemptions: 0,
            blocked: false,
        })
    }

    /// Queues a sequence: `prompt`, and up to `max_tokens` drawn ones. An id may be used again once no step in flight
    /// knows it.
    ///
    /// Fails with `InvalidParameter`, with `ContextLengthExceeded` if the sequence could not run even alone, and
    /// with `QueueFull`.
    pub fn submit<'a>(
        &mut self,
        id: u64,
        prompt: Vec<u32>,
        max_tokens: usize,
        owner: impl Into<Owner<'a>>,
    ) -> Result<(), Error> {
        let owner = owner.into();
        if prompt.is_empty() {
            return Err(Error::parameter("prompt", "must have at least one token"));
        }
        if max_tokens == 0 {
            return Err(Error::parameter("max_tokens", "must be at least 1"));
        }
        if self.sequences.find(id).is_some() {
            return Err(Error::parameter("sequence_id", format!("{id} is in use")));
        }
        self.check_fits(prompt.len().saturating_add(max_tokens), 0)?;
        if self.turns.num_waiting() >= self.config.max_waiting {
            return Err(Error::QueueFull { limit: self.config.max_waiting });
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        let sequence = Sequence::new(id, arrival, prompt, max_tokens as u32, owner);
        let handle = self.sequences.insert(sequence);
        self.turns.open(owner.key);
        self.turns.enqueue(owner.key, owner.priority, arrival, handle);
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

    /// The next step without limits of its own; see [`schedule_within`](Self::schedule_within).
    pub fn schedule(&mut self) -> Option<Batch> {
        self.schedule_within(StepLimits::default())
    }

    /// The next step, or None if nothing can run before a step in flight is over, or before one that is held back may
    /// run. With none in flight, none held back and [`has_work`](Self::has_work), there is always one.
    pub fn schedule_within(&mut self, limits: StepLimits<'_>) -> Option<Batch> {
        self.make_way();
        self.hold(limits.held, true);
        let step = self.put_together(limits.prompt_tokens);
        self.hold(limits.held, false);
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
            self.release_behind_windows(row);
            let sequence = &mut self.sequences[row.handle];
            if let Some(&token) = token {
                sequence.token_ids.push(token);
                self.turns.charge_draw(sequence.key);
            }
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

    /// Whether a sequence waits or runs, or a step is in flight.
    pub fn has_work(&self) -> bool {
        !self.sequences.is_empty() || !self.in_flight.is_empty()
    }

    /// How many sequences of this key wait.
    pub fn num_waiting_of(&self, key: u64) -> usize {
        self.turns.num_waiting_of(key)
    }

    /// The numbers of this moment.
    pub fn stats(&self) -> Stats {
        let pools = self.groups.iter().map(|group| &group.pool);
        let windowed = self.groups.iter().filter(|group| group.window.is_some()).map(|group| &group.pool);
        Stats {
            waiting: self.turns.num_waiting(),
            running: self.running.len(),
            free_blocks: pools.clone().map(BlockPool::num_free).sum(),
            cached_blocks: pools.clone().map(BlockPool::num_cached).sum(),
            total_blocks: pools.map(BlockPool::num_blocks).sum(),
            windowed_free_blocks: windowed.clone().map(BlockPool::num_free).sum(),
            windowed_total_blocks: windowed.map(BlockPool::num_blocks).sum(),
            prefix_queries: self.prefix_queries,
            prefix_hits: self.prefix_hits,
            preemptions: self.preemptions,
            blocked: self.blocked,
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
        self.turns.stop(sequence.key);
        self.turns.enqueue(sequence.key, sequence.priority, sequence.arrival, handle);
        self.preemptions += 1;
    }

    /// Ends a waiting or running sequence.
    fn end(&mut self, handle: Handle) {
        let &Sequence { state, key, priority, arrival, .. } = &self.sequences[handle];
        match state {
            State::Waiting => self.turns.dequeue(key, priority, arrival),
            State::Running => {
                let place = self.place_in_running(handle).expect("a running sequence is in the list");
                self.running.remove(place);
                self.turns.stop(key);
            }
            State::Ended => {}
        }
        self.turns.close(key);
        self.yielding = self.yielding.filter(|&yielding| yielding != handle);
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
        let place = |handle: Handle| (self.sequences[handle].priority, self.sequences[handle].arrival);
        self.running.binary_search_by_key(&place(handle), |&other| place(other))
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

#[cfg(test)]
mod tests;
