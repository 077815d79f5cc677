//! `Batch` and `SampledTokens` as Python sees them: numbers and numpy arrays.

use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::prelude::*;

use super::OrRaise;
use crate::batch::Batch;
use crate::error::Error;
use crate::sampled::SampledTokens;

/// See `_core.pyi`.
#[pyclass(name = "Batch", module = "ecocore._core", frozen)]
pub struct PyBatch(pub Batch);

#[pymethods]
impl PyBatch {
    #[getter]
    fn ticket(&self) -> u64 {
        self.0.ticket
    }
    #[getter]
    fn block_size(&self) -> u32 {
        self.0.block_size
    }
    #[getter]
    fn num_rows(&self) -> usize {
        self.0.rows.len()
    }
    #[getter]
    fn num_tokens(&self) -> usize {
        self.0.token_ids.len()
    }
    #[getter]
    fn num_samples(&self) -> usize {
        self.0.sampled_rows().count()
    }
    #[getter]
    fn num_prompt_tokens(&self) -> u32 {
        self.0.num_prompt_tokens()
    }
    #[getter]
    fn num_logits(&self) -> usize {
        self.0.logit_indices().count()
    }

    #[getter]
    fn sequence_ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_iter(py, self.0.rows.iter().map(|row| row.sequence_id))
    }
    #[getter]
    fn starts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.rows.iter().map(|row| i64::from(row.start)))
    }
    #[getter]
    fn lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.rows.iter().map(|row| i64::from(row.length)))
    }
    #[getter]
    fn prompt_lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.rows.iter().map(|row| i64::from(row.prompt_length)))
    }
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_slice(py, &self.0.token_ids)
    }
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_slice(py, &self.0.positions)
    }
    #[getter]
    fn slots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        PyArray1::from_slice(py, &self.0.slots).reshape([self.0.num_groups, self.0.token_ids.len()])
    }
    #[getter]
    fn block_tables<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<i64>>> {
        let shape = [self.0.num_groups, self.0.rows.len(), self.0.block_table_width];
        PyArray1::from_slice(py, &self.0.block_tables).reshape(shape)
    }
    #[getter]
    fn sample_indices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.logit_indices().map(i64::from))
    }

    fn filled(&self, drawn: Vec<PyRef<'_, PySampledTokens>>) -> Self {
        Self(self.0.filled(&drawn.iter().map(|tokens| &tokens.0).collect::<Vec<_>>()))
    }
}

/// Log-probability of the row's token, and of the likeliest tokens.
type RowLogprobs = (f64, Vec<(u32, f64)>);

/// See `_core.pyi`.
#[pyclass(name = "SampledTokens", module = "ecocore._core", frozen)]
pub struct PySampledTokens(pub SampledTokens);

#[pymethods]
impl PySampledTokens {
    #[getter]
    fn sequence_ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_slice(py, &self.0.sequence_ids)
    }
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.token_ids.iter().map(|&id| i64::from(id)))
    }
    #[getter]
    fn failed(&self) -> Vec<u64> {
        self.0.failed.iter().map(|&(sequence_id, _)| sequence_id).collect()
    }
    fn logprobs(&self, py: Python<'_>, row: usize) -> PyResult<Option<RowLogprobs>> {
        let Some(logprobs) = self.0.logprobs.get(row) else {
            let message = format!("must be below {}", self.0.logprobs.len());
            return Err(Error::parameter("row", message)).or_raise(py);
        };
        Ok(logprobs.as_ref().map(|logprobs| (logprobs.chosen, logprobs.top.clone())))
    }
    fn __len__(&self) -> usize {
        self.0.token_ids.len()
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyBatch>()?;
    module.add_class::<PySampledTokens>()
}
