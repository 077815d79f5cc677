//! `json_shape` as Python sees it.

use pyo3::prelude::*;

/// See `_core.pyi`.
#[pyfunction]
fn json_shape(py: Python<'_>, body: &[u8]) -> (usize, usize, usize) {
    let shape = py.detach(|| crate::json_scan::json_shape(body));
    (shape.depth, shape.containers, shape.commas)
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(json_shape, module)?)
}
