//! One step: rows for those who decode, then chunks of prompts by rank, and who is admitted for the next chunk.

use std::ops::Range;

use super::memory::Room;
use super::{PendingRow, PendingStep, Scheduler};
use crate::batch::{Batch, BatchRow};
use crate::scheduler::group::NO_BLOCK;
use crate::scheduler::sequence::{Handle, Sequence, State};
use crate::scheduler::turns::Rank;

/// A step being put together.
pub(super) struct Step {
    pub(super) batch: Batch,
    rows: Vec<PendingRow>,
}

/// What became of the next chunk of a sequence.
#[derive(PartialEq, Eq)]
enum Chunk {
    /// It has nothing more to catch up.
    Last,
    /// There was not enough budget for all of it.
    BudgetSpent,
    /// It has no blocks for it until another gives way.
    NoRoom,
}

impl Scheduler {
    /// Leaves the sequences out of the step that is put together next, or lets them in again.
    pub(super) fn hold(&mut self, ids: &[u64], held: bool) {
        for &id in ids {
            if let Some(handle) = self.sequences.find(id) {
                self.sequences[handle].held = held;
            }
        }
    }

    /// Decode rows first; what they leave of the budget, beside them at most `prompt_tokens`, but at least one block, goes to
    /// prompts.
    pub(super) fn put_together(&mut self, prompt_tokens: u32) -> Step {
        let mut step = Step::new(self.running.len());
        let ready = self.schedule_decodes(&mut step);
        let decodes = step.batch.token_ids.len() as u32;
        let left = self.config.max_batch_tokens.saturating_sub(decodes);
        let left = if decodes > 0 { left.min(prompt_tokens) } else { left };
        self.blocked = false;
        self.schedule_prompts(&mut step, left.max(self.config.block_size), ready);
        step
    }

    /// One row for each running sequence that decodes, the earliest first, each with a block for it. Those that have more
    /// to catch up get their next block too, if it is not theirs yet.
    ///
    /// Gives the number of leading running sequences that may do more in this step: where one is left without a
    /// block, it and all later ones pause, so that their steps in flight run out and one of them can give way.
    fn schedule_decodes(&mut self, step: &mut Step) -> usize {
        let mut index = 0;
        while index < self.running.len() && (step.rows.len() as u32) < self.config.max_batch_tokens {
            let handle = self.running[index];
            let &Sequence { computed, .. } = &self.sequences[handle];
            if self.takes_part(handle) && self.sequences[handle].is_due() {
                if !self.cover(handle, computed + 1) {
                    return index;
                }
                let sequence = &mut self.sequences[handle];
                if sequence.decodes() {
                    step.push(handle, sequence, computed..computed + 1);
                }
            }
            index += 1;
        }
        self.running.len()
    }

    /// Chunks of prompts, and of drawn tokens after a preemption, by rank: of the first `ready` running sequences, and of
    /// those who wait if all of them are ready.
    ///
    /// What the first in line cannot use of the budget, a later one does not get: so prompts are read strictly in turn. And
    /// where the first in line is of a key that runs few others, only those like it share its step, which is short.
    fn schedule_prompts(&mut self, step: &mut Step, mut budget: u32, ready: usize) {
        let reading = self.running[..ready].iter().filter(|&&handle| self.takes_part(handle));
        let reading = reading.filter(|&&handle| self.sequences[handle].catches_up());
        let mut reading: Vec<(Rank, Handle)> = reading.map(|&handle| (self.rank(handle), handle)).collect();
        reading.sort_unstable_by_key(|&(rank, _)| rank);
        let mut reading = reading.into_iter().peekable();
        let mut admits = ready == self.running.len();
        let mut guest = None;
        while budget > 0 {
            // Who finds no room keeps nobody from a step, unless there is another one to wait for.
            if step.rows.is_empty() && self.in_flight.is_empty() {
                guest = None;
            }
            // A chunk behind a window may have cost a later sequence its blocks.
            while reading.next_if(|&(_, handle)| self.sequences[handle].state != State::Running).is_some() {}
            let waiting = if admits { self.turns.next() } else { None };
            let waiting = waiting.filter(|&(_, handle)| self.takes_part(handle));
            let (handle, waits) = match (reading.peek(), waiting) {
                (Some(&(rank, _)), Some((first, handle))) if first < rank => (handle, true),
                (Some(&(_, handle)), _) => (handle, false),
                (None, Some((_, handle))) => (handle, true),
                (None, None) => return,
            };
            let key = self.sequences[handle].key;
            let runs_few = self.runs_few(key, u32::from(!waits));
            let guest = *guest.get_or_insert(runs_few.then_some(key));
            let may_share = guest.is_none_or(|guest| guest == key || runs_few);
            if waits && may_share {
                match self.admit(handle, budget) {
                    Room::Found => {}
                    Room::NoBudget => return,
                    Room::None => {
                        self.blocked = true;
                        admits = false;
                        continue;
                    }
                }
            } else if waits {
                admits = false;
                continue;
            } else {
                reading.next();
            }
            if may_share && self.push_chunk(step, &mut budget, handle) == Chunk::BudgetSpent {
                return;
            }
        }
    }

