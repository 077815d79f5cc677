//! Chunks of an OpenAI-compatible stream to events: takes the bytes as a socket delivers them, gives what happened to
//! the choices of one request. Connections, statuses and their errors are the region's.
//!
//! The other server is a stranger. Whatever it sends is an event or an error, and takes memory in proportion to what
//! came, of which no more than [`MAX_EVENT`] waits for its end. None of its words reach the client but the answer's own.
//!
//! ```text
//! open ---- finish_reason ----> held ---- usage, [DONE] or the end ----> ended
//!   \---- an error, [DONE] or the end: failed ------------------------> ended
//! ```
//!
//! The usage comes behind the last choice and counts for all of them, so ends are held until it is there.

mod calls;
mod chunk;
mod lines;

use crate::error::Error;
use crate::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};

use calls::Calls;
use chunk::{Chunk, Delta, Fault, TextChoice};
use lines::Lines;

/// The longest event that is taken, in bytes: far more than a chunk ever needs, and enough for a server that tells a whole
/// answer in one.
pub const MAX_EVENT: usize = 4 << 20;

/// The code of a choice whose server ended, failed or fell silent; `errors.ENGINE_LOST`.
const LOST: &str = "engine_lost";
/// The code of a choice that the server refused after it had begun to answer; `errors.failure` knows it.
const REFUSED: &str = "request_refused";
/// The code of a choice whose grammar nobody can follow; `errors.failure` knows it.
const TOO_COMPLEX: &str = "grammar_too_complex";

/// The events of one request, from the pieces in which its stream arrives.
#[derive(Debug)]
pub struct ChunkDecoder {
    request_id: u64,
    lines: Lines,
    choices: Vec<Choice>,
    usage: Option<Usage>,
    /// What counts as the prompt's where the stream tells no usage.
    prompt_tokens: u32,
    broken: bool,
}

#[derive(Debug)]
struct Choice {
    phase: Phase,
    /// Chunks that told something, or the tokens they named: what there is to count by until the usage comes.
    tokens: u32,
    calls: Calls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Held(FinishReason),
    Ended,
}

impl ChunkDecoder {
    /// Events will carry `request_id`; choices are 0 to `choices` - 1. Of a stream without usage, `prompt_tokens` is told.
    pub fn new(request_id: u64, choices: u32, prompt_tokens: u32) -> Self {
        let choice = |index| Choice { phase: Phase::Open, tokens: 0, calls: Calls::new(request_id, index) };
        Self {
            request_id,
            lines: Lines::default(),
            choices: (0..choices).map(choice).collect(),
            usage: None,
            prompt_tokens,
            broken: false,
        }
    }

    /// The events that became whole with this piece. What comes behind the end of all choices is not looked at.
    ///
    /// Fails with `Internal` for what is no stream of chunks, and ever after. Events before the fault in the same piece are
    /// lost with it, ends included: `fail` tells those of their choices.
    pub fn push(&mut self, piece: &[u8]) -> Result<EventBatch, Error> {
        if self.broken {
            return Err(fault("it was broken before"));
        }
        let mut events = EventBatch::default();
        if self.is_complete() {
            return Ok(events);
        }
        // Who hears nothing of an end must hear of a failure: a choice has ended when its end is handed out.
        let before: Vec<(Phase, u32)> =
            self.choices.iter().map(|choice| (choice.phase, choice.tokens)).collect();
        let mut lines = std::mem::take(&mut self.lines);
        let read = lines.push(piece, |data| self.read(data, &mut events));
        self.lines = lines;
        if let Err(error) = read {
            self.broken = true;
            self.lines = Lines::default();
            for (choice, before) in self.choices.iter_mut().zip(before) {
                (choice.phase, choice.tokens) = before;
            }
            return Err(error);
        }
        Ok(events)
    }

    /// Whether the end of every choice was told.
    pub fn is_complete(&self) -> bool {
        !self.broken && self.choices.iter().all(|choice| choice.phase == Phase::Ended)
    }

    /// What the answer used, once the stream told it.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Nothing more will come: a choice whose end was held is told as finished, every other that did not end as failed.
    pub fn fail(&mut self, code: &str, message: &str) -> EventBatch {
        let mut events = EventBatch::default();
        self.end(code, message, &mut events);
        events
    }

    fn read(&mut self, data: &[u8], events: &mut EventBatch) -> Result<(), Error> {
        if self.is_complete() {
            return Ok(());
        }
        if data.trim_ascii() == b"[DONE]" {
            self.end(LOST, "the server that ran this request ended its answer before the end", events);
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|error| not_a_chunk(&error))?;
        match chunk.fault() {
            Some(Fault::Schema) => self.end(TOO_COMPLEX, "the schema is too complex to be followed", events),
            Some(Fault::Client) => {
                self.end(REFUSED, "the server that runs this model refused the request", events)
            }
            Some(Fault::Server) => self.end(LOST, "the server that ran this request failed", events),
            None => return self.told(chunk, events),
        }
        Ok(())
    }

