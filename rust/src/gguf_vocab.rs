//! The vocabulary inside a GGUF file: takes its metadata, gives a tokenizer. Reading the file is `gguf`'s.

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::error::Error;
use crate::gguf::{Metadata, Value};
use crate::pipeline::{BytePairs, Merge, PartModel, Parts, Places, quote};
use crate::tokenizer::{Decoding, Tokenizer};
use crate::vocab::Spelling;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const UNKNOWN_TOKEN: &str = "tokenizer.ggml.unknown_token_id";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const PLACES: Places = Places { vocab: TOKENS, merges: MERGES };

/// Keys that hold one token id. They are no part of the pipeline; a wrong one shows an altered file.
const TOKEN_IDS: [&str; 4] = [
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    UNKNOWN_TOKEN,
    "tokenizer.ggml.padding_token_id",
];

/// A token of a turn or of a tool: recognised in text, left out of decoded text.
const CONTROL: i64 = 3;
/// Recognised in text, and text when decoded.
const USER_DEFINED: i64 = 4;
/// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
const TOKEN_TYPES: std::ops::RangeInclusive<i64> = 1..=6;

/// The tokenizer that `metadata` describes.
pub(crate) fn read(metadata: &Metadata) -> Result<Tokenizer, Error> {
    match string(metadata, MODEL)? {
        "gpt2" => byte_level(metadata),
        "gemma4" => spaces_are_letters(metadata),
        model => {
            let message = format!("is {}; ecocore reads gpt2, byte-level BPE, and gemma4", quote(model));
            Err(Error::file(MODEL, message))
        }
    }
}

fn byte_level(metadata: &Metadata) -> Result<Tokenizer, Error> {
    let style = Style::named(string(metadata, PRE)?)?;
    let tokens = strings(metadata, TOKENS)?;
    check_token_ids(metadata, tokens.len())?;
    let added_tokens = added_tokens(tokens, token_types(metadata, tokens.len())?);
    let model = BytePairs {
        vocab: vocab(tokens)?,
        merges: merges(strings(metadata, MERGES)?)?,
        ignore_merges: style == Style::Llama3,
        ..BytePairs::default()
    };
    let parts = Parts {
        added_tokens,
        normalizer: style.normalizer(),
        pre_tokenizer: Some(style.pre_tokenizer()?),
        model: PartModel::BytePairs(model),
        decoder: Some(ByteLevel::default().into()),
    };
    Tokenizer::from_parts(parts, &Spelling::ByteLevel, Decoding::Joined, &PLACES)
}

/// What a space is written as.
const SPACE: &str = "\u{2581}";

/// Text is merged as a whole, spaces are letters of their own, and what is in no vocabulary falls back to bytes.
fn spaces_are_letters(metadata: &Metadata) -> Result<Tokenizer, Error> {
    if metadata.get(SPACE_PREFIX) == Some(&Value::Bool(true)) {
        return Err(Error::file(SPACE_PREFIX, "is true, which this vocabulary does not have"));
    }
    let tokens = strings(metadata, TOKENS)?;
    check_token_ids(metadata, tokens.len())?;
    // Converters call what a parser must see user defined, and may call other markers normal.
    let types = token_types(metadata, tokens.len())?.iter().zip(tokens);
    let types: Vec<i64> = types.map(|(&kind, token)| if is_marker(token) { CONTROL } else { kind }).collect();
    let model = BytePairs {
        vocab: vocab(tokens)?,
        merges: merges(strings(metadata, MERGES)?)?,
        unk_token: match metadata.get(UNKNOWN_TOKEN) {
            Some(&Value::U64(id)) => tokens.get(usize::try_from(id).unwrap_or(usize::MAX)).cloned(),
            _ => None,
        },
        fuse_unk: true,
        byte_fallback: true,
        ..BytePairs::default()
    };
    let inner = |error: tokenizers::Error| Error::Internal(format!("a space cannot be replaced: {error}"));
    let decoder: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(inner)?.into(),
        ByteFallback::default().into(),
        Fuse::default().into(),
    ];
    let parts = Parts {
        added_tokens: added_tokens(tokens, &types),
        normalizer: Some(Replace::new(" ", SPACE).map_err(inner)?.into()),
        pre_tokenizer: None,
        model: PartModel::BytePairs(model),
        decoder: Some(DecoderSequence::new(decoder).into()),
    };
    let spelling = Spelling::Text { replacements: vec![(SPACE.into(), " ".into())], byte_fallback: true };
    Tokenizer::from_parts(parts, &spelling, Decoding::ByteFallback, &PLACES)
}

