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

/// Pipelines as the families have them, and some that only look like them.
mod own {
    use super::*;

    const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const CASES: u64 = 5000;

    /// What tells pipelines apart: contractions in any case, digits of all scripts, spaces of all kinds, marks that
    /// compose or change places, scripts without spaces, bytes that a vocabulary lacks, and added tokens.
    const FRAGMENTS: &[&str] = &[
        "'s",
        "'S",
        "'ll",
        "'LL",
        "'\u{17f}",
        "'re ",
        "don't",
        "I'M",
        "0123456789",
        "\u{bd}\u{b2}\u{663}",
        "12 34",
        " \t\u{a0}\r\n\n  \n",
        "\n\n\n",
        "   ",
        "\t\t",
        "e\u{301}",
        "\u{1df6}\u{8f9}",
        "\0\u{6}\u{80}",
        "\u{2581}",
        "\u{2581}\u{2581}",
        "<0x41>",
        "\u{1100}\u{1161}\u{11a8}",
        "日本語の文章",
        "中文",
        "한국어",
        "हिन्दी",
        "ไทยภาษา",
        "العربية ",
        "עִבְרִית",
        "Ελληνικά",
        "русский",
        " the quick",
        " Hello",
        "HTTPServer",
        "camelCase",
        "ǅungla",
        "world",
        "def f(x):\n\t\treturn",
        "=====",
        "/**\n",
        "//\n/",
        "https://x.y/z?q=1",
        "\u{340}\u{344}",
        "\u{212b}",
        "\u{3000}",
        "\u{2028}",
        "\u{85}",
        "\u{180e}",
        "\u{200b}",
        "1,234.5",
        "𞤀",
        "👩‍👩‍👧‍👦",
        "<e>",
        "<ee>",
        "<e",
        "[tool]",
        "=========\u{6}=========",
        "\u{2581}aaaaaaaaaaaaaaaaaaaaab",
    ];