    fn told(&mut self, chunk: Chunk, events: &mut EventBatch) -> Result<(), Error> {
        let is_last = chunk.choices.is_empty();
        for choice in chunk.choices {
            self.choice(choice, events)?;
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage);
            // Some servers count in every chunk: only one without choices says that it is the last.
            if is_last && self.choices.iter().all(|choice| choice.phase != Phase::Open) {
                self.finish(events);
            }
        }
        Ok(())
    }

    fn choice(&mut self, told: TextChoice, events: &mut EventBatch) -> Result<(), Error> {
        let request_id = self.request_id;
        let index = told.index;
        let choice = self.choices.get_mut(index as usize).ok_or_else(|| fault("a chunk is of no choice"))?;
        let reason = told.reason();
        let (kinds, tokens) = choice.kinds(told.delta, told.logprobs)?;
        if choice.phase != Phase::Open {
            // An empty chunk behind the end says nothing.
            return if kinds.is_empty() { Ok(()) } else { Err(fault("a choice goes on behind its end")) };
        }
        choice.tokens = choice.tokens.saturating_add(tokens);
        events.num_tokens = events.num_tokens.saturating_add(tokens);
        let completion_tokens = choice.tokens;
        let event = |kind| Event { request_id, choice: index, completion_tokens, kind };
        events.events.extend(kinds.into_iter().map(event));
        if let Some(reason) = reason {
            if let Some(kind) = choice.calls.flush()? {
                events.events.push(event(kind));
            }
            choice.phase = Phase::Held(reason);
        }
        Ok(())
    }

    /// Finishes the choices whose end was held, and fails the others.
    fn end(&mut self, code: &str, message: &str, events: &mut EventBatch) {
        self.finish(events);
        for (index, choice) in (0u32..).zip(&mut self.choices) {
            if std::mem::replace(&mut choice.phase, Phase::Ended) == Phase::Open {
                let kind = EventKind::Failed { code: code.to_owned(), message: message.to_owned() };
                let completion_tokens = choice.tokens;
                events.events.push(Event {
                    request_id: self.request_id,
                    choice: index,
                    completion_tokens,
                    kind,
                });
            }
        }
    }

    /// Tells the ends that were held.
    fn finish(&mut self, events: &mut EventBatch) {
        let shares = self.shares();
        for ((index, choice), usage) in (0u32..).zip(&mut self.choices).zip(shares) {
            if let Phase::Held(reason) = choice.phase {
                choice.phase = Phase::Ended;
                let kind = EventKind::Finished { reason, usage };
                let completion_tokens = usage.completion_tokens;
                events.events.push(Event {
                    request_id: self.request_id,
                    choice: index,
                    completion_tokens,
                    kind,
                });
            }
        }
    }

    /// What each choice used. The usage is of all of them together: each gets what was counted for it, and the last what is
    /// left, so that the sum is what was told.
    fn shares(&self) -> Vec<Usage> {
        let counted = self.choices.iter().map(|choice| choice.tokens);
        let Some(total) = self.usage else {
            let prompt_tokens = self.prompt_tokens;
            return counted
                .map(|completion_tokens| Usage { prompt_tokens, completion_tokens, ..Usage::default() })
                .collect();
        };
        let last = self.choices.len() - 1;
        let (mut completion, mut reasoning) = (total.completion_tokens, total.reasoning_tokens);
        let share = |(index, counted): (usize, u32)| {
            let completion_tokens = if index == last { completion } else { counted.min(completion) };
            completion -= completion_tokens;
            let reasoning_tokens = if index == last { reasoning } else { reasoning.min(completion_tokens) };
            reasoning -= reasoning_tokens;
            Usage { completion_tokens, reasoning_tokens, ..total }
        };
        counted.enumerate().map(share).collect()
    }
}

impl Choice {
    /// What a chunk told, in the order of an answer, and how many tokens that were.
    fn kinds(&mut self, delta: Delta, logprobs: Vec<TokenLogprob>) -> Result<(Vec<EventKind>, u32), Error> {
        let mut kinds = Vec::new();
        if let Some(text) = delta.reasoning {
            kinds.extend(self.calls.flush()?);
            kinds.push(EventKind::Reasoning { text });
        }
        let text = delta.content.unwrap_or_default();
        let tokens = logprobs.len();
        if !(text.is_empty() && logprobs.is_empty()) {
            kinds.extend(self.calls.flush()?);
            kinds.push(EventKind::Text { text, logprobs });
        }
        // The beginning of a call is told with what comes behind it, and counts all the same.
        let told = u32::from(!kinds.is_empty() || !delta.calls.is_empty());
        for call in delta.calls {
            self.calls.push(call, &mut kinds)?;
        }
        Ok((kinds, told.max(u32::try_from(tokens).unwrap_or(u32::MAX))))
    }
}

fn fault(what: &str) -> Error {
    Error::Internal(format!("the stream of another server cannot be read: {what}"))
}

/// The parser's words may quote the answer, which belongs to nobody's log.
fn not_a_chunk(error: &serde_json::Error) -> Error {
    use serde_json::error::Category;
    fault(match error.classify() {
        Category::Data => "a chunk has another form than it should",
        Category::Syntax | Category::Eof | Category::Io => "the data of an event is no JSON",
    })
}
