//! `EventBatch`, `EventRow` and the decoders as Python sees them.

use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustc_hash::FxHashSet;

use super::OrRaise;
use crate::chunks::ChunkDecoder;
use crate::event::{Event, EventBatch, EventKind, TokenLogprob, Usage};
use crate::event_codec::EventDecoder;

/// See `_core.pyi`.
#[pyclass(name = "EventBatch", module = "ecocore._core", frozen)]
pub struct PyEventBatch(pub EventBatch);

#[pymethods]
impl PyEventBatch {
    #[getter]
    fn finished_sequences(&self) -> Vec<u64> {
        self.0.finished_sequences.clone()
    }

    #[getter]
    fn num_tokens(&self) -> u32 {
        self.0.num_tokens
    }

    fn request_ids(&self) -> Vec<u64> {
        let mut seen = FxHashSet::default();
        let ids = self.0.events.iter().map(|event| event.request_id);
        ids.filter(|&id| seen.insert(id)).collect()
    }

    fn rows(&self) -> Vec<PyEventRow> {
        self.0.events.iter().cloned().map(PyEventRow).collect()
    }

    fn __len__(&self) -> usize {
        self.0.events.len()
    }
}

/// See `_core.pyi`.
#[pyclass(name = "EventRow", module = "ecocore._core", frozen)]
pub struct PyEventRow(Event);

type Top<'py> = (u32, Bound<'py, PyBytes>, f64);
type Entry<'py> = (u32, Bound<'py, PyBytes>, f64, Vec<Top<'py>>);

#[pymethods]
impl PyEventRow {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0.kind {
            EventKind::Prompt { .. } => "prompt",
            EventKind::Text { .. } => "text",
            EventKind::Reasoning { .. } => "reasoning",
            EventKind::ToolCall { .. } => "tool_call",
            EventKind::ToolArguments { .. } => "tool_arguments",
            EventKind::Finished { .. } => "finished",
            EventKind::Failed { .. } => "failed",
        }
    }

    #[getter]
    fn request_id(&self) -> u64 {
        self.0.request_id
    }

    #[getter]
    fn choice(&self) -> u32 {
        self.0.choice
    }

    #[getter]
    fn text(&self) -> &str {
        match &self.0.kind {
            EventKind::Text { text, .. }
            | EventKind::Reasoning { text }
            | EventKind::ToolArguments { text, .. } => text,
            _ => "",
        }
    }

    #[getter]
    fn index(&self) -> u32 {
        match self.0.kind {
            EventKind::ToolCall { index, .. } | EventKind::ToolArguments { index, .. } => index,
            _ => 0,
        }
    }

    #[getter]
    fn id(&self) -> &str {
        match &self.0.kind {
            EventKind::ToolCall { id, .. } => id,
            _ => "",
        }
    }

    #[getter]
    fn name(&self) -> &str {
        match &self.0.kind {
            EventKind::ToolCall { name, .. } => name,
            _ => "",
        }
    }

    #[getter]
    fn logprobs<'py>(&self, py: Python<'py>) -> Vec<Entry<'py>> {
        let spell = |entry: &TokenLogprob| {
            let top = entry.top.iter().map(|(id, bytes, logprob)| (*id, PyBytes::new(py, bytes), *logprob));
            (entry.token_id, PyBytes::new(py, &entry.bytes), entry.logprob, top.collect())
        };
        match &self.0.kind {
            EventKind::Text { logprobs, .. } | EventKind::Prompt { logprobs } => {
                logprobs.iter().map(spell).collect()
            }
            _ => Vec::new(),
        }
    }

    #[getter]
    fn reason(&self) -> &'static str {
        match self.0.kind {
            EventKind::Finished { reason, .. } => reason.as_str(),
            _ => "",
        }
    }

    #[getter]
    fn usage(&self) -> UsageTuple {
        match self.0.kind {
            EventKind::Finished { usage, .. } => usage_tuple(usage),
            _ => (0, 0, 0, 0),
        }
    }

    #[getter]
    fn code(&self) -> &str {
        match &self.0.kind {
            EventKind::Failed { code, .. } => code,
            _ => "",
        }
    }

    #[getter]
    fn message(&self) -> &str {
        match &self.0.kind {
            EventKind::Failed { message, .. } => message,
            _ => "",
        }
    }
}

/// Prompt, cached, completion and reasoning tokens: the order in which Python gets them.
pub(super) type UsageTuple = (u32, u32, u32, u32);

pub(super) fn usage_tuple(usage: Usage) -> UsageTuple {
    (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens)
}

const UNBROKEN: &str = "no call panics while it holds the lock";

/// See `_core.pyi`.
#[pyclass(name = "EventDecoder", module = "ecocore._core", frozen)]
pub struct PyEventDecoder(Mutex<EventDecoder>);

#[pymethods]
impl PyEventDecoder {
    #[new]
    fn new(request_id: u64, choices: u32) -> Self {
        Self(Mutex::new(EventDecoder::new(request_id, choices)))
    }

    fn push(&self, py: Python<'_>, piece: &[u8]) -> PyResult<PyEventBatch> {
        self.0.lock().expect(UNBROKEN).push(piece).or_raise(py).map(PyEventBatch)
    }

    #[getter]
    fn is_complete(&self) -> bool {
        self.0.lock().expect(UNBROKEN).is_complete()
    }

    fn fail(&self, code: &str, message: &str) -> PyEventBatch {
        PyEventBatch(self.0.lock().expect(UNBROKEN).fail(code, message))
    }
}

/// See `_core.pyi`.
#[pyclass(name = "ChunkDecoder", module = "ecocore._core", frozen)]
pub struct PyChunkDecoder(Mutex<ChunkDecoder>);

#[pymethods]
impl PyChunkDecoder {
    #[new]
    #[pyo3(signature = (request_id, choices, *, prompt_tokens=0))]
    fn new(request_id: u64, choices: u32, prompt_tokens: u32) -> Self {
        Self(Mutex::new(ChunkDecoder::new(request_id, choices, prompt_tokens)))
    }

    fn push(&self, py: Python<'_>, piece: &[u8]) -> PyResult<PyEventBatch> {
        self.0.lock().expect(UNBROKEN).push(piece).or_raise(py).map(PyEventBatch)
    }

    #[getter]
    fn is_complete(&self) -> bool {
        self.0.lock().expect(UNBROKEN).is_complete()
    }

    #[getter]
    fn usage(&self) -> Option<UsageTuple> {
        self.0.lock().expect(UNBROKEN).usage().map(usage_tuple)
    }

    fn fail(&self, code: &str, message: &str) -> PyEventBatch {
        PyEventBatch(self.0.lock().expect(UNBROKEN).fail(code, message))
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyChunkDecoder>()?;
    module.add_class::<PyEventBatch>()?;
    module.add_class::<PyEventDecoder>()?;
    module.add_class::<PyEventRow>()
}
