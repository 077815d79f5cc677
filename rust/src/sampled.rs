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

/// One token per sampled row of a batch, in the order of `Batch::sampled_rows`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampledTokens {
    /// The sequence of each token.
    pub sequence_ids: Vec<u64>,
    /// The drawn ids, parallel to `sequence_ids`.
    pub token_ids: Vec<u32>,
    /// Log-probabilities where the row asked for them, parallel to `sequence_ids`.
    pub logprobs: Vec<Option<Logprobs>>,
    /// Sequences whose grammar could not be followed any further: their tokens mean nothing.
    pub failed: Vec<u64>,
    /// Prompt tokens that the batch asked to score, in its order.
    pub scores: Vec<Scored>,
}
