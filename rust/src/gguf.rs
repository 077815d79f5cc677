//! A GGUF file (version 2 or 3, little endian): its metadata, its tensors' places, and their numbers as
//! float32. Takes any bytes; gives a checked [`Gguf`] or [`Error::InvalidModelFile`], never a panic.
//!
//! The file is read, not mapped: a mapped file that is shortened meanwhile would kill the process with
//! SIGBUS, a read one is an error like any other. Nothing is allocated before the file is known to be long
//! enough to fill it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use crate::error::Error;
use crate::quant::TensorType;
use crate::quant::dequantize::dequantize;

/// One value of the metadata. Integers and floats of all widths are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer.
    U64(u64),
    /// A signed integer.
    I64(i64),
    /// A float.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// An array of texts.
    Strings(Vec<String>),
    /// An array of integers, signed or not.
    Ints(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f64>),
    /// An array of true and false.
    Bools(Vec<bool>),
}

/// Key to value.
pub type Metadata = BTreeMap<String, Value>;

/// Where a tensor lies in its file and how its numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How the numbers are stored.
    pub kind: &'static TensorType,
    /// Dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// Numbers in the tensor, the product of `shape`.
    pub len: usize,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// Bytes in the file.
    pub nbytes: usize,
}

/// A checked GGUF file.
#[derive(Debug)]
pub struct Gguf {
    /// What errors call the file.
    name: String,
    source: Source,
    metadata: Metadata,
    tensors: BTreeMap<String, TensorInfo>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Vec<u8>),
}

/// The largest header that is read. Real ones stay below 20 MB, nearly all of it the vocabulary.
const MAX_HEADER: u64 = 100_000_000;
/// The format allows no more dimensions.
const MAX_DIMENSIONS: u32 = 4;
/// Where the file does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Weights that one task turns into float32: few enough that blocks and result stay in its core's cache. A
/// multiple of every block length.
const TILE: usize = 1 << 15;

impl Gguf {
    /// Opens a file and checks everything its header says against the file's length.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let unreadable = |error: std::io::Error| Error::file(&name, format!("cannot be read: {error}"));
        // Asked before opening, which would wait for a writer if this is a pipe.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(Error::file(&name, "is not a file"));
        }
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let (metadata, tensors) =
            Header::new(&name, BufReader::with_capacity(1 << 16, &file), length).parse()?;
        Ok(Self { name, source: Source::File(file), metadata, tensors })
    }

    /// Reads a file's contents.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let (name, bytes) = ("GGUF".to_owned(), bytes.into());
        let (metadata, tensors) = Header::new(&name, bytes.as_slice(), bytes.len() as u64).parse()?;
        Ok(Self { name, source: Source::Bytes(bytes), metadata, tensors })
    }

    /// Key to value.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Name to place and type.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor's place and type, or an error that names it.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::file(&self.name, format!("has no tensor {}", shown(name))))
    }

    /// A tensor's bytes as they are stored.
    pub fn data(&self, name: &str) -> Result<Vec<u8>, Error> {
        let tensor = self.tensor(name)?;
        let mut data = vec![0; tensor.nbytes];
        self.read_at(tensor.start, &mut data).map_err(|message| self.refuse(name, message))?;
        Ok(data)
    }

    /// Writes a tensor as float32 into `out`, over all cores of the current rayon pool.
    ///
    /// `out` has room for exactly `self.tensor(name)?.len` numbers ([`Error::InvalidParameter`] otherwise). Types
    /// that ecocore cannot read, and scales that are infinite or not a number, are [`Error::InvalidModelFile`].
    pub fn dequantize(&self, name: &str, out: &mut [f32]) -> Result<(), Error> {
        let TensorInfo { kind, len, start, .. } = *self.tensor(name)?;
        let Some(encoding) = kind.encoding else {
            return Err(self.refuse(name, format!("type {} is not supported", kind.name)));
        };
        if out.len() != len {
            return Err(Error::parameter("out", format!("has {} elements, the tensor has {len}", out.len())));
        }
        out.par_chunks_mut(TILE).enumerate().try_for_each_init(Vec::new, |data, (tile, out)| {
            let first_block = tile * TILE / kind.block_len;
            data.resize(out.len() / kind.block_len * kind.block_bytes, 0);
            self.read_at(start + (first_block * kind.block_bytes) as u64, data)
                .map_err(|message| self.refuse(name, message))?;
            if dequantize(encoding, data, out) {
                Ok(())
            } else {
                Err(self.refuse(name, "has a scale that is infinite or not a number".to_owned()))
            }
        })
    }

    fn read_at(&self, start: u64, data: &mut [u8]) -> Result<(), String> {
        match &self.source {
            Source::File(file) => file.read_exact_at(data, start).map_err(|error| {
                format!("cannot be read; was the file changed since it was opened? ({error})")
            }),
            Source::Bytes(bytes) => {
                let start = usize::try_from(start).expect("tensors were checked to lie inside these bytes");
                data.copy_from_slice(&bytes[start..start + data.len()]);
                Ok(())
            }
        }
    }

    fn refuse(&self, tensor: &str, message: String) -> Error {
        Error::file(format!("{}: tensor {}", self.name, shown(tensor)), message)
    }
}

