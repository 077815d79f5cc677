//! GGUF files as a stranger might hand them over: whole, cut off, altered, hostile. Whatever the bytes, the
//! answer is a checked file or `InvalidModelFile`.

use std::io::Write;

use ecocore::error::Error;
use ecocore::gguf::{Gguf, Value};
use proptest::prelude::*;

/// Writes GGUF files, right or wrong: every count and offset is the caller's.
struct Writer {
    version: u32,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl Writer {
    fn new() -> Self {
        Self { version: 3, keys: Vec::new(), tensors: Vec::new(), data: Vec::new() }
    }

    fn key(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.keys.push([text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    /// `shape` lists the fastest dimension first, as the file does.
    fn tensor(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry = text(name.as_bytes());
        entry.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|size| entry.extend(size.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    fn build(self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.keys.len() as u64];
        let mut file = header(self.version, counts);
        file.extend(self.keys.concat());
        file.extend(self.tensors.concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(self.data);
        file
    }
}

fn header(version: u32, [tensors, keys]: [u64; 2]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend(tensors.to_le_bytes());
    file.extend(keys.to_le_bytes());
    file
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// One of everything, in 400 bytes: a matrix of Q8_0, one of Q4_1 and a float vector.
fn tiny() -> Vec<u8> {
    let data: Vec<u8> = (0..34 + 30 + 20 + 12 + 8).map(|i| (i % 60) as u8).collect();
    Writer::new()
        .key(b"general.architecture", 8, &text(b"llama"))
        .key(b"tokens", 9, &array(8, 2, &[text(b"a"), text("\u{120}b".as_bytes())].concat()))
        .key(b"scores", 9, &array(6, 2, &[0.5f32.to_le_bytes(), 2f32.to_le_bytes()].concat()))
        .key(b"flags", 9, &array(7, 2, &[0, 1]))
        .key(b"count", 4, &7u32.to_le_bytes())
        .tensor("q8", &[32, 1], 8, 0)
        .tensor("q4", &[32], 3, 64)
        .tensor("f32", &[1, 2], 0, 96)
        .data(&data)
        .build()
}

fn refusal(bytes: impl Into<Vec<u8>>) -> String {
    match Gguf::parse(bytes) {
        Err(error @ Error::InvalidModelFile { .. }) => error.to_string(),
        other => panic!("expected InvalidModelFile, got {other:?}"),
    }
}

/// Reads everything a file offers; a panic is the failure that the caller looks for.
fn exercise(bytes: Vec<u8>) {
    let Ok(file) = Gguf::parse(bytes) else { return };
    for (name, tensor) in file.tensors() {
        assert_eq!(file.data(name).expect("lies in the file").len(), tensor.nbytes);
        let _ = file.dequantize(name, &mut vec![0.0; tensor.len]);
    }
}

#[test]
fn values_of_every_kind_are_read() {
    let file = Writer::new()
        .key(b"u8", 0, &[200])
        .key(b"i8", 1, &[0xFF])
        .key(b"u16", 2, &60_000u16.to_le_bytes())
        .key(b"i16", 3, &(-2i16).to_le_bytes())
        .key(b"u32", 4, &4_000_000_000u32.to_le_bytes())
        .key(b"i32", 5, &(-3i32).to_le_bytes())
        .key(b"f32", 6, &0.25f32.to_le_bytes())
        .key(b"bool", 7, &[1])
        .key(b"string", 8, &text("größe".as_bytes()))
        .key(b"u64", 10, &u64::MAX.to_le_bytes())
        .key(b"i64", 11, &i64::MIN.to_le_bytes())
        .key(b"f64", 12, &1e300f64.to_le_bytes())
        .key(b"[u8]", 9, &array(0, 2, &[1, 200]))
        .key(b"[i16]", 9, &array(3, 1, &(-5i16).to_le_bytes()))
        .key(b"[u64]", 9, &array(10, 1, &9u64.to_le_bytes()))
        .key(b"[bool]", 9, &array(7, 3, &[1, 0, 1]))
        .key(b"[f64]", 9, &array(12, 1, &0.5f64.to_le_bytes()))
        .key(b"[string]", 9, &array(8, 2, &[text(b""), text(b"x")].concat()))
        .key(b"[]", 9, &array(8, 0, &[]))
        .build();
    let file = Gguf::parse(file).unwrap();
    let expected = [
        ("u8", Value::U64(200)),
        ("i8", Value::I64(-1)),
        ("u16", Value::U64(60_000)),
        ("i16", Value::I64(-2)),
        ("u32", Value::U64(4_000_000_000)),
        ("i32", Value::I64(-3)),
        ("f32", Value::F64(0.25)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("größe".to_owned())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(1e300)),
        ("[u8]", Value::Ints(vec![1, 200])),
        ("[i16]", Value::Ints(vec![-5])),
        ("[u64]", Value::Ints(vec![9])),
        ("[bool]", Value::Bools(vec![true, false, true])),
        ("[f64]", Value::Floats(vec![0.5])),
        ("[string]", Value::Strings(vec![String::new(), "x".to_owned()])),
        ("[]", Value::Strings(Vec::new())),
    ];
    assert_eq!(file.metadata().len(), expected.len());
    for (key, value) in expected {
        assert_eq!(file.metadata()[key], value, "{key}");
    }
}

#[test]
fn shapes_are_given_slowest_first_and_data_lies_where_the_header_says() {
    let file = Gguf::parse(tiny()).unwrap();
    assert_eq!(file.tensors()["q8"].shape, [1, 32]);
    assert_eq!(file.tensors()["f32"].shape, [2, 1]);
    let expected: Vec<u8> = (96..104).map(|i| i % 60).collect();
    assert_eq!(file.data("f32").unwrap(), expected);
}

#[test]
fn version_two_reads_like_version_three() {
    let mut writer = Writer::new().tensor("x", &[1], 0, 0).data(&1.5f32.to_le_bytes());
    writer.version = 2;
    let file = Gguf::parse(writer.build()).unwrap();
    let mut out = [0.0];
    file.dequantize("x", &mut out).unwrap();
    assert_eq!(out, [1.5]);
}

#[test]
fn a_tensor_larger_than_a_tile_is_put_together_in_order() {
    let numbers: Vec<f32> = (0..100_000u32).map(|i| i as f32).collect();
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let file = Gguf::parse(Writer::new().tensor("x", &[1000, 100], 0, 0).data(&data).build()).unwrap();
    let mut out = vec![0.0; numbers.len()];
    file.dequantize("x", &mut out).unwrap();
    assert_eq!(out, numbers);
}

#[test]
fn files_of_another_kind_are_told_apart() {
    assert_eq!(refusal(b"PK\x03\x04".to_vec()), "GGUF: header: is not a GGUF file");
    assert!(refusal(header(1, [0, 0])).contains("version 1"));
    assert!(refusal(header(4, [0, 0])).contains("version 4"));
    assert!(refusal(header(3u32.swap_bytes(), [0, 0])).contains("big endian"));
}

#[test]
fn twenty_four_bytes_cannot_ask_for_gigabytes() {
    for counts in [[u64::MAX, 0], [0, u64::MAX], [1 << 32, 0], [0, 1 << 32]] {
        assert!(refusal(header(3, counts)).contains("past the end"), "{counts:?}");
    }
    let long_key = [header(3, [0, 1]), u64::MAX.to_le_bytes().to_vec(), vec![0; 13]].concat();
    assert!(refusal(long_key).contains("past the end"));
    for kind in [0, 4, 8, 12] {
        for count in [1 << 40, u64::MAX / 8 + 1, u64::MAX] {
            let writer = Writer::new().key(b"k", 9, &array(kind, count, &[0; 40]));
            assert_eq!(
                refusal(writer.build()),
                "GGUF: metadata key k: reaches past the end of the file; is it cut off?"
            );
        }
    }
}

#[test]
fn metadata_that_means_nothing_is_refused_by_its_key() {
    let check = |key: &[u8], kind, value: &[u8], expected: &str| {
        let message = refusal(Writer::new().key(key, kind, value).build());
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    check(b"k", 13, &[0; 8], "metadata key k: unknown value type 13");
    check(b"k", 7, &[2], "metadata key k: 2 is neither true nor false");
    check(b"k", 8, &text(b"\xFF"), "metadata key k: text is not UTF-8");
    check(b"\xC3", 0, &[0], "metadata key 0: text is not UTF-8");
    check(b"k", 9, &array(9, 1, &array(0, 1, &[1])), "metadata key k: is an array of arrays");
    check(b"k", 9, &array(99, 1, &[1; 8]), "metadata key k: unknown element type 99");
    check(
        b"k",
        9,
        &array(10, 1, &u64::MAX.to_le_bytes()),
        "metadata key k: 18446744073709551615 is out of range",
    );
    check(b"general.alignment", 4, &0u32.to_le_bytes(), "general.alignment: is not a power of two");
    check(b"general.alignment", 4, &24u32.to_le_bytes(), "general.alignment: is not a power of two");
    check(b"general.alignment", 8, &text(b"32"), "general.alignment: is not a power of two");
    check("\u{1b}[2J".as_bytes(), 13, &[0; 8], "metadata key \\u{1b}[2J: ");
    check(&[b'x'; 500], 13, &[0; 8], &format!("metadata key {}...: ", "x".repeat(80)));
}

#[test]
fn a_key_or_a_tensor_that_appears_twice_is_refused() {
    let keys = Writer::new().key(b"k", 0, &[1]).key(b"k", 0, &[1]);
    assert!(refusal(keys.build()).contains("metadata key k: appears twice"));
    let tensors = Writer::new().tensor("x", &[1], 0, 0).tensor("x", &[1], 0, 32).data(&[0; 64]);
    assert!(refusal(tensors.build()).contains("tensor x: appears twice"));
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let check = |shape: &[u64], kind, offset, expected: &str| {
        let message = refusal(Writer::new().tensor("x", shape, kind, offset).data(&[0; 64]).build());
        assert!(message.starts_with("GGUF: tensor x: "), "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    check(&[16], 0, 32, "past the end");
    check(&[1], 0, 64, "past the end");
    check(&[1], 0, u64::MAX - 31, "past the end");
    check(&[1], 0, 4, "no multiple of the alignment 32");
    check(&[1 << 40], 0, 0, "larger than the file");
    check(&[u64::MAX, u64::MAX], 0, 0, "larger than the file");
    check(&[1 << 32, 1 << 32], 24, 0, "larger than the file");
    check(&[0], 0, 0, "dimension of 0");
    check(&[32, 0], 8, 0, "dimension of 0");
    check(&[1 << 32, 1 << 32, 0], 0, 0, "larger than the file");
    check(&[31], 8, 0, "no multiple of 32");
    check(&[1, 32], 8, 0, "no multiple of 32");
    check(&[], 8, 0, "no multiple of 32");
    check(&[128], 12, 0, "no multiple of 256");
    check(&[1], 99, 0, "unknown type 99");
    check(&[1], 4, 0, "unknown type 4");
    check(&[1; 5], 0, 0, "5 dimensions");
    check(&[], u32::MAX, 0, "unknown type");
}

#[test]
fn tensors_that_overlap_are_refused() {
    let writer = Writer::new().tensor("long", &[16], 0, 0).tensor("inside", &[1], 0, 32).data(&[0; 64]);
    assert!(refusal(writer.build()).contains("tensor inside: overlaps tensor long"));
    let same = Writer::new().tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 0).data(&[0; 64]);
    assert!(refusal(same.build()).contains("tensor b: overlaps tensor a"));
}

#[test]
fn a_type_that_cannot_be_read_hurts_only_its_own_tensor() {
    let writer = Writer::new().tensor("iq2", &[256], 16, 0).tensor("f32", &[1], 0, 96).data(&[0; 100]);
    let file = Gguf::parse(writer.build()).unwrap();
    file.dequantize("f32", &mut [0.0]).unwrap();
    let error = file.dequantize("iq2", &mut [0.0; 256]).unwrap_err();
    assert_eq!(error.to_string(), "GGUF: tensor iq2: type IQ2_XXS is not supported");
}

#[test]
fn scales_that_are_no_numbers_are_refused_by_tensor() {
    let infinite = [&0x7C00u16.to_le_bytes()[..], &[1; 32]].concat();
    let file = Gguf::parse(Writer::new().tensor("q8", &[32], 8, 0).data(&infinite).build()).unwrap();
    let error = file.dequantize("q8", &mut [0.0; 32]).unwrap_err();
    assert_eq!(error.to_string(), "GGUF: tensor q8: has a scale that is infinite or not a number");
}

#[test]
fn a_missing_tensor_and_a_wrong_size_are_told() {
    let file = Gguf::parse(tiny()).unwrap();
    assert_eq!(file.data("nope").unwrap_err().to_string(), "GGUF: has no tensor nope");
    let error = file.dequantize("f32", &mut [0.0; 3]).unwrap_err();
    assert_eq!(error, Error::parameter("out", "has 3 elements, the tensor has 2"));
}

#[test]
fn a_file_on_disk_reads_like_its_bytes_and_may_be_cut_at_any_time() {
    let mut on_disk = tempfile();
    on_disk.file.write_all(&tiny()).unwrap();
    let file = Gguf::open(&on_disk.path).unwrap();
    let (mut ours, mut theirs) = ([0.0; 32], [0.0; 32]);
    file.dequantize("q4", &mut ours).unwrap();
    Gguf::parse(tiny()).unwrap().dequantize("q4", &mut theirs).unwrap();
    assert_eq!(ours, theirs);

    // A mapped file would raise SIGBUS from here on.
    on_disk.file.set_len(40).unwrap();
    let error = file.dequantize("q4", &mut ours).unwrap_err().to_string();
    assert!(
        error.contains("tensor q4: cannot be read; was the file changed since it was opened?"),
        "{error}"
    );
    let error = Gguf::open(&on_disk.path).unwrap_err().to_string();
    assert!(error.contains("is it cut off?"), "{error}");
}

#[test]
fn what_is_no_file_is_refused() {
    let nowhere = std::env::temp_dir().join("ecocore-no-such-file.gguf");
    assert!(
        Gguf::open(&nowhere)
            .unwrap_err()
            .to_string()
            .starts_with("ecocore-no-such-file.gguf: cannot be read")
    );
    assert!(Gguf::open(&std::env::temp_dir()).unwrap_err().to_string().contains("is not a file"));
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let whole = tiny();
    exercise(whole.clone());
    for length in 0..whole.len() {
        assert!(
            matches!(Gguf::parse(&whole[..length]), Err(Error::InvalidModelFile { .. })),
            "{length} bytes"
        );
    }
}

#[test]
fn every_changed_byte_gives_a_file_or_an_error() {
    let whole = tiny();
    for index in 0..whole.len() {
        for flip in [1, 0x40, 0x80, 0xFF] {
            let mut altered = whole.clone();
            altered[index] ^= flip;
            exercise(altered);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn edited_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1usize..9), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = tiny();
        for (index, value, width) in edits {
            let index = index.index(bytes.len());
            let width = width.min(bytes.len() - index);
            bytes[index..index + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        exercise(bytes[..cut.index(bytes.len())].to_vec());
        exercise(bytes);
    }

    #[test]
    fn any_bytes_after_the_magic_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), counts in any::<[u8; 2]>()) {
        exercise([header(3, counts.map(|count| u64::from(count % 4))), bytes].concat());
    }
}

/// A file that goes away with the test.
struct TemporaryFile {
    path: std::path::PathBuf,
    file: std::fs::File,
}

fn tempfile() -> TemporaryFile {
    let path = std::env::temp_dir().join(format!("ecocore-{}.gguf", std::process::id()));
    let file = std::fs::File::create(&path).expect("the temporary folder takes files");
    TemporaryFile { path, file }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
