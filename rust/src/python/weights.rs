//! Model files as Python sees them: metadata as plain values, tensors written into the caller's memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::OrRaise;
use super::buffer::with_f32_mut;
use crate::error::Error;
use crate::gguf::{Gguf, Value};
use crate::safetensors_header;

/// Longer arrays (a vocabulary) are left out of `metadata`: making a Python object of each entry costs more
/// than reading the file.
const LONG_ARRAY: usize = 1024;

/// See `_core.pyi`.
#[pyclass(name = "GgufFile", module = "ecocore._core", frozen)]
pub struct PyGgufFile(Gguf);

#[pymethods]
impl PyGgufFile {
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metadata = PyDict::new(py);
        for (key, value) in self.0.metadata() {
            if array_length(value) <= LONG_ARRAY {
                metadata.set_item(key, to_object(py, value)?)?;
            }
        }
        Ok(metadata)
    }

    #[getter]
    fn tensors(&self) -> BTreeMap<&str, (&str, Shape<'_>)> {
        let tensors = self.0.tensors().iter();
        tensors.map(|(name, tensor)| (name.as_str(), (tensor.kind.name, Shape(&tensor.shape)))).collect()
    }

    fn value<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.metadata().get(key).map(|value| to_object(py, value)).transpose()
    }

    fn nbytes(&self, py: Python<'_>, name: &str) -> PyResult<usize> {
        Ok(self.0.tensor(name).or_raise(py)?.nbytes)
    }

    fn dequantize(&self, py: Python<'_>, name: &str, out: &Bound<'_, PyAny>) -> PyResult<()> {
        let tensor = self.0.tensor(name).or_raise(py)?;
        let shape: Vec<usize> = out.getattr("shape")?.extract()?;
        if shape != tensor.shape {
            let message = format!("has shape {shape:?}, the tensor has {:?}", tensor.shape);
            return Err(Error::parameter("out", message)).or_raise(py);
        }
        with_f32_mut(py, out, tensor.len, |out| py.detach(|| self.0.dequantize(name, out)))?.or_raise(py)
    }
}

#[pyfunction]
fn read_gguf(py: Python<'_>, path: PathBuf) -> PyResult<PyGgufFile> {
    py.detach(|| Gguf::open(&path)).map(PyGgufFile).or_raise(py)
}

type Place<'a> = (String, Shape<'a>, u64, u64);

#[pyfunction]
fn read_safetensors_header<'py>(py: Python<'py>, path: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let entries = py.detach(|| safetensors_header::read_header(&path)).or_raise(py)?;
    let places = PyDict::new(py);
    for (name, entry) in &entries {
        let place: Place<'_> = (entry.dtype.clone(), Shape(&entry.shape), entry.start, entry.end);
        places.set_item(name, place)?;
    }
    Ok(places)
}

/// A shape becomes a tuple; a vector would become a list.
struct Shape<'a>(&'a [usize]);

impl<'py> IntoPyObject<'py> for Shape<'_> {
    type Target = PyTuple;
    type Output = Bound<'py, Self::Target>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        PyTuple::new(py, self.0)
    }
}

fn array_length(value: &Value) -> usize {
    match value {
        Value::Strings(values) => values.len(),
        Value::Ints(values) => values.len(),
        Value::Floats(values) => values.len(),
        Value::Bools(values) => values.len(),
        _ => 0,
    }
}

fn to_object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::U64(value) => value.into_bound_py_any(py),
        Value::I64(value) => value.into_bound_py_any(py),
        Value::F64(value) => value.into_bound_py_any(py),
        Value::Bool(value) => value.into_bound_py_any(py),
        Value::String(value) => value.into_bound_py_any(py),
        Value::Strings(values) => values.into_bound_py_any(py),
        Value::Ints(values) => values.into_bound_py_any(py),
        Value::Floats(values) => values.into_bound_py_any(py),
        Value::Bools(values) => values.into_bound_py_any(py),
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyGgufFile>()?;
    module.add_function(wrap_pyfunction!(read_gguf, module)?)?;
    module.add_function(wrap_pyfunction!(read_safetensors_header, module)?)
}
