//! The fast parts of ecocore: text (tokenize, detokenize, stop), choice (penalties, grammars,
//! top-k/p, seeded draw) and bookkeeping (scheduler, KV blocks, prefix cache).
//!
//! The core is plain Rust and knows no Python, no tensors, and no clock but the deadline of a grammar and its masks';
//! `python/` binds it behind the `python` feature. Three small values travel between the parts:
//! [`batch::Batch`] (what the model computes), [`sampled::SampledTokens`] (what was drawn) and
//! [`event::EventBatch`] (what leaves).

pub mod batch;
mod call_ids;
pub mod chunks;
pub mod cuda;
pub mod error;
pub mod event;
pub mod event_codec;
pub mod gguf;
pub mod gguf_vocab;
pub mod grammar;
pub mod json_scan;
pub mod meter;
pub mod mock;
pub mod output;
pub mod penalties;
mod pipeline;
pub mod quant;
pub mod resize;
pub mod rng;
pub mod safetensors_header;
pub mod sampled;
pub mod sampler;
pub mod sampler_state;
pub mod scheduler;
pub mod sse;
pub mod stop;
pub mod text_stream;
pub mod tokenizer;
pub mod tokenizer_json;
pub mod tool_calls;
pub mod tool_syntax;
pub mod vocab;

#[cfg(feature = "python")]
mod python;
