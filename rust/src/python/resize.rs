//! `resize_rgb` as Python sees it.

use numpy::{PyArray1, PyArray3, PyArrayMethods, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::OrRaise;
use crate::error::Error;

/// See `_core.pyi`.
#[pyfunction]
fn resize_rgb<'py>(
    py: Python<'py>,
    pixels: PyReadonlyArray3<'py, u8>,
    height: usize,
    width: usize,
) -> PyResult<Bound<'py, PyArray3<u8>>> {
    let &[from_height, from_width, 3] = pixels.shape() else {
        return Err(Error::parameter("pixels", "must have the shape (height, width, 3)")).or_raise(py);
    };
    let Ok(slice) = pixels.as_slice() else {
        return Err(Error::parameter("pixels", "must be contiguous")).or_raise(py);
    };
    let resized = py
        .detach(|| crate::resize::resize_rgb(slice, (from_height, from_width), (height, width)))
        .or_raise(py)?;
    PyArray1::from_vec(py, resized).reshape([height, width, 3])
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(resize_rgb, module)?)
}