/// Whether a token marks a place in a conversation: `<|turn>`, `<turn|>` or `<|image|>`.
fn is_marker(token: &str) -> bool {
    let Some(inner) = token.strip_prefix('<').and_then(|token| token.strip_suffix('>')) else { return false };
    let name = inner.trim_matches('|');
    name.len() < inner.len()
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'"')
}

/// How text is cut before merging; a GGUF file gives only the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    SmolLm,
    Llama3,
    Qwen2,
}

impl Style {
    fn named(name: &str) -> Result<Self, Error> {
        match name {
            "smollm" => Ok(Self::SmolLm),
            "llama-bpe" => Ok(Self::Llama3),
            "qwen2" => Ok(Self::Qwen2),
            _ => {
                let message = format!("is {}; ecocore knows smollm, llama-bpe and qwen2", quote(name));
                Err(Error::file(PRE, message))
            }
        }
    }

    fn normalizer(self) -> Option<NormalizerWrapper> {
        (self == Self::Qwen2).then(|| NFC.into())
    }

    fn pre_tokenizer(self) -> Result<PreTokenizerWrapper, Error> {
        let split = match self {
            Self::SmolLm => Digits::new(true).into(),
            Self::Llama3 => isolated(&words(r"\p{N}{1,3}"))?,
            Self::Qwen2 => isolated(&words(r"\p{N}"))?,
        };
        let bytes = ByteLevel::new(false, true, self == Self::SmolLm).into();
        Ok(Sequence::new(vec![split, bytes]).into())
    }
}

/// The pattern of the cl100k family, where `number` says how digits are grouped.
fn words(number: &str) -> String {
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    let letters = r"[^\r\n\p{L}\p{N}]?\p{L}+";
    let others = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
    let spaces = r"\s*[\r\n]+|\s+(?!\S)|\s+";
    [contractions, letters, number, others, spaces].join("|")
}

fn isolated(pattern: &str) -> Result<PreTokenizerWrapper, Error> {
    Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(|error| Error::Internal(format!("the pattern {pattern} does not compile: {error}")))
}

/// Token to id. An empty token is a hole, as converters leave them.
fn vocab(tokens: &[String]) -> Result<tokenizers::models::bpe::Vocab, Error> {
    let mut vocab = tokenizers::models::bpe::Vocab::with_capacity(tokens.len());
    for (id, token) in (0..).zip(tokens).filter(|(_, token)| !token.is_empty()) {
        if let Some(earlier) = vocab.insert(token.clone(), id) {
            return Err(Error::file(
                format!("{TOKENS}[{id}]"),
                format!("is {}, as is [{earlier}]", quote(token)),
            ));
        }
    }
    Ok(vocab)
}

fn merges(lines: &[String]) -> Result<Vec<Merge<'_>>, Error> {
    let pairs = lines.iter().enumerate().map(|(rank, line)| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.into(), right.into())),
        _ => Err(Error::file(format!("{MERGES}[{rank}]"), format!("is {}, not two tokens", quote(line)))),
    });
    pairs.collect()
}

fn added_tokens(tokens: &[String], types: &[i64]) -> Vec<AddedToken> {
    let added = tokens.iter().zip(types).filter(|&(_, &kind)| kind == CONTROL || kind == USER_DEFINED);
    added.map(|(token, &kind)| AddedToken::from(token, kind == CONTROL).normalized(false)).collect()
}

fn token_types(metadata: &Metadata, num_tokens: usize) -> Result<&[i64], Error> {
    let types = match entry(metadata, TOKEN_TYPE)? {
        Value::Ints(types) => types,
        _ => return Err(Error::file(TOKEN_TYPE, "must be an array of integers")),
    };
    if types.len() != num_tokens {
        let message = format!("has {} entries for {num_tokens} tokens", types.len());
        return Err(Error::file(TOKEN_TYPE, message));
    }
    match types.iter().position(|kind| !TOKEN_TYPES.contains(kind)) {
        Some(id) => Err(Error::file(format!("{TOKEN_TYPE}[{id}]"), format!("is {}, not 1 to 6", types[id]))),
        None => Ok(types),
    }
}

