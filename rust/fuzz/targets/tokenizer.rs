//! Any vocabulary of the pipelines that ecocore encodes by its own hand, any text and any ids, beside the `tokenizers`
//! crate: the same ids alone, again, in a batch and as a chat that grows; the same text back.
#![no_main]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::rc::Rc;

use arbitrary::{Arbitrary, Result, Unstructured};
use ecocore::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What tells pipelines apart; text that a fuzzer would be long in finding.
const FRAGMENTS: [&str; 32] = [
    "'s",
    "'LL",
    "'\u{17f}",
    "'re ",
    "don't",
    "0123456789",
    "\u{bd}\u{663}",
    " \t\u{a0}\r\n",
    "\n\n",
    "   ",
    "e\u{301}",
    "\u{1df6}\u{8f9}",
    "\u{2581}",
    "<0x41>",
    "\u{1100}\u{1161}\u{11a8}",
    "日本語",
    "한국어",
    "हिन्दी",
    "العربية",
    "русский",
    " the",
    " Hello",
    "camelCase",
    "ǅ",
    "//\n/",
    "\u{340}",
    "\u{212b}",
    "\u{85}",
    "\u{200b}",
    "𞤀",
    "👩‍👩‍👧",
    "\0\u{6}\u{80}",
];
const ADDED: [&str; 6] = ["<e>", "<ee>", "<e", "[tool]", " the", "\n"];
/// The pipeline without words, like that of Gemma.
const WHOLE_TEXTS: u8 = 9;
/// Longer than the window that the scanner looks at.
const MOST_BYTES: usize = 20_000;
const LONGEST_CHAT: usize = 4000;
/// Opening a file costs more than encoding a text: most texts get one of a few vocabularies, which stay open.
const SEEDS: u8 = 12;
const KEPT: usize = 200;

/// Everything that a file says.
#[derive(Debug, Clone, PartialEq)]
struct Vocabulary {
    pipeline: u8,
    ignore_merges: bool,
    /// Bytes without a token.
    lacking: Vec<u8>,
    /// Each merge joins two tokens that are there by then; the last number is its rank among those.
    merges: Vec<(u8, u8, u8)>,
    added: Vec<(&'static str, bool)>,
    /// Of the added tokens, in one word: alone, with spaces beside, in normalized text.
    added_flags: u8,
}

#[derive(Debug)]
struct Case {
    vocabulary: Vocabulary,
    texts: Vec<String>,
    ids: Vec<u16>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let pipeline = input.int_in_range(0..=WHOLE_TEXTS)?;
        let vocabulary = match input.int_in_range(0..=SEEDS)? {
            0 => Vocabulary::any(pipeline, input)?,
            seed => Vocabulary::any(pipeline, &mut Unstructured::new(&noise(seed)))?,
        };
        let ids = several(input, 0..=24, |input| input.arbitrary())?;
        let turns = input.int_in_range(1..=3)?;
        let repeats = if input.ratio(1, 8)? { input.arbitrary::<u16>()? } else { 1 };
        let rest = input.bytes(input.len())?;
        let texts =
            rest.chunks(rest.len() / turns + 1).map(|part| text(part, usize::from(repeats))).collect();
        Ok(Self { vocabulary, texts, ids })
    }
}

/// Bytes in no order, the same for a seed.
fn noise(seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as u8
    };
    (0..512).map(|_| next()).collect()
}

fn several<'a, T>(
    input: &mut Unstructured<'a>,
    range: RangeInclusive<usize>,
    mut make: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..input.int_in_range(range)?).map(|_| make(input)).collect()
}

/// The bytes as text, where those that are none in UTF-8 stand for a fragment.
fn text(bytes: &[u8], repeats: usize) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for &byte in chunk.invalid() {
            text.push_str(FRAGMENTS[usize::from(byte) % FRAGMENTS.len()]);
        }
    }
    text.repeat((MOST_BYTES / text.len().max(1)).min(repeats).max(1))
}

