//! The value between the sampler and the output: the tokens drawn in one step.

/// Raw log-probabilities of one draw, taken before any bias, penalty, mask or temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural log-probability of the drawn token; finite, at least -9999.
    pub chosen: f64,
    /// The likeliest tokens, best first, ties by lower id; as many as the row asked for.
    pub top: Vec<(u32, f64)>,
}

/// A prompt token that was scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Whose prompt it is.
    pub sequence_id: u64,
    /// Its position in the prompt.
    pub position: u32,
    /// The token.
    pub token_id: u32,
    /// None for the first token, which follows nothing.
    pub logprobs: Option<Logprobs>,
}

/// Why a row has no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoToken {
    /// Its grammar cannot be followed any further.
    GrammarLost,
    /// The model computed -inf or NaN for every token that is allowed.
    NothingComputed,
}

impl NoToken {
    /// A short word for programs, and a sentence for people.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::GrammarLost => {
                ("grammar_too_complex", "the answer became too complex for its grammar; simplify the schema")
            }
            Self::NothingComputed => {
                ("engine_error", "the model computed no number for the next token; its weights may be broken")
            }
        }
    }
}

/// One token per sampled row of a batch, in the order of `Batch::sampled_rows`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampledTokens {
    /// The sequence of each token.
    pub sequence_ids: Vec<u64>,
    /// The drawn ids, parallel to `sequence_ids`.
    pub token_ids: Vec<u32>,
    /// Log-probabilities where the row asked for them, parallel to `sequence_ids`.
    pub logprobs: Vec<Option<Logprobs>>,
    /// Sequences that got no token, and why: theirs mean nothing.
    pub failed: Vec<(u64, NoToken)>,
    /// Prompt tokens that the batch asked to score, in its order.
    pub scores: Vec<Scored>,
}

impl SampledTokens {
    /// The token of a sequence.
    pub fn of(&self, sequence_id: u64) -> Option<u32> {
        let place = self.sequence_ids.iter().position(|&id| id == sequence_id)?;
        Some(self.token_ids[place])
    }
}
