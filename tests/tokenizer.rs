//! The tokenizer under random text, random ids and altered files.

use ecocore::error::Error;
use ecocore::gguf::{Metadata, Value};
use ecocore::tokenizer::Tokenizer;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value as Json;

/// GPT-2's alphabet, written out as its authors did: printable bytes as they are, the others from U+100.
fn alphabet() -> Vec<String> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    (0..=255)
        .map(|byte: u8| if printable(&byte) { byte.into() } else { others.next().expect("endless") })
        .map(|code: u32| char::from_u32(code).expect("a letter").to_string())
        .collect()
}

/// What a GGUF file with a small vocabulary says: 256 bytes, two merges, a special and an added token.
fn entries(pre: &str) -> Vec<(&'static str, Value)> {
    let mut tokens = alphabet();
    tokens.extend(["he", "hel", "<|end|>", "<tool>"].map(str::to_owned));
    let mut types = vec![1; 258];
    types.extend([3, 4]);
    vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String(pre.into())),
        ("tokenizer.ggml.tokens", Value::Strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Ints(types)),
        ("tokenizer.ggml.merges", Value::Strings(vec!["h e".into(), "he l".into()])),
        ("tokenizer.ggml.eos_token_id", Value::U64(258)),
    ]
}

fn metadata(entries: Vec<(&'static str, Value)>) -> Metadata {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn byte_level(pre: &str) -> Tokenizer {
    Tokenizer::from_gguf(&metadata(entries(pre))).expect("a sound vocabulary")
}

/// One change to one entry.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Number(u64),
    Text(String),
    /// Element (or length) of an array by this number or text.
    Element(Index, i64, String),
    Cut(Index),
    Repeat(Index),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Remove),
        any::<u64>().prop_map(Change::Number),
        select(vec!["", "gpt2", "llama", "qwen2", "llama-bpe", "smollm"])
            .prop_map(|text| Change::Text(text.into())),
        (any::<Index>(), any::<i64>(), ".{0,12}")
            .prop_map(|(index, number, text)| Change::Element(index, number, text)),
        any::<Index>().prop_map(Change::Cut),
        any::<Index>().prop_map(Change::Repeat),
    ]
}

fn apply(change: Change, value: Value) -> Option<Value> {
    Some(match (change, value) {
        (Change::Remove, _) => return None,
        (Change::Number(number), _) => Value::U64(number),
        (Change::Text(text), _) => Value::String(text),
        (change, Value::Strings(mut texts)) if !texts.is_empty() => {
            match change {
                Change::Element(index, _, text) => *index.get_mut(&mut texts) = text,
                Change::Cut(index) => texts.truncate(index.index(texts.len())),
                Change::Repeat(index) => texts.push(index.get(&texts).clone()),
                Change::Remove | Change::Number(_) | Change::Text(_) => unreachable!("matched above"),
            }
            Value::Strings(texts)
        }
        (change, Value::Ints(mut numbers)) if !numbers.is_empty() => {
            match change {
                Change::Element(index, number, _) => *index.get_mut(&mut numbers) = number,
                Change::Cut(index) => numbers.truncate(index.index(numbers.len())),
                Change::Repeat(index) => numbers.push(*index.get(&numbers)),
                Change::Remove | Change::Number(_) | Change::Text(_) => unreachable!("matched above"),
            }
            Value::Ints(numbers)
        }
        (_, value) => value,
    })
}

/// Whatever a file holds: a refusal that names a place, or a tokenizer that works.
fn check_refused_or_works(opened: Result<Tokenizer, Error>, text: &str) {
    match opened {
        Err(Error::InvalidModelFile { place, message }) => assert!(!place.is_empty() && !message.is_empty()),
        Err(other) => panic!("an altered file is no {other:?}"),
        Ok(tokenizer) => {
            let ids = tokenizer.encode(text).unwrap_or_default();
            assert!(ids.iter().all(|&id| tokenizer.vocab().bytes(id).is_some()));
            for id in 0..u32::try_from(tokenizer.vocab().len()).expect("few tokens") {
                let decoded = tokenizer.decode(&[id], false);
                assert!(decoded.is_err() || tokenizer.vocab().bytes(id).is_some());
            }
        }
    }
}

/// The crate's `Strip` underflows where a token has nothing left to strip from its end.
const ONE_TOO_MANY: (&str, &str) = ("\"stop\": 0", "\"stop\": 1");

const JSON: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
"added_tokens": [{"id": 7, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false},
"post_processor": null,
"decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
"model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
"vocab": {"<unk>": 0, "<0x41>": 1, "a": 2, "b": 3, "ab": 4, "▁": 5, "▁a": 6}, "merges": [["a", "b"], ["▁", "a"]]}}"#;

