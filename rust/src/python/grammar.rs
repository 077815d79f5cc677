//! `GrammarCompiler` and `Grammar` as Python sees them.

use std::sync::Arc;

use pyo3::prelude::*;

use super::OrRaise;
use super::tokenizer::PyTokenizer;
use crate::grammar::{Grammar, GrammarCompiler};

/// See `_core.pyi`.
#[pyclass(name = "GrammarCompiler", module = "ecocore._core", frozen)]
struct PyGrammarCompiler(GrammarCompiler);

#[pymethods]
impl PyGrammarCompiler {
    #[new]
    fn new(py: Python<'_>, tokenizer: &PyTokenizer, vocab_size: usize, end_ids: Vec<u32>) -> PyResult<Self> {
        let tokenizer = Arc::clone(&tokenizer.0);
        py.detach(|| GrammarCompiler::new(tokenizer.vocab(), vocab_size, &end_ids)).map(Self).or_raise(py)
    }
    fn json_object(&self, py: Python<'_>) -> PyResult<PyGrammar> {
        py.detach(|| self.0.json_object()).map(PyGrammar).or_raise(py)
    }
    #[pyo3(signature = (schema, *, strict = false))]
    fn json_schema(&self, py: Python<'_>, schema: &str, strict: bool) -> PyResult<PyGrammar> {
        py.detach(|| self.0.json_schema(schema, strict)).map(PyGrammar).or_raise(py)
    }
}

/// See `_core.pyi`.
#[pyclass(name = "Grammar", module = "ecocore._core", frozen)]
pub struct PyGrammar(pub Arc<Grammar>);

#[pymethods]
impl PyGrammar {
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyGrammarCompiler>()?;
    module.add_class::<PyGrammar>()
}
