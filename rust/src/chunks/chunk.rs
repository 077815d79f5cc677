//! The JSON of one chunk: takes its bytes, gives what of it is understood. What servers add of their own is passed over,
//! null is as good as absent, and lists whose items would take far more memory than their letters are bounded.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::event::{FinishReason, TokenLogprob, Usage};

/// More choices, or calls, than one chunk can be of.
const MAX_ITEMS: usize = 128;
/// Stands for minus infinity, which JSON cannot spell.
const LEAST_LOGPROB: f64 = -9999.0;

/// Whose fault an error in a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its schema cannot be followed.
    Schema,
    /// Another server would refuse the request too.
    Client,
    /// Anything else.
    Server,
}

/// One chunk of any of the two endpoints.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    #[serde(default, deserialize_with = "items")]
    pub(super) choices: Vec<TextChoice>,
    #[serde(default, deserialize_with = "usage")]
    pub(super) usage: Option<Usage>,
    #[serde(default, deserialize_with = "error")]
    error: Option<Fault>,
    #[serde(default)]
    object: Option<String>,
}

impl Chunk {
    /// Whether it is an error, in either of two spellings.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.error.or_else(|| (self.object.as_deref() == Some("error")).then_some(Fault::Server))
    }
}

/// What a chunk tells of one choice, in the words of either endpoint.
#[derive(Debug)]
pub(super) struct TextChoice {
    pub(super) index: u32,
    pub(super) delta: Delta,
    pub(super) logprobs: Vec<TokenLogprob>,
    finish_reason: Option<String>,
}

impl TextChoice {
    /// Why the choice ended. Words that this version has no answer for, such as "content_filter", are a stop.
    pub(super) fn reason(&self) -> Option<FinishReason> {
        match self.finish_reason.as_deref() {
            None | Some("") => None,
            Some("length") => Some(FinishReason::Length),
            Some("tool_calls") => Some(FinishReason::ToolCalls),
            Some(_) => Some(FinishReason::Stop),
        }
    }
}

/// What came of an answer; texts are None rather than empty.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) content: Option<String>,
    pub(super) reasoning: Option<String>,
    pub(super) calls: Vec<CallDelta>,
}

/// A piece of a tool call; what did not come is empty.
#[derive(Debug)]
pub(super) struct CallDelta {
    pub(super) index: Option<u64>,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

impl<'de> Deserialize<'de> for TextChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Sent {
            index: Option<u32>,
            delta: Option<Delta>,
            text: Option<String>,
            logprobs: Option<Logprobs>,
            finish_reason: Option<String>,
        }
        let sent = Sent::deserialize(deserializer)?;
        let mut delta = sent.delta.unwrap_or_default();
        delta.content = delta.content.or(sent.text).filter(|text| !text.is_empty());
        let logprobs = sent.logprobs.map(Logprobs::entries).transpose().map_err(D::Error::custom)?;
        Ok(Self {
            index: sent.index.unwrap_or(0),
            delta,
            logprobs: logprobs.unwrap_or_default(),
            finish_reason: sent.finish_reason,
        })
    }
}

impl<'de> Deserialize<'de> for Delta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Sent {
            content: Option<String>,
            /// What the model says in place of an answer is what it said.
            refusal: Option<String>,
            reasoning_content: Option<String>,
            /// The same by its newer name.
            reasoning: Option<String>,
            #[serde(default, deserialize_with = "items")]
            tool_calls: Vec<CallDelta>,
        }
        let sent = Sent::deserialize(deserializer)?;
        let told = |text: &String| !text.is_empty();
        Ok(Self {
            content: sent.content.filter(told).or(sent.refusal).filter(told),
            reasoning: sent.reasoning_content.filter(told).or(sent.reasoning).filter(told),
            calls: sent.tool_calls,
        })
    }
}

impl<'de> Deserialize<'de> for CallDelta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Sent {
            index: Option<u64>,
            id: Option<String>,
            function: Option<Function>,
        }
        #[derive(Deserialize)]
        struct Function {
            name: Option<String>,
            arguments: Option<String>,
        }
        let sent = Sent::deserialize(deserializer)?;
        let (name, arguments) = sent.function.map_or((None, None), |told| (told.name, told.arguments));
        Ok(Self {
            index: sent.index,
            id: sent.id.unwrap_or_default(),
            name: name.unwrap_or_default(),
            arguments: arguments.unwrap_or_default(),
        })
    }
}

/// The log-probabilities of a chunk: `content` of a chat, the parallel lists of a completion.
#[derive(Debug, Deserialize)]
struct Logprobs {
    content: Option<Vec<Entry>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f64>>>,
    top_logprobs: Option<Vec<Option<Pairs>>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    token: String,
    logprob: Option<f64>,
    bytes: Option<Vec<u8>>,
    top_logprobs: Option<Vec<Top>>,
}

#[derive(Debug, Deserialize)]
struct Top {
    token: String,
    logprob: Option<f64>,
    bytes: Option<Vec<u8>>,
}

impl Logprobs {
    /// Ids are not told, and are 0.
    fn entries(self) -> Result<Vec<TokenLogprob>, &'static str> {
        if let Some(content) = self.content {
            return Ok(content.into_iter().map(Entry::read).collect());
        }
        let tokens = self.tokens.unwrap_or_default();
        let logprobs = self.token_logprobs.unwrap_or_default();
        let top = self.top_logprobs.unwrap_or_default();
        if logprobs.len() != tokens.len() || !(top.is_empty() || top.len() == tokens.len()) {
            return Err("the lists of logprobs differ in length");
        }
        let top = top.into_iter().chain(std::iter::repeat_with(|| None));
        let entry = |((token, logprob), top): ((String, Option<f64>), Option<Pairs>)| TokenLogprob {
            token_id: 0,
            bytes: spelled(token),
            logprob: finite(logprob),
            top: top.map_or_else(Vec::new, |Pairs(top)| top),
        };
        Ok(tokens.into_iter().zip(logprobs).zip(top).map(entry).collect())
    }
}

