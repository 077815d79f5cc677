//! The one error of the core. Each variant keeps the facts; `Display` makes the sentence.

use std::fmt;

/// What can go wrong in the core. The binding maps each variant to one exception of `ecocore.errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A value that the caller chose is out of range or of the wrong kind (`InvalidParameter`).
    InvalidParameter {
        /// The parameter as the caller spells it.
        name: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A JSON schema is wrong or asks for what no grammar can promise (`InvalidParameter` with the code
    /// "invalid_json_schema").
    InvalidSchema {
        /// The parameter that holds the schema.
        name: String,
        /// What is wrong, and where in the schema.
        message: String,
    },
    /// A model file is truncated, altered or of an unsupported kind (`InvalidModelFile`).
    InvalidModelFile {
        /// Where in the file or which entry, e.g. "tensor blk.3.attn_q.weight".
        place: String,
        /// What is wrong there.
        message: String,
    },
    /// The waiting queue is full (`QueueFull`).
    QueueFull {
        /// How many requests may wait.
        limit: usize,
    },
    /// The request can never fit the KV pool (`ContextLengthExceeded`).
    ContextLengthExceeded {
        /// Tokens that the request needs.
        needed: usize,
        /// Tokens that there are.
        available: usize,
    },
    /// A rule between the rooms was broken, such as a ticket that was never issued (`InternalError`).
    Internal(String),
}

impl Error {
    /// An [`Error::InvalidParameter`] from its two parts.
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidParameter { name: name.into(), message: message.into() }
    }

    /// An [`Error::InvalidSchema`] from its two parts.
    pub fn schema(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidSchema { name: name.into(), message: message.into() }
    }

    /// An [`Error::InvalidModelFile`] from its two parts.
    pub fn file(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidModelFile { place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidParameter { name, message } | Self::InvalidSchema { name, message } => {
                write!(f, "{name} {message}")
            }
            Self::InvalidModelFile { place, message } => write!(f, "{place}: {message}"),
            Self::QueueFull { limit } => write!(f, "{limit} requests are waiting already; retry in a moment"),
            Self::ContextLengthExceeded { needed, available } => {
                write!(f, "the request needs {needed} tokens of context, this model has {available}")
            }
            Self::Internal(message) => write!(f, "internal error: {message}"),
        }
    }
}

impl std::error::Error for Error {}
