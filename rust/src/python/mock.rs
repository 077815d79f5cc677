//! The mock model as Python calls it.

use numpy::{PyReadwriteArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::OrRaise;
use super::batch::PyBatch;
use crate::error::Error;

/// See `_core.pyi`.
#[pyfunction]
fn mock_logits(py: Python<'_>, batch: &PyBatch, mut out: PyReadwriteArray2<'_, f32>) -> PyResult<()> {
    let vocab_size = out.shape()[1];
    let out = out.as_slice_mut().map_err(|_| Error::parameter("out", "must be contiguous")).or_raise(py)?;
    py.detach(|| crate::mock::mock_logits(&batch.0, vocab_size, out)).or_raise(py)
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(mock_logits, module)?)
}
