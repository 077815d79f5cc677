//! `tokenizer.json`: takes its text, gives a tokenizer. Byte-pair encodings are read here, since the crate
//! trusts their merges; the other models, which no family of ours has, are read by the crate.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::models::bpe;
use tokenizers::{AddedToken, ModelWrapper};

use crate::error::Error;
use crate::pipeline::{BytePairs, PartModel, Parts, Places, guarded, quote};
use crate::tokenizer::{Decoding, Tokenizer};
use crate::vocab::Spelling;

const PLACES: Places = Places { vocab: "model.vocab", merges: "model.merges" };

/// The tokenizer in `json`. Errors name the entry of the file, or nothing where it is no such file at all.
///
/// Truncation, padding, dropout and the post-processor are left out: they are for training, and special
/// tokens come from the chat template.
pub(crate) fn read(json: &[u8]) -> Result<Tokenizer, Error> {
    // Once for the whole file, which is faster than string by string.
    let json = std::str::from_utf8(json)
        .map_err(|error| Error::file("", format!("is no tokenizer.json: {error}")))?;
    let outline: Outline = parse(json)?;
    if outline.version.as_deref().is_some_and(|version| version != "1.0") {
        return Err(Error::file("version", "is not 1.0, the one that ecocore reads"));
    }
    let Some(model) = outline.model else {
        return Err(Error::file("", "has no entry \"model\": this is some other JSON file"));
    };
    let (spelling, decoding) = reading(outline.decoder.as_ref());
    let ids: Vec<(u32, String)> =
        outline.added_tokens.iter().map(|added| (added.id, added.token.content.clone())).collect();
    let parts = Parts {
        model: match model.kind.as_deref() {
            None if model.merges.is_none() => PartModel::Other(other_model(json)?),
            None | Some("BPE") => PartModel::BytePairs(parse::<Bpe>(json)?.model.into_byte_pairs()?),
            Some("WordPiece" | "WordLevel" | "Unigram") => PartModel::Other(other_model(json)?),
            Some(kind) => {
                return Err(Error::file("model", format!("is of the unknown type {}", quote(kind))));
            }
        },
        added_tokens: outline.added_tokens.into_iter().map(|added| added.token).collect(),
        normalizer: part("normalizer", outline.normalizer)?,
        pre_tokenizer: part("pre_tokenizer", outline.pre_tokenizer)?,
        decoder: part("decoder", outline.decoder)?,
    };
    let tokenizer = Tokenizer::from_parts(parts, &spelling, decoding, &PLACES)?;
    check_added_ids(&tokenizer, &ids)?;
    Ok(tokenizer)
}

/// What is looked at first. It leaves the two long lists unread.
#[derive(Deserialize)]
struct Outline {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    model: Option<ModelOutline>,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(rename = "type")]
    kind: Option<String>,
    merges: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct Bpe<'a> {
    #[serde(borrow)]
    model: BpeModel<'a>,
}

#[derive(Deserialize)]
struct BpeModel<'a> {
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: bpe::Vocab,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

impl<'a> BpeModel<'a> {
    fn into_byte_pairs(self) -> Result<BytePairs<'a>, Error> {
        let merges = self.merges.into_iter().enumerate().filter_map(|(rank, merge)| match merge {
            Merge::Pair(left, right) => Some(Ok((left, right))),
            Merge::Line(line) if line.starts_with("#version") => None,
            Merge::Line(line) => Some(two_tokens(&line).ok_or_else(|| {
                let message = format!("is {}, not two tokens with a space between", quote(&line));
                Error::file(format!("{}[{rank}]", PLACES.merges), message)
            })),
        });
        Ok(BytePairs {
            merges: merges.collect::<Result<_, _>>()?,
            vocab: self.vocab,
            unk_token: self.unk_token,
            continuing_subword_prefix: self.continuing_subword_prefix,
            end_of_word_suffix: self.end_of_word_suffix,
            fuse_unk: self.fuse_unk.unwrap_or(false),
            byte_fallback: self.byte_fallback.unwrap_or(false),
            ignore_merges: self.ignore_merges.unwrap_or(false),
        })
    }
}