/// Reads a header front to back. `place` says what is being read, for errors.
struct Header<'a, R> {
    file: &'a str,
    place: String,
    input: R,
    position: u64,
    /// Bytes of the whole file.
    length: u64,
}

/// A tensor as the header lists it, before the start of the data is known.
struct Listed {
    name: String,
    kind: &'static TensorType,
    shape: Vec<usize>,
    len: usize,
    nbytes: usize,
    offset: u64,
}

impl<'a, R: Read> Header<'a, R> {
    fn new(file: &'a str, input: R, length: u64) -> Self {
        Self { file, place: "header".to_owned(), input, position: 0, length }
    }

    fn parse(mut self) -> Result<(Metadata, BTreeMap<String, TensorInfo>), Error> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(self.refuse("is not a GGUF file"));
        }
        match self.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(self.refuse("is big endian; only little endian files can be read"));
            }
            version => return Err(self.refuse(format!("GGUF version {version}; only 2 and 3 can be read"))),
        }
        let num_tensors = self.u64()?;
        let num_keys = self.u64()?;
        // A tensor takes at least 24 bytes (lengths, type, offset), a key 13.
        self.need(num_tensors, 24)?;
        self.need(num_keys, 13)?;

        let mut metadata = Metadata::new();
        for index in 0..num_keys {
            self.place = format!("metadata key {index}");
            let key = self.string()?;
            self.place = format!("metadata key {}", shown(&key));
            let value = self.value()?;
            if metadata.insert(key, value).is_some() {
                return Err(self.refuse("appears twice"));
            }
        }
        let alignment = self.alignment(&metadata)?;

        let mut listed = Vec::new();
        for index in 0..num_tensors {
            self.place = format!("tensor {index}");
            listed.push(self.tensor()?);
        }
        let tensors = self.place_tensors(listed, alignment)?;
        Ok((metadata, tensors))
    }

    fn value(&mut self) -> Result<Value, Error> {
        Ok(match self.u32()? {
            0 => Value::U64(self.bytes::<1>()?[0].into()),
            1 => Value::I64(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::U64(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::I64(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::U64(self.u32()?.into()),
            5 => Value::I64(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::F64(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string()?),
            9 => self.array()?,
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.bytes()?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            kind => return Err(self.refuse(format!("unknown value type {kind}"))),
        })
    }

    fn array(&mut self) -> Result<Value, Error> {
        let (kind, count) = (self.u32()?, self.u64()?);
        Ok(match kind {
            0 => Value::Ints(self.elements(count, 1, |header| Ok(header.bytes::<1>()?[0].into()))?),
            1 => {
                Value::Ints(self.elements(count, 1, |header| Ok(i8::from_le_bytes(header.bytes()?).into()))?)
            }
            2 => {
                Value::Ints(self.elements(count, 2, |header| Ok(u16::from_le_bytes(header.bytes()?).into()))?)
            }
            3 => {
                Value::Ints(self.elements(count, 2, |header| Ok(i16::from_le_bytes(header.bytes()?).into()))?)
            }
            4 => Value::Ints(self.elements(count, 4, |header| Ok(header.u32()?.into()))?),
            5 => {
                Value::Ints(self.elements(count, 4, |header| Ok(i32::from_le_bytes(header.bytes()?).into()))?)
            }
            6 => Value::Floats(
                self.elements(count, 4, |header| Ok(f32::from_le_bytes(header.bytes()?).into()))?,
            ),
            7 => Value::Bools(self.elements(count, 1, Self::bool)?),
            8 => Value::Strings(self.elements(count, 8, Self::string)?),
            9 => return Err(self.refuse("is an array of arrays, which no model needs")),
            10 => Value::Ints(self.elements(count, 8, |header| {
                let value = header.u64()?;
                i64::try_from(value)
                    .map_err(|_| header.refuse(format!("{value} is out of range in an array")))
            })?),
            11 => Value::Ints(self.elements(count, 8, |header| Ok(i64::from_le_bytes(header.bytes()?)))?),
            12 => Value::Floats(self.elements(count, 8, |header| Ok(f64::from_le_bytes(header.bytes()?)))?),
            kind => return Err(self.refuse(format!("unknown element type {kind}"))),
        })
    }

    /// `count` elements that take at least `bytes` each.
    fn elements<T>(
        &mut self,
        count: u64,
        bytes: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.need(count, bytes)?;
        // Once and exactly: a vector that grows has twice what it needs, and the half of that while it moves.
        let mut elements = Vec::with_capacity(usize::try_from(count).expect("fits the file"));
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(elements)
    }

    fn alignment(&mut self, metadata: &Metadata) -> Result<u64, Error> {
        self.place = "metadata key general.alignment".to_owned();
        match metadata.get("general.alignment") {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(&Value::U64(alignment)) if alignment.is_power_of_two() => Ok(alignment),
            Some(_) => Err(self.refuse("is not a power of two")),
        }
    }

    fn tensor(&mut self) -> Result<Listed, Error> {
        let name = self.string()?;
        self.place = format!("tensor {}", shown(&name));
        let num_dimensions = self.u32()?;
        if num_dimensions > MAX_DIMENSIONS {
            return Err(self.refuse(format!("has {num_dimensions} dimensions; {MAX_DIMENSIONS} are allowed")));
        }
        let mut shape = Vec::new();
        for _ in 0..num_dimensions {
            shape.push(self.u64()?);
        }
        let id = self.u32()?;
        let offset = self.u64()?;

        let kind = TensorType::from_id(id).ok_or_else(|| self.refuse(format!("unknown type {id}")))?;
        // The file lists the fastest dimension first; blocks lie along it.
        if shape.first().unwrap_or(&1) % kind.block_len as u64 != 0 {
            return Err(self
                .refuse(format!("rows are no multiple of {}, the block of {}", kind.block_len, kind.name)));
        }
        let len = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        let nbytes = len.and_then(|len| (len / kind.block_len as u64).checked_mul(kind.block_bytes as u64));
        match (len, nbytes) {
            (Some(0), _) => Err(self.refuse("has a dimension of 0")),
            (Some(len), Some(nbytes)) if nbytes <= self.length => Ok(Listed {
                name,
                kind,
                shape: shape
                    .iter()
                    .rev()
                    .map(|&size| usize::try_from(size).expect("bounded by len"))
                    .collect(),
                len: usize::try_from(len).expect("a block has at most 256 weights and fits the file"),
                nbytes: usize::try_from(nbytes).expect("fits the file"),
                offset,
            }),
            _ => Err(self.refuse("is larger than the file")),
        }
    }

    /// Tensors with their place in the file, which the end of the header decides.
    fn place_tensors(
        &mut self,
        listed: Vec<Listed>,
        alignment: u64,
    ) -> Result<BTreeMap<String, TensorInfo>, Error> {
        let data_start = self.position.checked_next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        let mut extents = Vec::with_capacity(listed.len());
        for Listed { name, kind, shape, len, nbytes, offset } in listed {
            self.place = format!("tensor {}", shown(&name));
            if offset % alignment != 0 {
                return Err(
                    self.refuse(format!("offset {offset} is no multiple of the alignment {alignment}"))
                );
            }
            let start = data_start.and_then(|data_start| data_start.checked_add(offset));
            let end = start.and_then(|start| start.checked_add(nbytes as u64));
            let (Some(start), Some(end)) = (start, end.filter(|&end| end <= self.length)) else {
                return Err(self.refuse(format!(
                    "{nbytes} bytes at offset {offset} reach past the end of the file; is it cut off?"
                )));
            };
            extents.push((start, end, name.clone()));
            if tensors.insert(name, TensorInfo { kind, shape, len, start, nbytes }).is_some() {
                return Err(self.refuse("appears twice"));
            }
        }
        extents.sort_unstable();
        for pair in extents.windows(2) {
            if pair[1].0 < pair[0].1 {
                self.place = format!("tensor {}", shown(&pair[1].2));
                return Err(self.refuse(format!("overlaps tensor {}", shown(&pair[0].2))));
            }
        }
        Ok(tensors)
    }

    fn string(&mut self) -> Result<String, Error> {
        let length = self.u64()?;
        self.need(length, 1)?;
        let mut bytes = vec![0; usize::try_from(length).expect("fits the file")];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.refuse("text is not UTF-8"))
    }

    fn bool(&mut self) -> Result<bool, Error> {
        match self.bytes::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.refuse(format!("{other} is neither true nor false"))),
        }
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.need(N as u64, 1)?;
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Checks that `count` things of at least `bytes` bytes may still come.
    fn need(&self, count: u64, bytes: u64) -> Result<(), Error> {
        let end = count.checked_mul(bytes).and_then(|bytes| self.position.checked_add(bytes));
        match end {
            Some(end) if end <= self.length.min(MAX_HEADER) => Ok(()),
            Some(end) if end <= self.length => Err(self.refuse("the header is larger than 100 MB")),
            _ => Err(self.refuse("reaches past the end of the file; is it cut off?")),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.position += bytes.len() as u64;
        self.input.read_exact(bytes).map_err(|error| self.refuse(format!("cannot be read: {error}")))
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::file(format!("{}: {}", self.file, self.place), message)
    }
}

/// A name out of a file, fit for a message: short, and with nothing that moves a cursor.
fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        shown.push_str("...");
    }
    shown
}
