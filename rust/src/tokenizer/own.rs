//! A vocabulary that ecocore encodes by its own hand: takes the parts of a pipeline, gives ids of text and of tokens.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokenizers::AddedToken;
use tokenizers::models::bpe;

use super::encoder::{Cut, Encoder};
use super::scheme::Scheme;
use crate::error::Error;
use crate::pipeline::{BytePairs, MAX_IDS, Places, ids_taken};
use crate::vocab::{Spelling, Vocab};

/// An encoder and the names of its tokens.
pub(super) struct Own {
    encoder: Arc<Encoder>,
    vocab: bpe::Vocab,
    added: FxHashMap<String, u32>,
}

impl Own {
    /// Numbers the added tokens as the `tokenizers` crate does, and gives the table of all bytes beside.
    pub(super) fn new(
        scheme: Scheme,
        added_tokens: &[AddedToken],
        model: BytePairs<'_>,
        spelling: &Spelling,
        places: &Places,
    ) -> Result<(Self, Arc<Vocab>), Error> {
        let merges = model.ranks(places)?;
        let mut next = model.vocab.len() as u32;
        let mut added = Vec::with_capacity(added_tokens.len());
        for token in added_tokens.iter().filter(|token| !token.content.is_empty()) {
            let id = model.vocab.get(&token.content).copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            added.push((token, id));
        }
        let vocab = Arc::new(table(&model.vocab, &added, spelling, places.vocab)?);
        let contents: Vec<(&str, u32)> =
            added.iter().map(|&(token, id)| (token.content.as_str(), id)).collect();
        let encoder = Arc::new(scheme.encoder(&model, &merges, &contents, &vocab));
        if !model.ignore_merges {
            let encoder = Arc::clone(&encoder);
            rayon::spawn(move || encoder.make_sure());
        }
        let added = contents.into_iter().map(|(content, id)| (content.to_owned(), id)).collect();
        Ok((Self { encoder, vocab: model.vocab, added }, vocab))
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(capacity(text));
        self.encoder.encode(text, &mut ids);
        ids
    }

    /// Appends the same, where earlier texts come again.
    pub(super) fn continue_chat(&self, text: &str, ids: &mut Vec<u32>) -> Option<Cut> {
        ids.reserve(capacity(text));
        self.encoder.encode_chat(text, ids)
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.get(token).or_else(|| self.vocab.get(token)).copied()
    }
}

/// Room for the ids of a text: common text has a token for every three or four bytes.
fn capacity(text: &str) -> usize {
    text.len() / 3 + 8
}

/// The bytes of every token. Where an added token has the id of another, it is the one that is read.
fn table(
    vocab: &bpe::Vocab,
    added: &[(&AddedToken, u32)],
    spelling: &Spelling,
    place: &'static str,
) -> Result<Vocab, Error> {
    let last = vocab.values().copied().chain(added.iter().map(|&(_, id)| id)).max();
    let length = last.map_or(0, |last| last as usize + 1);
    if length > MAX_IDS as usize {
        return Err(ids_taken(place));
    }
    let mut tokens: Vec<Option<(&str, bool)>> = vec![None; length];
    for (token, &id) in vocab {
        if tokens[id as usize].replace((token, false)).is_some() {
            return Err(ids_taken(place));
        }
    }
    for &(token, id) in added {
        tokens[id as usize] = Some((&token.content, token.special));
    }
    let mut made = Vocab::with_capacity(length);
    for token in tokens {
        match token {
            Some((token, special)) => made.push_token(token, special, spelling),
            None => made.push_hole(),
        }
    }
    Ok(made)
}
