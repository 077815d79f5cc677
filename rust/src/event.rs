//! The value that leaves the engine: everything one step has to tell to the owners of requests.

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` or the context.
    Length,
    /// The model called tools: at least one call is whole, and no limit cut the answer.
    ToolCalls,
}

impl FinishReason {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Tokens used by one choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens drawn, the end token included.
    pub completion_tokens: u32,
    /// Tokens drawn that became reasoning.
    pub reasoning_tokens: u32,
}

/// Raw log-probabilities of one content token, resolved to bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Id of the token.
    pub token_id: u32,
    /// Its bytes; may be part of a character.
    pub bytes: Vec<u8>,
    /// Natural log-probability, finite.
    pub logprob: f64,
    /// The likeliest tokens (id, bytes, log-probability), best first.
    pub top: Vec<(u32, Vec<u8>, f64)>,
}

/// What happened to one choice in one step.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// Prompt tokens were scored; comes only where that was asked for, before anything else of the choice.
    Prompt {
        /// In order, in one or more pieces. The first token of a prompt follows nothing: its `logprob` is NaN.
        logprobs: Vec<TokenLogprob>,
    },
    /// Text became final. `text` may be empty when only log-probabilities are released.
    Text {
        /// Valid UTF-8, never part of a stop string.
        text: String,
        /// One entry per content token if the choice asked for log-probabilities, else empty.
        logprobs: Vec<TokenLogprob>,
    },
    /// The model thought aloud; no part of the answer.
    Reasoning {
        /// Valid UTF-8, never empty.
        text: String,
    },
    /// A tool call begins. Its arguments follow.
    ToolCall {
        /// Which of the choice's calls, from 0 in order.
        index: u32,
        /// "call_" and 24 letters and digits, unique.
        id: String,
        /// One of the request's tools.
        name: String,
    },
    /// More of the arguments of a call that has begun.
    ToolArguments {
        /// The call.
        index: u32,
        /// A piece of JSON text, never empty.
        text: String,
    },
    /// The choice ended; nothing follows.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it used.
        usage: Usage,
    },
    /// The choice failed; nothing follows.
    Failed {
        /// A short word for programs, e.g. "engine_error".
        code: String,
        /// A sentence for people; holds no file path and no library text.
        message: String,
    },
}

/// One event with its address.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The request.
    pub request_id: u64,
    /// Which of the request's choices.
    pub choice: u32,
    /// Tokens that the choice had drawn when this happened: what was delivered with it is counted by this.
    pub completion_tokens: u32,
    /// What happened.
    pub kind: EventKind,
}

/// Everything one step tells. For one choice the events are in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventBatch {
    /// The events.
    pub events: Vec<Event>,
    /// Sequences that ended in this step: `Scheduler::commit` frees them.
    pub finished_sequences: Vec<u64>,
    /// Tokens that were drawn for open choices, whatever they told.
    pub num_tokens: u32,
}
