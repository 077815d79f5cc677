//! `<|tool_call>call:name{key:value}<tool_call|>` among text: Gemma's calls. What stands between the braces is
//! `gemma_arguments`'.

use super::closing::{Closed, Closing};
use super::gemma_arguments::{Arguments, Progress};
use super::opening::Opening;
use super::{Sink, begins_a_name, cut, find_name};
use crate::tool_syntax::gemma;

/// The opening tag and what follows it in every call.
const OPEN: &[u8] = gemma::OPEN_CALL.as_bytes();
const CLOSE: &[u8] = gemma::CLOSE.as_bytes();

#[derive(Debug, Clone)]
pub(super) struct Gemma {
    names: Vec<String>,
    forced: bool,
    opening: Opening,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Text,
    /// The opening and the name so far, which begins at `start`.
    Name {
        held: Vec<u8>,
        start: usize,
    },
    Arguments(Box<Arguments>),
    /// After the closing brace.
    After(Closing),
}

impl Gemma {
    pub(super) fn new(names: Vec<String>, forced: bool) -> Self {
        Self { names, forced, opening: Opening::new(OPEN), state: State::Text }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Text => {
                    let Some(taken) = self.opening.push(bytes, sink) else { return };
                    let held = self.opening.take();
                    self.state = State::Name { start: held.len(), held };
                    bytes = &bytes[taken..];
                    continue;
                }
                State::Name { held, start } => match find_name(&self.names, &held[*start..]) {
                    Some(name) if byte == b'{' => {
                        sink.call(name);
                        sink.syntax(held.len() + 1);
                        sink.arguments(b"{");
                        self.state = State::Arguments(Box::default());
                    }
                    _ => {
                        held.push(byte);
                        if !begins_a_name(&self.names, &held[*start..]) {
                            held.pop();
                            sink.content(held);
                            self.state = State::Text;
                            continue;
                        }
                    }
                },
                State::Arguments(arguments) => match arguments.push(byte, sink) {
                    Progress::More => {}
                    Progress::Over => self.state = State::After(Closing::new(CLOSE, false)),
                    Progress::Closed => self.state = State::After(Closing::new(CLOSE, true)),
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
            State::Name { held, .. } => cut(held, self.forced, sink),
            State::Arguments(arguments) => arguments.finish(sink),
            State::After(closing) => closing.finish(sink),
        }
    }
}
