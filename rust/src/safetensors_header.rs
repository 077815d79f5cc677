//! The header of a safetensors file: which tensor lies where. Takes any file; gives places that are checked
//! against each other and the file's length, or [`Error::InvalidModelFile`], never a panic.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::Error;

/// Where a tensor lies in its file and how its numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the number type as the file spells it, such as "BF16".
    pub dtype: String,
    /// Dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// The largest header that is read, as other readers of the format have it.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of the header's length at the start of the file.
const PREFIX: u64 = 8;
/// The one key that is no tensor: texts about the file, which nothing here needs.
const NOTES: &str = "__metadata__";

/// Reads the header of a file.
pub fn read_header(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let unreadable = |error: std::io::Error| Error::file(&name, format!("cannot be read: {error}"));
    // Asked before opening, which would wait for a writer if this is a pipe.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Error::file(&name, "is not a file"));
    }
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    parse(&name, &file, length)
}

/// Reads a header from the start of `input`, a file of `length` bytes. `name` is what errors call it.
pub fn parse(name: &str, mut input: impl Read, length: u64) -> Result<BTreeMap<String, Entry>, Error> {
    let refuse = |message: String| Error::file(format!("{name}: header"), message);
    let cut_off = || refuse("reaches past the end of the file; is it cut off?".to_owned());

    let mut prefix = [0; PREFIX as usize];
    input.read_exact(&mut prefix).map_err(|_| cut_off())?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_HEADER {
        return Err(refuse(format!("claims {header_length} bytes; is this a safetensors file?")));
    }
    let data_start = PREFIX + header_length;
    let data_length = length.checked_sub(data_start).ok_or_else(cut_off)?;
    let mut header = vec![0; usize::try_from(header_length).expect("at most 100 MB")];
    input.read_exact(&mut header).map_err(|_| cut_off())?;

    let Listed(mut tensors) =
        serde_json::from_slice(&header).map_err(|error| refuse(short(&error.to_string())))?;
    tensors.sort_by(|(name, _), (other, _)| name.cmp(other));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(refuse(format!("lists tensor {} twice", short(&pair[0].0))));
    }
    // The crate checks that shapes and types agree with the offsets, and that tensors follow each other
    // without overlaps or holes.
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let metadata = Metadata::new(None, tensors).map_err(|error| refuse(short(&error.to_string())))?;
    if metadata.data_len() as u64 != data_length {
        return Err(refuse(format!(
            "lists {} bytes of tensors, the file holds {data_length}; is it cut off?",
            metadata.data_len()
        )));
    }
    let entries = metadata.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let entry = Entry {
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            start: data_start + start as u64,
            end: data_start + end as u64,
        };
        (name, entry)
    });
    Ok(entries.collect())
}

/// The tensors of a header in its order. The crate's own reader keeps the last of two entries with one name, another
/// reader the first; and it builds a tree of the whole header before it looks at it.
struct Listed(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == NOTES {
                map.next_value::<HashMap<String, String>>()?;
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(Listed(tensors))
    }
}

/// A parser's message without the file's own text running on for pages.
fn short(message: &str) -> String {
    message.chars().take(200).flat_map(char::escape_debug).collect()
}
