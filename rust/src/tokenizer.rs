//! The tokenizer: takes text, gives token ids, and back. Which file a vocabulary comes from is settled when
//! it is opened; what special tokens a prompt needs is the chat template's.

mod added_tokens;
mod characters;
mod class_runs;
mod classes;
mod composed;
mod encoder;
mod hash;
mod joints;
mod masks;
mod merges;
mod own;
mod scheme;
mod segments;
mod simd;
mod waves;
mod whole_words;
mod word_cache;
mod words;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Error;
use crate::gguf::{Gguf, Metadata};
use crate::pipeline::{PartModel, Parts, Pipeline, Places};
use crate::text_stream::Utf8Stream;
use crate::vocab::{Spelling, Vocab};
use crate::{gguf_vocab, tokenizer_json};

pub use encoder::Cut;
use own::Own;
use scheme::Scheme;
#[cfg(feature = "python")]
pub(crate) use simd::prefetch;

/// The end token of [`Tokenizer::bytes_only`].
const BYTES_END: &str = "<|end|>";

/// Text to token ids and back, exact to the `tokenizers` crate 0.23. Cheap to share, never changes.
pub struct Tokenizer {
    backend: Backend,
    decoding: Decoding,
    vocab: Arc<Vocab>,
}

/// What turns text into ids.
enum Backend {
    /// Each byte is a token, see [`Tokenizer::bytes_only`].
    Bytes,
    /// Ecocore itself, for the pipelines that it knows.
    Own(Box<Own>),
    /// The `tokenizers` crate.
    Crate(Box<Pipeline>),
}

/// What turns ids into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// The bytes of the tokens one after the other; what is not UTF-8 becomes U+FFFD.
    Joined,
    /// The same, but a run of `<0xNN>` tokens is UTF-8 as a whole, or one U+FFFD for each of its bytes.
    ByteFallback,
    /// The pipeline's own decoder, which looks at more than one token at a time.
    Pipeline,
}

