//! `response` objects: how the responses endpoint spells an answer, as one object or as the events of its making.
//!
//! An answer is a list of items: a message, reasoning, or a function call. One item is open at a time; an event
//! of another kind closes it. Each item is rendered once, for its own last event and for the whole.

use crate::event::{FinishReason, TokenLogprob, Usage};

use super::AnswerOptions;
use super::json;

/// One answer. Each method appends the bytes that may be sent now.
#[derive(Debug)]
pub(super) struct Response {
    stream: bool,
    logprobs: bool,
    /// Of the next event.
    sequence_number: u64,
    /// The object up to `status`, which changes.
    head: Vec<u8>,
    /// Members that the request settled, each with a comma before it.
    fields: Vec<u8>,
    /// The random part of the answer's id, which its items share.
    suffix: String,
    /// The finished items with commas between them.
    items: Vec<u8>,
    num_items: u32,
    open: Option<Item>,
    reason: FinishReason,
}

/// The item that is being made. `text` and `entries` stand between quotes and brackets.
#[derive(Debug)]
struct Item {
    kind: Kind,
    id: String,
    text: Vec<u8>,
    entries: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Message,
    Reasoning,
    Call { index: u32, call_id: String, name: String },
}

impl Response {
    pub(super) fn new(options: &AnswerOptions) -> Self {
        let mut head = br#"{"id":"#.to_vec();
        json::string(&options.completion_id, &mut head);
        head.extend_from_slice(br#","object":"response","created_at":"#);
        json::integer(options.created, &mut head);
        head.extend_from_slice(br#","model":"#);
        json::string(&options.model, &mut head);
        let suffix = options.completion_id.rsplit('_').next().unwrap_or_default();
        Self {
            stream: options.stream,
            logprobs: options.logprobs,
            sequence_number: 0,
            head,
            fields: options.fields.clone().into_bytes(),
            suffix: suffix.to_owned(),
            items: Vec::new(),
            num_items: 0,
            open: None,
            reason: FinishReason::Stop,
        }
    }

    /// The first event has come.
    pub(super) fn start(&mut self, out: &mut Vec<u8>) {
        for name in ["response.created", "response.in_progress"] {
            self.event(name, out, |this, out| {
                out.extend_from_slice(br#","response":"#);
                this.object("in_progress", None, out);
            });
        }
    }

    /// Text became final.
    pub(super) fn text(&mut self, text: &str, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        self.enter(|kind| *kind == Kind::Message, || Kind::Message, out);
        let mut told = Vec::new();
        if self.logprobs {
            json::logprob_entries(entries, &mut told);
        }
        self.delta("response.output_text.delta", text, Some(&told), out);
        let Some(item) = &mut self.open else { return };
        if !item.entries.is_empty() && !told.is_empty() {
            item.entries.push(b',');
        }
        item.entries.append(&mut told);
    }

    /// The model thought aloud.
    pub(super) fn reasoning(&mut self, text: &str, out: &mut Vec<u8>) {
        self.enter(|kind| *kind == Kind::Reasoning, || Kind::Reasoning, out);
        self.delta("response.reasoning_text.delta", text, None, out);
    }

    /// A tool call began.
    pub(super) fn tool_call(&mut self, index: u32, id: &str, name: &str, out: &mut Vec<u8>) {
        let call = || Kind::Call { index, call_id: id.to_owned(), name: name.to_owned() };
        self.enter(|_| false, call, out);
    }

    /// More of the arguments of the call that is open.
    pub(super) fn tool_arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        let is_open = |item: &Item| matches!(item.kind, Kind::Call { index: open, .. } if open == index);
        if self.open.as_ref().is_some_and(is_open) {
            self.delta("response.function_call_arguments.delta", text, None, out);
        }
    }

    /// The choice ended.
    pub(super) fn finish(&mut self, reason: FinishReason, out: &mut Vec<u8>) {
        if self.num_items == 0 && self.open.is_none() {
            // An answer without a word is a message without text.
            self.enter(|_| false, || Kind::Message, out);
        }
        self.reason = reason;
        self.close(out);
    }

    /// The last choice ended: there is one.
    pub(super) fn end(&mut self, usage: Usage, out: &mut Vec<u8>) {
        let status = self.status();
        if self.stream {
            let name = if status == "completed" { "response.completed" } else { "response.incomplete" };
            self.event(name, out, |this, out| {
                out.extend_from_slice(br#","response":"#);
                this.object(status, Some(usage), out);
            });
        } else {
            self.object(status, Some(usage), out);
        }
    }

    /// Of the whole, and of the item that ends last.
    fn status(&self) -> &'static str {
        if self.reason == FinishReason::Length { "incomplete" } else { "completed" }
    }

    // --- items ------------------------------------------------------------------------------------------

    /// Leaves what is open, unless it `fits`, and opens a new item.
    fn enter(&mut self, fits: impl Fn(&Kind) -> bool, kind: impl FnOnce() -> Kind, out: &mut Vec<u8>) {
        if self.open.as_ref().is_some_and(|item| fits(&item.kind)) {
            return;
        }
        self.close(out);
        let kind = kind();
        let id = format!("{}_{}{:02x}", kind.prefix(), self.suffix, self.num_items);
        let item = Item { kind, id, text: Vec::new(), entries: Vec::new() };
        self.event("response.output_item.added", out, |this, out| {
            this.output_index(out);
            out.extend_from_slice(br#","item":"#);
            item.write("in_progress", true, out);
        });
        if let Some(part) = item.kind.part() {
            self.event("response.content_part.added", out, |this, out| {
                this.place(&item, out);
                out.extend_from_slice(br#","part":"#);
                write_part(part, b"", b"", out);
            });
        }
        self.open = Some(item);
    }

    fn delta(&mut self, name: &str, text: &str, entries: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(mut item) = self.open.take() else { return };
        let begin = item.text.len();
        json::escape(text, &mut item.text);
        self.event(name, out, |this, out| {
            this.place(&item, out);
            out.extend_from_slice(br#","delta":""#);
            out.extend_from_slice(&item.text[begin..]);
            out.push(b'"');
            if let Some(entries) = entries {
                out.extend_from_slice(br#","logprobs":["#);
                out.extend_from_slice(entries);
                out.push(b']');
            }
        });
        self.open = Some(item);
    }

    /// Ends the item that is open, if one is.
    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(item) = self.open.take() else { return };
        let (name, member) = item.kind.done();
        self.event(name, out, |this, out| {
            this.place(&item, out);
            out.extend_from_slice(member);
            out.extend_from_slice(&item.text);
            out.push(b'"');
            if item.kind == Kind::Message {
                out.extend_from_slice(br#","logprobs":["#);
                out.extend_from_slice(&item.entries);
                out.push(b']');
            }
            if let Kind::Call { name, .. } = &item.kind {
                out.extend_from_slice(br#","name":"#);
                json::string(name, out);
            }
        });
        if let Some(part) = item.kind.part() {
            self.event("response.content_part.done", out, |this, out| {
                this.place(&item, out);
                out.extend_from_slice(br#","part":"#);
                write_part(part, &item.text, &item.entries, out);
            });
        }
        let mut rendered = Vec::with_capacity(item.text.len() + item.entries.len() + 192);
        item.write(self.status(), false, &mut rendered);
        self.event("response.output_item.done", out, |this, out| {
            this.output_index(out);
            out.extend_from_slice(br#","item":"#);
            out.extend_from_slice(&rendered);
        });
        if self.num_items > 0 {
            self.items.push(b',');
        }
        self.items.append(&mut rendered);
        self.num_items += 1;
    }

    // --- spelling ---------------------------------------------------------------------------------------

    /// One event of a stream; `rest` writes what follows the number.
    fn event(&mut self, name: &str, out: &mut Vec<u8>, rest: impl FnOnce(&Self, &mut Vec<u8>)) {
        if !self.stream {
            return;
        }
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\ndata: {\"type\":");
        json::string(name, out);
        out.extend_from_slice(br#","sequence_number":"#);
        json::integer(self.sequence_number as i64, out);
        self.sequence_number += 1;
        rest(self, out);
        out.extend_from_slice(b"}\n\n");
    }

    fn output_index(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","output_index":"#);
        json::integer(self.num_items, out);
    }

    /// Which item, and which part of it.
    fn place(&self, item: &Item, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","item_id":"#);
        json::string(&item.id, out);
        self.output_index(out);
        if item.kind.part().is_some() {
            out.extend_from_slice(br#","content_index":0"#);
        }
    }

    /// The response object as it stands; only the last one has a usage.
    fn object(&self, status: &str, usage: Option<Usage>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(br#","status":"#);
        json::string(status, out);
        let details: &[u8] =
            if status == "incomplete" { br#"{"reason":"max_output_tokens"}"# } else { b"null" };
        out.extend_from_slice(br#","error":null,"incomplete_details":"#);
        out.extend_from_slice(details);
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(br#","output":["#);
        out.extend_from_slice(&self.items);
        out.extend_from_slice(br#"],"usage":"#);
        match usage {
            Some(usage) => json::response_usage(usage, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
}

impl Kind {
    /// How ids of such items begin.
    fn prefix(&self) -> &'static str {
        match self {
            Self::Message => "msg",
            Self::Reasoning => "rs",
            Self::Call { .. } => "fc",
        }
    }

    /// The type of the item's only part, if it has parts.
    fn part(&self) -> Option<&'static str> {
        match self {
            Self::Message => Some("output_text"),
            Self::Reasoning => Some("reasoning_text"),
            Self::Call { .. } => None,
        }
    }

    /// The event that tells the whole text, and the member that holds it up to the opening quote.
    fn done(&self) -> (&'static str, &'static [u8]) {
        match self {
            Self::Message => ("response.output_text.done", br#","text":""#),
            Self::Reasoning => ("response.reasoning_text.done", br#","text":""#),
            Self::Call { .. } => ("response.function_call_arguments.done", br#","arguments":""#),
        }
    }
}

impl Item {
    /// Appends the item object; `empty` leaves the content out, as where it is only announced.
    fn write(&self, status: &str, empty: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"id":"#);
        json::string(&self.id, out);
        out.extend_from_slice(match self.kind {
            Kind::Message => br#","type":"message","role":"assistant""#.as_slice(),
            Kind::Reasoning => br#","type":"reasoning","summary":[]"#,
            Kind::Call { .. } => br#","type":"function_call""#,
        });
        out.extend_from_slice(br#","status":"#);
        json::string(status, out);
        match &self.kind {
            Kind::Call { call_id, name, .. } => {
                out.extend_from_slice(br#","call_id":"#);
                json::string(call_id, out);
                out.extend_from_slice(br#","name":"#);
                json::string(name, out);
                out.extend_from_slice(br#","arguments":""#);
                out.extend_from_slice(&self.text);
                out.push(b'"');
            }
            kind => {
                out.extend_from_slice(br#","content":["#);
                if let (Some(part), false) = (kind.part(), empty) {
                    write_part(part, &self.text, &self.entries, out);
                }
                out.push(b']');
            }
        }
        out.push(b'}');
    }
}

/// Appends a part of an item's content; `text` is escaped already.
fn write_part(kind: &str, text: &[u8], entries: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"#);
    json::string(kind, out);
    out.extend_from_slice(br#","text":""#);
    out.extend_from_slice(text);
    out.push(b'"');
    if kind == "output_text" {
        out.extend_from_slice(br#","annotations":[],"logprobs":["#);
        out.extend_from_slice(entries);
        out.push(b']');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn response(stream: bool) -> Response {
        Response::new(&AnswerOptions {
            completion_id: "resp_ab".into(),
            created: 7,
            model: "m".into(),
            system_fingerprint: String::new(),
            stream,
            choices: 1,
            include_usage: false,
            logprobs: false,
            form: crate::sse::Form::Response,
            tells_service_tier: false,
            prompts: 1,
            echo: vec![],
            echo_hidden: 0,
            prompt_only: false,
            fields: ",\"store\":false".into(),
        })
    }

    /// A thought, text, and two calls, the second cut.
    fn told(response: &mut Response, reason: FinishReason) -> String {
        let mut out = Vec::new();
        response.start(&mut out);
        response.reasoning("h\"m", &mut out);
        response.text("I ", &[], &mut out);
        response.text("look", &[], &mut out);
        for (index, arguments) in ["{}", "{\"a"].into_iter().enumerate() {
            response.tool_call(index as u32, &format!("call_{index}"), "f", &mut out);
            response.tool_arguments(index as u32, arguments, &mut out);
        }
        response.finish(reason, &mut out);
        let usage = Usage { prompt_tokens: 3, cached_tokens: 1, completion_tokens: 9, reasoning_tokens: 2 };
        response.end(usage, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn events(stream: &str) -> Vec<Value> {
        let frames = stream.split_terminator("\n\n");
        frames.map(|frame| serde_json::from_str(frame.split_once("\ndata: ").unwrap().1).unwrap()).collect()
    }

    #[test]
    fn every_kind_of_item_is_told_whole() {
        let plain: Value = serde_json::from_str(&told(&mut response(false), FinishReason::Length)).unwrap();
        assert_eq!(
            plain,
            json!({
                "id": "resp_ab", "object": "response", "created_at": 7, "model": "m", "status": "incomplete",
                "error": null, "incomplete_details": {"reason": "max_output_tokens"}, "store": false,
                "output": [
                    {"id": "rs_ab00", "type": "reasoning", "summary": [], "status": "completed",
                     "content": [{"type": "reasoning_text", "text": "h\"m"}]},
                    {"id": "msg_ab01", "type": "message", "role": "assistant", "status": "completed",
                     "content": [{"type": "output_text", "text": "I look", "annotations": [], "logprobs": []}]},
                    {"id": "fc_ab02", "type": "function_call", "status": "completed",
                     "call_id": "call_0", "name": "f", "arguments": "{}"},
                    {"id": "fc_ab03", "type": "function_call", "status": "incomplete",
                     "call_id": "call_1", "name": "f", "arguments": "{\"a"},
                ],
                "usage": {
                    "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 9,
                    "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 12,
                },
            })
        );
    }

    #[test]
    fn the_events_are_the_making_of_the_plain_answer() {
        let plain: Value =
            serde_json::from_str(&told(&mut response(false), FinishReason::ToolCalls)).unwrap();
        let events = events(&told(&mut response(true), FinishReason::ToolCalls));
        let last = events.last().unwrap();
        assert_eq!((&last["type"], &last["response"]), (&json!("response.completed"), &plain));
        let numbers: Vec<u64> =
            events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());

        let done = |event: &&Value| event["type"] == "response.output_item.done";
        let items: Vec<&Value> = events.iter().filter(done).map(|event| &event["item"]).collect();
        assert_eq!(items, plain["output"].as_array().unwrap().iter().collect::<Vec<_>>());
        for (index, item) in items.into_iter().enumerate() {
            let own: Vec<&Value> = events.iter().filter(|event| event["output_index"] == index).collect();
            assert_eq!(own[0]["type"], "response.output_item.added");
            assert_eq!(
                (&own[0]["item"]["id"], &own[0]["item"]["status"]),
                (&item["id"], &json!("in_progress"))
            );
            let deltas: String = own.iter().filter_map(|event| event["delta"].as_str()).collect();
            let whole = item["arguments"].as_str().or(item["content"][0]["text"].as_str());
            assert_eq!(Some(deltas.as_str()), whole);
        }
    }

    #[test]
    fn arguments_of_a_call_that_is_not_open_are_left_out() {
        let mut response = response(true);
        let mut out = Vec::new();
        response.tool_arguments(0, "{}", &mut out);
        assert!(out.is_empty());
    }
}
