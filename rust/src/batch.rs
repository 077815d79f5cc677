//! The value between the scheduler and everybody else: what the model computes in one step.

use crate::sampled::SampledTokens;

/// One sequence's share of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchRow {
    /// The sequence, as its submitter named it.
    pub sequence_id: u64,
    /// First position that is computed in this step.
    pub start: u32,
    /// How many positions are computed, at least 1.
    pub length: u32,
    /// Length of the prompt. Positions below it are prefill, computed in cells of `Batch::block_size`
    /// counted from position 0; each position from it on is a decode row of its own. This makes the
    /// arithmetic of a position a function of (position, prompt length) alone, so that chunking,
    /// prefix hits and recomputation after preemption change no bit.
    pub prompt_length: u32,
    /// True if a token is drawn from the logits of the last position.
    pub samples: bool,
    /// How many tokens this sequence drew before: the `position` of its next draw. Meaningful if `samples`.
    pub output_index: u32,
    /// Prompt tokens that the sequence found in the prefix cache when it first ran.
    pub cached_tokens: u32,
}

/// A prompt token whose log-probability is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// Whose prompt it is.
    pub sequence_id: u64,
    /// Its position in the prompt.
    pub position: u32,
    /// The token.
    pub token_id: u32,
    /// Index on the token axis of the position before it, whose logits tell; None for the first token.
    pub index: Option<u32>,
}

/// What the model computes in one step. Immutable once the scheduler has made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Names this step; `commit` hands it back.
    pub ticket: u64,
    /// Positions per KV block.
    pub block_size: u32,
    /// The sequences of this step.
    pub rows: Vec<BatchRow>,
    /// Token ids of all rows one after the other; -1 where the token is still being drawn by a step in flight.
    pub token_ids: Vec<i64>,
    /// Position of each token in its sequence, parallel to `token_ids`.
    pub positions: Vec<i64>,
    /// Groups of layers that keep equally much; each has slots and block tables of its own.
    pub num_groups: usize,
    /// KV slot of each token (`block * block_size + offset`), `num_groups` times parallel to `token_ids`.
    pub slots: Vec<i64>,
    /// Block tables, `num_groups` times `rows.len()` by `block_table_width`, row-major; entries that are unused or lie behind
    /// the group's window are -1.
    pub block_tables: Vec<i64>,
    /// Columns of `block_tables`: enough for the longest row.
    pub block_table_width: usize,
    /// Prompt tokens to score, by row and position; mostly none.
    pub scores: Vec<Score>,
}

impl Batch {
    /// Rows that draw a token, in order. Logits and sampled tokens have one entry for each.
    pub fn sampled_rows(&self) -> impl Iterator<Item = &BatchRow> {
        self.rows.iter().filter(|row| row.samples)
    }

    /// Tokens of prompts among those that are computed.
    pub fn num_prompt_tokens(&self) -> u32 {
        let prompt = |row: &BatchRow| row.length.min(row.prompt_length.saturating_sub(row.start));
        self.rows.iter().map(prompt).sum()
    }

    /// This batch with the tokens that were still being drawn when it was made. `drawn`: the draws of the steps in flight
    /// before it, the newest last. A token that none of them has belongs to a sequence that ended meanwhile, and reads 0.
    pub fn filled(&self, drawn: &[&SampledTokens]) -> Self {
        let mut filled = self.clone();
        let mut end = 0;
        for row in &self.rows {
            end += row.length as usize;
            let newest = &mut filled.token_ids[end - 1];
            if *newest == -1 {
                let token = drawn.iter().rev().find_map(|tokens| tokens.of(row.sequence_id));
                *newest = i64::from(token.unwrap_or(0));
            }
        }
        filled
    }

    /// Indices on the token axis of the positions whose logits are needed: those of the sampled rows, then those
    /// that score prompt tokens.
    pub fn logit_indices(&self) -> impl Iterator<Item = u32> + '_ {
        let ends = self.rows.iter().scan(0, |end, row| {
            *end += row.length;
            Some((row, *end))
        });
        let sampled = ends.filter(|(row, _)| row.samples).map(|(_, end)| end - 1);
        sampled.chain(self.scores.iter().filter_map(|score| score.index))
    }
}