proptest! {
    #[test]
    fn text_comes_back_from_its_tokens(text in any::<String>(), pre in select(vec!["smollm", "llama-bpe"])) {
        let tokenizer = byte_level(pre);
        let ids = tokenizer.encode(&text).expect("every byte has a token");
        prop_assert_eq!(tokenizer.decode(&ids, false).expect("known ids"), text);
    }

    #[test]
    fn added_tokens_are_found_anywhere(before in "[a-z ]{0,9}", after in "[a-z ]{0,9}") {
        for pre in ["smollm", "llama-bpe", "qwen2"] {
            let ids = byte_level(pre).encode(&format!("{before}<tool>{after}<|end|>")).expect("ASCII");
            prop_assert_eq!(ids.iter().filter(|&&id| id == 259).count(), 1);
            prop_assert_eq!(ids.last(), Some(&258));
        }
    }

    #[test]
    fn streamed_equals_whole(ids in vec(0u32..260, 0..64), skip: bool) {
        let tokenizer = byte_level("smollm");
        let (mut text, mut stream) = (String::new(), tokenizer.stream(skip));
        for &id in &ids {
            stream.push(id, &mut text).expect("a known id");
        }
        stream.finish(&mut text);
        prop_assert_eq!(text, tokenizer.decode(&ids, skip).expect("known ids"));
    }

    #[test]
    fn decode_joins_the_bytes_of_tokens(ids in vec(0u32..257, 0..64)) {
        let tokenizer = Tokenizer::bytes_only();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.vocab().bytes(id).expect("known")).copied().collect();
        prop_assert_eq!(tokenizer.decode(&ids, false).expect("known ids"), String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn altered_metadata_is_refused_or_works(
        changed in vec((any::<Index>(), changes()), 1..4),
        pre in select(vec!["smollm", "llama-bpe", "qwen2"]),
        text in ".{0,20}",
    ) {
        let mut entries = entries(pre);
        for (index, change) in changed {
            if entries.is_empty() {
                break;
            }
            let place = index.index(entries.len());
            let (key, value) = entries.remove(place);
            entries.extend(apply(change, value).map(|value| (key, value)));
        }
        check_refused_or_works(Tokenizer::from_gguf(&metadata(entries)), &text);
    }

    #[test]
    fn scratched_json_is_refused_or_works(
        places in vec((any::<Index>(), "[0-9a-z\"\\[\\]{}:, ▁<>]{0,3}"), 1..4),
        text in "[ab A▁é]{0,20}",
    ) {
        let mut json: Vec<char> = JSON.chars().collect();
        for (index, replacement) in places {
            let start = index.index(json.len());
            let end = (start + 2).min(json.len());
            json.splice(start..end, replacement.chars());
        }
        check_refused_or_works(Tokenizer::from_json(String::from_iter(json).as_bytes()), &text);
    }

    #[test]
    fn altered_json_is_refused_or_works(
        changed in vec((any::<Index>(), select(SCALARS)), 1..4),
        text in "[ab A▁é]{0,20}",
    ) {
        let mut json: Json = serde_json::from_str(JSON).expect("a sound file");
        for (index, scalar) in changed {
            let mut pointers = vec![];
            collect_pointers(&json, String::new(), &mut pointers);
            let place = json.pointer_mut(&pointers[index.index(pointers.len())]).expect("collected from it");
            *place = serde_json::from_str(scalar).expect("a value");
        }
        check_refused_or_works(Tokenizer::from_json(json.to_string().as_bytes()), &text);
    }
}

/// Values that an altered file may hold anywhere.
const SCALARS: &[&str] = &[
    "null",
    "true",
    "0",
    "8",
    "-1",
    "4294967295",
    "0.5",
    "\"\"",
    "\"a\"",
    "\"BPE\"",
    "\"Fuse\"",
    "[]",
    "{}",
    "[\"a\", \"b\"]",
];

fn collect_pointers(value: &Json, pointer: String, pointers: &mut Vec<String>) {
    match value {
        Json::Object(entries) => {
            for (key, value) in entries {
                collect_pointers(value, format!("{pointer}/{key}"), pointers);
            }
        }
        Json::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect_pointers(value, format!("{pointer}/{index}"), pointers);
            }
        }
        _ => {}
    }
    pointers.push(pointer);
}

#[test]
fn the_small_json_is_sound() {
    let tokenizer = Tokenizer::from_json(JSON.as_bytes()).expect("a sound file");
    assert_eq!(tokenizer.encode("aab A<e>").expect("plain text"), [2, 4, 5, 1, 7]);
    assert_eq!(tokenizer.decode(&[6, 4, 1], false).expect("known ids"), "aabA");
}

#[test]
fn a_decoder_that_panics_is_an_error() {
    let json = JSON
        .replace(ONE_TOO_MANY.0, ONE_TOO_MANY.1)
        .replace("\"a\": 2", "\"\": 2, \"a\": 7")
        .replace("\"id\": 7", "\"id\": 8");
    let tokenizer = Tokenizer::from_json(json.as_bytes()).expect("the crate reads it");
    tokenizer.decode(&[2], false).expect_err("nothing to strip");
    assert_eq!(tokenizer.decode(&[7], false).expect("still works"), "a");
}

#[test]
fn unknown_ids_are_named() {
    let error = Tokenizer::bytes_only().decode(&[65, 300], false).expect_err("300 is no id");
    let expected = "ids must be tokens of the vocabulary, which has ids 0 to 256; 300 is none";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn holes_of_a_vocabulary_are_no_tokens() {
    let mut entries = entries("smollm");
    let Value::Strings(tokens) = &mut entries[2].1 else { panic!("tokens") };
    tokens[200].clear();
    let tokenizer = Tokenizer::from_gguf(&metadata(entries)).expect("a hole is allowed");
    assert_eq!(tokenizer.vocab().bytes(200), None);
    assert!(tokenizer.decode(&[200], false).is_err());
    assert_eq!(tokenizer.encode("\u{8}hello").expect("the rest").len(), 4);
}
