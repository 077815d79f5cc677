//! The thoughts before an answer: takes its first bytes, tells reasoning from what the answer begins with.

use super::{Sink, Syntax, is_space};

/// How a thought begins and ends.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// The special token in `open`, if it is not all of it.
    token: &'static [u8],
    open: &'static [u8],
    close: &'static [u8],
}

const CHANNEL: Form = Form { token: b"<|channel>", open: b"<|channel>thought\n", close: b"<channel|>" };
const THINK: Form = Form { token: b"<think>", open: b"<think>", close: b"</think>" };

#[derive(Debug, Clone)]
pub(super) struct Thoughts {
    forms: &'static [Form],
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// White space, then perhaps the beginning of a tag, of which so many bytes matched.
    Start { held: Vec<u8>, matched: usize },
    /// In a thought. Of the closing tag so many bytes have matched; white space after the tag is none of it.
    Inside { form: Form, matched: usize, begun: bool },
    /// After a thought: white space.
    After,
}

impl Thoughts {
    /// `opened`: the answer begins within a thought.
    pub(super) fn new(syntax: Option<Syntax>, opened: bool) -> Self {
        let forms: &[Form] = match syntax {
            Some(Syntax::Gemma) => &[CHANNEL],
            Some(Syntax::Hermes) => &[THINK],
            Some(Syntax::Llama) | None => &[CHANNEL, THINK],
        };
        let inside = State::Inside { form: forms[0], matched: 0, begun: false };
        Self { forms, state: if opened { inside } else { State::start() } }
    }

    pub(super) fn markers(&self) -> impl Iterator<Item = &'static [u8]> + use<> {
        self.forms.iter().flat_map(|form| [form.token, form.close])
    }

    /// Takes bytes. Some(n): the answer proper begins with what is held and the bytes from n on.
    pub(super) fn push(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            match &mut self.state {
                State::After if is_space(byte) => sink.syntax(1),
                State::After => {
                    self.state = State::start();
                    continue;
                }
                State::Start { held, matched: 0 } if is_space(byte) => held.push(byte),
                State::Start { held, matched } => {
                    held.push(byte);
                    *matched += 1;
                    let start = &held[held.len() - *matched..];
                    let Some(&form) = self.forms.iter().find(|form| form.open.starts_with(start)) else {
                        held.pop();
                        return Some(at);
                    };
                    if *matched == form.open.len() {
                        sink.syntax(held.len());
                        self.state = State::Inside { form, matched: 0, begun: false };
                    }
                }
                State::Inside { form, matched, begun } => {
                    if *matched > 0 && byte != form.close[*matched] {
                        sink.reasoning(&form.close[..*matched]);
                        (*matched, *begun) = (0, true);
                    }
                    if byte == form.close[*matched] {
                        *matched += 1;
                        if *matched == form.close.len() {
                            sink.syntax(*matched);
                            self.state = State::After;
                        }
                    } else if *begun || !is_space(byte) {
                        *begun = true;
                        let plain = bytes[at..].iter().position(|&byte| byte == form.close[0]);
                        let end = plain.map_or(bytes.len(), |plain| at + plain);
                        sink.reasoning(&bytes[at..end]);
                        at = end;
                        continue;
                    } else {
                        sink.syntax(1);
                    }
                }
            }
            at += 1;
        }
        None
    }

    /// What is held, which is forgotten.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        match &mut self.state {
            State::Start { held, .. } => std::mem::take(held),
            _ => Vec::new(),
        }
    }

    /// Ends the answer and gives what is held. A thought without an end is a thought.
    pub(super) fn finish(&mut self, sink: &mut dyn Sink) -> Vec<u8> {
        if let State::Inside { form, matched: 1.., .. } = self.state {
            let State::Inside { matched, .. } = self.state else { return Vec::new() };
            sink.reasoning(&form.close[..matched]);
        }
        self.take_held()
    }
}

impl State {
    fn start() -> Self {
        Self::Start { held: Vec::new(), matched: 0 }
    }
}
