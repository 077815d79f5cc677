//! The sampler as Python sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyInt;

use super::OrRaise;
use super::batch::{PyBatch, PySampledTokens};
use super::buffer::FloatRows;
use super::grammar::PyGrammar;
use crate::error::Error;
use crate::penalties::{History, Penalties};
use crate::sampled::SampledTokens;
use crate::sampler::{Draw, Logits, Mask, Row, SamplingParams, sample_rows as sample};
use crate::sampler_state::{Constraints, SamplerInputs, SamplerState, check_ids};

/// See `_core.pyi`.
#[pyclass(name = "SamplerParams", module = "ecocore._core", frozen)]
pub(super) struct PySamplerParams(pub(super) Arc<SamplingParams>);

#[pymethods]
impl PySamplerParams {
    #[new]
    #[pyo3(signature = (
        *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, repetition_penalty=1.0,
        frequency_penalty=0.0, presence_penalty=0.0, logit_bias=None, top_logprobs=None,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        temperature: f64,
        top_k: u32,
        top_p: f64,
        min_p: f64,
        typical_p: f64,
        repetition_penalty: f64,
        frequency_penalty: f64,
        presence_penalty: f64,
        logit_bias: Option<BTreeMap<i64, f64>>,
        top_logprobs: Option<u32>,
    ) -> PyResult<Self> {
        let bias = logit_bias.unwrap_or_default().into_iter();
        let bias: Result<_, _> = bias.map(|(id, bias)| Ok((u32::try_from(id)?, bias as f32))).collect();
        let bias = bias
            .map_err(|_: std::num::TryFromIntError| Error::parameter("logit_bias", "must name token ids"));
        let penalties = Penalties {
            bias: bias.or_raise(py)?,
            repetition: positive(repetition_penalty),
            frequency: frequency_penalty as f32,
            presence: presence_penalty as f32,
        };
        let params = SamplingParams { temperature, top_k, top_p, min_p, typical_p, penalties, top_logprobs };
        params.validate().or_raise(py)?;
        Ok(Self(Arc::new(params)))
    }
}

/// As float32; a positive number too small for it does not become zero.
fn positive(value: f64) -> f32 {
    if value > 0.0 { (value as f32).max(f32::MIN_POSITIVE) } else { value as f32 }
}

/// See `_core.pyi`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn sample_rows(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    params: Vec<PyRef<'_, PySamplerParams>>,
    seeds: &Bound<'_, PyAny>,
    positions: &Bound<'_, PyAny>,
    prompts: Vec<Option<PyReadonlyArray1<'_, u32>>>,
    histories: Vec<Option<PyReadonlyArray1<'_, u32>>>,
    masks: Vec<Option<PyReadonlyArray1<'_, bool>>>,
) -> PyResult<PySampledTokens> {
    let logits = FloatRows::open(logits, "logits")?;
    let draws = draws(seeds, positions)?;
    let counts = [params.len(), draws.len(), prompts.len(), histories.len(), masks.len()];
    check_counts(logits.rows(), counts).or_raise(py)?;
    let params: Vec<&SamplingParams> = params.iter().map(|params| &*params.0).collect();
    let prompts = slices("prompt", &prompts).or_raise(py)?;
    let drawn = slices("history", &histories).or_raise(py)?;
    let masks = slices("mask", &masks).or_raise(py)?;
    let rows: Vec<Logits<'_>> = logits.iter().collect();
    let vocab_size = logits.columns();
    py.detach(|| draw_rows(&rows, vocab_size, &params, &draws, &prompts, &drawn, &masks))
        .map(PySampledTokens)
        .or_raise(py)
}

