//! `GrammarCompiler` and `Grammar` as Python sees them.

use std::sync::Arc;

use pyo3::prelude::*;

use super::OrRaise;
use super::tokenizer::PyTokenizer;
use crate::error::Error;
use crate::grammar::{Answer, Grammar, GrammarCompiler, Mode, Syntax, Tool};

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
    #[pyo3(
        signature = (syntax, tools, *, mode, max_calls, answer=(None, false)),
        text_signature = "($self, syntax, tools, *, mode, max_calls, answer=(None, False))"
    )]
    #[allow(clippy::too_many_arguments)]
    fn tool_calls(
        &self,
        py: Python<'_>,
        syntax: &str,
        tools: Vec<(String, String, bool)>,
        mode: &str,
        max_calls: u32,
        answer: (Option<String>, bool),
    ) -> PyResult<PyGrammar> {
        let syntax = Syntax::from_name("syntax", syntax).or_raise(py)?;
        let (schema, strict) = &answer;
        let answer = schema.as_deref().map(|schema| Answer { schema, strict: *strict });
        let (mode, max_calls) = match mode {
            "required" => (Mode::Required, max_calls),
            "named" if tools.len() == 1 => (Mode::Required, 1),
            "named" => return Err(Error::parameter("tools", "must be the one that is named")).or_raise(py),
            "auto" => (answer.map_or(Mode::Auto, Mode::CallsOr), max_calls),
            _ => return Err(Error::parameter("mode", "must be required, named or auto")).or_raise(py),
        };
        let tools = tools.iter().map(|(name, parameters, strict)| Tool { name, parameters, strict: *strict });
        let tools: Vec<Tool<'_>> = tools.collect();
        py.detach(|| self.0.tool_calls(syntax, &tools, mode, max_calls)).map(PyGrammar).or_raise(py)
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