/// The two halves of a line.
fn two_tokens<'a>(line: &Cow<'a, str>) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    match line {
        Cow::Borrowed(line) => {
            let (left, right) = line.split_once(' ').filter(|(_, right)| !right.contains(' '))?;
            Some((left.into(), right.into()))
        }
        Cow::Owned(line) => {
            let (left, right) = line.split_once(' ').filter(|(_, right)| !right.contains(' '))?;
            Some((left.to_owned().into(), right.to_owned().into()))
        }
    }
}

/// `"a b"` in older files, `["a", "b"]` in newer ones. Serde's own choice between the two would buffer
/// each of some 300,000 merges.
enum Merge<'a> {
    Line(Cow<'a, str>),
    Pair(Cow<'a, str>, Cow<'a, str>),
}

/// Text that stays in the file's bytes where it stands there as it is.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_borrowed_str<E>(self, line: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge::Line(Cow::Borrowed(line)))
            }

            fn visit_str<E>(self, line: &str) -> Result<Merge<'de>, E> {
                Ok(Merge::Line(Cow::Owned(line.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Merge<'de>, A::Error> {
                match (sequence.next_element()?, sequence.next_element()?) {
                    // A third element is reported by the deserializer, which wants the list at its end.
                    (Some(Text(left)), Some(Text(right))) => Ok(Merge::Pair(left, right)),
                    _ => Err(serde::de::Error::custom("a merge needs two tokens")),
                }
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}

fn parse<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| Error::file("", format!("is no tokenizer.json: {error}")))
}

/// One of the small parts, in the crate's reading.
fn part<T: for<'de> Deserialize<'de>>(place: &str, value: Option<Value>) -> Result<Option<T>, Error> {
    let read = |value| guarded(|| Ok(serde_json::from_value(value)?));
    value.map(read).transpose().map_err(|message| Error::file(place, message))
}

/// A model that the crate reads alone.
fn other_model(json: &str) -> Result<ModelWrapper, Error> {
    #[derive(Deserialize)]
    struct Other {
        model: ModelWrapper,
    }
    let other: Other =
        guarded(|| Ok(serde_json::from_str(json)?)).map_err(|message| Error::file("model", message))?;
    Ok(other.model)
}

/// Added tokens are numbered behind the others. Where the file says otherwise, the model would read other ids.
fn check_added_ids(tokenizer: &Tokenizer, added: &[(u32, String)]) -> Result<(), Error> {
    for (index, (id, content)) in added.iter().enumerate().filter(|(_, (_, content))| !content.is_empty()) {
        if tokenizer.token_to_id(content) != Some(*id) {
            let message = format!("{} cannot have the id {id}: ids are taken or left out", quote(content));
            return Err(Error::file(format!("added_tokens[{index}]"), message));
        }
    }
    Ok(())
}

/// What the decoder says of tokens: how each spells its bytes, and how the bytes join.
///
/// Two forms are read here: `ByteLevel`, and replacements that may be followed by `ByteFallback`; `Fuse` at
/// the end of either joins what is joined anyway. Any other form is left to the pipeline, and its table of
/// bytes is the closest one.
fn reading(decoder: Option<&Value>) -> (Spelling, Decoding) {
    let steps = match decoder {
        None => &[],
        Some(Value::Object(sequence)) if sequence.get("type") == Some(&"Sequence".into()) => {
            sequence.get("decoders").and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
        }
        Some(step) => std::slice::from_ref(step),
    };
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or_default()).collect();
    if kinds.contains(&"ByteLevel") {
        let joined = matches!(kinds[..], ["ByteLevel"] | ["ByteLevel", "Fuse"]);
        return (Spelling::ByteLevel, if joined { Decoding::Joined } else { Decoding::Pipeline });
    }
    let mut replacements: Vec<_> = steps.iter().map_while(replacement).collect();
    let decoding = match kinds[replacements.len()..] {
        ["ByteFallback"] | ["ByteFallback", "Fuse"] => Decoding::ByteFallback,
        ["Fuse"] => Decoding::Joined,
        [] if !replacements.is_empty() => Decoding::Joined,
        _ => Decoding::Pipeline,
    };
    if kinds.contains(&"Metaspace") {
        replacements.push(("\u{2581}".into(), " ".into()));
    }
    (Spelling::Text { replacements, byte_fallback: kinds.contains(&"ByteFallback") }, decoding)
}

