//! Answers with tool calls and thoughts: takes tokens, gives text, reasoning and calls. What is which is
//! `tool_calls`'; here each byte finds back to its token, which knows whether it is special and how likely it was.

use std::collections::VecDeque;
use std::hash::RandomState;

use crate::call_ids::CallIds;
use crate::event::{EventKind, TokenLogprob};
use crate::sampled::Logprobs;
use crate::text_stream::Utf8Stream;
use crate::tool_calls::{AnswerParser, Sink, ToolOptions};
use crate::vocab::Vocab;

use super::logprobs::entry;
use super::{Content, Told};

/// One answer that is parsed.
#[derive(Debug)]
pub(super) struct Parsed {
    parser: AnswerParser,
    parts: Parts,
}

/// What has been found so far.
#[derive(Debug)]
struct Parts {
    /// Tokens some of whose bytes are undecided, in order.
    pieces: VecDeque<Piece>,
    reasoning: Utf8Stream,
    reasoning_tokens: u32,
    arguments: Utf8Stream,
    /// The identity of the next call, and how many there are.
    ids: CallIds,
    calls: u32,
    whole_calls: u32,
    max_calls: u32,
    /// A call too many has begun: what follows is not told.
    over: bool,
}

/// One token that the parser was given.
#[derive(Debug)]
struct Piece {
    /// Bytes that are undecided.
    left: usize,
    special: bool,
    reasoning: bool,
    /// Its `bytes` are those of the token that are text; None if log-probabilities were not asked for.
    entry: Option<TokenLogprob>,
}

impl Parsed {
    pub(super) fn new(sequence_id: u64, id_key: &RandomState, options: &ToolOptions) -> Self {
        let parts = Parts {
            pieces: VecDeque::new(),
            reasoning: Utf8Stream::new(),
            reasoning_tokens: 0,
            arguments: Utf8Stream::new(),
            ids: CallIds::new(id_key.clone(), sequence_id),
            calls: 0,
            whole_calls: 0,
            max_calls: options.max_calls.unwrap_or(u32::MAX),
            over: false,
        };
        Self { parser: AnswerParser::new(options), parts }
    }

    /// Reads one token and says whether the answer ends with it.
    pub(super) fn push(
        &mut self,
        vocab: &Vocab,
        token_id: u32,
        logprobs: Option<&Logprobs>,
        content: &mut Content,
        may_stop: bool,
        told: &mut Told,
    ) -> bool {
        let bytes = vocab.bytes(token_id).unwrap_or_default();
        let special = vocab.is_special(token_id);
        if bytes.is_empty() || special && !self.parser.wants_special(bytes) {
            return false;
        }
        let entry = logprobs.map(|logprobs| entry(vocab, token_id, &[], logprobs));
        self.parts.pieces.push_back(Piece { left: bytes.len(), special, reasoning: false, entry });
        let mut sorter = Sorter { parts: &mut self.parts, content, told, may_stop };
        self.parser.push(bytes, &mut sorter);
        sorter.is_over()
    }

    /// Ends the answer, unless a stop string or a call too many has ended it already.
    pub(super) fn finish(&mut self, content: &mut Content, told: &mut Told) {
        let mut sorter = Sorter { parts: &mut self.parts, content, told, may_stop: true };
        if !sorter.is_over() {
            self.parser.finish(&mut sorter);
        }
        sorter.end_text();
        let mut arguments = sorter.parts.arguments;
        if arguments.pending() > 0 {
            arguments.finish(sorter.arguments_text());
        }
        self.parts.reasoning.finish(&mut told.reasoning);
    }

    /// Whether there is a whole call.
    pub(super) fn has_called(&self) -> bool {
        self.parts.whole_calls > 0
    }

    /// Tokens that became reasoning.
    pub(super) fn reasoning_tokens(&self) -> u32 {
        self.parts.reasoning_tokens
    }
}

/// Sorts the bytes of one token: the parser's sink.
struct Sorter<'a> {
    parts: &'a mut Parts,
    content: &'a mut Content,
    told: &'a mut Told,
    may_stop: bool,
}

impl Sorter<'_> {
    fn is_over(&self) -> bool {
        self.parts.over || self.content.text.is_stopped()
    }

    /// Assigns the next undecided bytes, token by token. `take` gets those that are of no special token.
    fn assign(&mut self, mut count: usize, mut take: impl FnMut(&mut Self, &mut Piece, usize)) {
        while count > 0 {
            let Some(mut piece) = self.parts.pieces.pop_front() else { return };
            let now = piece.left.min(count);
            (piece.left, count) = (piece.left - now, count - now);
            take(self, &mut piece, now);
            if piece.left > 0 {
                return self.parts.pieces.push_front(piece);
            }
            self.settle(piece);
        }
    }

    /// All bytes of a token have found their place.
    fn settle(&mut self, piece: Piece) {
        self.parts.reasoning_tokens += u32::from(piece.reasoning);
        if let (Some(queue), Some(entry)) = (&mut self.content.logprobs, piece.entry) {
            queue.push(entry);
        }
    }

    /// Ends the text: the part of a token that is text already is all of it.
    fn end_text(&mut self) {
        if let Some(piece) = self.parts.pieces.pop_front() {
            self.settle(piece);
        }
        self.parts.pieces.clear();
    }

    /// The text of the event that continues the last call's arguments.
    fn arguments_text(&mut self) -> &mut String {
        let index = self.parts.calls.saturating_sub(1);
        if !matches!(self.told.calls.last(), Some(EventKind::ToolArguments { index: last, .. }) if *last == index)
        {
            self.told.calls.push(EventKind::ToolArguments { index, text: String::new() });
        }
        match self.told.calls.last_mut() {
            Some(EventKind::ToolArguments { text, .. }) => text,
            _ => unreachable!("it was pushed above"),
        }
    }
}

impl Sink for Sorter<'_> {
    fn content(&mut self, bytes: &[u8]) {
        let mut start = 0;
        self.assign(bytes.len(), |sorter, piece, count| {
            let bytes = &bytes[start..start + count];
            start += count;
            if !piece.special && !sorter.is_over() {
                if let Some(entry) = &mut piece.entry {
                    entry.bytes.extend_from_slice(bytes);
                }
                sorter.content.push(bytes, sorter.may_stop, &mut sorter.told.text);
            }
        });
    }

    fn reasoning(&mut self, bytes: &[u8]) {
        let mut start = 0;
        self.assign(bytes.len(), |sorter, piece, count| {
            let bytes = &bytes[start..start + count];
            start += count;
            if !piece.special {
                piece.reasoning = true;
                sorter.parts.reasoning.push(bytes, &mut sorter.told.reasoning);
            }
        });
    }

    fn syntax(&mut self, count: usize) {
        self.assign(count, |_, _, _| {});
    }

    fn call(&mut self, name: &str) {
        self.parts.over |= self.parts.calls == self.parts.max_calls;
        if self.is_over() {
            return;
        }
        let index = self.parts.calls;
        self.parts.calls += 1;
        self.parts.arguments = Utf8Stream::new();
        let id = self.parts.ids.of(index);
        self.told.calls.push(EventKind::ToolCall { index, id, name: name.to_owned() });
    }

    fn arguments(&mut self, json: &[u8]) {
        if !self.is_over() {
            let mut arguments = self.parts.arguments;
            arguments.push(json, self.arguments_text());
            self.parts.arguments = arguments;
        }
    }

    fn end_call(&mut self) {
        if !self.is_over() {
            self.parts.whole_calls += 1;
        }
    }
}
