//! Events to the bytes of HTTP answers: takes an `EventBatch`, gathers bytes for each request until its
//! connection takes them. Statuses, headers and sockets are the server's.

mod answer;
mod completion;
mod json;
mod response;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::event::{EventBatch, EventKind, Usage};
use crate::event_codec;

use answer::{Spelling, error_event};

/// The endpoint whose objects an answer is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// `chat.completion` and `chat.completion.chunk`.
    #[default]
    Chat,
    /// `text_completion`.
    Completion,
    /// `response` and the events of its making.
    Response,
    /// The events themselves, for another process; see [`crate::event_codec`].
    Events,
}

impl Form {
    /// The form that Python calls `name`. Fails with `InvalidParameter("form")`.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        match name {
            "chat" => Ok(Self::Chat),
            "completion" => Ok(Self::Completion),
            "response" => Ok(Self::Response),
            "events" => Ok(Self::Events),
            _ => {
                Err(Error::parameter("form", "must be \"chat\", \"completion\", \"response\" or \"events\""))
            }
        }
    }
}

/// What is constant in one answer.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// `id` of the answer, "chatcmpl-...".
    pub completion_id: String,
    /// `created`, in seconds since 1970.
    pub created: i64,
    /// `model`, as the request spelled it.
    pub model: String,
    /// `system_fingerprint`.
    pub system_fingerprint: String,
    /// Server-sent events, or one JSON object when the last choice ended.
    pub stream: bool,
    /// How many choices the request asked for, at least 1.
    pub choices: u32,
    /// Whether a stream ends with a chunk that tells the usage.
    pub include_usage: bool,
    /// Whether choices carry `logprobs`.
    pub logprobs: bool,
    /// Which endpoint's objects.
    pub form: Form,
    /// Whether the answer says `service_tier`, which is "default" whatever was asked: there is one tier.
    pub tells_service_tier: bool,
    /// How many prompts the choices answer, each as many of them; at least 1. See [`SseWriter::join`].
    pub prompts: u32,
    /// Texts of the prompts if they are to come before the answers, else empty. For completions.
    pub echo: Vec<String>,
    /// Leading tokens of each prompt that are no part of its text. For completions.
    pub echo_hidden: u32,
    /// Whether only the prompts are told, and nothing that was drawn. For completions.
    pub prompt_only: bool,
    /// Members of the answer that the request settled, as JSON text, each with a comma before it. For responses.
    pub fields: String,
}

/// Renders the events of all open answers, one call per step.
#[derive(Debug, Default)]
pub struct SseWriter {
    answers: FxHashMap<u64, Answer>,
    /// Requests whose events belong to the answer of another: (its request, their first choice there).
    joined: FxHashMap<u64, (u64, u32)>,
    /// Counts pushes, so that an answer knows whether this one has touched it already.
    pushes: u64,
}

impl SseWriter {
    /// No answer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts an answer. Fails with `InvalidParameter` for no choices and with `Internal` if the request
    /// is open already.
    pub fn open(&mut self, request_id: u64, options: &AnswerOptions) -> Result<(), Error> {
        if self.answers.contains_key(&request_id) {
            return Err(Error::Internal(format!("the answer of request {request_id} is open already")));
        }
        if options.choices == 0 {
            return Err(Error::parameter("choices", "must be at least 1"));
        }
        if options.prompts == 0 || !options.choices.is_multiple_of(options.prompts) {
            return Err(Error::parameter("prompts", "must divide the choices"));
        }
        self.answers.insert(request_id, Answer::new(options));
        Ok(())
    }

    /// From now on the events of `request_id` belong to the open answer of request `into`, whose choice
    /// `first_choice` is their choice 0. Fails with `Internal` if there is no such answer.
    pub fn join(&mut self, request_id: u64, into: u64, first_choice: u32) -> Result<(), Error> {
        if !self.answers.contains_key(&into) || self.answers.contains_key(&request_id) {
            return Err(Error::Internal(format!("request {request_id} cannot join the answer of {into}")));
        }
        self.joined.insert(request_id, (into, first_choice));
        Ok(())
    }

    /// Forgets an answer, its buffer and what joined it; unknown ids are ignored.
    pub fn close(&mut self, request_id: u64) {
        self.answers.remove(&request_id);
        self.joined.retain(|_, (into, _)| *into != request_id);
    }

