//! Safetensors headers as a stranger might hand them over. Whatever the bytes, the answer is a table of
//! checked places or `InvalidModelFile`.

use ecocore::error::Error;
use ecocore::safetensors_header::{Entry, parse};
use proptest::prelude::*;

fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![7; data]].concat()
}

fn tiny() -> Vec<u8> {
    file(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
            "b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}"#,
        26,
    )
}

fn read(bytes: &[u8]) -> Result<std::collections::BTreeMap<String, Entry>, Error> {
    parse("x.safetensors", bytes, bytes.len() as u64)
}

fn refusal(bytes: &[u8]) -> String {
    match read(bytes) {
        Err(error @ Error::InvalidModelFile { .. }) => error.to_string(),
        other => panic!("expected InvalidModelFile, got {other:?}"),
    }
}

/// Whatever is accepted lies inside the file and does not overlap.
fn exercise(bytes: &[u8]) {
    let Ok(entries) = read(bytes) else { return };
    let mut places: Vec<_> = entries.values().map(|entry| (entry.start, entry.end)).collect();
    places.sort_unstable();
    assert!(places.iter().all(|&(start, end)| start <= end && end <= bytes.len() as u64));
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

#[test]
fn places_are_counted_from_the_start_of_the_file() {
    let bytes = tiny();
    let data = bytes.len() as u64 - 26;
    let entries = read(&bytes).unwrap();
    let a = Entry { dtype: "F32".to_owned(), shape: vec![2, 3], start: data, end: data + 24 };
    let b = Entry { dtype: "BF16".to_owned(), shape: vec![], start: data + 24, end: data + 26 };
    assert_eq!(entries.into_iter().collect::<Vec<_>>(), [("a".to_owned(), a), ("b".to_owned(), b)]);
}

#[test]
fn headers_that_disagree_with_themselves_or_the_file_are_refused() {
    let check = |tensors: &str, data, expected: &str| {
        let message = refusal(&file(tensors, data));
        assert!(message.starts_with("x.safetensors: header: "), "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 3, "is it cut off?");
    check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 5, "lists 4 bytes");
    check(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "");
    check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "");
    check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "");
    check(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "");
    check(r#"{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}"#, 4, "");
    check(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#, 4, "");
    check(
        r#"{"a":{"dtype":"U8","shape":[9223372036854775807,2],"data_offsets":[0,18446744073709551614]}}"#,
        4,
        "",
    );
    check(
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        4,
        "",
    );
    check(
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"dtype":"I32"}}"#,
        4,
        "duplicate field `dtype`",
    );
    check(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4, "missing field `data_offsets`");
    check(
        r#"{"__metadata__":{"format":7},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        4,
        "expected a string",
    );
    check("[]", 0, "expected an object of tensors");
    check("{", 0, "");
    check(&"[".repeat(100_000), 0, "");
}

#[test]
fn a_tensor_that_is_listed_twice_is_refused_whichever_a_reader_would_take() {
    let entry = |dtype: &str| format!(r#""a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,4]}}"#);
    for (first, second) in [("F32", "F32"), ("F32", "I32"), ("I32", "F32")] {
        let header = format!("{{{},{}}}", entry(first), entry(second));
        assert_eq!(refusal(&file(&header, 4)), "x.safetensors: header: lists tensor a twice");
    }
    // The same name in other letters, and a name that would run on.
    let spelled = format!("{{{},{}}}", entry("F32"), entry("F32").replacen('a', "\\u0061", 1));
    assert_eq!(refusal(&file(&spelled, 4)), "x.safetensors: header: lists tensor a twice");
    let long = entry("F32").replacen('a', &"x".repeat(1000), 1);
    assert!(refusal(&file(&format!("{{{long},{long}}}"), 4)).len() < 300);
}

#[test]
fn offsets_that_wrap_around_are_refused() {
    // The nine tensors end one byte below 2^64: adding the header's length to that would wrap.
    let big = (1u64 << 61) - 8;
    let entry = |name: u64, start: u64, size: u64| {
        format!(
            r#""{name}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{}]}}"#,
            start.wrapping_add(size)
        )
    };
    let mut entries: Vec<String> = (0..8).map(|i| entry(i, i * big, big)).collect();
    entries.push(entry(8, 8 * big, 63));
    refusal(&file(&format!("{{{}}}", entries.join(",")), 0));
}

#[test]
fn eight_bytes_cannot_ask_for_gigabytes() {
    for length in [1, 1 << 20, 100_000_001, 1 << 40, u64::MAX] {
        refusal(&u64::to_le_bytes(length));
    }
    refusal(b"");
    refusal(b"1234567");
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let whole = tiny();
    for length in 0..whole.len() {
        refusal(&whole[..length]);
    }
}

#[test]
fn every_changed_byte_gives_places_inside_the_file_or_an_error() {
    let whole = tiny();
    for index in 0..whole.len() {
        for flip in 1..=255 {
            let mut altered = whole.clone();
            altered[index] ^= flip;
            exercise(&altered);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn edited_headers_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[-0-9a-zA-Z\\[\\]{}\",: ]{0,6}"), 1..6),
    ) {
        let mut bytes = tiny();
        for (index, text) in edits {
            let index = index.index(bytes.len());
            let end = bytes.len().min(index + text.len());
            bytes.splice(index..end, text.bytes());
        }
        exercise(&bytes);
    }

    #[test]
    fn any_header_text_never_panics(header in "\\PC{0,80}", data in 0usize..40) {
        exercise(&file(&header, data));
    }
}
