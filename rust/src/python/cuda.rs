//! The kernels' sources and packed rows as Python hands them to a device.

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use super::OrRaise;
use super::sampler::{PySamplerParams, check_counts, draws, histories, slices};
use crate::cuda::{PackedRows, SOURCES};
use crate::error::Error;
use crate::sampler::{Mask, SamplingParams};
use crate::sampler_state::check_vocab_size;

/// See `_core.pyi`.
#[pyfunction]
fn cuda_sources() -> Vec<(&'static str, &'static str)> {
    SOURCES.to_vec()
}

type Packed<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<u32>>);

/// See `_core.pyi`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn pack_rows<'py>(
    py: Python<'py>,
    vocab_size: usize,
    params: Vec<PyRef<'_, PySamplerParams>>,
    seeds: &Bound<'_, PyAny>,
    positions: &Bound<'_, PyAny>,
    prompts: Vec<Option<PyReadonlyArray1<'_, u32>>>,
    histories: Vec<Option<PyReadonlyArray1<'_, u32>>>,
    masks: Vec<Option<PyReadonlyArray1<'_, bool>>>,
) -> PyResult<Packed<'py>> {
    check_vocab_size(vocab_size).or_raise(py)?;
    let draws = draws(seeds, positions)?;
    let counts = [params.len(), draws.len(), prompts.len(), histories.len(), masks.len()];
    check_counts(params.len(), counts).or_raise(py)?;
    let params: Vec<&SamplingParams> = params.iter().map(|params| &*params.0).collect();
    let prompts = slices("prompt", &prompts).or_raise(py)?;
    let drawn = slices("history", &histories).or_raise(py)?;
    let masks = slices("mask", &masks).or_raise(py)?;
    let packed = py.detach(|| {
        let histories = self::histories(vocab_size, &params, &prompts, &drawn, &masks)?;
        let mut packed = PackedRows::default();
        for (index, history) in histories.iter().enumerate() {
            packed.push(vocab_size, params[index], history, masks[index].map(Mask::Bools), draws[index]);
        }
        Ok::<_, Error>(packed)
    });
    let PackedRows { inputs, changes, masks } = packed.or_raise(py)?;
    Ok((PyArray1::from_vec(py, inputs), PyArray1::from_vec(py, changes), PyArray1::from_vec(py, masks)))
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(cuda_sources, module)?)?;
    module.add_function(wrap_pyfunction!(pack_rows, module)?)
}
