//! The scheduler as Python calls it.
//!
//! The GIL stays held: a call takes microseconds, while getting the GIL back from a busy thread may take
//! milliseconds; and so another thread that asks for `stats` never meets a scheduler in the middle of a change.

use std::collections::BTreeMap;

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;

use super::OrRaise;
use super::batch::{PyBatch, PySampledTokens};
use super::event::PyEventBatch;
use crate::error::Error;
use crate::scheduler::{GroupConfig, Owner, Scheduler, SchedulerConfig, Shown, Stats, StepLimits};

/// See `_core.pyi`.
#[pyclass(name = "Scheduler", module = "ecocore._core")]
pub struct PyScheduler(pub Scheduler);

#[pymethods]
impl PyScheduler {
    #[new]
    #[pyo3(signature = (
        *, num_blocks=None, groups=None, block_size=64, max_sequences=64, max_batch_tokens=512, max_waiting=256,
        prefix_caching=true, reserved_sequences=0
    ))]
    #[expect(clippy::too_many_arguments, reason = "each is a keyword in Python")]
    fn new(
        py: Python<'_>,
        num_blocks: Option<i64>,
        groups: Option<Vec<(i64, Option<i64>)>>,
        block_size: i64,
        max_sequences: i64,
        max_batch_tokens: i64,
        max_waiting: i64,
        prefix_caching: bool,
        reserved_sequences: usize,
    ) -> PyResult<Self> {
        let config = || {
            let groups = match (num_blocks, groups) {
                (Some(num_blocks), None) => vec![(num_blocks, None)],
                (None, Some(groups)) => groups,
                _ => return Err(Error::parameter("groups", "must be given, or num_blocks, but not both")),
            };
            let group = |(num_blocks, window): (i64, Option<i64>)| {
                Ok(GroupConfig {
                    num_blocks: size("num_blocks", num_blocks)?,
                    window: window.map(|window| size("window", window)).transpose()?,
                })
            };
            Ok(SchedulerConfig {
                groups: groups.into_iter().map(group).collect::<Result<_, _>>()?,
                block_size: size("block_size", block_size)?,
                max_sequences: size("max_sequences", max_sequences)?,
                reserved_sequences,
                max_batch_tokens: size("max_batch_tokens", max_batch_tokens)?,
                max_waiting: size("max_waiting", max_waiting)?,
                prefix_caching,
            })
        };
        config().and_then(Scheduler::new).map(Self).or_raise(py)
    }

    #[pyo3(
        signature = (
            sequence_id, prompt, max_tokens, salt=b"".as_slice(), scores=false, *, key=0, priority=0, whole=vec![], shown=vec![]
        ),
        text_signature = "($self, sequence_id, prompt, max_tokens, salt=b'', scores=False, *, key=0, priority=0, whole=(), shown=())"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter in Python")]
    fn submit(
        &mut self,
        py: Python<'_>,
        sequence_id: u64,
        prompt: PyReadonlyArray1<'_, u32>,
        max_tokens: i64,
        salt: &[u8],
        scores: bool,
        key: u64,
        priority: u32,
        whole: Vec<(u32, u32)>,
        shown: Vec<(u32, Vec<u8>)>,
    ) -> PyResult<()> {
        let prompt = prompt.as_array().to_vec();
        let owner = Owner { salt, key, priority };
        let max_tokens = size("max_tokens", max_tokens);
        max_tokens
            .and_then(|max_tokens| self.0.submit(sequence_id, prompt, max_tokens, owner))
            .or_raise(py)?;
        if scores {
            self.0.score_prompt(sequence_id);
        }
        self.0
            .keep_whole(sequence_id, whole.into_iter().map(|(start, end)| start..end).collect())
            .or_raise(py)?;
        self.0.show(sequence_id, shown.into_iter().map(|(start, digest)| Shown { start, digest }).collect());
        Ok(())
    }

    fn cancel(&mut self, sequence_id: u64) -> bool {
        self.0.cancel(sequence_id)
    }

    #[pyo3(
        signature = (*, prompt_tokens=None, held=vec![]),
        text_signature = "($self, *, prompt_tokens=None, held=())"
    )]
    fn schedule(&mut self, prompt_tokens: Option<u32>, held: Vec<u64>) -> Option<PyBatch> {
        let limits = StepLimits { prompt_tokens: prompt_tokens.unwrap_or(u32::MAX), held: &held };
        self.0.schedule_within(limits).map(PyBatch)
    }

    fn commit(
        &mut self,
        py: Python<'_>,
        batch: &PyBatch,
        tokens: &PySampledTokens,
        ended: Vec<u64>,
    ) -> PyResult<()> {
        self.0.commit(batch.0.ticket, &tokens.0, &ended).or_raise(py)
    }

    fn finish(&mut self, events: &PyEventBatch) {
        for &sequence_id in &events.0.finished_sequences {
            self.0.cancel(sequence_id); // to the scheduler, one who is done and one who left are the same
        }
    }

    fn abandon(&mut self, py: Python<'_>, batch: &PyBatch) -> PyResult<()> {
        self.0.abandon(batch.0.ticket).or_raise(py)
    }

    fn num_waiting_of(&self, key: u64) -> usize {
        self.0.num_waiting_of(key)
    }

    fn has_work(&self) -> bool {
        self.0.has_work()
    }

    fn stats(&self) -> BTreeMap<&'static str, u64> {
        let Stats {
            waiting,
            running,
            free_blocks,
            cached_blocks,
            total_blocks,
            windowed_free_blocks,
            windowed_total_blocks,
            prefix_queries,
            prefix_hits,
            preemptions,
            blocked,
        } = self.0.stats();
        BTreeMap::from([
            ("waiting", waiting as u64),
            ("running", running as u64),
            ("free_blocks", free_blocks as u64),
            ("cached_blocks", cached_blocks as u64),
            ("total_blocks", total_blocks as u64),
            ("windowed_free_blocks", windowed_free_blocks as u64),
            ("windowed_total_blocks", windowed_total_blocks as u64),
            ("prefix_queries", prefix_queries),
            ("prefix_hits", prefix_hits),
            ("preemptions", preemptions),
            ("blocked", u64::from(blocked)),
        ])
    }

    fn check_integrity(&self, py: Python<'_>) -> PyResult<()> {
        self.0.check_integrity().or_raise(py)
    }
}

/// A size that Python gave, if it is one; 0 is left to the core.
fn size<T: TryFrom<i64>>(name: &str, value: i64) -> Result<T, Error> {
    T::try_from(value)
        .map_err(|_| Error::parameter(name, format!("must be at least 1 and fit 32 bits, got {value}")))
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyScheduler>()
}
