//! `SseWriter` as Python sees it.

use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyBytes;

use super::OrRaise;
use super::event::{PyEventBatch, UsageTuple, usage_tuple};
use crate::sse::{AnswerOptions, Form, SseWriter};

const UNBROKEN: &str = "no call panics while it holds the lock";

/// See `_core.pyi`. The lock lets the engine's thread and the server's call at the same time.
#[pyclass(name = "SseWriter", module = "ecocore._core", frozen)]
pub struct PySseWriter(Mutex<SseWriter>);

impl PySseWriter {
    /// One short call on the writer.
    fn with<T>(&self, py: Python<'_>, call: impl FnOnce(&mut SseWriter) -> T) -> T {
        call(&mut self.0.lock_py_attached(py).expect(UNBROKEN))
    }
}

#[pymethods]
impl PySseWriter {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(SseWriter::new()))
    }

    #[pyo3(signature = (request_id, *, completion_id, created, model, system_fingerprint, stream, choices=1,
                        include_usage=false, logprobs=false, form="chat", service_tier=None,
                        prompts=1, echo=Vec::new(), echo_hidden=0, prompt_only=false, fields=String::new()),
           text_signature = "($self, request_id, *, completion_id, created, model, system_fingerprint, stream, \
                             choices=1, include_usage=False, logprobs=False, form='chat', service_tier=None, \
                             prompts=1, echo=(), echo_hidden=0, prompt_only=False, fields='')")]
    #[expect(clippy::too_many_arguments, reason = "each is a keyword in Python")]
    fn open(
        &self,
        py: Python<'_>,
        request_id: u64,
        completion_id: String,
        created: i64,
        model: String,
        system_fingerprint: String,
        stream: bool,
        choices: u32,
        include_usage: bool,
        logprobs: bool,
        form: &str,
        service_tier: Option<&str>,
        prompts: u32,
        echo: Vec<String>,
        echo_hidden: u32,
        prompt_only: bool,
        fields: String,
    ) -> PyResult<()> {
        let options = AnswerOptions {
            completion_id,
            created,
            model,
            system_fingerprint,
            stream,
            choices,
            include_usage,
            logprobs,
            form: Form::from_name(form).or_raise(py)?,
            tells_service_tier: service_tier.is_some(),
            prompts,
            echo,
            echo_hidden,
            prompt_only,
            fields,
        };
        self.with(py, |writer| writer.open(request_id, &options)).or_raise(py)
    }

    fn join(&self, py: Python<'_>, request_id: u64, into: u64, first_choice: u32) -> PyResult<()> {
        self.with(py, |writer| writer.join(request_id, into, first_choice)).or_raise(py)
    }

    fn close(&self, py: Python<'_>, request_id: u64) {
        self.with(py, |writer| writer.close(request_id));
    }

    fn push(&self, py: Python<'_>, events: &Bound<'_, PyEventBatch>) -> Vec<u64> {
        let events = &events.get().0;
        py.detach(|| self.0.lock().expect(UNBROKEN).push(events))
    }

    fn take<'py>(&self, py: Python<'py>, request_id: u64) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.with(py, |writer| writer.take(request_id)))
    }

    fn buffered(&self, py: Python<'_>, request_id: u64) -> usize {
        self.with(py, |writer| writer.buffered(request_id))
    }

    fn backlog(&self, py: Python<'_>, request_id: u64) -> usize {
        self.with(py, |writer| writer.backlog(request_id))
    }

    fn is_finished(&self, py: Python<'_>, request_id: u64) -> bool {
        self.with(py, |writer| writer.is_finished(request_id))
    }

    fn failure(&self, py: Python<'_>, request_id: u64) -> Option<(String, String)> {
        self.with(py, |writer| {
            writer.failure(request_id).map(|(code, message)| (code.to_owned(), message.to_owned()))
        })
    }

    fn delivered(&self, py: Python<'_>, request_id: u64) -> u64 {
        self.with(py, |writer| writer.delivered(request_id))
    }

    fn usage(&self, py: Python<'_>, request_id: u64) -> Option<UsageTuple> {
        self.with(py, |writer| writer.usage(request_id)).map(usage_tuple)
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySseWriter>()
}
