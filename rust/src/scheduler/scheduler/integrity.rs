//! The scheduler's check of itself, for tests and for whoever suspects it.
//!
//! Takes nothing, changes nothing; the first broken rule is told in words.

use super::{Handle, Scheduler, Sequence, State};
use crate::error::Error;
use crate::scheduler::group::{Group, NO_BLOCK, Table};

impl Scheduler {
    /// Checks every count, reference and table against what they must be; costs as much as there is to check.
    pub fn check_integrity(&self) -> Result<(), Error> {
        for (index, group) in self.groups.iter().enumerate() {
            group.pool.check_integrity()?;
            group.cache.check_integrity()?;
            self.check_references(index, group)?;
        }
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
    fn check_references(&self, index: usize, group: &Group) -> Result<(), Error> {
        let Group { pool, cache, .. } = group;
        let mut held = vec![0; pool.num_blocks()];
        for (_, sequence) in self.sequences.iter() {
            let blocks = sequence.tables.get(index).map_or(&[][..], |table| &table.blocks);
            for &block in blocks.iter().filter(|&&block| block != NO_BLOCK) {
                held[block as usize] += 1;
            }
        }
        for (block, &held) in (0..).zip(&held) {
            let counted = pool.references(block);
            if counted != held {
                return Err(Error::Internal(format!("block {block} is held by {held}, counted {counted}")));
            }
        }
        let kept = pool.cached_blocks().filter(|&block| cache.holds(block)).count();
        let free_with_prefix =
            (0..).zip(&held).filter(|&(block, &held)| held == 0 && cache.holds(block)).count();
        if kept != pool.num_cached() || kept != free_with_prefix {
            return Err(Error::Internal(
                "a free block is kept without a prefix, or not kept with one".into(),
            ));
        }
        Ok(())
    }

    /// Each sequence is in the list of its state, and in no other; those that run are in order, and the accounts of their
    /// keys agree.
    fn check_lists(&self) -> Result<(), Error> {
        let places = self.running.iter().map(|&handle| {
            let sequence = &self.sequences[handle];
            (sequence.priority, sequence.arrival)
        });
        if !places.is_sorted_by(|earlier, later| earlier < later) {
            return Err(Error::Internal("running sequences are out of order".into()));
        }
        let count = |state| self.sequences.iter().filter(|(_, sequence)| sequence.state == state).count();
        let listed_as = |handle: Handle, state| self.sequences[handle].state == state;
        if count(State::Running) != self.running.len()
            || !self.running.iter().all(|&handle| listed_as(handle, State::Running))
            || count(State::Waiting) != self.turns.num_waiting()
            || !self.turns.waiting().all(|handle| listed_as(handle, State::Waiting))
        {
            return Err(Error::Internal("a sequence is not in the list of its state".into()));
        }
        if self.running.len() > self.config.max_sequences {
            return Err(Error::Internal("more sequences run than may".into()));
        }
        if self.sequences.iter().any(|(_, sequence)| sequence.held) {
            return Err(Error::Internal("a sequence is held back between two steps".into()));
        }
        let living = self.sequences.iter().filter(|(_, sequence)| sequence.state != State::Ended);
        let running = self.running.iter().map(|&handle| self.sequences[handle].key);
        self.turns.check_integrity(living.map(|(_, sequence)| sequence.key), running)
    }

    fn fault_of(&self, sequence: &Sequence, in_flight: usize) -> Option<&'static str> {
        let size = self.config.block_size;
        let committed = sequence.token_ids.len() as u32 - sequence.prompt_length;
        let in_prompt = sequence.computed < sequence.prompt_length;
        if sequence.in_flight as usize != in_flight {
            Some("counts other steps in flight than there are")
        } else if sequence.state == State::Ended && in_flight == 0 {
            Some("has ended and was not forgotten")
        } else if sequence.state == State::Waiting && (in_flight > 0 || !sequence.tables.is_empty()) {
            Some("waits and holds blocks or steps")
        } else if committed > sequence.drawn || sequence.drawn > sequence.max_tokens {
            Some("drew more tokens than it may")
        } else if sequence.state != State::Ended && committed == sequence.max_tokens {
            Some("drew its last token and goes on")
        } else if sequence.computed > sequence.frontier()
            || (in_prompt && !sequence.is_edge(sequence.computed, size))
        {
            Some("computed a position out of turn")
        } else if sequence.state == State::Running && sequence.tables.len() != self.groups.len() {
            Some("runs without blocks in every group")
        } else {
            let mut tables = self.groups.iter().zip(&sequence.tables);
            tables.find_map(|(group, table)| self.fault_in(group, sequence, table))
        }
    }

    fn fault_in(&self, group: &Group, sequence: &Sequence, table: &Table) -> Option<&'static str> {
        let size = self.config.block_size;
        let seen_first = group.window.map_or(0, |window| (sequence.computed + 1).saturating_sub(window));
        let written_next = (sequence.computed / size) as usize..table.blocks.len();
        if (sequence.computed.div_ceil(size) as usize) > table.blocks.len() {
            Some("computed a position without a block")
        } else if table.released > (seen_first / size) as usize {
            Some("gave back a block that its next position looks at")
        } else if sequence.in_flight == 0 && table.released < (seen_first / size) as usize {
            Some("holds a block that no position looks at any more")
        } else if !(0..)
            .zip(&table.blocks)
            .all(|(index, &block)| (block == NO_BLOCK) == (index < table.released))
        {
            Some("lacks a block that it did not give back")
        } else if written_next.into_iter().any(|index| {
            let block = table.blocks[index];
            group.pool.references(block) > 1 || group.cache.holds(block)
        }) {
            Some("is about to write to a block that others may read")
        } else {
            None
        }
    }
}
