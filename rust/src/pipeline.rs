//! The `tokenizers` crate behind our door: takes the parts of a pipeline, checks what the crate takes on
//! trust, gives ids and text. Reading the parts from a file is `tokenizer_json`'s and `gguf_vocab`'s.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::prelude::*;
use tokenizers::models::bpe;
use tokenizers::{AddedToken, DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::error::Error;
use crate::vocab::{Spelling, Vocab};

/// Ids are dense in every vocabulary we know, the largest having 262144. One stray id of four billion in
/// an altered file must not make a table of that length.
pub(crate) const MAX_IDS: u32 = 1 << 22;

/// Two tokens that become one.
pub(crate) type Merge<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Byte-pair encoding as a file states it, not yet checked.
#[derive(Default)]
pub(crate) struct BytePairs<'a> {
    pub vocab: bpe::Vocab,
    pub merges: Vec<Merge<'a>>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
}

/// What a file calls its two lists, for messages.
pub(crate) struct Places {
    pub vocab: &'static str,
    pub merges: &'static str,
}

impl BytePairs<'_> {
    /// Refuses merges that are longer than any token.
    fn check(&self, places: &Places) -> Result<(), Error> {
        let longest = self.vocab.keys().map(String::len).max().unwrap_or(0);
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or("").len();
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            // The crate copies both parts into a buffer of the longest token's length and cuts the prefix
            // off the right one, both unchecked.
            if !right.is_char_boundary(prefix) || left.len() + right.len() - prefix > longest {
                let message = format!("{} + {} is no token", quote(left), quote(right));
                return Err(Error::file(format!("{}[{rank}]", places.merges), message));
            }
        }
        Ok(())
    }

    /// The ids of both parts and of the whole of each merge, by rank. Only for vocabularies without a prefix.
    pub(crate) fn ranks(&self, places: &Places) -> Result<Vec<(u32, u32, u32)>, Error> {
        self.check(places)?;
        let id = |token: &str| {
            let id = self.vocab.get(token).copied();
            id.ok_or_else(|| needs(places, token))
        };
        let ids = |whole: &mut String, (left, right): &Merge<'_>| {
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            Ok((id(left)?, id(right)?, id(whole)?))
        };
        let all: Result<_, Error> = self.merges.par_iter().map_init(String::new, ids).collect();
        // The error is that of the first wrong merge, whichever core met one first.
        all.or_else(|_| {
            let mut whole = String::new();
            self.merges.iter().map(|merge| ids(&mut whole, merge)).collect()
        })
    }

    /// The model, whose merges all join two tokens to a third.
    pub(crate) fn build(self, places: &Places) -> Result<ModelWrapper, Error> {
        self.check(places)?;
        let merges = self.merges.into_iter().map(|(left, right)| (left.into_owned(), right.into_owned()));
        let mut builder = bpe::BPE::builder()
            .vocab_and_merges(self.vocab, merges.collect::<Vec<_>>())
            .fuse_unk(self.fuse_unk)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map(ModelWrapper::BPE).map_err(|error| match error.downcast_ref::<bpe::Error>() {
            Some(bpe::Error::MergeTokenOutOfVocabulary(token)) => needs(places, token),
            _ => Error::file(places.vocab, error.to_string()),
        })
    }
}

fn needs(places: &Places, token: &str) -> Error {
    Error::file(places.merges, format!("a merge needs {}, which is no token", quote(token)))
}

/// The error of a vocabulary whose ids make no table.
pub(crate) fn ids_taken(place: &'static str) -> Error {
    Error::file(place, format!("must give each token an id of its own, below {MAX_IDS}"))
}

/// Text of a model file as a message may show it: short, with control characters escaped.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The parts of a tokenizer in the order in which text passes them.
pub(crate) struct Parts<'a> {
    pub added_tokens: Vec<AddedToken>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub model: PartModel<'a>,
    pub decoder: Option<DecoderWrapper>,
}

/// What merges or chooses tokens.
pub(crate) enum PartModel<'a> {
    BytePairs(BytePairs<'a>),
    /// One that the crate has read.
    Other(ModelWrapper),
}

/// A pipeline of the crate that only encodes and decodes: nothing truncates, pads or adds special tokens.
pub(crate) struct Pipeline(tokenizers::Tokenizer);