impl Vocabulary {
    fn any(pipeline: u8, input: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            pipeline,
            ignore_merges: input.arbitrary()? && pipeline != WHOLE_TEXTS,
            lacking: several(input, 0..=3, |input| input.arbitrary())?,
            merges: several(input, 0..=60, |input| input.arbitrary())?,
            added: several(input, 0..=3, |input| Ok((*input.choose(&ADDED)?, input.arbitrary()?)))?,
            added_flags: if input.ratio(1, 8)? { input.arbitrary()? } else { 0 },
        })
    }

    fn is_text(&self) -> bool {
        self.pipeline == WHOLE_TEXTS
    }

    fn normalizer(&self) -> Value {
        match self.pipeline {
            WHOLE_TEXTS => json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}),
            5..=7 => json!({"type": "NFC"}),
            _ => Value::Null,
        }
    }

    fn pre_tokenizer(&self) -> Value {
        let level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let sequence =
            |first: Value, level: Value| json!({"type": "Sequence", "pretokenizers": [first, level]});
        let split = |regex: &str| {
            sequence(
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
                level(false),
            )
        };
        match self.pipeline {
            0 => level(true),
            1 => sequence(json!({"type": "Digits", "individual_digits": true}), level(true)),
            digits @ 2..=7 => {
                let count = ["", "{1,2}", "{1,3}"][usize::from(digits - 2) % 3];
                split(&CL100K.replace('@', &format!(r"\p{{N}}{count}")))
            }
            8 => split(O200K),
            _ => Value::Null,
        }
    }

    /// The smallest tokens.
    fn letters(&self) -> Vec<String> {
        if self.is_text() {
            let letters = (b' '..=b'~').map(|byte| if byte == b' ' { '\u{2581}' } else { char::from(byte) });
            let others = "\n\u{e9}\u{301}日本語русскийनमस्ते".chars();
            let mut letters: Vec<String> = letters.chain(others).map(String::from).collect();
            letters.sort();
            letters.dedup();
            letters.retain(|letter| !self.lacking.iter().any(|&byte| letter.as_bytes() == [byte]));
            letters.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
            return letters;
        }
        let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut others = 0x100..;
        let spelled = (0..=255u8).map(|byte| {
            let code = if printable(&byte) { byte.into() } else { others.next().expect("endless") };
            (byte, char::from_u32(code).expect("a letter").to_string())
        });
        spelled.filter(|(byte, _)| !self.lacking.contains(byte)).map(|(_, letter)| letter).collect()
    }

    /// The tokens by id and the merges by rank.
    fn tokens(&self) -> (Vec<String>, Vec<(String, String)>) {
        let mut tokens = self.letters();
        // Merges of letters that text has are worth more than others, and those of merged tokens even more.
        let common: Vec<String> = "etaoinshr\u{120}\u{2581}E0'1\u{10a}.".chars().map(String::from).collect();
        let common: Vec<String> = common.into_iter().filter(|letter| tokens.contains(letter)).collect();
        let mut merged: Vec<String> = vec![];
        let mut merges = vec![];
        for &(left, right, rank) in &self.merges {
            let pick = |number: u8| -> String {
                let number = usize::from(number);
                match number % 4 {
                    0 if !merged.is_empty() => merged[number / 4 % merged.len()].clone(),
                    1 => tokens[number * 7 % tokens.len()].clone(),
                    _ if common.is_empty() => tokens[number % tokens.len()].clone(),
                    _ => common[number / 4 % common.len()].clone(),
                }
            };
            let (left, right) = (pick(left), pick(right));
            let whole = format!("{left}{right}");
            if tokens.contains(&whole) || left.starts_with("<0x") || right.starts_with("<0x") {
                continue;
            }
            tokens.push(whole.clone());
            merged.push(whole);
            merges.insert(usize::from(rank) % (merges.len() + 1), (left, right));
        }
        (tokens, merges)
    }

    fn file(&self) -> Vec<u8> {
        let (tokens, merges) = self.tokens();
        let flag = |place: u8| self.added_flags >> place & 1 == 1;
        let mut next = tokens.len();
        let mut added: Vec<Value> = vec![];
        for (content, special) in &self.added {
            if added.iter().any(|token| token["content"] == *content) {
                continue;
            }
            let id = tokens.iter().position(|token| token == content).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            added.push(json!({
                "id": id, "content": content, "special": special, "single_word": flag(0), "lstrip": flag(1),
                "rstrip": flag(2), "normalized": flag(3),
            }));
        }
        let decoder = match self.is_text() {
            true => json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}),
            false => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
        };
        let vocab: serde_json::Map<String, Value> =
            tokens.into_iter().zip(0u32..).map(|(token, id)| (token, id.into())).collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": self.normalizer(), "pre_tokenizer": self.pre_tokenizer(), "post_processor": null,
            "decoder": decoder,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": self.is_text(), "byte_fallback": self.is_text(),
                "ignore_merges": self.ignore_merges, "vocab": vocab, "merges": merges,
            },
        })
        .to_string()
        .into_bytes()
    }
}