    /// Adds the sequence's next chunk to the step, as far as budget and blocks go.
    fn push_chunk(&mut self, step: &mut Step, budget: &mut u32, handle: Handle) -> Chunk {
        let size = self.config.block_size;
        let sequence = &self.sequences[handle];
        let wanted = sequence.range(sequence.computed, *budget, size);
        let covered = self.cover(handle, wanted.end);
        let sequence = &mut self.sequences[handle];
        // Blocks end on the grid, so a chunk that they cut ends on an edge too.
        let end = if covered { wanted.end } else { sequence.before_whole(sequence.covered(size)) };
        if wanted.start < end {
            *budget = budget.saturating_sub(end - wanted.start);
            self.turns.charge_prompt(sequence.key, end - wanted.start);
            step.push(handle, sequence, wanted.start..end);
        }
        if !covered {
            Chunk::NoRoom
        } else if sequence.catches_up() {
            Chunk::BudgetSpent
        } else {
            Chunk::Last
        }
    }

    fn takes_part(&self, handle: Handle) -> bool {
        !self.sequences[handle].held && self.yielding != Some(handle)
    }

    fn rank(&self, handle: Handle) -> Rank {
        let sequence = &self.sequences[handle];
        self.turns.rank(sequence.key, sequence.priority, sequence.arrival)
    }

    /// Gives the step its ticket and its block tables, and remembers it.
    pub(super) fn finish(&mut self, step: Step) -> Option<Batch> {
        if step.rows.is_empty() {
            return None;
        }
        let Step { mut batch, rows } = step;
        let size = self.config.block_size;
        let width_of = |row: &PendingRow| row.end.div_ceil(size) as usize;
        let width = rows.iter().map(width_of).max().unwrap_or(0);
        batch.num_groups = self.groups.len();
        batch.block_table_width = width;
        batch.block_size = size;
        batch.block_tables.reserve(batch.num_groups * rows.len() * width);
        batch.slots.reserve(batch.num_groups * batch.token_ids.len());
        for group in 0..self.groups.len() {
            for (pending, row) in rows.iter().zip(&batch.rows) {
                let blocks = &self.sequences[pending.handle].tables[group].blocks[..width_of(pending)];
                let entry = |&block: &u32| if block == NO_BLOCK { -1 } else { i64::from(block) };
                batch.block_tables.extend(blocks.iter().map(entry));
                batch.block_tables.extend(std::iter::repeat_n(-1, width - blocks.len()));
                let slot = |position: u32| {
                    i64::from(blocks[(position / size) as usize]) * i64::from(size)
                        + i64::from(position % size)
                };
                batch.slots.extend((row.start..pending.end).map(slot));
            }
        }
        batch.ticket = self.tickets;
        self.in_flight.push_back(PendingStep { ticket: self.tickets, rows });
        self.tickets += 1;
        Some(batch)
    }
}

impl Step {
    fn new(num_rows: usize) -> Self {
        let batch = Batch {
            rows: Vec::with_capacity(num_rows),
            token_ids: Vec::with_capacity(num_rows),
            positions: Vec::with_capacity(num_rows),
            ..Batch::default()
        };
        Self { batch, rows: Vec::with_capacity(num_rows) }
    }

    /// Adds a row that computes `range` of the sequence, whose blocks reach that far, and moves the sequence on.
    fn push(&mut self, handle: Handle, sequence: &mut Sequence, range: Range<u32>) {
        let samples = sequence.samples_at(range.end);
        self.rows.push(PendingRow { handle, end: range.end, samples });
        self.batch.rows.push(BatchRow {
            sequence_id: sequence.id,
            start: range.start,
            length: range.len() as u32,
            prompt_length: sequence.prompt_length,
            samples,
            output_index: sequence.drawn,
            cached_tokens: sequence.cached.unwrap_or(0),
        });
        self.push_scores(sequence, &range);
        for position in range.clone() {
            self.batch.token_ids.push(sequence.token_at(position));
            self.batch.positions.push(i64::from(position));
        }
        sequence.computed = range.end;
        sequence.in_flight += 1;
        sequence.drawn += u32::from(samples);
    }
}
