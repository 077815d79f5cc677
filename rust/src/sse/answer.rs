//! How one answer is spelled: as a stream of chunks or as one object. What is constant in it is rendered
//! once, when the answer is opened.

use crate::event::{FinishReason, TokenLogprob, Usage};

use super::completion::Completion;
use super::json;
use super::response::Response;
use super::{AnswerOptions, Form};

/// The two spellings of an answer. Each method appends the bytes that may be sent now.
#[derive(Debug)]
pub(super) enum Spelling {
    /// Server-sent events, one per event.
    Stream(Stream),
    /// One JSON object at the end.
    Plain(Plain),
    /// The older completions endpoint, streamed or plain.
    Completion(Box<Completion>),
    /// The responses endpoint, streamed or plain.
    Response(Box<Response>),
}

impl Spelling {
    /// None for events, which are not spelled.
    pub(super) fn new(options: &AnswerOptions) -> Option<Self> {
        match (options.form, options.stream) {
            (Form::Chat, true) => Some(Self::Stream(Stream::new(options))),
            (Form::Chat, false) => Some(Self::Plain(Plain::new(options))),
            (Form::Completion, _) => Some(Self::Completion(Box::new(Completion::new(options)))),
            (Form::Response, _) => Some(Self::Response(Box::new(Response::new(options)))),
            (Form::Events, _) => None,
        }
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
            Self::Completion(completion) => completion.start(choice, out),
            Self::Response(response) => response.start(out),
        }
    }

    /// Prompt tokens were scored.
    pub(super) fn prompt(&mut self, choice: u32, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        if let Self::Completion(completion) = self {
            completion.prompt(choice, entries, out);
        }
    }

    /// Text became final.
    pub(super) fn text(&mut self, choice: u32, text: &str, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.text(choice, text, entries, out),
            Self::Plain(plain) => plain.text(choice, text, entries),
            Self::Completion(completion) => completion.text(choice, text, entries, out),
            Self::Response(response) => response.text(text, entries, out),
        }
    }

    /// The model thought aloud.
    pub(super) fn reasoning(&mut self, choice: u32, text: &str, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.delta(choice, out, |out| {
                out.extend_from_slice(br#""reasoning_content":"#);
                json::string(text, out);
            }),
            Self::Plain(plain) => json::escape(text, &mut plain.choices[choice as usize].reasoning),
            // This endpoint has no word for it, and what the model wrote is not held back.
            Self::Completion(completion) => completion.text(choice, text, &[], out),
            Self::Response(response) => response.reasoning(text, out),
        }
    }

    /// A tool call began.
    pub(super) fn tool_call(&mut self, choice: u32, index: u32, id: &str, name: &str, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.delta(choice, out, |out| {
                out.extend_from_slice(br#""tool_calls":[{"index":"#);
                json::integer(index, out);
                out.push(b',');
                call_header(id, name, out);
                out.extend_from_slice(br#""}}]"#);
            }),
            Self::Plain(plain) => {
                let mut call = Vec::new();
                call_header(id, name, &mut call);
                plain.choices[choice as usize].calls.push(call);
            }
            Self::Completion(_) => {}
            Self::Response(response) => response.tool_call(index, id, name, out),
        }
    }

    /// More of the arguments of the call with this index.
    pub(super) fn tool_arguments(&mut self, choice: u32, index: u32, text: &str, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.delta(choice, out, |out| {
                out.extend_from_slice(br#""tool_calls":[{"index":"#);
                json::integer(index, out);
                out.extend_from_slice(br#","function":{"arguments":"#);
                json::string(text, out);
                out.extend_from_slice(br#"}}]"#);
            }),
            Self::Plain(plain) => {
                if let Some(call) = plain.choices[choice as usize].calls.get_mut(index as usize) {
                    json::escape(text, call);
                }
            }
            Self::Completion(_) => {}
            Self::Response(response) => response.tool_arguments(index, text, out),
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
            Self::Completion(completion) => completion.finish(choice, reason, out),
            Self::Response(response) => response.finish(reason, out),
        }
    }

    /// The last choice ended.
    pub(super) fn end(&mut self, usage: Usage, out: &mut Vec<u8>) {
        match self {
            Self::Stream(stream) => stream.end(usage, out),
            Self::Plain(plain) => plain.end(usage, out),
            Self::Completion(completion) => completion.end(usage, out),
            Self::Response(response) => response.end(usage, out),
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

/// Appends what a call says before its arguments; the string of the arguments stays open.
fn call_header(id: &str, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#""id":"#);
    json::string(id, out);
    out.extend_from_slice(br#","type":"function","function":{"name":"#);
    json::string(name, out);
    out.extend_from_slice(br#","arguments":""#);
}

/// Appends what both spellings begin with, up to the choices.
pub(super) fn begin(object: &str, options: &AnswerOptions, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"id":"#);
    json::string(&options.completion_id, out);
    out.extend_from_slice(br#","object":"#);
    json::string(object, out);
    out.extend_from_slice(br#","created":"#);
    json::integer(options.created, out);
    out.extend_from_slice(br#","model":"#);
    json::string(&options.model, out);
    if options.tells_service_tier {
        out.extend_from_slice(br#","service_tier":"default""#);
    }
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

    /// A chunk of what is no text; `member` writes the delta's only member.
    fn delta(&self, choice: u32, out: &mut Vec<u8>, member: impl FnOnce(&mut Vec<u8>)) {
        self.chunk(choice, out, |out| {
            out.push(b'{');
            member(out);
            out.extend_from_slice(br#"},"logprobs":null,"finish_reason":null"#);
        });
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
    /// What stands between the quotes of `reasoning_content`; no such member if there is nothing.
    reasoning: Vec<u8>,
    /// The tool calls, each up to the quote that ends its arguments.
    calls: Vec<Vec<u8>>,
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
        let size: usize = self.choices.iter().map(Message::size).sum();
        out.reserve_exact(self.head.len() + size + 256);
        out.append(&mut self.head);
        for (index, message) in self.choices.iter_mut().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"index":"#);
            json::integer(index as i64, out);
            out.extend_from_slice(br#","message":"#);
            message.write(out);
            out.extend_from_slice(br#","logprobs":"#);
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

impl Message {
    /// About how many bytes it takes.
    fn size(&self) -> usize {
        let calls: usize = self.calls.iter().map(|call| call.len() + 8).sum();
        self.content.len() + self.reasoning.len() + calls + self.entries.len() + 224
    }

    /// Appends the message object. What has been written is gone, so that two copies never live together.
    fn write(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"role":"assistant","content":"#);
        if self.content.is_empty() && !self.calls.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            out.push(b'"');
            out.append(&mut self.content);
            out.push(b'"');
        }
        if !self.reasoning.is_empty() {
            out.extend_from_slice(br#","reasoning_content":""#);
            out.append(&mut self.reasoning);
            out.push(b'"');
        }
        for (index, call) in self.calls.iter_mut().enumerate() {
            let opening: &[u8] = if index == 0 { br#","tool_calls":[{"# } else { br#",{"# };
            out.extend_from_slice(opening);
            out.append(call);
            out.extend_from_slice(br#""}}"#);
        }
        let ending: &[u8] =
            if self.calls.is_empty() { br#","refusal":null}"# } else { br#"],"refusal":null}"# };
        out.extend_from_slice(ending);
    }
}