/// The text that a `Replace` step replaces, and by what. A step with a regular expression has none.
fn replacement(step: &Value) -> Option<(String, String)> {
    let is_replace = step.get("type")?.as_str()? == "Replace";
    let from = step.get("pattern")?.get("String")?.as_str().filter(|from| is_replace && !from.is_empty())?;
    Some((from.to_owned(), step.get("content")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contents() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [{
                "id": 3, "content": "<e>", "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }],
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        })
    }

    /// The file with the value at `pointer` replaced.
    fn changed(pointer: &str, value: Value) -> Vec<u8> {
        let mut contents = contents();
        *contents.pointer_mut(pointer).unwrap() = value;
        contents.to_string().into_bytes()
    }

    fn check_refused(pointer: &str, value: Value, expected: &str) {
        let Err(error) = read(&changed(pointer, value)) else { panic!("{expected} is let pass") };
        let error = error.to_string();
        assert!(error.starts_with(expected), "{error} instead of {expected}");
    }

    #[test]
    fn merges_come_as_pairs_or_lines() {
        for merges in [json!([["a", "b"]]), json!(["#version: 0.2", "a b"])] {
            let tokenizer = read(&changed("/model/merges", merges)).unwrap();
            assert_eq!(tokenizer.encode("ab<e>").unwrap(), [2, 3]);
        }
    }

    #[test]
    fn other_files_are_refused() {
        check_refused("/model", Value::Null, r#": has no entry "model": this is some other JSON file"#);
        check_refused("/model", json!("gpt"), ": is no tokenizer.json: invalid type: string \"gpt\"");
        check_refused("/model", json!({"type": "BPE"}), ": is no tokenizer.json: missing field `vocab`");
        check_refused("/model", json!({"type": "Magic"}), r#"model: is of the unknown type "Magic""#);
        check_refused("/version", json!("2.0"), "version: is not 1.0");
    }

    #[test]
    fn broken_entries_are_named() {
        check_refused("/model/merges/0", json!("ab"), r#"model.merges[0]: is "ab", not two tokens"#);
        check_refused("/model/merges/0", json!(["a"]), ": is no tokenizer.json: a merge needs two tokens");
        check_refused(
            "/model/merges/0",
            json!(["a", "b", "b"]),
            ": is no tokenizer.json: trailing characters",
        );
        check_refused("/model/merges/0", json!(["a", "ab"]), r#"model.merges[0]: "a" + "ab" is no token"#);
        check_refused("/model/vocab/b", json!(-1), ": is no tokenizer.json: invalid value: integer `-1`");
        check_refused("/model/vocab/b", json!(0), "model.vocab: must give each token an id of its own");
        check_refused(
            "/model/vocab/b",
            json!(u32::MAX),
            "model.vocab: must give each token an id of its own",
        );
        check_refused("/added_tokens/0/id", json!(7), r#"added_tokens[0]: "<e>" cannot have the id 7"#);
        check_refused("/decoder", json!({"type": "Magic"}), "decoder: ");
    }

    #[test]
    fn decoders_are_read_where_the_bytes_of_a_token_say_all() {
        let check = |decoder: Value, expected: Decoding| {
            let (_, decoding) = reading(Some(&decoder));
            assert_eq!(decoding, expected, "{decoder}");
        };
        let sequence = |decoders: &[&Value]| json!({"type": "Sequence", "decoders": decoders});
        let space = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
        let spaces = json!({"type": "Replace", "pattern": {"Regex": "\\s"}, "content": " "});
        let (bytes, level) = (json!({"type": "ByteFallback"}), json!({"type": "ByteLevel"}));
        let (fuse, strip) =
            (json!({"type": "Fuse"}), json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        check(level.clone(), Decoding::Joined);
        check(sequence(&[&level, &fuse]), Decoding::Joined);
        check(sequence(&[&space, &bytes, &fuse]), Decoding::ByteFallback);
        check(sequence(&[&bytes]), Decoding::ByteFallback);
        check(sequence(&[&space, &fuse]), Decoding::Joined);
        check(space.clone(), Decoding::Joined);
        check(sequence(&[&space, &bytes, &fuse, &strip]), Decoding::Pipeline);
        check(sequence(&[&bytes, &space, &fuse]), Decoding::Pipeline);
        check(sequence(&[&fuse, &space]), Decoding::Pipeline);
        check(sequence(&[&level, &strip]), Decoding::Pipeline);
        check(spaces, Decoding::Pipeline);
        check(sequence(&[]), Decoding::Pipeline);
        assert_eq!(reading(None).1, Decoding::Pipeline);
    }
}
