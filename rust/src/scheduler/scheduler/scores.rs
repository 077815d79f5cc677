//! Prompts whose tokens are scored: every position gives logits, so none of them may come from the cache.

use std::ops::Range;

use super::Scheduler;
use super::step::Step;
use crate::batch::Score;
use crate::error::Error;
use crate::scheduler::prefix_cache::Shown;
use crate::scheduler::sequence::Sequence;

impl Scheduler {
    /// From now on the steps ask for the log-probabilities of the tokens of this sequence's prompt. For a sequence
    /// that was just submitted; unknown ids are ignored. After a preemption they are asked for again.
    pub fn score_prompt(&mut self, id: u64) {
        if let Some(handle) = self.sequences.find(id) {
            self.sequences[handle].scored = true;
        }
    }

    /// Sees to it that no chunk of a waiting sequence's prompt ends within one of `spans`, which are in order and apart:
    /// their positions look at each other. Unknown ids are ignored.
    ///
    /// Fails with `ContextLengthExceeded`, and ends the sequence, if what cannot be cut and the window before it have no
    /// room together.
    pub fn keep_whole(&mut self, id: u64, spans: Vec<Range<u32>>) -> Result<(), Error> {
        let Some(handle) = self.sequences.find(id) else { return Ok(()) };
        let sequence = &mut self.sequences[handle];
        sequence.whole = spans;
        let tokens = sequence.prompt_length as usize + sequence.max_tokens as usize;
        let longest = sequence.longest_whole(self.config.block_size);
        let fits = self.check_fits(tokens, longest);
        if fits.is_err() {
            self.end(handle);
        }
        fits
    }

    /// Says what a prompt shows besides its tokens, so that the prefix cache tells one image from another. For a sequence
    /// that was just submitted; unknown ids are ignored.
    pub fn show(&mut self, id: u64, shown: Vec<Shown>) {
        if let Some(handle) = self.sequences.find(id) {
            self.sequences[handle].show(shown);
        }
    }
}

impl Step {
    /// Asks for the scores that computing `range` gives: a position tells of the token after it. Called before the
    /// range's tokens are added.
    pub(super) fn push_scores(&mut self, sequence: &Sequence, range: &Range<u32>) {
        if !sequence.scored || range.start >= sequence.prompt_length {
            return;
        }
        let first = self.batch.token_ids.len() as u32;
        let score = |position: u32, index: Option<u32>| Score {
            sequence_id: sequence.id,
            position,
            token_id: sequence.token_ids[position as usize],
            index,
        };
        self.batch.scores.extend((range.start == 0).then(|| score(0, None)));
        let following = range.clone().filter(|position| position + 1 < sequence.prompt_length);
        let scores = following.map(|position| score(position + 1, Some(first + (position - range.start))));
        self.batch.scores.extend(scores);
    }
}
