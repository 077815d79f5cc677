//! `Tokenizer` and `TokenStream` as Python sees them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use numpy::{Element, PyArray1, PyArrayMethods, PyUntypedArray};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString};

use super::OrRaise;
use super::chats::Chats;
use crate::error::Error;
use crate::text_stream::{Piece, Pieces};
use crate::tokenizer::{TokenStream, Tokenizer, prefetch};
use crate::vocab::Vocab;

/// Bytes that ecocore encodes in a few microseconds.
const AT_ONCE: usize = 2048;

/// How many elements of a list are made while memory answers.
const AHEAD: usize = 32;

/// Text to token ids and back. `Tokenizer.from_file`, `from_json` or `bytes_only` make one; what its methods take, give and
/// raise stands in `ecocore/_core.pyi` and docs/tokenizer.md.
#[pyclass(name = "Tokenizer", module = "ecocore._core", frozen)]
pub struct PyTokenizer(pub Arc<Tokenizer>, Integers, Texts, Chats);

#[pymethods]
impl PyTokenizer {
    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Tokenizer::from_file(&path)).or_raise(py).map(Self::new)
    }
    #[staticmethod]
    fn from_json(py: Python<'_>, json: &[u8]) -> PyResult<Self> {
        py.detach(|| Tokenizer::from_json(json)).or_raise(py).map(Self::new)
    }
    #[staticmethod]
    fn bytes_only() -> Self {
        Self::new(Tokenizer::bytes_only())
    }
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab().len()
    }
    #[getter]
    fn backend(&self) -> &'static str {
        self.0.backend()
    }
    fn encode<'py>(&self, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyList>> {
        let py = text.py();
        let text = utf8(text)?;
        self.list(py, &self.free(py, text, || self.0.encode(text))?)
    }
    fn encode_array<'py>(&self, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let py = text.py();
        let text = utf8(text)?;
        Ok(array(py, self.free(py, text, || self.0.encode(text))?))
    }
    fn encode_chat<'py>(&self, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let py = text.py();
        let ids = self.3.encode(text, |text, ids| {
            let text = utf8(text)?;
            self.free(py, text, || self.0.continue_chat(text, ids))
        })?;
        Ok(array(py, ids))
    }
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
    ) -> PyResult<Vec<Bound<'py, PyList>>> {
        let texts = texts.iter().enumerate();
        let texts = texts
            .map(|(index, text)| text.to_str().map_err(|_| lone_surrogate("texts", &format!("[{index}] "))));
        let texts: Vec<&str> = texts.collect::<Result<_, _>>().or_raise(py)?;
        let encoded = py.detach(|| self.0.encode_batch(&texts)).or_raise(py)?;
        encoded.iter().map(|ids| self.list(py, ids)).collect()
    }
    #[pyo3(signature = (ids, skip_special_tokens = false))]
    fn decode(&self, ids: &Bound<'_, PyAny>, skip_special_tokens: bool) -> PyResult<String> {
        let py = ids.py();
        let ids = token_ids(ids, self.0.vocab())?;
        py.detach(|| self.0.decode(&ids, skip_special_tokens)).or_raise(py)
    }
    #[pyo3(signature = (skip_special_tokens = false))]
    fn stream(&self, skip_special_tokens: bool) -> PyTokenStream {
        PyTokenStream(self.0.stream(skip_special_tokens))
    }
    fn token_bytes<'py>(&self, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let (py, vocab) = (id.py(), self.0.vocab());
        let bytes = token_id(id)?.and_then(|token| vocab.bytes(token));
        Ok(PyBytes::new(py, bytes.ok_or_else(|| vocab.unknown("id", id)).or_raise(py)?))
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn is_special(&self, id: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(token_id(id)?.is_some_and(|token| self.0.vocab().is_special(token)))
    }
}

impl PyTokenizer {
    fn new(tokenizer: Tokenizer) -> Self {
        Self(Arc::new(tokenizer), Integers::new(), Texts::new(), Chats::default())
    }

    fn list<'py>(&self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        self.1.list(py, ids, self.0.vocab().len())
    }

    /// The texts of pieces of streams over this vocabulary.
    pub(super) fn texts<'py>(&self, py: Python<'py>, pieces: &Pieces) -> PyResult<Bound<'py, PyList>> {
        self.2.list(py, pieces, self.0.vocab())
    }

    /// Calls without the GIL, unless the text is done before another thread had it.
    fn free<T: Send>(
        &self,
        py: Python<'_>,
        text: &str,
        encode: impl FnOnce() -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let at_once = text.len() <= AT_ONCE && self.0.backend() == "ecocore";
        if at_once { encode().or_raise(py) } else { py.detach(encode).or_raise(py) }
    }
}

/// The ids of a vocabulary as Python's integers. Each is made once and then shared by all lists, since making a new one
/// takes longer than finding its id.
struct Integers(Mutex<Vec<Option<Py<PyInt>>>>);