    /// Renders the events of open answers. Gives the requests that have news for their connection: the
    /// buffer was empty and now holds something, or the answer ended and leaves nothing in it.
    pub fn push(&mut self, events: &EventBatch) -> Vec<u64> {
        self.pushes += 1;
        let mut touched = Vec::new();
        for event in &events.events {
            let (request_id, first_choice) = match self.joined.get(&event.request_id) {
                Some(&place) => place,
                None => (event.request_id, 0),
            };
            let Some(answer) = self.answers.get_mut(&request_id) else { continue };
            if answer.is_ended() {
                continue;
            }
            if answer.last_push != self.pushes {
                answer.last_push = self.pushes;
                touched.push((request_id, answer.buffer.is_empty()));
            }
            let before = answer.buffer.len();
            answer.push(first_choice.saturating_add(event.choice), event.completion_tokens, &event.kind);
            answer.largest = answer.largest.max(answer.buffer.len().saturating_sub(before));
        }
        touched.retain(|(request_id, was_empty)| {
            let answer = &self.answers[request_id];
            if answer.buffer.is_empty() { answer.is_ended() } else { *was_empty }
        });
        touched.into_iter().map(|(request_id, _)| request_id).collect()
    }

    /// All bytes rendered so far, which leaves the buffer empty.
    pub fn take(&mut self, request_id: u64) -> Vec<u8> {
        let Some(answer) = self.answers.get_mut(&request_id) else { return Vec::new() };
        if !answer.buffer.is_empty() {
            answer.taken = true;
            answer.delivered = answer.rendered.iter().map(|&tokens| u64::from(tokens)).sum();
        }
        answer.largest = 0;
        std::mem::take(&mut answer.buffer)
    }

    /// How many bytes wait in the buffer.
    pub fn buffered(&self, request_id: u64) -> usize {
        self.answers.get(&request_id).map_or(0, |answer| answer.buffer.len())
    }

    /// How many bytes gathered because nobody takes them: without what the largest single event made, which no
    /// reader could have taken sooner. None where nothing more can gather, and for an unknown id.
    pub fn backlog(&self, request_id: u64) -> usize {
        let running = self.answers.get(&request_id).filter(|answer| !answer.is_ended());
        running.map_or(0, |answer| answer.buffer.len().saturating_sub(answer.largest))
    }

    /// Whether nothing more will be rendered; true for an unknown id.
    pub fn is_finished(&self, request_id: u64) -> bool {
        self.answers.get(&request_id).is_none_or(Answer::is_ended)
    }

    /// (code, message) of an answer that failed before any byte of it was taken.
    pub fn failure(&self, request_id: u64) -> Option<(&str, &str)> {
        match &self.answers.get(&request_id)?.progress {
            Progress::Failed(code, message) => Some((code, message)),
            _ => None,
        }
    }

    /// Tokens of all choices whose bytes were taken, which is what an answer that ends in the middle has delivered. None of
    /// it where only the prompt is told.
    pub fn delivered(&self, request_id: u64) -> u64 {
        self.answers.get(&request_id).map_or(0, |answer| answer.delivered)
    }

    /// What an answer used, once all its choices finished.
    pub fn usage(&self, request_id: u64) -> Option<Usage> {
        match self.answers.get(&request_id)?.progress {
            Progress::Finished(usage) => Some(usage),
            _ => None,
        }
    }
}

/// Where an answer stands. Only `Running` answers take events.
#[derive(Debug)]
enum Progress {
    Running,
    /// Every choice finished.
    Finished(Usage),
    /// Failed before a byte was taken: the server still has the status in its hand.
    Failed(String, String),
    /// Failed afterwards: the stream ends with an error event.
    Broken,
}

/// Where a choice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Started,
    Finished,
}

#[derive(Debug)]
struct Answer {
    /// None: events are handed on as they are.
    spelling: Option<Spelling>,
    /// Rendered and not yet taken.
    buffer: Vec<u8>,
    /// Bytes of the buffer that one event made, at most.
    largest: usize,
    taken: bool,
    /// Tokens of each choice that are told by what was rendered so far; empty where none are told.
    rendered: Vec<u32>,
    /// Their sum when the buffer was taken last.
    delivered: u64,
    choices: Vec<Phase>,
    /// Of the choices that finished, for each prompt, which is counted once.
    usages: Vec<Option<Usage>>,
    progress: Progress,
    last_push: u64,
}

impl Answer {
    fn new(options: &AnswerOptions) -> Self {
        Self {
            spelling: Spelling::new(options),
            buffer: Vec::new(),
            largest: 0,
            taken: false,
            rendered: vec![0; if options.prompt_only { 0 } else { options.choices as usize }],
            delivered: 0,
            choices: vec![Phase::Waiting; options.choices as usize],
            usages: vec![None; options.prompts as usize],
            progress: Progress::Running,
            last_push: 0,
        }
    }

    fn is_ended(&self) -> bool {
        !matches!(self.progress, Progress::Running)
    }

