//! Numbers out of what Python has for several of them: lists, arrays, tensors.

use numpy::{Element, PyArray1, PyArrayMethods, PyUntypedArray};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::to_python;
use crate::error::Error;

/// The numbers of a sequence, an array or a tensor. The error calls them `name`.
pub(super) fn integers<'py, T>(values: &Bound<'py, PyAny>, name: &str) -> PyResult<Vec<T>>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
    T: TryFrom<i64> + TryFrom<i32> + TryFrom<u64> + TryFrom<u32>,
{
    let read = match of_array(values) {
        Some(read) => read,
        None => of_sequence(values)?,
    };
    let message = "must be a list or a one-dimensional array of whole numbers, none negative or too large";
    read.ok_or_else(|| to_python(values.py(), Error::parameter(name, message)))
}

/// The elements of an array of a usual type, read where they lie: making a list of them takes longer than what most calls do.
fn of_array<T>(values: &Bound<'_, PyAny>) -> Option<Option<Vec<T>>>
where
    T: TryFrom<i64> + TryFrom<i32> + TryFrom<u64> + TryFrom<u32>,
{
    // Masked arrays and other kinds of their own say themselves what they hold.
    values.cast_exact::<PyUntypedArray>().ok()?;
    of_type::<i64, T>(values)
        .or_else(|| of_type::<u32, T>(values))
        .or_else(|| of_type::<u64, T>(values))
        .or_else(|| of_type::<i32, T>(values))
}

/// The same of an array whose elements are `A`, one behind the other. What does not fit is `None` within.
fn of_type<A: Element + Copy, T: TryFrom<A>>(values: &Bound<'_, PyAny>) -> Option<Option<Vec<T>>> {
    let array = values.cast::<PyArray1<A>>().ok()?.try_readonly().ok()?;
    let numbers = array.as_slice().ok()?;
    Some(numbers.iter().map(|&number| T::try_from(number).ok()).collect())
}

/// The items of a list, a tensor or another array, or any sequence.
fn of_sequence<'py, T>(values: &Bound<'py, PyAny>) -> PyResult<Option<Vec<T>>>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    if let Ok(list) = values.cast::<PyList>() {
        return Ok(list.iter().map(|number| number.extract().ok()).collect());
    }
    let sequence = match values.getattr("tolist") {
        Ok(tolist) => tolist.call0()?,
        Err(_) => values.clone(),
    };
    Ok(sequence.extract().ok())
}
