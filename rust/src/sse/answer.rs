//! How one answer is spelled: as a stream of chunks or as one object. What is constant in it is rendered
//! once, when the answer is opened.

use crate::event::{FinishReason, TokenLogprob, Usage};

use super::AnswerOptions;
use super::json;

/// The two spellings of an answer. Each method appends the bytes that may be sent now.
#[derive(Debug)]
pub(super) enum Spelling {
    /// Server-sent events, one per event.
    Stream(Stream),
    /// One JSON object at the end.
    Plain(Plain),
}

impl Spelling {
    pub(super) fn new(options: &AnswerOptions) -> Self {
        if options.stream { Self::Stream(Stream::new(options)) } else { Self::Plain(Plain::new(options)) }
    }

    /// The first event of a choice has come.
    pub(super) fn start(&mut self, choice: u32, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.chunk(choice, out, |out| {
                out.extend_from_slice(
                    br#"{"role":"assistant","content":""},"logprobs":null,"finish_reason":null"#,
                );
            }),
            Self::Plain(_) => {}
        }
    }

    /// Text became final.
    pub(super) fn text(&mut self, choice: u32, text: &str, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.text(choice, text, entries, out),
            Self::Plain(plain) => plain.text(choice, text, entries),
        }
    }

    /// The choice ended.
    pub(super) fn finish(&mut self, choice: u32, reason: FinishReason, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.chunk(choice, out, |out| {
                out.extend_from_slice(br#"{},"logprobs":null,"finish_reason":"#);
                json::string(reason.as_str(), out);
            }),
            Self::Plain(plain) => plain.choices[choice as usize].reason = reason.as_str(),
        }
    }

    /// The last choice ended.
    pub(super) fn end(&mut self, usage: Usage, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.end(usage, out),
            Self::Plain(plain) => plain.end(usage, out),
        }
    }
}

/// The event that ends a stream whose status is already sent.
pub(super) fn error_event(code: &str, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"data: {"error":{"message":"#);
    json::string(message, out);
    out.extend_from_slice(br#","type":"server_error","param":null,"code":"#);
    json::string(code, out);
    out.extend_from_slice(b"}}\n\n");
}

/// Appends what both spellings begin with, up to the choices.
fn begin(object: &str, options: &AnswerOptions, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"id":"#);
    json::string(&options.completion_id, out);
    out.extend_from_slice(br#","object":"#);
    json::string(object, out);
    out.extend_from_slice(br#","created":"#);
    json::integer(options.created, out);
    out.extend_from_slice(br#","model":"#);
    json::string(&options.model, out);
    out.extend_from_slice(br#","system_fingerprint":"#);
    json::string(&options.system_fingerprint, out);
    out.extend_from_slice(br#","choices":["#);
}

/// `chat.completion.chunk` objects, each in one server-sent event.
#[derive(Debug)]
pub(super) struct Stream {
    /// From `data:` to the bracket that opens the choices.
    head: Vec<u8>,
    include_usage: bool,
    logprobs: bool,
}

impl Stream {
    fn new(options: &AnswerOptions) -> Self {
        let mut head = b"data: ".to_vec();
        begin("chat.completion.chunk", options, &mut head);
        Self { head, include_usage: options.include_usage, logprobs: options.logprobs }
    }

    /// One chunk of one choice; `rest` writes the delta and what follows it.
    fn chunk(&self, choice: u32, out: &mut Vec<u8>, rest: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(br#"{"index":"#);
        json::integer(choice, out);
        out.extend_from_slice(br#","delta":"#);
        rest(out);
        let end: &[u8] = if self.include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" };
        out.extend_from_slice(end);
    }

    fn text(&self, choice: u32, text: &str, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        // Room for the whole chunk, so that a buffer grows once per wake and not piece by piece.
        out.reserve(self.head.len() + text.len() + 128);
        self.chunk(choice, out, |out| {
            out.extend_from_slice(br#"{"content":"#);
            json::string(text, out);
            if self.logprobs {
                out.extend_from_slice(br#"},"logprobs":{"content":["#);
                json::logprob_entries(entries, out);
                out.extend_from_slice(br#"],"refusal":null},"finish_reason":null"#);
            } else {
                out.extend_from_slice(br#"},"logprobs":null,"finish_reason":null"#);
            }
        });
    }

    fn end(&self, usage: Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(br#"],"usage":"#);
            json::usage(usage, out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// One `chat.completion` object.
#[derive(Debug)]
pub(super) struct Plain {
    /// Up to the bracket that opens the choices.
    head: Vec<u8>,
    choices: Vec<Message>,
    logprobs: bool,
}

/// A choice of a plain answer while it grows, rendered already.
#[derive(Debug, Clone, Default)]
struct Message {
    /// What stands between the quotes of `content`.
    content: Vec<u8>,
    /// What stands between the brackets of `logprobs.content`.
    entries: Vec<u8>,
    /// Empty until the choice ended.
    reason: &'static str,
}

impl Plain {
    fn new(options: &AnswerOptions) -> Self {
        let mut head = Vec::new();
        begin("chat.completion", options, &mut head);
        Self { head, choices: vec![Message::default(); options.choices as usize], logprobs: options.logprobs }
    }

    fn text(&mut self, choice: u32, text: &str, entries: &[TokenLogprob]) {
        let message = &mut self.choices[choice as usize];
        json::escape(text, &mut message.content);
        if self.logprobs {
            if !message.entries.is_empty() && !entries.is_empty() {
                message.entries.push(b',');
            }
            json::logprob_entries(entries, &mut message.entries);
        }
    }

    fn end(&mut self, usage: Usage, out: &mut Vec<u8>) {
        let size: usize =
            self.choices.iter().map(|message| message.content.len() + message.entries.len() + 160).sum();
        out.reserve_exact(self.head.len() + size + 256);
        out.append(&mut self.head);
        for (index, message) in self.choices.iter_mut().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"index":"#);
            json::integer(index as i64, out);
            out.extend_from_slice(br#","message":{"role":"assistant","content":""#);
            out.append(&mut message.content);
            out.extend_from_slice(br#"","refusal":null},"logprobs":"#);
            if self.logprobs {
                out.extend_from_slice(br#"{"content":["#);
                out.append(&mut message.entries);
                out.extend_from_slice(br#"],"refusal":null}"#);
            } else {
                out.extend_from_slice(b"null");
            }
            out.extend_from_slice(br#","finish_reason":"#);
            json::string(message.reason, out);
            out.push(b'}');
        }
        out.extend_from_slice(br#"],"usage":"#);
        json::usage(usage, out);
        out.push(b'}');
    }
}