impl Entry {
    fn read(self) -> TokenLogprob {
        let of = |top: Top| (0, top.bytes.unwrap_or(top.token.into_bytes()), finite(top.logprob));
        TokenLogprob {
            token_id: 0,
            bytes: self.bytes.unwrap_or(self.token.into_bytes()),
            logprob: finite(self.logprob),
            top: self.top_logprobs.unwrap_or_default().into_iter().map(of).collect(),
        }
    }
}

fn finite(logprob: Option<f64>) -> f64 {
    logprob.unwrap_or(LEAST_LOGPROB)
}

/// The bytes of a token as completions spell it: its text, or `bytes:\x..` where it is no whole text.
fn spelled(token: String) -> Vec<u8> {
    let read = |hex: &str| {
        let digits =
            hex.strip_prefix("\\x").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u8::from_str_radix(digits, 16).ok()
    };
    let in_bytes = token.strip_prefix("bytes:").filter(|hex| hex.is_ascii() && hex.len().is_multiple_of(4));
    let bytes: Option<Vec<u8>> =
        in_bytes.and_then(|hex| (0..hex.len()).step_by(4).map(|at| read(&hex[at..at + 4])).collect());
    bytes.filter(|bytes| !bytes.is_empty()).unwrap_or_else(|| token.into_bytes())
}

/// An object of tokens and their log-probabilities, in the order in which it was sent.
#[derive(Debug)]
struct Pairs(Vec<(u32, Vec<u8>, f64)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of log-probabilities")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((token, logprob)) = map.next_entry::<String, Option<f64>>()? {
                    pairs.push((0, spelled(token), finite(logprob)));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A list of at most `MAX_ITEMS`, or null.
fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Reader<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a list of at most {MAX_ITEMS}, or null")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MAX_ITEMS {
                    return Err(A::Error::invalid_length(MAX_ITEMS + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_any(Reader(PhantomData))
}

fn usage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Usage>, D::Error> {
    // Numbers of any kind: what is negative, broken or too large counts as the nearest that makes sense.
    #[derive(Deserialize)]
    struct Sent {
        prompt_tokens: Option<f64>,
        completion_tokens: Option<f64>,
        prompt_tokens_details: Option<Details>,
        completion_tokens_details: Option<Details>,
    }
    #[derive(Deserialize)]
    struct Details {
        cached_tokens: Option<f64>,
        reasoning_tokens: Option<f64>,
    }
    fn count(sent: Option<f64>) -> u32 {
        sent.unwrap_or(0.0) as u32
    }
    let sent = Option::<Sent>::deserialize(deserializer)?;
    Ok(sent.map(|sent| {
        let (prompt_tokens, completion_tokens) = (count(sent.prompt_tokens), count(sent.completion_tokens));
        let cached = sent.prompt_tokens_details.map_or(0, |details| count(details.cached_tokens));
        let reasoning = sent.completion_tokens_details.map_or(0, |details| count(details.reasoning_tokens));
        Usage {
            prompt_tokens,
            cached_tokens: cached.min(prompt_tokens),
            completion_tokens,
            reasoning_tokens: reasoning.min(completion_tokens),
        }
    }))
}

/// The member `error`: an object with a `type` and a `code`, or any other value that is not null.
fn error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Fault>, D::Error> {
    struct Reader;
    impl<'de> Visitor<'de> for Reader {
        type Value = Option<Fault>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an error or null")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E>(self, _words: &str) -> Result<Self::Value, E> {
            Ok(Some(Fault::Server))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fault = Fault::Server;
            while let Some(name) = map.next_key::<String>()? {
                let told = match name.as_str() {
                    "type" | "code" => map.next_value::<Word>()?,
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                };
                match told {
                    Word::Text(word)
                        if matches!(word.as_str(), "grammar_too_complex" | "invalid_json_schema") =>
                    {
                        return skip(map, Fault::Schema);
                    }
                    Word::Text(word) if word == "invalid_request_error" => fault = Fault::Client,
                    Word::Number(400 | 413 | 415 | 422) => fault = Fault::Client,
                    _ => {}
                }
            }
            Ok(Some(fault))
        }
    }
    fn skip<'de, A: MapAccess<'de>>(mut map: A, fault: Fault) -> Result<Option<Fault>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Some(fault))
    }
    deserializer.deserialize_any(Reader)
}

/// A code: servers use words, numbers and null for it.
enum Word {
    Text(String),
    Number(u64),
    Other,
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Word;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a word, a number or null")
            }

            fn visit_str<E>(self, word: &str) -> Result<Word, E> {
                Ok(Word::Text(word.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
                Ok(Word::Number(number))
            }

            fn visit_i64<E>(self, _number: i64) -> Result<Word, E> {
                Ok(Word::Other)
            }

            fn visit_f64<E>(self, _number: f64) -> Result<Word, E> {
                Ok(Word::Other)
            }

            fn visit_bool<E>(self, _value: bool) -> Result<Word, E> {
                Ok(Word::Other)
            }

            fn visit_unit<E>(self) -> Result<Word, E> {
                Ok(Word::Other)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
