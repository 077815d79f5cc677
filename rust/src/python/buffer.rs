//! The one door through which the memory of tensors is reached without a copy.
//!
//! Takes a CPU tensor of torch or an array of numpy; checks device, dtype, shape, strides, alignment and
//! the extent of the storage; gives slices. Everything `unsafe` in the binding is here. torch is never
//! imported: only an object of a torch that is already loaded can be one of its tensors.
//!
//! As with every operation of torch and numpy, the caller must not write to a tensor, resize it or hand it
//! to a second call as output while a call runs that uses it.

use std::fmt;

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::OrRaise;
use crate::error::Error;
use crate::sampler::Logits;

/// The element types that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// From the name of the dtype, as numpy spells it and torch after "torch.".
    fn named(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Some(Self::F32),
            "float16" => Some(Self::F16),
            "bfloat16" => Some(Self::Bf16),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A matrix of float32, float16 or bfloat16, read in place.
pub struct FloatRows {
    memory: Memory,
    rows: usize,
    columns: usize,
    /// Elements from one row to the next.
    stride: usize,
}

impl FloatRows {
    /// Opens a CPU tensor (rows, columns) whose rows are contiguous. The error calls it `name`.
    pub fn open(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let memory = Memory::of(object, name)?;
        let (&[rows, columns], &[stride, step]) = (&memory.shape[..], &memory.strides[..]) else {
            return refuse(
                object.py(),
                name,
                format!("must have the shape (rows, vocab), not {}", memory.shape_text()),
            );
        };
        if columns == 0 {
            return refuse(object.py(), name, "must have at least one column");
        }
        if rows > 0 && columns > 1 && step != 1 {
            return refuse(
                object.py(),
                name,
                format!("must have contiguous rows, not elements {step} apart"),
            );
        }
        let stride = if rows > 1 { stride } else { 0 };
        let Ok(stride) = usize::try_from(stride) else {
            return refuse(object.py(), name, "must not have rows in reverse");
        };
        let needed = rows.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(columns));
        if rows > 0 && needed.is_none_or(|needed| needed > memory.elements) {
            return refuse(object.py(), name, "reaches beyond its storage");
        }
        Ok(Self { memory, rows, columns, stride })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row, at least one.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = Logits<'_>> {
        (0..self.rows).map(|index| self.row(index))
    }

    fn row(&self, index: usize) -> Logits<'_> {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        match self.memory.kind {
            Kind::F32 => Logits::F32(self.slice(index)),
            Kind::F16 => Logits::F16(self.slice(index)),
            Kind::Bf16 => Logits::Bf16(self.slice(index)),
        }
    }

    /// `T` has the size and alignment of the memory's kind, and every bit pattern is a `T`.
    #[allow(unsafe_code)]
    fn slice<T: Copy>(&self, index: usize) -> &[T] {
        assert_eq!(size_of::<T>(), self.memory.kind.size());
        let start = self.memory.data.cast::<T>().cast_const();
        // SAFETY: `Memory::of` checked that the pointer is not null, is aligned and has `elements` elements
        // from it inside a storage that `memory` keeps alive; `open` checked that
        // (rows - 1) * stride + columns <= elements; `row` checked that index < rows.
        unsafe { std::slice::from_raw_parts(start.add(index * self.stride), self.columns) }
    }
}

/// Lets `write` fill a contiguous, writeable float32 CPU tensor of `expected_len` elements.
pub fn with_f32_mut<R>(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    expected_len: usize,
    write: impl FnOnce(&mut [f32]) -> R,
) -> PyResult<R> {
    let memory = Memory::of(object, "out")?;
    if memory.kind != Kind::F32 {
        return refuse(py, "out", format!("must be float32, not {}", memory.kind));
    }
    if !memory.writeable {
        return refuse(py, "out", "must be writeable");
    }
    if !memory.is_contiguous() {
        return refuse(py, "out", "must be contiguous");
    }
    let length = memory.shape.iter().try_fold(1usize, |length, &size| length.checked_mul(size));
    if length != Some(expected_len) {
        return refuse(
            py,
            "out",
            format!("must have {expected_len} elements, not the shape {}", memory.shape_text()),
        );
    }
    if expected_len == 0 {
        return Ok(write(&mut []));
    }
    if expected_len > memory.elements {
        return refuse(py, "out", "reaches beyond its storage");
    }
    Ok(write(memory.as_f32_mut(expected_len)))
}

/// Where a tensor's elements lie, checked; keeps them alive.
struct Memory {
    /// The object that owns the memory.
    _owner: Py<PyAny>,
    kind: Kind,
    /// First element; not null and aligned if there is any element.
    data: *mut u8,
    /// Elements from the first one to the end of the storage, as far as that is known.
    elements: usize,
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<isize>,
    writeable: bool,
}

impl Memory {
    fn of(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let memory = if is_torch_tensor(object)? {
            Self::of_torch(object, name)?
        } else if let Ok(array) = object.cast::<PyUntypedArray>() {
            Self::of_numpy(array, name)?
        } else {
            let found = object.get_type().fully_qualified_name()?.to_string();
            return refuse(
                object.py(),
                name,
                format!("must be a CPU tensor of torch or a numpy array, not {found:.80}"),
            );
        };
        if !memory.shape.contains(&0) {
            if memory.data.is_null() {
                return refuse(object.py(), name, "has no memory");
            }
            if memory.data.addr() % memory.kind.size() != 0 {
                return refuse(object.py(), name, "must be aligned to its elements");
            }
        }
        Ok(memory)
    }

