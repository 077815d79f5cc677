//! The vocabulary as llguidance wants it: takes our table of bytes, gives a trie of the tokens that a grammar
//! may spell text with, and the special ones that it may only name by id.

use std::sync::Arc;

use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::error::Error;
use crate::vocab::Vocab;

/// The trie keeps an id in 24 bits, of which the largest value means none.
const MAX_VOCAB_SIZE: usize = (1 << 24) - 1;
/// Bytes of the longest token that the trie can hold.
const MAX_TOKEN_BYTES: usize = 1 << 10;

/// A trie over the logits' `vocab_size` ids.
///
/// Holes, ids beyond the tokenizer's and tokens that start with a byte that is in no UTF-8 text are never
/// allowed. Special tokens and `end_ids` are no text: only a grammar that names them allows them.
pub(super) fn token_environment(vocab: &Vocab, vocab_size: usize, end_ids: &[u32]) -> Result<TokEnv, Error> {
    if !(1..=MAX_VOCAB_SIZE).contains(&vocab_size) {
        return Err(Error::parameter("vocab_size", format!("must be between 1 and {MAX_VOCAB_SIZE}")));
    }
    if let Some(id) = end_ids.iter().find(|&&id| id as usize >= vocab_size) {
        let message = format!("holds token {id}; the vocabulary ends at {}", vocab_size - 1);
        return Err(Error::parameter("end_ids", message));
    }
    let Some(&first_end) = end_ids.first() else {
        return Err(Error::parameter("end_ids", "must name at least one token: a grammar's text has an end"));
    };
    let info = TokRxInfo {
        vocab_size: vocab_size as u32,
        tok_eos: first_end,
        tok_bos: None,
        tok_pad: None,
        tok_unk: None,
        tok_end_of_turn: None,
    };
    let words: Vec<Vec<u8>> =
        (0..vocab_size as u32).map(|id| word(vocab, id, end_ids.contains(&id))).collect();
    let trie = TokTrie::from(&info, &words).with_eos_tokens(end_ids);
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

fn word(vocab: &Vocab, id: u32, is_end: bool) -> Vec<u8> {
    let bytes = vocab.bytes(id).unwrap_or_default();
    if is_special(vocab, id) || is_end {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    if bytes.len() >= MAX_TOKEN_BYTES || bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    bytes.to_vec()
}

/// Whether a grammar has to name `id` instead of spelling it.
pub(super) fn is_special(vocab: &Vocab, id: u32) -> bool {
    vocab.is_special(id) && vocab.bytes(id).is_some_and(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn special_tokens_are_marked_and_what_cannot_be_text_is_left_out() {
        let mut entries: Vec<_> = [&b"a"[..], b"\xff", b"", b"<e>"].map(|word| (word.to_vec(), false)).into();
        entries.extend([(b"<s>".to_vec(), true), (vec![b' '; MAX_TOKEN_BYTES], false)]);
        let environment = token_environment(&Vocab::from_entries(entries), 8, &[3]).unwrap();
        let trie = environment.tok_trie();
        let words: Vec<&[u8]> = (0..8).map(|id| trie.token(id)).collect();
        assert_eq!(words, [&b"a"[..], b"", b"", b"\xff<e>", b"\xff<s>", b"", b"", b""]);
        assert_eq!((trie.eos_tokens(), trie.vocab_size()), (&[3][..], 8));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let tokenizer = Tokenizer::bytes_only();
        let refused = |size, ends: &[u32]| match token_environment(tokenizer.vocab(), size, ends) {
            Err(Error::InvalidParameter { name, .. }) => name,
            _ => String::new(),
        };
        assert_eq!(refused(0, &[0]), "vocab_size");
        assert_eq!(refused(1 << 24, &[0]), "vocab_size");
        assert_eq!(refused(257, &[257]), "end_ids");
        assert_eq!(refused(257, &[]), "end_ids");
    }
}
