//! Who computes what in the next step, and in which KV blocks.
//!
//! Takes submitted prompts and drawn tokens, gives [`Batch`](crate::batch::Batch)es. It is pure: no
//! tensors, no clock, no randomness; the same calls give the same batches. docs/scheduling.md explains the
//! rules and why they hold.
//!
//! - [`blocks`]: which block is free, and how many sequences hold one that is not;
//! - [`prefix_cache`]: which block holds the keys and values of which beginning of a prompt;
//! - [`group`]: the blocks of layers that keep equally much;
//! - [`sequence`]: how far one sequence has come;
//! - [`turns`]: who waits, and whose turn it is;
//! - [`scheduler`]: the rules that connect them.

pub mod blocks;
pub mod group;
pub mod prefix_cache;
#[expect(clippy::module_inception, reason = "the file is named for the one type it holds")]
pub mod scheduler;
pub mod sequence;
pub mod turns;

pub use group::GroupConfig;
pub use prefix_cache::Shown;
pub use scheduler::{Scheduler, SchedulerConfig, Stats, StepLimits};
pub use turns::Owner;