fn check_token_ids(metadata: &Metadata, num_tokens: usize) -> Result<(), Error> {
    for key in TOKEN_IDS {
        let id = match metadata.get(key) {
            None => continue,
            Some(Value::U64(id)) => usize::try_from(*id).ok(),
            Some(Value::I64(id)) => usize::try_from(*id).ok(),
            Some(_) => None,
        };
        if id.is_none_or(|id| id >= num_tokens) {
            return Err(Error::file(key, format!("is no id of the {num_tokens} tokens")));
        }
    }
    Ok(())
}

fn entry<'a>(metadata: &'a Metadata, key: &str) -> Result<&'a Value, Error> {
    metadata
        .get(key)
        .ok_or_else(|| Error::file(key, "is missing; the file has no vocabulary that ecocore reads"))
}

fn string<'a>(metadata: &'a Metadata, key: &str) -> Result<&'a str, Error> {
    match entry(metadata, key)? {
        Value::String(text) => Ok(text),
        _ => Err(Error::file(key, "must be a string")),
    }
}

fn strings<'a>(metadata: &'a Metadata, key: &str) -> Result<&'a [String], Error> {
    match entry(metadata, key)? {
        Value::Strings(texts) => Ok(texts),
        _ => Err(Error::file(key, "must be an array of strings")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four tokens and a merge, with one entry replaced or left out.
    fn metadata(key: &str, value: Option<Value>) -> Metadata {
        let texts = |texts: &[&str]| Value::Strings(texts.iter().map(|&text| text.to_owned()).collect());
        let mut metadata = Metadata::from([
            (MODEL.to_owned(), Value::String("gpt2".into())),
            (PRE.to_owned(), Value::String("smollm".into())),
            (TOKENS.to_owned(), texts(&["a", "b", "ab", "", "<e>"])),
            (TOKEN_TYPE.to_owned(), Value::Ints(vec![1, 1, 1, 5, 3])),
            (MERGES.to_owned(), texts(&["a b"])),
            (TOKEN_IDS[1].to_owned(), Value::U64(4)),
        ]);
        match value {
            Some(value) => metadata.insert(key.to_owned(), value),
            None => metadata.remove(key),
        };
        metadata
    }

    fn check_refused(key: &str, value: Option<Value>, expected: &str) {
        let Err(error) = read(&metadata(key, value)) else { panic!("{expected} is let pass") };
        assert_eq!(error.to_string(), expected);
    }

    fn texts(texts: &[&str]) -> Option<Value> {
        Some(Value::Strings(texts.iter().map(|&text| text.to_owned()).collect()))
    }

    #[test]
    fn a_sound_vocabulary_is_read() {
        let tokenizer = read(&metadata("tokenizer.ggml.add_bos_token", Some(Value::Bool(false)))).unwrap();
        assert_eq!(tokenizer.encode("aba<e>").unwrap(), [2, 0, 4]);
        assert_eq!(tokenizer.vocab().len(), 5);
    }

    /// Spaces as letters, two bytes to fall back to, and markers of every kind.
    fn gemma(key: &str, value: Value) -> Metadata {
        let tokens =
            ["<unk>", "\u{2581}", "a", "b", "\u{2581}a", "<0xC3>", "<0xA4>", "<|turn>", "<turn|>", "<b>"];
        let mut metadata = metadata(MODEL, Some(Value::String("gemma4".into())));
        metadata.remove(PRE);
        metadata.insert(TOKENS.to_owned(), texts(&tokens).unwrap());
        metadata.insert(TOKEN_TYPE.to_owned(), Value::Ints(vec![3, 1, 1, 1, 1, 6, 6, 1, 4, 4]));
        metadata.insert(MERGES.to_owned(), texts(&["\u{2581} a"]).unwrap());
        metadata.insert(UNKNOWN_TOKEN.to_owned(), Value::U64(0));
        metadata.insert(key.to_owned(), value);
        metadata
    }

    #[test]
    fn spaces_may_be_letters_and_bytes_the_last_resort() {
        let tokenizer = read(&gemma(SPACE_PREFIX, Value::Bool(false))).unwrap();
        assert_eq!(
            tokenizer.encode("<|turn>a ab a\u{e4}<turn|> <b>").unwrap(),
            [7, 2, 4, 3, 4, 5, 6, 8, 1, 9]
        );
        assert_eq!(tokenizer.encode("xyz").unwrap(), [0]);
        let special: Vec<bool> = (0..10).map(|id| tokenizer.vocab().is_special(id)).collect();
        assert_eq!(special, [true, false, false, false, false, false, false, true, true, false]);
        assert_eq!(tokenizer.vocab().bytes(4), Some(&b" a"[..]));
        let refused = read(&gemma(SPACE_PREFIX, Value::Bool(true))).err().map(|error| error.to_string());
        let expected = "tokenizer.ggml.add_space_prefix: is true, which this vocabulary does not have";
        assert_eq!(refused.as_deref(), Some(expected));
    }

    #[test]
    fn markers_are_told_from_text() {
        for marker in ["<|turn>", "<turn|>", "<|image|>", "<|tool_call>", "<|\"|>"] {
            assert!(is_marker(marker), "{marker}");
        }
        for text in ["<|", "|>", "<>", "<|>", "<||>", "<b>", "<unk>", "<|A>", "<| a|>", "turn|>", "<0x0A>"] {
            assert!(!is_marker(text), "{text}");
        }
    }

    #[test]
    fn kinds_we_do_not_know_are_refused_by_name() {
        let model = r#"tokenizer.ggml.model: is "llama"; ecocore reads gpt2, byte-level BPE, and gemma4"#;
        check_refused(MODEL, Some(Value::String("llama".into())), model);
        let pre = r#"tokenizer.ggml.pre: is "deepseek-llm"; ecocore knows smollm, llama-bpe and qwen2"#;
        check_refused(PRE, Some(Value::String("deepseek-llm".into())), pre);
    }

    #[test]
    fn missing_entries_and_wrong_kinds_are_refused_by_key() {
        for key in [MODEL, PRE, TOKENS, TOKEN_TYPE, MERGES] {
            check_refused(
                key,
                None,
                &format!("{key}: is missing; the file has no vocabulary that ecocore reads"),
            );
        }
        check_refused(PRE, Some(Value::U64(1)), "tokenizer.ggml.pre: must be a string");
        check_refused(TOKENS, Some(Value::U64(1)), "tokenizer.ggml.tokens: must be an array of strings");
        check_refused(TOKEN_TYPE, texts(&["1"]), "tokenizer.ggml.token_type: must be an array of integers");
        check_refused(
            MERGES,
            Some(Value::Ints(vec![1])),
            "tokenizer.ggml.merges: must be an array of strings",
        );
    }

    #[test]
    fn lists_that_disagree_are_refused_by_entry() {
        let types = |types: &[i64]| Some(Value::Ints(types.to_vec()));
        let twice = r#"tokenizer.ggml.tokens[2]: is "a", as is [0]"#;
        check_refused(TOKENS, texts(&["a", "b", "a", "", "<e>"]), twice);
        let short = "tokenizer.ggml.token_type: has 2 entries for 5 tokens";
        check_refused(TOKEN_TYPE, types(&[1, 3]), short);
        let seven = "tokenizer.ggml.token_type[1]: is 7, not 1 to 6";
        check_refused(TOKEN_TYPE, types(&[1, 7, 1, 5, 3]), seven);
    }

    #[test]
    fn merges_are_two_tokens_that_make_a_third() {
        check_refused(MERGES, texts(&["a b", "ab"]), r#"tokenizer.ggml.merges[1]: is "ab", not two tokens"#);
        check_refused(MERGES, texts(&["a b c"]), r#"tokenizer.ggml.merges[0]: is "a b c", not two tokens"#);
        let none = r#"tokenizer.ggml.merges: a merge needs "ba", which is no token"#;
        check_refused(MERGES, texts(&["b a"]), none);
    }

    #[test]
    fn single_token_ids_lie_in_the_vocabulary() {
        let message = |key: &str| format!("{key}: is no id of the 5 tokens");
        for key in TOKEN_IDS {
            check_refused(key, Some(Value::U64(5)), &message(key));
            check_refused(key, Some(Value::I64(-1)), &message(key));
            check_refused(key, Some(Value::Bool(true)), &message(key));
        }
    }
}
