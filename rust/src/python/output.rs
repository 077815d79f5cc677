//! `TextStream` and `OutputStreams` as Python sees them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyList, PyString};

use super::batch::{PyBatch, PySampledTokens};
use super::event::PyEventBatch;
use super::integers::integers;
use super::tokenizer::PyTokenizer;
use super::{OrRaise, to_python};
use crate::error::Error;
use crate::output::{ChoiceOptions, OutputStreams};
use crate::text_stream::{Pieces, TextStreams};
use crate::tool_calls::{Syntax, ToolOptions};

const UNBROKEN: &str = "no call panics while it holds the lock";

/// See `_core.pyi`.
#[pyclass(name = "TextStream", module = "ecocore._core", frozen)]
pub struct PyTextStream {
    streams: Mutex<TextStreams>,
    /// Whose texts of tokens are shared.
    tokenizer: Py<PyTokenizer>,
}

#[pymethods]
impl PyTextStream {
    #[new]
    fn new(tokenizer: Py<PyTokenizer>) -> Self {
        let streams = TextStreams::new(Arc::clone(tokenizer.get().0.vocab()));
        Self { streams: Mutex::new(streams), tokenizer }
    }

    #[pyo3(
        signature = (stop=Vec::new(), skip_special_tokens=true),
        text_signature = "($self, stop=(), skip_special_tokens=True)"
    )]
    fn open(
        &self,
        py: Python<'_>,
        stop: Vec<Bound<'_, PyString>>,
        skip_special_tokens: bool,
    ) -> PyResult<u64> {
        let stop = stop_strings(py, &stop)?;
        let opened = py.detach(|| self.streams.lock().expect(UNBROKEN).open(&stop, skip_special_tokens));
        opened.or_raise(py)
    }

    fn push<'py>(
        &self,
        py: Python<'py>,
        handles: &Bound<'py, PyAny>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        let (handles, ids) = (integers(handles, "handles")?, integers(ids, "ids")?);
        let pieces = py.detach(|| self.streams.lock().expect(UNBROKEN).push(&handles, &ids)).or_raise(py)?;
        let texts = self.tokenizer.get().texts(py, &pieces)?;
        Ok((texts, stopped(py, &pieces)?))
    }

    fn finish(&self, py: Python<'_>, handle: u64) -> PyResult<String> {
        self.streams.lock_py_attached(py).expect(UNBROKEN).finish(handle).or_raise(py)
    }
}

/// See `_core.pyi`.
#[pyclass(name = "OutputStreams", module = "ecocore._core", frozen)]
pub struct PyOutputStreams(Mutex<OutputStreams>);

impl PyOutputStreams {
    /// For one call. A panic leaves every choice as it was or one token further, and `fail` must still reach their owners.
    fn held(&self) -> MutexGuard<'_, OutputStreams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyOutputStreams {
    #[new]
    fn new(tokenizer: PyRef<'_, PyTokenizer>) -> Self {
        Self(Mutex::new(OutputStreams::new(Arc::clone(tokenizer.0.vocab()))))
    }

    #[pyo3(
        signature = (
            sequence_id, *, request_id, choice, prompt_tokens, max_tokens, stop=Vec::new(), end_ids=Vec::new(),
            logprobs=false, min_tokens=0, tool_syntax=None, tool_names=Vec::new(), forced_tool=false,
            max_tool_calls=None, reasoning=false, in_thought=false
        ),
        text_signature = "($self, sequence_id, *, request_id, choice, prompt_tokens, max_tokens, stop=(), \
                          end_ids=(), logprobs=False, min_tokens=0, tool_syntax=None, tool_names=(), \
                          forced_tool=False, max_tool_calls=None, reasoning=False, in_thought=False)"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a keyword in Python")]
    fn open(
        &self,
        py: Python<'_>,
        sequence_id: u64,
        request_id: u64,
        choice: u32,
        prompt_tokens: u32,
        max_tokens: u32,
        stop: Vec<Bound<'_, PyString>>,
        end_ids: Vec<u32>,
        logprobs: bool,
        min_tokens: u32,
        tool_syntax: Option<&str>,
        tool_names: Vec<String>,
        forced_tool: bool,
        max_tool_calls: Option<u32>,
        reasoning: bool,
        in_thought: bool,
    ) -> PyResult<()> {
        let tools = ToolOptions {
            syntax: tool_syntax
                .map(|name| Syntax::from_name("tool_syntax", name))
                .transpose()
                .or_raise(py)?,
            names: tool_names,
            forced: forced_tool,
            max_calls: max_tool_calls,
            reasoning,
            in_thought,
        };
        let options = ChoiceOptions {
            request_id,
            choice,
            prompt_tokens,
            max_tokens,
            stop: stop_strings(py, &stop)?,
            end_ids,
            logprobs,
            min_tokens,
            tools,
        };
        py.detach(|| self.held().open(sequence_id, options)).or_raise(py)
    }

    fn close(&self, sequence_id: u64) {
        self.held().close(sequence_id);
    }

    fn push(
        &self,
        py: Python<'_>,
        batch: &Bound<'_, PyBatch>,
        tokens: &Bound<'_, PySampledTokens>,
    ) -> PyResult<PyEventBatch> {
        let (batch, tokens) = (&batch.get().0, &tokens.get().0);
        let events = py.detach(|| self.held().push(batch, tokens));
        events.map(PyEventBatch).or_raise(py)
    }

    fn ended(&self, tokens: &Bound<'_, PySampledTokens>) -> Vec<u64> {
        self.held().ended(&tokens.get().0)
    }

    fn fail(
        &self,
        py: Python<'_>,
        sequence_ids: &Bound<'_, PyAny>,
        code: &str,
        message: &str,
    ) -> PyResult<PyEventBatch> {
        let sequence_ids = integers(sequence_ids, "sequence_ids")?;
        let events = py.detach(|| self.held().fail(&sequence_ids, code, message));
        Ok(PyEventBatch(events))
    }
}

/// Whether each stream has stopped. Few have, and a list of nothing but False is made in one go.
fn stopped<'py>(py: Python<'py>, pieces: &Pieces) -> PyResult<Bound<'py, PyList>> {
    let none = PyList::new(py, [false])?.as_sequence().repeat(pieces.iter().len())?;
    let all = none.cast_into::<PyList>()?;
    for (index, _) in pieces.iter().enumerate().filter(|(_, (_, stopped))| *stopped) {
        all.set_item(index, true)?;
    }
    Ok(all)
}

/// Stop strings as Rust strings; Python's may hold lone surrogates, which no text ever contains.
fn stop_strings(py: Python<'_>, stop: &[Bound<'_, PyString>]) -> PyResult<Vec<String>> {
    let string = |stop: &Bound<'_, PyString>| stop.to_str().map(str::to_owned).ok();
    let strings: Option<Vec<String>> = stop.iter().map(string).collect();
    strings.ok_or_else(|| {
        to_python(py, Error::parameter("stop", "holds a lone surrogate, which is no character"))
    })
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTextStream>()?;
    module.add_class::<PyOutputStreams>()
}
