//! `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` among text: Qwen's calls, and those of every model
//! whose template knows no tools.

use super::closing::{Closed, Closing};
use super::object::{CallObject, Step};
use super::opening::Opening;
use super::{Sink, cut};
use crate::tool_syntax::hermes;

const OPEN: &[u8] = hermes::OPEN.as_bytes();
const CLOSE: &[u8] = hermes::CLOSE.as_bytes();

#[derive(Debug, Clone)]
pub(super) struct Hermes {
    names: Vec<String>,
    forced: bool,
    opening: Opening,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Text,
    /// After the opening tag.
    Object(Box<CallObject>),
    /// After the object.
    After(Closing),
}

impl Hermes {
    pub(super) fn new(names: Vec<String>, forced: bool) -> Self {
        Self { names, forced, opening: Opening::new(OPEN), state: State::Text }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Text => {
                    let Some(taken) = self.opening.push(bytes, sink) else { return };
                    let object = CallObject::new(true, CLOSE, self.opening.take());
                    self.state = State::Object(Box::new(object));
                    bytes = &bytes[taken..];
                    continue;
                }
                State::Object(object) => match object.push(byte, &self.names, sink) {
                    Step::More => {}
                    Step::NoCall => {
                        sink.content(&object.take_held());
                        self.state = State::Text;
                        continue;
                    }
                    Step::Over => self.state = State::After(Closing::new(CLOSE, false)),
                    Step::Closed => self.state = State::After(Closing::new(CLOSE, true)),
                    Step::OverBefore => {
                        self.state = State::After(Closing::new(CLOSE, false));
                        continue;
                    }
                },
                State::After(closing) => {
                    if let Closed::Left(held) = closing.push(byte, sink) {
                        // Text, or the next tag, which begins as the closing tag does.
                        self.state = State::Text;
                        self.opening.push(held, sink);
                        continue;
                    }
                }
            }
            bytes = rest;
        }
    }

    pub(super) fn finish(&mut self, sink: &mut dyn Sink) {
        match &mut self.state {
            State::Text => cut(&self.opening.take(), self.forced, sink),
            State::Object(object) => {
                object.finish(sink);
                cut(&object.take_held(), self.forced, sink);
            }
            State::After(closing) => closing.finish(sink),
        }
    }
}