/// Checks the rows against the vocabulary and draws; an error tells the row.
fn draw_rows(
    logits: &[Logits<'_>],
    vocab_size: usize,
    params: &[&SamplingParams],
    draws: &[Draw],
    prompts: &[Option<&[u32]>],
    drawn: &[Option<&[u32]>],
    masks: &[Option<&[bool]>],
) -> Result<SampledTokens, Error> {
    let histories = histories(vocab_size, params, prompts, drawn, masks)?;
    let row = |index: usize| Row {
        logits: logits[index],
        params: params[index],
        history: &histories[index],
        mask: masks[index].map(Mask::Bools),
        draw: draws[index],
    };
    let sampled = sample(&(0..logits.len()).map(row).collect::<Vec<_>>());
    if let Some(row) = sampled.iter().position(|sampled| !sampled.possible) {
        let message = format!("leaves no token to draw: in row {row} every allowed logit is -inf or NaN");
        return Err(Error::parameter("logits", message));
    }
    Ok(SampledTokens {
        sequence_ids: (0..sampled.len() as u64).collect(),
        token_ids: sampled.iter().map(|sampled| sampled.id).collect(),
        logprobs: sampled.into_iter().map(|sampled| sampled.logprobs).collect(),
        failed: Vec::new(),
        scores: vec![],
    })
}

/// Checks that each row has its entry in every list.
pub(super) fn check_counts(rows: usize, counts: [usize; 5]) -> Result<(), Error> {
    let names = ["params", "seeds", "prompts", "histories", "masks"];
    match names.into_iter().zip(counts).find(|(_, count)| *count != rows) {
        Some((name, count)) => {
            Err(Error::parameter(name, format!("has {count} entries for {rows} rows of logits")))
        }
        None => Ok(()),
    }
}

/// What the sequence of each row has seen, with every id and mask checked against the vocabulary.
pub(super) fn histories(
    vocab_size: usize,
    params: &[&SamplingParams],
    prompts: &[Option<&[u32]>],
    drawn: &[Option<&[u32]>],
    masks: &[Option<&[bool]>],
) -> Result<Vec<History>, Error> {
    let none: &[u32] = &[];
    let history = |index: usize| {
        let (prompt, drawn) = (prompts[index].unwrap_or(none), drawn[index].unwrap_or(none));
        params[index].validate_vocab(vocab_size)?;
        check_ids("prompt", prompt, vocab_size)?;
        check_ids("history", drawn, vocab_size)?;
        check_mask(index, masks[index], vocab_size)?;
        Ok(History::new(&params[index].penalties, prompt, drawn))
    };
    (0..params.len()).map(history).collect()
}

fn check_mask(row: usize, mask: Option<&[bool]>, vocab_size: usize) -> Result<(), Error> {
    match mask {
        Some(mask) if mask.len() != vocab_size => {
            let message =
                format!("has {} entries in row {row}, the vocabulary {vocab_size} tokens", mask.len());
            Err(Error::parameter("mask", message))
        }
        Some(mask) if !mask.contains(&true) => {
            Err(Error::parameter("mask", format!("allows no token in row {row}")))
        }
        _ => Ok(()),
    }
}

/// One draw for each pair of a seed and a position.
pub(super) fn draws(seeds: &Bound<'_, PyAny>, positions: &Bound<'_, PyAny>) -> PyResult<Vec<Draw>> {
    let py = seeds.py();
    let seeds = integers(seeds, "seeds")?;
    let positions = integers(positions, "positions")?;
    if seeds.len() != positions.len() {
        let message =
            format!("has {} entries and seeds {}; each row has one of both", positions.len(), seeds.len());
        return Err(Error::parameter("positions", message)).or_raise(py);
    }
    let pairs = seeds.iter().zip(&positions);
    pairs
        .map(|(seed, position)| {
            let position = position.extract::<u32>();
            let position =
                position.map_err(|_| Error::parameter("positions", "must be between 0 and 4294967295"));
            Ok(Draw { seed: modulo_2_64(seed)?, position: position.or_raise(py)?, choice: 0 })
        })
        .collect()
}

/// The entries of a sequence as Python integers.
fn integers<'py>(values: &Bound<'py, PyAny>, name: &str) -> PyResult<Vec<Bound<'py, PyAny>>> {
    static INDEX: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let refused = || Error::parameter(name, "must be a sequence of integers, one for each row");
    let each = values.try_iter().map_err(|_| refused()).or_raise(values.py())?;
    let integer = |value: Bound<'py, PyAny>| match value.is_exact_instance_of::<PyInt>() {
        true => Ok(value),
        // Those of numpy and torch, too.
        false => INDEX.import(value.py(), "operator", "index")?.call1((value,)),
    };
    each.map(|value| integer(value?).map_err(|_| refused()).or_raise(values.py())).collect()
}