    fn of_torch(tensor: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        // This is most of what a short call costs, so the names are made once.
        let py = tensor.py();
        if !tensor.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
            let device = tensor.getattr("device")?;
            return refuse(py, name, format!("must be on the CPU, not on {device}"));
        }
        let layout = tensor.getattr(intern!(py, "layout"))?.str()?;
        let layout = layout.to_cow()?;
        if layout != "torch.strided" {
            return refuse(py, name, format!("must be dense, not {layout}"));
        }
        if tensor.call_method0(intern!(py, "is_neg"))?.is_truthy()? {
            return refuse(py, name, "has its negative bit set; call .resolve_neg() first");
        }
        let kind = kind(tensor, name)?;
        // The storage is kept, not the tensor: `tensor.set_()` may put another one in its place.
        let storage = tensor.call_method0(intern!(py, "untyped_storage"))?;
        let bytes: usize = storage.call_method0(intern!(py, "nbytes"))?.extract()?;
        let first: usize = tensor.call_method0(intern!(py, "storage_offset"))?.extract()?;
        let start: usize = storage.call_method0(intern!(py, "data_ptr"))?.extract()?;
        let data: usize = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
        let shape: Vec<usize> = tensor.getattr(intern!(py, "shape"))?.extract()?;
        let expected = first.checked_mul(kind.size()).and_then(|offset| start.checked_add(offset));
        if !shape.contains(&0) && expected != Some(data) {
            return refuse(py, name, "does not start where its storage says");
        }
        Ok(Self {
            _owner: storage.unbind(),
            kind,
            data: std::ptr::with_exposed_provenance_mut(data),
            elements: (bytes / kind.size()).saturating_sub(first),
            shape,
            strides: tensor.call_method0(intern!(py, "stride"))?.extract()?,
            writeable: true,
        })
    }

    #[allow(unsafe_code)]
    fn of_numpy(array: &Bound<'_, PyUntypedArray>, name: &str) -> PyResult<Self> {
        // The usual type is asked for first, since numpy spells out a name more slowly than a short row is drawn.
        let kind = match array.dtype().is_equiv_to(&dtype::<f32>(array.py())) {
            true => Kind::F32,
            false => kind(array.as_any(), name)?,
        };
        let (shape, strides) = (array.shape().to_vec(), array.strides());
        let size = kind.size() as isize;
        if strides.iter().any(|stride| stride % size != 0) {
            return refuse(array.py(), name, "must have strides of whole elements");
        }
        // SAFETY: the cast to PyUntypedArray checked that this is an array, and the GIL is held.
        let data = unsafe { (*array.as_array_ptr()).fields.data };
        let strides: Vec<isize> = strides.iter().map(|stride| stride / size).collect();
        Ok(Self {
            _owner: array.as_any().clone().unbind(),
            kind,
            data: data.cast(),
            elements: extent(&shape, &strides),
            shape,
            strides,
            writeable: {
                let flags = array.getattr(intern!(array.py(), "flags"))?;
                flags.getattr(intern!(array.py(), "writeable"))?.is_truthy()?
            },
        })
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size <= 1 || stride == expected;
            expected = expected.saturating_mul(size.max(1) as isize);
            fits
        })
    }

    /// The caller has checked that this is float32, contiguous and writeable, and `length <= elements`.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    fn as_f32_mut(&self, length: usize) -> &mut [f32] {
        assert!(self.kind == Kind::F32 && self.writeable && length <= self.elements);
        // SAFETY: `of` checked that the pointer is not null and aligned; the line above that `length` floats
        // lie inside the storage, which `self` keeps alive. Each `Memory` gives at most one such slice, and
        // the caller of the binding hands a tensor to one call at a time (head of this file).
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), length) }
    }

    fn shape_text(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().take(8).map(usize::to_string).collect();
        format!("({}{})", sizes.join(", "), if sizes.len() == 1 { "," } else { "" })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        })
    }
}

/// Elements that a numpy view spans from its first one; numpy keeps views inside their memory. A negative
/// stride leads to what lies before the first element, which is not counted.
fn extent(shape: &[usize], strides: &[isize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let last = |(&size, &stride): (&usize, &isize)| (size - 1).saturating_mul(stride.max(0).unsigned_abs());
    shape.iter().zip(strides).map(last).fold(1, usize::saturating_add)
}

/// Whether `object` is a tensor of the torch that is loaded, if one is.
fn is_torch_tensor(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static TENSOR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Some(class) = TENSOR.get(object.py()) {
        return object.is_instance(class.bind(object.py()));
    }
    let modules = object.py().import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    match modules.get_item("torch")?.and_then(|torch| torch.getattr("Tensor").ok()) {
        Some(class) => {
            object.is_instance(TENSOR.get_or_init(object.py(), || class.unbind()).bind(object.py()))
        }
        None => Ok(false),
    }
}

fn kind(tensor: &Bound<'_, PyAny>, name: &str) -> PyResult<Kind> {
    let dtype = tensor.getattr(intern!(tensor.py(), "dtype"))?.str()?;
    let dtype = dtype.to_cow()?;
    match Kind::named(&dtype) {
        Some(kind) => Ok(kind),
        None => refuse(tensor.py(), name, format!("must be float32, float16 or bfloat16, not {dtype:.80}")),
    }
}

fn refuse<T>(py: Python<'_>, name: &str, message: impl Into<String>) -> PyResult<T> {
    Err(Error::parameter(name, message)).or_raise(py)
}