impl Tokenizer {
    /// Opens a `tokenizer.json` or the vocabulary inside a GGUF file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let file_error = |message: &str| Error::file(path.display().to_string(), message);
        if path.is_dir() {
            return Err(file_error("is a folder; name the tokenizer.json in it"));
        }
        let unreadable = |error: std::io::Error| file_error(&error.to_string());
        let mut file = File::open(path).map_err(unreadable)?;
        let mut start = Vec::new();
        file.by_ref().take(4).read_to_end(&mut start).map_err(unreadable)?;
        if start.is_empty() {
            return Err(file_error("is empty; fetch it again"));
        }
        if start == b"GGUF" {
            let gguf = Gguf::open(path)?;
            return Self::from_gguf(gguf.metadata()).map_err(|error| within(path.display(), error));
        }
        // Whatever else a model folder holds, weights of many gigabytes among it, is not read.
        if start.trim_ascii_start().first().is_some_and(|&byte| byte != b'{') {
            return Err(file_error("is neither a tokenizer.json nor a GGUF file"));
        }
        file.read_to_end(&mut start).map_err(unreadable)?;
        tokenizer_json::read(&start).map_err(|error| within(path.display(), error))
    }

    /// Reads the contents of a `tokenizer.json`.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        tokenizer_json::read(json).map_err(|error| within("tokenizer.json", error))
    }

    /// Reads the vocabulary in the metadata of a GGUF file.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, Error> {
        gguf_vocab::read(metadata)
    }

    /// A tokenizer whose ids 0 to 255 are the bytes themselves and 256 is the (special) end token `<|end|>`.
    pub fn bytes_only() -> Self {
        let mut entries: Vec<_> = (0..=u8::MAX).map(|byte| (vec![byte], false)).collect();
        entries.push((BYTES_END.into(), true));
        let vocab = Arc::new(Vocab::from_entries(entries));
        Self { backend: Backend::Bytes, decoding: Decoding::Joined, vocab }
    }

    /// A tokenizer of these parts; `places` is what their file calls its lists.
    pub(crate) fn from_parts(
        parts: Parts<'_>,
        spelling: &Spelling,
        decoding: Decoding,
        places: &Places,
    ) -> Result<Self, Error> {
        let scheme = match &parts.model {
            PartModel::BytePairs(model) if decoding != Decoding::Pipeline => Scheme::of(&parts, model),
            _ => None,
        };
        let parts = match (scheme, parts) {
            (Some(scheme), Parts { model: PartModel::BytePairs(model), added_tokens, .. }) => {
                let (own, vocab) = Own::new(scheme, &added_tokens, model, spelling, places)?;
                return Ok(Self { backend: Backend::Own(Box::new(own)), decoding, vocab });
            }
            (_, parts) => parts,
        };
        let pipeline = Pipeline::new(parts, places)?;
        let vocab = Arc::new(pipeline.table(spelling, places.vocab)?);
        Ok(Self { backend: Backend::Crate(Box::new(pipeline)), decoding, vocab })
    }

    /// Ids of `text`. Adds no special token; added tokens in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        match &self.backend {
            Backend::Own(own) => Ok(own.encode(text)),
            Backend::Crate(pipeline) => pipeline.encode(text),
            Backend::Bytes => {
                let mut ids = Vec::with_capacity(text.len());
                for (turn, part) in text.split(BYTES_END).enumerate() {
                    ids.extend((turn > 0).then_some(256));
                    ids.extend(part.bytes().map(u32::from));
                }
                Ok(ids)
            }
        }
    }

    /// `encode` of the prompt of a chat. The texts between its added tokens are remembered, so that a prompt that grew
    /// by a turn costs that turn.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.continue_chat(text, &mut ids)?;
        Ok(ids)
    }

    /// Appends what `encode_chat` gives. Gives the last cut that is known: another prompt with the same beginning has the same
    /// ids up to there, and its other ids are those of what follows, which may be a `text` of its own.
    pub fn continue_chat(&self, text: &str, ids: &mut Vec<u32>) -> Result<Option<Cut>, Error> {
        if let Backend::Own(own) = &self.backend {
            return Ok(own.continue_chat(text, ids));
        }
        ids.append(&mut self.encode(text)?);
        Ok(None)
    }

    /// `encode` of each text, over all cores.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>, Error> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// Text of `ids`, without the special tokens if asked; bytes that form no character become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        if let Some(id) = ids.iter().find(|&&id| self.vocab.bytes(id).is_none()) {
            return Err(self.vocab.unknown("ids", id));
        }
        let ids = ids.iter().copied().filter(|&id| !(skip_special_tokens && self.vocab.is_special(id)));
        match (self.decoding, &self.backend) {
            (Decoding::Pipeline, Backend::Crate(pipeline)) => {
                pipeline.decode(&ids.collect::<Vec<_>>(), false)
            }
            (Decoding::ByteFallback, _) => Ok(self.decode_byte_fallback(ids)),
            _ => Ok(into_text_lossy(ids.flat_map(|id| self.bytes(id)).copied().collect())),
        }
    }

    /// Byte tokens gather in a run, which any other token ends.
    fn decode_byte_fallback(&self, ids: impl Iterator<Item = u32>) -> String {
        let mut text = Vec::new();
        let mut run = Vec::new();
        for id in ids {
            if self.vocab.is_byte(id) {
                run.extend_from_slice(self.bytes(id));
            } else {
                end_run(&mut run, &mut text);
                text.extend_from_slice(self.bytes(id));
            }
        }
        end_run(&mut run, &mut text);
        into_text_lossy(text)
    }

    fn bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id).unwrap_or_default()
    }

    /// An incremental [`Tokenizer::decode`].
    pub fn stream(&self, skip_special_tokens: bool) -> TokenStream {
        TokenStream { vocab: Arc::clone(&self.vocab), utf8: Utf8Stream::default(), skip_special_tokens }
    }

    /// The bytes of each token.
    pub fn vocab(&self) -> &Arc<Vocab> {
        &self.vocab
    }

    /// Id of a token as the vocabulary spells it. [`Tokenizer::bytes_only`] spells its bytes `<0x00>` to `<0xFF>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.backend {
            Backend::Own(own) => own.token_to_id(token),
            Backend::Crate(pipeline) => pipeline.token_to_id(token),
            Backend::Bytes if token == BYTES_END => Some(256),
            Backend::Bytes => (0..=u8::MAX).find(|byte| format!("<0x{byte:02X}>") == token).map(u32::from),
        }
    }

    /// What turns text into ids: "ecocore", "tokenizers" or "bytes".
    pub fn backend(&self) -> &'static str {
        match self.backend {
            Backend::Own(_) => "ecocore",
            Backend::Bytes => "bytes",
            Backend::Crate(_) => "tokenizers",
        }
    }
}

/// The same error, with the file before the place in it.
fn within(file: impl std::fmt::Display, error: Error) -> Error {
    match error {
        Error::InvalidModelFile { place, message } if place.is_empty() => {
            Error::file(file.to_string(), message)
        }
        Error::InvalidModelFile { place, message } => Error::file(format!("{file}, {place}"), message),
        other => other,
    }
}

fn into_text_lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Moves a run of byte tokens into the text: as it is if it is UTF-8, else U+FFFD for each byte.
fn end_run(run: &mut Vec<u8>, text: &mut Vec<u8>) {
    if std::str::from_utf8(run).is_ok() {
        text.append(run);
    } else {
        for _ in run.drain(..) {
            text.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Ids to text, one id at a time.
///
/// Joined it is `decode` of the ids. Two kinds of vocabulary differ, because a stream never waits for more
/// than a character: after byte fallback a broken run of bytes keeps its valid characters, and where a
/// decoder looks at more than one token (SentencePiece's first space) the tokens are merely joined.
pub struct TokenStream {
    vocab: Arc<Vocab>,
    utf8: Utf8Stream,
    skip_special_tokens: bool,
}

impl TokenStream {
    /// The bytes of each token.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Takes the next token and appends the text that became final. An unknown id changes nothing.
    pub fn push(&mut self, id: u32, out: &mut String) -> Result<(), Error> {
        let bytes = self.vocab.bytes(id).ok_or_else(|| self.vocab.unknown("id", id))?;
        if !(self.skip_special_tokens && self.vocab.is_special(id)) {
            self.utf8.push(bytes, out);
        }
        Ok(())
    }

    /// Ends the text and appends what was held: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        self.utf8.finish(out);
    }
}