impl Integers {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// `ids`, which are those of a vocabulary of `count`, as a list.
    fn list<'py>(&self, py: Python<'py>, ids: &[u32], count: usize) -> PyResult<Bound<'py, PyList>> {
        // Making a list may run a finalizer, and that may encode: then somebody up the stack holds the lock.
        let Ok(mut made) = self.0.try_lock() else { return PyList::new(py, ids) };
        if made.is_empty() {
            made.resize_with(count, || None);
        }
        let integers = (0..ids.len()).map(|at| {
            // The integers of later ids are asked for long before they are counted.
            if let Some(&id) = ids.get(at + 2 * AHEAD) {
                prefetch(&raw const made[id as usize]);
            }
            if let Some(Some(later)) = ids.get(at + AHEAD).map(|&id| &made[id as usize]) {
                prefetch(later.as_ptr());
            }
            let id = ids[at];
            made[id as usize].get_or_insert_with(|| PyInt::new(py, id).unbind()).bind(py).clone()
        });
        PyList::new(py, integers)
    }
}

/// The texts of a vocabulary's tokens as Python's strings. Each is made once and then shared, since making a new one takes
/// longer than finding its id.
struct Texts(Mutex<Vec<Option<Py<PyString>>>>);

impl Texts {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Pieces of streams over this vocabulary, as a list.
    fn list<'py>(&self, py: Python<'py>, pieces: &Pieces, vocab: &Vocab) -> PyResult<Bound<'py, PyList>> {
        // As with integers: a finalizer may push to a stream.
        let Ok(mut made) = self.0.try_lock() else {
            return PyList::new(py, pieces.iter().map(|(piece, _)| piece.text(vocab)));
        };
        if made.is_empty() {
            made.resize_with(vocab.len(), || None);
        }
        let texts = pieces.iter().map(|(piece, _)| match piece {
            Piece::Token(id) => made[id as usize]
                .get_or_insert_with(|| PyString::new(py, piece.text(vocab)).unbind())
                .bind(py)
                .clone(),
            Piece::Text(text) => PyString::new(py, text),
        });
        PyList::new(py, texts)
    }
}

/// See `_core.pyi`.
#[pyclass(name = "TokenStream", module = "ecocore._core")]
struct PyTokenStream(TokenStream);

#[pymethods]
impl PyTokenStream {
    fn push(&mut self, id: &Bound<'_, PyAny>) -> PyResult<String> {
        let mut text = String::new();
        let token = token_id(id)?.ok_or_else(|| self.0.vocab().unknown("id", id)).or_raise(id.py())?;
        self.0.push(token, &mut text).or_raise(id.py())?;
        Ok(text)
    }
    fn finish(&mut self) -> String {
        let mut text = String::new();
        self.0.finish(&mut text);
        text
    }
}

fn array(py: Python<'_>, mut ids: Vec<u32>) -> Bound<'_, PyArray1<u32>> {
    // An array holds its room as long as it lives.
    ids.shrink_to_fit();
    PyArray1::from_vec(py, ids)
}

fn utf8<'a>(text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    text.to_str().map_err(|_| lone_surrogate("text", "")).or_raise(text.py())
}

/// Python strings may hold halves of a surrogate pair, which have no UTF-8.
fn lone_surrogate(parameter: &str, place: &str) -> Error {
    Error::parameter(
        parameter,
        format!("{place}holds a lone surrogate, which is no character; pass valid Unicode"),
    )
}

/// Token ids out of a numpy array of integers or anything that yields integers.
fn token_ids(ids: &Bound<'_, PyAny>, vocab: &Vocab) -> PyResult<Vec<u32>> {
    let py = ids.py();
    if ids.cast::<PyUntypedArray>().is_ok() {
        let read = |ids: &Bound<'_, PyAny>| {
            from_array::<u32>(ids, vocab)
                .or_else(|| from_array::<i64>(ids, vocab))
                .or_else(|| from_array::<i32>(ids, vocab))
                .or_else(|| from_array::<u64>(ids, vocab))
                .or_else(|| from_array::<u16>(ids, vocab))
                .or_else(|| from_array::<i16>(ids, vocab))
                .or_else(|| from_array::<u8>(ids, vocab))
                .or_else(|| from_array::<i8>(ids, vocab))
        };
        let read = match read(ids) {
            Some(read) => Some(read),
            // A copy lies as it is read, whatever steps the array takes.
            None => read(&ids.call_method0("copy")?),
        };
        if let Some(read) = read {
            return read.or_raise(py);
        }
        // Numpy's word for nothing is an array of float64.
        if ids.len()? == 0 {
            return Ok(Vec::new());
        }
        let message = format!(
            "must be a one-dimensional array of integers, not {} of shape {}",
            ids.getattr("dtype")?.str()?,
            ids.getattr("shape")?
        );
        return Err(Error::parameter("ids", message)).or_raise(py);
    }
    let ids = ids.try_iter()?.map(|id| {
        let id = id?;
        token_id(&id)?.ok_or_else(|| vocab.unknown("ids", &id)).or_raise(py)
    });
    ids.collect()
}

/// One id, or None for an integer that no id can be.
fn token_id(id: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
    match id.extract() {
        Ok(id) => Ok(Some(id)),
        Err(error) if PyErr::is_instance_of::<PyOverflowError>(&error, id.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ids of an array with elements of type `T`, or None if it is no such array.
fn from_array<T>(ids: &Bound<'_, PyAny>, vocab: &Vocab) -> Option<Result<Vec<u32>, Error>>
where
    T: Element + Copy + TryInto<u32> + std::fmt::Display,
{
    let array = ids.cast::<PyArray1<T>>().ok()?.readonly();
    let id = |&id: &T| id.try_into().map_err(|_| vocab.unknown("ids", id));
    Some(array.as_slice().ok()?.iter().map(id).collect())
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTokenizer>()?;
    module.add_class::<PyTokenStream>()
}
