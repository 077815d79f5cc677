//! `{"name": ..., "parameters": {...}}` from the first character of an answer: Llama 3.1's calls.
//!
//! Nothing marks a call, and an answer may well be JSON that is none. So unless a grammar forces it, an object is
//! held until it is whole, or until it can be no call any more.

use super::object::{CallObject, Step};
use super::{Sink, cut, is_space, text};
use crate::tool_syntax::llama;

const TAG: &[u8] = llama::TAG.as_bytes();

#[derive(Debug, Clone)]
pub(super) struct Llama {
    names: Vec<String>,
    forced: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Where an object may begin: white space, the tag, and after a call a semicolon.
    Gate {
        held: Vec<u8>,
        matched: usize,
        tagged: bool,
        after_call: bool,
    },
    Object(Box<CallObject>),
    /// All that follows is text.
    Text,
}

impl Llama {
    pub(super) fn new(names: Vec<String>, forced: bool) -> Self {
        Self { names, forced, state: State::gate(false) }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Text => return sink.content(bytes),
                State::Gate { held, matched, tagged, after_call } => {
                    if !*tagged && byte == TAG[*matched] {
                        *matched += 1;
                        *tagged = *matched == TAG.len();
                        held.push(byte);
                    } else if *matched > 0 && !*tagged {
                        sink.content(held);
                        self.state = State::Text;
                        continue;
                    } else if is_space(byte) || *after_call && byte == b';' {
                        held.push(byte);
                    } else if byte == b'{' {
                        let object = CallObject::new(self.forced, b"", std::mem::take(held));
                        self.state = State::Object(Box::new(object));
                        continue;
                    } else {
                        text(held, sink);
                        self.state = State::Text;
                        continue;
                    }
                }
                State::Object(object) => match object.push(byte, &self.names, sink) {
                    Step::More => {}
                    Step::NoCall => {
                        text(&object.take_held(), sink);
                        self.state = State::Text;
                        continue;
                    }
                    Step::Over | Step::Closed => self.state = State::gate(true),
                    Step::OverBefore => {
                        self.state = State::gate(true);
                        continue;
                    }
                },
            }
            bytes = rest;
        }
    }

    pub(super) fn finish(&mut self, sink: &mut dyn Sink) {
        match &mut self.state {
            State::Text => {}
            State::Gate { held, after_call, .. } => cut(held, self.forced || *after_call, sink),
            State::Object(object) => {
                object.finish(sink);
                cut(&object.take_held(), self.forced, sink);
            }
        }
    }
}

impl State {
    fn gate(after_call: bool) -> Self {
        Self::Gate { held: Vec::new(), matched: 0, tagged: false, after_call }
    }
}