/// A file as both read it.
struct Opened {
    own: Tokenizer,
    oracle: tokenizers::Tokenizer,
    chat: RefCell<String>,
}

fn open(vocabulary: &Vocabulary) -> Rc<Opened> {
    thread_local! {
        static OPENED: RefCell<VecDeque<(Vocabulary, Rc<Opened>)>> = RefCell::default();
    }
    OPENED.with_borrow_mut(|opened| {
        if let Some((_, known)) = opened.iter().find(|(known, _)| known == vocabulary) {
            return Rc::clone(known);
        }
        let file = vocabulary.file();
        let own = Tokenizer::from_json(&file).expect("a sound file");
        let oracle = tokenizers::Tokenizer::from_bytes(&file).expect("a sound file");
        let new = Rc::new(Opened { own, oracle, chat: RefCell::default() });
        opened.truncate(KEPT - 1);
        opened.push_front((vocabulary.clone(), Rc::clone(&new)));
        new
    })
}

impl Opened {
    fn expected(&self, text: &str) -> Vec<u32> {
        self.oracle.encode_fast(text, false).expect("any text").get_ids().to_vec()
    }

    fn check_encode(&self, texts: &[String]) {
        let expected: Vec<Vec<u32>> = texts.iter().map(|text| self.expected(text)).collect();
        for (text, ids) in texts.iter().zip(&expected) {
            assert_eq!(self.own.encode(text).expect("any text"), *ids, "fresh");
            assert_eq!(self.own.encode(text).expect("any text"), *ids, "known words");
        }
        assert_eq!(self.own.encode_batch(texts).expect("any text"), expected);
        // What is new here is that parts are remembered; the crate would take all of the time.
        let mut chat = self.chat.borrow_mut();
        for text in texts {
            if chat.len() > LONGEST_CHAT {
                chat.clear();
            }
            chat.push_str("<e>");
            chat.push_str(text);
            let ids = self.own.encode(&chat).expect("any text");
            let mut continued = vec![];
            let cut = self.own.continue_chat(&chat, &mut continued).expect("any text");
            assert_eq!(continued, ids, "a chat");
            let Some(cut) = cut else { continue };
            let other = &texts[0];
            continued.truncate(cut.ids);
            self.own.continue_chat(other, &mut continued).expect("any text");
            let branch = format!("{}{other}", &chat[..cut.bytes]);
            assert_eq!(continued, self.own.encode(&branch).expect("any text"), "another end");
        }
    }

    fn check_decode(&self, vocabulary: &Vocabulary, ids: &[u32]) {
        for skip in [false, true] {
            let whole = self.own.decode(ids, skip).expect("known ids");
            assert_eq!(whole, self.oracle.decode(ids, skip).expect("known ids"));
            if vocabulary.is_text() {
                // A stream keeps the characters of a broken run of bytes, see docs/text-stream.md.
                continue;
            }
            let (mut text, mut stream) = (String::new(), self.own.stream(skip));
            ids.iter().for_each(|&id| stream.push(id, &mut text).expect("a known id"));
            stream.finish(&mut text);
            assert_eq!(text, whole);
        }
    }
}

fuzz_target!(|case: Case| {
    let opened = open(&case.vocabulary);
    if case.vocabulary.added_flags & 0x0f == 0 {
        assert_eq!(opened.own.backend(), "ecocore", "a pipeline that is ours");
    }
    opened.check_encode(&case.texts);
    let size = opened.own.vocab().len() as u32;
    let ids: Vec<u32> = case.ids.iter().map(|&id| u32::from(id) % size).collect();
    opened.check_decode(&case.vocabulary, &ids);
    for text in &case.texts {
        opened.check_decode(&case.vocabulary, &opened.expected(text));
    }
});