impl Pipeline {
    /// Connects the parts.
    pub(crate) fn new(parts: Parts<'_>, places: &Places) -> Result<Self, Error> {
        let mut pipeline = tokenizers::Tokenizer::new(match parts.model {
            PartModel::BytePairs(model) => model.build(places)?,
            PartModel::Other(model) => model,
        });
        pipeline.with_pre_tokenizer(parts.pre_tokenizer).with_decoder(parts.decoder);
        guarded(|| {
            pipeline.with_normalizer(parts.normalizer)?;
            pipeline.add_tokens(parts.added_tokens)
        })
        .map_err(|message| Error::file("added_tokens", message))?;
        Ok(Self(pipeline))
    }

    /// The bytes of every token. `place` is what the file calls its vocabulary.
    pub(crate) fn table(&self, spelling: &Spelling, place: &'static str) -> Result<Vocab, Error> {
        let added = self.0.get_added_vocabulary();
        let model = self.0.get_model();
        let last_added = added.get_added_tokens_decoder().keys().max();
        // The ids of the model are not listed but looked for: its list is a copy of every token.
        let mut unfound = model.get_vocab_size();
        let mut vocab = Vocab::with_capacity(unfound + added.len());
        for id in 0..MAX_IDS {
            if unfound == 0 && last_added.is_none_or(|&last| last < id) {
                return Ok(vocab);
            }
            let token = model.id_to_token(id);
            unfound -= usize::from(token.is_some());
            match added.simple_id_to_token(id).or(token) {
                Some(token) => vocab.push_token(&token, added.is_special_token(&token), spelling),
                None => vocab.push_hole(),
            }
        }
        Err(ids_taken(place))
    }

    /// The id of a token as the file spells it.
    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// Ids of `text`. A text that the pipeline gives up on is the caller's: the file was sound.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        match guarded(|| self.0.encode_fast(text, false)) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(message) => Err(Error::parameter("text", format!("is beyond this tokenizer ({message})"))),
        }
    }

    /// Text of `ids` by the pipeline's own decoder.
    pub(crate) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        guarded(|| self.0.decode(ids, skip_special_tokens))
            .map_err(|message| Error::parameter("ids", format!("are beyond this tokenizer ({message})")))
    }
}

/// Calls the crate; its error or panic comes back as a message.
///
/// It does panic: its regular expressions give up on a run of ten million spaces, for instance. A pipeline
/// has no state that a panic could leave half done.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) => message.clone(),
            (None, Some(message)) => (*message).to_owned(),
            (None, None) => "it gave up".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte_pairs<'a>(tokens: &[&str], merges: &[(&'a str, &'a str)]) -> BytePairs<'a> {
        let vocab = tokens.iter().zip(0..).map(|(&token, id)| (token.to_owned(), id)).collect();
        let merges = merges.iter().map(|&(left, right)| (left.into(), right.into())).collect();
        BytePairs { vocab, merges, ..BytePairs::default() }
    }

    fn check_refused(byte_pairs: BytePairs<'_>, expected: &str) {
        let places = Places { vocab: "vocab", merges: "merges" };
        if byte_pairs.continuing_subword_prefix.is_none() {
            let error = byte_pairs.ranks(&places).expect_err("must be refused");
            assert_eq!(error.to_string(), expected);
        }
        let error = byte_pairs.build(&places).expect_err("must be refused");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn merges_that_make_no_token_are_refused_by_name() {
        check_refused(byte_pairs(&["a", "b"], &[("a", "b")]), r#"merges[0]: "a" + "b" is no token"#);
        check_refused(
            byte_pairs(&["a", "xyz"], &[("a", "a")]),
            r#"merges: a merge needs "aa", which is no token"#,
        );
        check_refused(
            byte_pairs(&["a", "xyz"], &[("a", "q")]),
            r#"merges: a merge needs "q", which is no token"#,
        );
        check_refused(byte_pairs(&[], &[("", "")]), r#"merges: a merge needs "", which is no token"#);
    }

    #[test]
    fn a_merge_shorter_than_the_prefix_is_refused() {
        let mut short = byte_pairs(&["a", "##b", "ab"], &[("a", "b")]);
        short.continuing_subword_prefix = Some("##".into());
        check_refused(short, r#"merges[0]: "a" + "b" is no token"#);
        let mut split = byte_pairs(&["a", "é", "aé"], &[("a", "é")]);
        split.continuing_subword_prefix = Some("#".into());
        check_refused(split, r#"merges[0]: "a" + "é" is no token"#);
    }

    #[test]
    fn long_text_of_a_file_is_shortened_in_messages() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert_eq!(quote(&"é".repeat(50)), format!("\"{}\"...", "é".repeat(40)));
    }

    #[test]
    fn panics_and_errors_of_the_crate_become_messages() {
        assert_eq!(guarded(|| Ok(7)), Ok(7));
        assert_eq!(guarded::<()>(|| Err("no".into())), Err("no".into()));
    }
}
