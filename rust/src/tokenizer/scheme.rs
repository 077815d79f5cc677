//! Which pipelines ecocore encodes by its own hand: takes the parts of one as a file states them, gives an encoder, or
//! nothing where the `tokenizers` crate must do it. Everything is compared as a whole: what is not known is not guessed.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::added_tokens::AddedTokens;
use super::characters::Characters;
use super::encoder::{Encoder, Units, Workspaces};
use super::joints::Joints;
use super::merges::{self, Merges};
use super::whole_words::WholeWords;
use super::words::Pattern;
use crate::pipeline::{BytePairs, Parts};
use crate::vocab::{Vocab, byte_of};

/// The pattern of the cl100k family, where `@` says how digits are grouped.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const NONE: u32 = u32::MAX;

/// What a pipeline does to text before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheme {
    composes: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Words of bytes.
    Words(Pattern),
    /// Whole texts of characters, whose spaces are U+2581.
    Text,
}

impl Scheme {
    /// The scheme of these parts, if it is one of ours and they work together in the usual way.
    pub(crate) fn of(parts: &Parts<'_>, model: &BytePairs<'_>) -> Option<Self> {
        let normalizer = parts.normalizer.as_ref().map_or(Ok(Value::Null), serde_json::to_value).ok()?;
        let pre_tokenizer =
            parts.pre_tokenizer.as_ref().map_or(Ok(Value::Null), serde_json::to_value).ok()?;
        let scheme = Self::of_parts(&normalizer, &pre_tokenizer)?;
        (scheme.fits_model(model) && fits_added(&normalizer, &parts.added_tokens)).then_some(scheme)
    }

    fn of_parts(normalizer: &Value, pre_tokenizer: &Value) -> Option<Self> {
        let composes = match normalizer {
            Value::Null => false,
            // The one normalizer that words of bytes come with.
            normalizer if *normalizer == json!({"type": "NFC"}) => true,
            normalizer if is_space_replaced(normalizer) => {
                // It splits at spaces, of which there is none by then.
                let split = json!({
                    "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false
                });
                let whole = pre_tokenizer.is_null() || *pre_tokenizer == split;
                return whole.then_some(Self { composes: false, kind: Kind::Text });
            }
            _ => return None,
        };
        Some(Self { composes, kind: Kind::Words(pattern(pre_tokenizer)?) })
    }

    fn fits_model(self, model: &BytePairs<'_>) -> bool {
        let plain = model.continuing_subword_prefix.is_none() && model.end_of_word_suffix.is_none();
        let has_unknown = model.unk_token.is_some();
        plain
            && model.merges.len() < merges::MOST_MERGES
            && match self.kind {
                // Without an unknown token, bytes that are no token vanish; with one, there must be no such byte.
                Kind::Words(_) => {
                    !model.byte_fallback && (!has_unknown || byte_ids(model).iter().all(|&id| id != NONE))
                }
                // With all bytes at hand no character is unknown. The text of other tokens is their characters'.
                Kind::Text => {
                    model.byte_fallback
                        && !model.ignore_merges
                        && fallback_ids(model).iter().all(|&id| id != NONE)
                        && !model.merges.iter().any(|(left, right)| is_fallback(left) || is_fallback(right))
                }
            }
    }

    /// The encoder of a vocabulary. `merges` are `(left, right, merged)` by rank, `vocab` the bytes of its tokens.
    pub(crate) fn encoder(
        self,
        model: &BytePairs<'_>,
        merges: &[(u32, u32, u32)],
        added_tokens: &[(&str, u32)],
        vocab: &Arc<Vocab>,
    ) -> Encoder {
        let units = match self.kind {
            Kind::Words(pattern) => Units::Bytes { pattern, ids: byte_ids(model) },
            Kind::Text => Units::Characters(Box::new(Characters::new(
                model.vocab.iter().filter_map(|(token, &id)| Some((only_character(token)?, id))),
                fallback_ids(model),
            ))),
        };
        let bytes = match &units {
            Units::Bytes { ids, .. } => Some(&**ids),
            Units::Characters(_) => None,
        };
        // What a word can be: bytes in their alphabet, or characters that are not the name of a byte.
        let is_word = |token: &str| match self.kind {
            Kind::Words(_) => {
                !token.is_empty() && token.chars().all(|character| byte_of(character).is_some())
            }
            Kind::Text => !token.is_empty() && !is_fallback(token),
        };
        let whole_words = || {
            let words = model.vocab.iter().filter(|(token, _)| is_word(token)).map(|(_, &id)| id);
            let words: Vec<u32> = words.collect();
            WholeWords::new(Arc::clone(vocab), words.into_iter())
        };
        // Each of the three takes a while for a large vocabulary.
        let (merges, (joints, whole_words)) =
            rayon::join(|| Merges::new(merges, bytes), || rayon::join(|| self.joints(model), whole_words));
        Encoder {
            added_tokens: AddedTokens::new(added_tokens.iter().copied()),
            composes: self.composes,
            merges,
            joints,
            whole_words,
            ignores_merges: model.ignore_merges,
            workspaces: Workspaces::new(),
            segments: Mutex::default(),
            units,
        }
    }