    /// A small generator: the same cases every time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 33) as usize % bound
        }

        fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
            choices[self.below(choices.len())]
        }

        fn text(&mut self) -> String {
            let mut text = String::new();
            for _ in 0..self.below(12) {
                match self.below(5) {
                    0 => text.push_str(self.of(FRAGMENTS)),
                    1 => {
                        let ranges =
                            [0x20..0x7f, 0x80..0x800, 0x300..0x370, 0x800..0xd800, 0xe000..0x11_0000];
                        let range = ranges[self.below(ranges.len())].clone();
                        let code = range.start + self.below(range.len()) as u32;
                        text.extend(char::from_u32(code));
                    }
                    2 => {
                        let space = self.of(&[" ", "\n", "\t", "\r", "'"]);
                        text.push_str(&space.repeat(1 + self.below(4)));
                    }
                    3 => {
                        // A long word of the letters of one script, in an order that no other has.
                        let letters: Vec<char> = self.of(FRAGMENTS).chars().collect();
                        text.extend((0..self.below(30)).map(|_| letters[self.below(letters.len())]));
                    }
                    _ => (0..self.below(40))
                        .for_each(|_| text.push_str(self.of(&["a", "b", "e", "t", "h", " ", ".", "A", "0"]))),
                }
            }
            text
        }
    }

    /// A `tokenizer.json` whose merges grow words from the left, by ranks in no order.
    fn file(normalizer: Json, pre_tokenizer: Json, letters: Vec<String>, model: Json, seed: u64) -> Vec<u8> {
        let is_text = normalizer["type"] == "Replace";
        let alphabet = alphabet();
        let spelled = |fragment: &str| -> Vec<String> {
            match is_text {
                true => fragment.replace(' ', "\u{2581}").chars().map(String::from).collect(),
                false => fragment.bytes().map(|byte| alphabet[usize::from(byte)].clone()).collect(),
            }
        };
        let mut dice = Dice(seed);
        let mut tokens = letters;
        let mut merges = vec![];
        for _ in 0..300 {
            let word = spelled(dice.of(&[
                dice_fragment(&mut Dice(seed + merges.len() as u64)),
                "the",
                " the",
                "hat",
                "aab",
                " a",
                "====",
            ]));
            let start = dice.below(word.len());
            let mut left = word[start].clone();
            for right in &word[start + 1..word.len().min(start + 2 + dice.below(4))] {
                let whole = format!("{left}{right}");
                if !tokens.contains(&left) || !tokens.contains(right) {
                    break;
                }
                if !tokens.contains(&whole) {
                    tokens.push(whole.clone());
                    merges.insert(dice.below(merges.len() + 1), serde_json::json!([left, right]));
                }
                left = whole;
            }
        }
        let added = ["<e>", "<ee>", "[tool]", "[tool]s"];
        let plain =
            serde_json::json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let added: Vec<Json> = (tokens.len()..)
            .zip(added)
            .map(|(id, content)| {
                let mut token = plain.clone();
                token["id"] = id.into();
                token["content"] = content.into();
                token["special"] = content.starts_with('<').into();
                token
            })
            .collect();
        let decoder = match is_text {
            true => serde_json::json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}),
            false => {
                serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
        };
        let mut json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": tokens.iter().zip(0..).map(|(token, id)| (token.clone(), Json::from(id))).collect::<serde_json::Map<_, _>>(),
                "merges": merges,
            },
        });
        for (key, value) in model.as_object().expect("entries of the model") {
            json["model"][key] = value.clone();
        }
        json.to_string().into_bytes()
    }

    fn dice_fragment(dice: &mut Dice) -> &'static str {
        dice.of(FRAGMENTS)
    }

    fn split(regex: &str) -> Json {
        let level = byte_level_step(false);
        serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}, level]})
    }

    fn byte_level_step(use_regex: bool) -> Json {
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    /// The same ids as the `tokenizers` crate for every case, alone, as a chat that grows, and as a part of a long text whose
    /// words are all new.
    fn check(json: &[u8], backend: &str, seed: u64) {
        let tokenizer = Tokenizer::from_json(json).expect("a sound file");
        let oracle = tokenizers::Tokenizer::from_bytes(json).expect("a sound file");
        assert_eq!(tokenizer.backend(), backend);
        let mut dice = Dice(seed);
        let (mut chat, mut long) = (String::new(), String::new());
        for case in 0..CASES {
            let text = dice.text();
            let expected = oracle.encode_fast(text.as_str(), false).expect("any text").get_ids().to_vec();
            assert_eq!(tokenizer.encode(&text).expect("any text"), expected, "case {case}: {text:?}");
            // The crate's backend has no other way for chats, and would take minutes.
            if backend == "tokenizers" {
                continue;
            }
            if case % 50 == 0 {
                chat.clear();
            }
            chat.push_str("<e>");
            chat.push_str(&text);
            let mut ids = vec![];
            let cut = tokenizer.continue_chat(&chat, &mut ids).expect("any text");
            assert_eq!(ids, tokenizer.encode(&chat).expect("any text"), "{chat:?}");
            if let Some(cut) = cut {
                let other = dice.text();
                ids.truncate(cut.ids);
                tokenizer.continue_chat(&other, &mut ids).expect("any text");
                let branch = format!("{}{other}", &chat[..cut.bytes]);
                assert_eq!(ids, tokenizer.encode(&branch).expect("any text"), "{branch:?}");
            }
            long.push_str(&text);
            if case % 250 == 249 {
                let new = Tokenizer::from_json(json).expect("a sound file");
                let expected = oracle.encode_fast(long.as_str(), false).expect("any text").get_ids().to_vec();
                assert_eq!(new.encode(&long).expect("any text"), expected, "{long:?}");
                long.clear();
            }
        }
    }

    /// All bytes but some, as SmolLM2's vocabulary has them.
    fn most_bytes() -> Vec<String> {
        let lacking = [0x06, 0x80, 0xf5, 0xff];
        (0..).zip(alphabet()).filter(|(byte, _)| !lacking.contains(byte)).map(|(_, letter)| letter).collect()
    }

    #[test]
    fn words_of_gpt2() {
        check(&file(Json::Null, byte_level_step(true), alphabet(), serde_json::json!({}), 11), "ecocore", 1);
    }

    #[test]
    fn digits_apart_and_lacking_bytes() {
        let digits = serde_json::json!({"type": "Digits", "individual_digits": true});
        let pre = serde_json::json!({"type": "Sequence", "pretokenizers": [digits, byte_level_step(true)]});
        for seed in [12, 112, 212] {
            let json = file(Json::Null, pre.clone(), most_bytes(), serde_json::json!({}), seed);
            check(&json, "ecocore", 2);
        }
    }

    #[test]
    fn words_of_cl100k_that_win_over_merges() {
        let json =
            file(Json::Null, split(CL100K), alphabet(), serde_json::json!({"ignore_merges": true}), 13);
        check(&json, "ecocore", 3);
    }

    #[test]
    fn composed_text_with_single_digits() {
        let nfc = serde_json::json!({"type": "NFC"});
        let pre = split(&CL100K.replace("{1,3}", ""));
        check(&file(nfc, pre, alphabet(), serde_json::json!({}), 14), "ecocore", 4);
    }

    #[test]
    fn words_of_o200k() {
        check(&file(Json::Null, split(O200K), alphabet(), serde_json::json!({}), 15), "ecocore", 5);
    }

    /// Characters of a vocabulary without words, and bytes for all others.
    fn characters() -> Vec<String> {
        let text: String = FRAGMENTS.concat().replace(' ', "\u{2581}");
        let mut letters: Vec<String> =
            text.chars().filter(|&letter| letter != '日' && letter != '<').map(String::from).collect();
        letters.extend((b'a'..=b'z').map(|letter| char::from(letter).to_string()));
        letters.sort();
        letters.dedup();
        letters.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        letters
    }

    #[test]
    fn whole_texts_with_bytes_to_fall_back_to() {
        let spaces =
            serde_json::json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let model = serde_json::json!({"byte_fallback": true, "fuse_unk": true});
        for seed in [16, 116, 216] {
            let json = file(spaces.clone(), Json::Null, characters(), model.clone(), seed);
            check(&json, "ecocore", 6);
        }
    }

    #[test]
    fn spaces_that_are_no_token_are_three_symbols() {
        let mut letters: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        letters.extend(
            ["a", "b", "x", "y", "x\u{2581}", "\u{2581}y", "x\u{2581}\u{2581}y", "ab"].map(String::from),
        );
        let vocab: serde_json::Map<_, _> = letters.into_iter().zip((0..).map(Json::from)).collect();
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
            ]},
            "model": {
                "type": "BPE", "byte_fallback": true, "vocab": vocab,
                "merges": [["a", "b"], ["x\u{2581}", "\u{2581}y"]],
            },
        })
        .to_string();
        let tokenizer = Tokenizer::from_json(json.as_bytes()).expect("a sound file");
        let oracle = tokenizers::Tokenizer::from_bytes(&json).expect("a sound file");
        assert_eq!(tokenizer.backend(), "ecocore");
        for spaces in (0..80).chain([1000]) {
            let text = format!("ab x{}y", " ".repeat(spaces));
            let expected = oracle.encode_fast(text.as_str(), false).expect("any text").get_ids().to_vec();
            assert_eq!(tokenizer.encode(&text).expect("any text"), expected, "{spaces} spaces");
        }
    }

    #[test]
    fn what_is_not_known_is_left_to_the_crate() {
        let other = split(&CL100K.replace("{1,3}", "{1,4}"));
        check(&file(Json::Null, other, alphabet(), serde_json::json!({}), 17), "tokenizers", 7);
        let lacking = serde_json::json!({"unk_token": "<unk>"});
        let json =
            file(Json::Null, split(CL100K), [most_bytes(), vec!["<unk>".into()]].concat(), lacking, 18);
        check(&json, "tokenizers", 8);
    }
}

#[test]
fn giant_words_are_merged_in_time() {
    // Quadratic merging would take minutes.
    let tokenizer = byte_level("llama-bpe");
    let ids = tokenizer.encode(&"hel".repeat(200_000)).expect("one word");
    assert_eq!(ids, vec![257; 200_000]);
    let ids = tokenizer.encode(&format!("{}x", " ".repeat(500_000))).expect("two words");
    assert_eq!(ids.len(), 500_001);
}