    fn push(&mut self, choice: u32, completion_tokens: u32, kind: &EventKind) {
        if let Some(rendered) = self.rendered.get_mut(choice as usize) {
            *rendered = completion_tokens.max(*rendered);
        }
        if self.spelling.is_none() {
            return self.hand_on(choice, completion_tokens, kind);
        }
        if let EventKind::Failed { code, message } = kind {
            return self.fail(code, message);
        }
        match self.choices.get(choice as usize) {
            None => return self.fail("internal_error", "an event names a choice that was not asked for"),
            Some(Phase::Finished) => return,
            Some(Phase::Started) => {}
            Some(Phase::Waiting) => self.start(choice),
        }
        let Some(spelling) = &mut self.spelling else { return };
        match kind {
            EventKind::Prompt { logprobs } => spelling.prompt(choice, logprobs, &mut self.buffer),
            EventKind::Text { text, logprobs } => spelling.text(choice, text, logprobs, &mut self.buffer),
            EventKind::Reasoning { text } => spelling.reasoning(choice, text, &mut self.buffer),
            EventKind::ToolCall { index, id, name } => {
                spelling.tool_call(choice, *index, id, name, &mut self.buffer)
            }
            EventKind::ToolArguments { index, text } => {
                spelling.tool_arguments(choice, *index, text, &mut self.buffer)
            }
            EventKind::Finished { reason, usage } => {
                spelling.finish(choice, *reason, &mut self.buffer);
                self.choices[choice as usize] = Phase::Finished;
                self.finish_choice(choice, *usage);
            }
            EventKind::Failed { .. } => {}
        }
    }

    /// An event of an answer that is not spelled. A failure is an event as well: who gets them ends with it.
    fn hand_on(&mut self, choice: u32, completion_tokens: u32, kind: &EventKind) {
        let Some(phase) = self.choices.get_mut(choice as usize) else {
            return self.fail("internal_error", "an event names a choice that was not asked for");
        };
        if *phase == Phase::Finished {
            return;
        }
        event_codec::encode(choice, completion_tokens, kind, &mut self.buffer);
        match kind {
            EventKind::Finished { usage, .. } => {
                *phase = Phase::Finished;
                self.finish_choice(choice, *usage);
            }
            EventKind::Failed { .. } => self.progress = Progress::Broken,
            _ => {}
        }
    }

    /// Starts the choices up to this one: clients number them in the order in which they appear.
    fn start(&mut self, choice: u32) {
        let Some(spelling) = &mut self.spelling else { return };
        for (index, phase) in (0..=choice).zip(&mut self.choices) {
            if *phase == Phase::Waiting {
                *phase = Phase::Started;
                spelling.start(index, &mut self.buffer);
            }
        }
    }

    fn finish_choice(&mut self, choice: u32, usage: Usage) {
        let per_prompt = self.choices.len() / self.usages.len();
        let of_prompt = &mut self.usages[choice as usize / per_prompt];
        *of_prompt = Some(of_prompt.map_or(usage, |total| Usage {
            prompt_tokens: total.prompt_tokens,
            // One choice computes what its siblings then find in the cache: the least is what was there before.
            cached_tokens: total.cached_tokens.min(usage.cached_tokens),
            completion_tokens: total.completion_tokens.saturating_add(usage.completion_tokens),
            reasoning_tokens: total.reasoning_tokens.saturating_add(usage.reasoning_tokens),
        }));
        if self.choices.iter().all(|phase| *phase == Phase::Finished) {
            let total = self.usages.iter().flatten().fold(Usage::default(), |total, usage| Usage {
                prompt_tokens: total.prompt_tokens.saturating_add(usage.prompt_tokens),
                cached_tokens: total.cached_tokens.saturating_add(usage.cached_tokens),
                completion_tokens: total.completion_tokens.saturating_add(usage.completion_tokens),
                reasoning_tokens: total.reasoning_tokens.saturating_add(usage.reasoning_tokens),
            });
            // Where only the prompt is told, what was drawn behind it is nobody's.
            let told = if self.rendered.is_empty() { 0 } else { total.completion_tokens };
            let total = Usage { completion_tokens: told, ..total };
            if let Some(spelling) = &mut self.spelling {
                spelling.end(total, &mut self.buffer);
            }
            self.progress = Progress::Finished(total);
        }
    }

    fn fail(&mut self, code: &str, message: &str) {
        if self.taken && self.spelling.is_some() {
            error_event(code, message, &mut self.buffer);
            self.progress = Progress::Broken;
        } else {
            self.buffer = Vec::new();
            self.progress = Progress::Failed(code.to_owned(), message.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
