//! The Python binding: a list of names. Each function spells its Python signature, calls the core and
//! maps the error. No other file of the crate knows Python.

mod batch;
mod buffer;
mod chats;
mod cuda;
mod event;
mod grammar;
mod integers;
mod json_scan;
mod meter;
mod mock;
mod output;
mod resize;
mod sampler;
mod scheduler;
mod sse;
mod tokenizer;
mod weights;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::Error;

/// The compiled part of ecocore. `_core.pyi` is its manual.
#[pymodule(gil_used = true)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    batch::register(module)?;
    cuda::register(module)?;
    event::register(module)?;
    meter::register(module)?;
    grammar::register(module)?;
    json_scan::register(module)?;
    mock::register(module)?;
    output::register(module)?;
    resize::register(module)?;
    sampler::register(module)?;
    scheduler::register(module)?;
    sse::register(module)?;
    tokenizer::register(module)?;
    weights::register(module)
}

/// The exception of `ecocore.errors` that stands for `error`.
fn to_python(py: Python<'_>, error: Error) -> PyErr {
    match exception(py, &error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(broken) => PyRuntimeError::new_err(format!("{error} ({broken})")),
    }
}

fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let errors = py.import("ecocore.errors")?;
    match error {
        Error::InvalidParameter { name, message } => errors.call_method1("InvalidParameter", (name, message)),
        Error::InvalidSchema { name, message } => {
            errors.call_method1("InvalidParameter", (name, message, "invalid_json_schema"))
        }
        Error::InvalidModelFile { .. } => errors.call_method1("InvalidModelFile", (error.to_string(),)),
        Error::QueueFull { .. } => errors.call_method1("QueueFull", (error.to_string(),)),
        Error::ContextLengthExceeded { .. } => {
            errors.call_method1("ContextLengthExceeded", ("messages", error.to_string()))
        }
        Error::Internal(message) => errors.call_method1("InternalError", (message,)),
    }
}

/// Turns a core result into a Python one.
trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_python(py, error))
    }
}
