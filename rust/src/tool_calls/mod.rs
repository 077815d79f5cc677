//! What an answer is made of: takes its bytes as they arrive, tells text, reasoning and tool calls apart. What
//! becomes of each is `output`'s; docs/tool-calls.md has the grammars and what is held back.
//!
//! Each syntax is a machine that sees every byte once and never looks back: it keeps the bytes whose meaning is
//! still open and nothing else, so the cost is linear and any cut of the bytes gives the same parts.

mod closing;
mod gemma;
mod gemma_arguments;
mod hermes;
mod json;
mod llama;
mod object;
mod opening;
mod thoughts;

use gemma::Gemma;
use hermes::Hermes;
use llama::Llama;
use thoughts::Thoughts;

pub use crate::tool_syntax::Syntax;
use crate::tool_syntax::{gemma as gemma_tags, hermes as hermes_tags, llama as llama_tags};

/// What is looked for in an answer.
#[derive(Debug, Clone, Default)]
pub struct ToolOptions {
    /// None: an answer has no calls.
    pub syntax: Option<Syntax>,
    /// The request's tools; a call of any other name is text.
    pub names: Vec<String>,
    /// The answer is a call from its first character, held to the syntax by a grammar.
    pub forced: bool,
    /// At most so many calls, at least 1; the next one ends the answer.
    pub max_calls: Option<u32>,
    /// Whether a thought before the answer is reasoning rather than text.
    pub reasoning: bool,
    /// Whether the prompt has opened a thought, so that the answer begins within it. Only with `reasoning`.
    pub in_thought: bool,
}

/// Where the parts of an answer go.
///
/// `content`, `reasoning` and `syntax` together account for every byte pushed, each once and in order; the
/// arguments of a call may be spelled otherwise than the model spelled them.
pub trait Sink {
    /// Bytes that are text of the answer.
    fn content(&mut self, bytes: &[u8]);
    /// Bytes that are reasoning.
    fn reasoning(&mut self, bytes: &[u8]);
    /// So many bytes that are neither: tags, the frame of a call, its arguments.
    fn syntax(&mut self, count: usize);
    /// A call begins. `name` is one of the request's tools.
    fn call(&mut self, name: &str);
    /// More of the JSON text of its arguments.
    fn arguments(&mut self, json: &[u8]);
    /// The call is whole. A call that is cut off never is.
    fn end_call(&mut self);
}

/// Where one answer stands.
#[derive(Debug, Clone)]
pub struct AnswerParser {
    markers: Vec<&'static [u8]>,
    /// None once the answer proper has begun.
    thoughts: Option<Thoughts>,
    calls: Calls,
}

/// The machines, one per syntax.
#[derive(Debug, Clone)]
enum Calls {
    None,
    Llama(Llama),
    Hermes(Hermes),
    Gemma(Gemma),
}

impl AnswerParser {
    /// A parser at the start of an answer.
    pub fn new(options: &ToolOptions) -> Self {
        let mut markers: Vec<&[u8]> =
            options.syntax.map_or(&[][..], markers).iter().map(|tag| tag.as_bytes()).collect();
        let thoughts = options.reasoning.then(|| Thoughts::new(options.syntax, options.in_thought));
        markers.extend(thoughts.iter().flat_map(Thoughts::markers));
        let names = || options.names.clone();
        let calls = match options.syntax {
            None => Calls::None,
            Some(Syntax::Llama) => Calls::Llama(Llama::new(names(), options.forced)),
            Some(Syntax::Hermes) => Calls::Hermes(Hermes::new(names(), options.forced)),
            Some(Syntax::Gemma) => Calls::Gemma(Gemma::new(names(), options.forced)),
        };
        Self { markers, thoughts, calls }
    }

    /// Whether a special token with these bytes is to be pushed. Others are no part of an answer.
    pub fn wants_special(&self, bytes: &[u8]) -> bool {
        self.markers.contains(&bytes)
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) {
        if let Some(thoughts) = &mut self.thoughts {
            let Some(taken) = thoughts.push(bytes, sink) else { return };
            let held = thoughts.take_held();
            self.thoughts = None;
            bytes = &bytes[taken..];
            self.calls.push(&held, sink);
        }
        self.calls.push(bytes, sink);
    }

    /// Ends the answer: what was held is judged as it stands.
    pub fn finish(&mut self, sink: &mut dyn Sink) {
        if let Some(mut thoughts) = self.thoughts.take() {
            let held = thoughts.finish(sink);
            self.calls.push(&held, sink);
        }
        match &mut self.calls {
            Calls::None => {}
            Calls::Llama(machine) => machine.finish(sink),
            Calls::Hermes(machine) => machine.finish(sink),
            Calls::Gemma(machine) => machine.finish(sink),
        }
    }
}

/// Special tokens that mean something to the machine. All others are left out of an answer unseen.
fn markers(syntax: Syntax) -> &'static [&'static str] {
    match syntax {
        Syntax::Llama => &[llama_tags::TAG],
        Syntax::Hermes => &[hermes_tags::OPEN, hermes_tags::CLOSE],
        Syntax::Gemma => &[gemma_tags::OPEN, gemma_tags::CLOSE, gemma_tags::QUOTE],
    }
}

impl Calls {
    fn push(&mut self, bytes: &[u8], sink: &mut dyn Sink) {
        match self {
            Self::None => text(bytes, sink),
            Self::Llama(machine) => machine.push(bytes, sink),
            Self::Hermes(machine) => machine.push(bytes, sink),
            Self::Gemma(machine) => machine.push(bytes, sink),
        }
    }
}

/// White space of JSON, which is that of the syntaxes too.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Bytes that are text, if there are any.
fn text(bytes: &[u8], sink: &mut dyn Sink) {
    if !bytes.is_empty() {
        sink.content(bytes);
    }
}

/// Bytes that were still open when the answer ended. They are its text, except in a forced call, whose
/// unfinished frame is none.
fn cut(held: &[u8], forced: bool, sink: &mut dyn Sink) {
    if forced { sink.syntax(held.len()) } else { text(held, sink) }
}

/// Whether `start` may become one of the names.
fn begins_a_name(names: &[String], start: &[u8]) -> bool {
    names.iter().any(|name| name.as_bytes().starts_with(start))
}

/// The name that is spelled by these bytes.
fn find_name<'a>(names: &'a [String], bytes: &[u8]) -> Option<&'a str> {
    names.iter().map(String::as_str).find(|name| name.as_bytes() == bytes)
}
