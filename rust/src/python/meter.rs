//! `RequestMeter` as Python sees it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::event::PyEventBatch;
use crate::meter::RequestMeter;

const UNBROKEN: &str = "no call panics while it holds the lock";

type Cumulative = (Vec<(f64, u64)>, f64);

/// See `_core.pyi`. The lock lets the engine's thread and the server's call at the same time.
#[pyclass(name = "RequestMeter", module = "ecocore._core", frozen)]
pub struct PyRequestMeter(Mutex<RequestMeter>);

impl PyRequestMeter {
    /// One short call on the meter.
    fn with<T>(&self, py: Python<'_>, call: impl FnOnce(&mut RequestMeter) -> T) -> T {
        call(&mut self.0.lock_py_attached(py).expect(UNBROKEN))
    }
}

#[pymethods]
impl PyRequestMeter {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(RequestMeter::default()))
    }

    fn open(&self, py: Python<'_>, request_id: u64, choices: u32, now: f64) {
        self.with(py, |meter| meter.open(request_id, choices, now));
    }

    fn close(&self, py: Python<'_>, request_id: u64) {
        self.with(py, |meter| meter.close(request_id));
    }

    fn push(&self, py: Python<'_>, events: &Bound<'_, PyEventBatch>, now: f64) {
        let events = &events.get().0;
        self.with(py, |meter| meter.push(events, now));
    }

    fn ended(&self, py: Python<'_>) -> BTreeMap<&'static str, u64> {
        self.with(py, |meter| meter.ended()).into_iter().collect()
    }

    fn histograms(&self, py: Python<'_>) -> BTreeMap<&'static str, Cumulative> {
        self.with(py, |meter| {
            let spelled =
                meter.histograms().map(|(name, histogram)| (name, (histogram.cumulative(), histogram.sum())));
            spelled.into_iter().collect()
        })
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRequestMeter>()
}
