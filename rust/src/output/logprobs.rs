//! Log-probabilities on their way out: takes the entries of content tokens, gives each when its token is text.

use std::collections::VecDeque;

use crate::event::TokenLogprob;
use crate::sampled::Logprobs;
use crate::vocab::Vocab;

/// The entry of one token, of which `bytes` are content.
pub(super) fn entry(vocab: &Vocab, token_id: u32, bytes: &[u8], logprobs: &Logprobs) -> TokenLogprob {
    let spell = |&(id, logprob): &(u32, f64)| (id, vocab.bytes(id).unwrap_or_default().to_vec(), logprob);
    TokenLogprob {
        token_id,
        bytes: bytes.to_vec(),
        logprob: logprobs.chosen,
        top: logprobs.top.iter().map(spell).collect(),
    }
}

/// Log-probabilities of tokens whose bytes are not all text yet.
///
/// Text never waits for its entry: an entry leaves with the event in which its token's last byte became
/// text, so the bytes of all entries so far are the bytes of the text so far, but for less than one token.
/// At the end both are equal: a token that a stop string cuts off keeps no entry, one that it cuts in two
/// keeps the part that is text.
#[derive(Debug, Default)]
pub(super) struct LogprobQueue {
    /// Bytes of all entries released.
    released: u64,
    waiting: VecDeque<TokenLogprob>,
}

impl LogprobQueue {
    /// Queues the entry of the next token of the text. One without bytes is no content.
    pub(super) fn push(&mut self, entry: TokenLogprob) {
        if !entry.bytes.is_empty() {
            self.waiting.push_back(entry);
        }
    }

    /// The entries of the tokens that are text up to byte `settled`; at the end of the text also the part
    /// of a token that was cut there.
    pub(super) fn release(&mut self, settled: u64, ended: bool) -> Vec<TokenLogprob> {
        let mut entries = Vec::new();
        while let Some(entry) = self.waiting.front_mut() {
            let open = settled - self.released;
            if open < entry.bytes.len() as u64 {
                if !ended || open == 0 {
                    break;
                }
                entry.bytes.truncate(open as usize);
            }
            self.released += entry.bytes.len() as u64;
            entries.extend(self.waiting.pop_front());
        }
        entries
    }
}