fn modulo_2_64(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    match value.extract::<u64>() {
        Ok(small) => Ok(small),
        Err(_) => value.bitand(PyInt::new(value.py(), u64::MAX))?.extract(),
    }
}

/// The elements of each array, which must be contiguous.
pub(super) fn slices<'a, T: numpy::Element>(
    name: &str,
    arrays: &'a [Option<PyReadonlyArray1<'_, T>>],
) -> Result<Vec<Option<&'a [T]>>, Error> {
    let slice = |array: &'a PyReadonlyArray1<'_, T>| {
        array.as_slice().map_err(|_| Error::parameter(name, "must be a contiguous array"))
    };
    arrays.iter().map(|array| array.as_ref().map(slice).transpose()).collect()
}

/// See `_core.pyi`. The lock is only ever held without the GIL or without waiting for it, so a sequence may
/// be opened while another thread samples.
#[pyclass(name = "SamplerState", module = "ecocore._core", frozen)]
struct PySamplerState(Mutex<SamplerState>);

impl PySamplerState {
    fn with<R>(&self, act: impl FnOnce(&mut SamplerState) -> R) -> R {
        // A panic while sampling leaves every sequence as it was or one token further: still of use.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl PySamplerState {
    #[new]
    fn new(py: Python<'_>, vocab_size: usize) -> PyResult<Self> {
        Ok(Self(Mutex::new(SamplerState::new(vocab_size).or_raise(py)?)))
    }

    #[pyo3(
        signature = (sequence_id, params, seed, choice, prompt, *, grammar=None, end_ids=vec![], min_tokens=0),
        text_signature = "($self, sequence_id, params, seed, choice, prompt, *, grammar=None, end_ids=(), min_tokens=0)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn open(
        &self,
        py: Python<'_>,
        sequence_id: u64,
        params: &PySamplerParams,
        seed: &Bound<'_, PyAny>,
        choice: u32,
        prompt: PyReadonlyArray1<'_, u32>,
        grammar: Option<&PyGrammar>,
        end_ids: Vec<u32>,
        min_tokens: u32,
    ) -> PyResult<()> {
        let seed = modulo_2_64(seed)?;
        let params = Arc::clone(&params.0);
        if !prompt.is_c_contiguous() {
            return Err(Error::parameter("prompt", "must be a contiguous array")).or_raise(py);
        }
        let prompt = prompt.as_slice()?;
        let grammar = grammar.map(|grammar| Arc::clone(&grammar.0));
        let constraints = Constraints { grammar, end_ids, min_tokens };
        py.detach(|| self.with(|state| state.open(sequence_id, params, seed, choice, prompt, constraints)))
            .or_raise(py)
    }

    fn close(&self, py: Python<'_>, sequence_id: u64) {
        py.detach(|| self.with(|state| state.close(sequence_id)));
    }

    fn late(&self, py: Python<'_>) -> Vec<u64> {
        py.detach(|| self.with(SamplerState::late))
    }

    fn prepare(&self, py: Python<'_>, batch: &PyBatch) -> PySamplerInputs {
        let batch = &batch.0;
        PySamplerInputs(py.detach(|| self.with(|state| state.prepare(batch))))
    }

    fn sample(
        &self,
        py: Python<'_>,
        logits: &Bound<'_, PyAny>,
        inputs: &PySamplerInputs,
    ) -> PyResult<PySampledTokens> {
        let logits = FloatRows::open(logits, "logits")?;
        let rows: Vec<Logits<'_>> = logits.iter().collect();
        let inputs = &inputs.0;
        py.detach(|| self.with(|state| state.sample(&rows, inputs))).map(PySampledTokens).or_raise(py)
    }
}

/// See `_core.pyi`.
#[pyclass(name = "SamplerInputs", module = "ecocore._core", frozen)]
struct PySamplerInputs(SamplerInputs);

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySamplerParams>()?;
    module.add_class::<PySamplerState>()?;
    module.add_class::<PySamplerInputs>()?;
    module.add_function(wrap_pyfunction!(sample_rows, module)?)
}