    /// Where the merges of a vocabulary join.
    fn joints(self, model: &BytePairs<'_>) -> Joints {
        let mut joints = Joints::new();
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        for (left, right) in &model.merges {
            match self.kind {
                // Each character is a byte; one that is none stands in no word.
                Kind::Words(_) => {
                    before.clear();
                    before.extend(left.chars().rev().take(4).filter_map(byte_of));
                    before.reverse();
                    behind.clear();
                    behind.extend(right.chars().take(4).filter_map(byte_of));
                    joints.insert(&before, &behind);
                }
                Kind::Text => {
                    if let (Some(before), Some(behind)) = (left.chars().next_back(), right.chars().next()) {
                        joints.insert_characters(Characters::read(before), Characters::read(behind));
                    }
                }
            }
        }
        joints
    }
}

/// Added tokens are cut out of the text as it comes: each alone, spaces and neighbours untouched.
fn fits_added(normalizer: &Value, added_tokens: &[AddedToken]) -> bool {
    let plain = |token: &AddedToken| !(token.single_word || token.lstrip || token.rstrip);
    let normalized = added_tokens.iter().filter(|token| token.normalized).count();
    let mut contents: Vec<&str> = added_tokens.iter().map(|token| token.content.as_str()).collect();
    contents.sort_unstable();
    contents.dedup();
    added_tokens.iter().all(plain)
        && contents.len() == added_tokens.len()
        && (normalized == 0 || (normalizer.is_null() && normalized == added_tokens.len()))
}

fn is_space_replaced(normalizer: &Value) -> bool {
    *normalizer == json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"})
}

/// The pattern of a pre-tokenizer that ends in the alphabet of bytes.
fn pattern(pre_tokenizer: &Value) -> Option<Pattern> {
    let steps = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.as_slice(),
        _ => std::slice::from_ref(pre_tokenizer),
    };
    let byte_level = |step: &Value, use_regex: bool| {
        step["type"] == "ByteLevel" && step["add_prefix_space"] == false && step["use_regex"] == use_regex
    };
    match steps {
        [level] if byte_level(level, true) => Some(Pattern::Gpt2 { digits_apart: false }),
        [digits, level] if byte_level(level, true) => (*digits
            == json!({"type": "Digits", "individual_digits": true}))
        .then_some(Pattern::Gpt2 { digits_apart: true }),
        [split, level] if byte_level(level, false) => {
            let regex = split["pattern"]["Regex"].as_str()?;
            let whole = *split
                == json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
            let known = [("", 1), ("{1,2}", 2), ("{1,3}", 3)];
            let digits =
                known.iter().find(|(count, _)| regex == CL100K.replace('@', &format!(r"\p{{N}}{count}")));
            let pattern = match digits {
                Some(&(_, digits)) => Some(Pattern::Cl100k { digits }),
                None => (regex == O200K).then_some(Pattern::O200k),
            };
            pattern.filter(|_| whole)
        }
        _ => None,
    }
}

/// The token of each byte in GPT-2's alphabet, or `NONE`.
fn byte_ids(model: &BytePairs<'_>) -> Box<[u32; 256]> {
    let mut ids = Box::new([NONE; 256]);
    for (token, &id) in &model.vocab {
        if let Some(byte) = only_character(token).and_then(byte_of) {
            ids[usize::from(byte)] = id;
        }
    }
    ids
}

/// The tokens `<0x00>` to `<0xFF>`, or `NONE`.
fn fallback_ids(model: &BytePairs<'_>) -> Box<[u32; 256]> {
    let id = |byte: usize| model.vocab.get(&format!("<0x{byte:02X}>")).copied();
    Box::new(std::array::from_fn(|byte| id(byte).unwrap_or(NONE)))
}

fn is_fallback(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

fn only_character(token: &str) -> Option<char> {
    let mut characters = token.chars();
    characters.next().filter(|_| characters.next().is_none())
}
