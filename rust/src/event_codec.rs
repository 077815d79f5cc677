//! Events as bytes between two processes, and back: takes what happened to the choices of one request, gives frames;
//! takes pieces of frames as a socket delivers them, gives events.
//!
//! A frame is one event: its length (u32) and then the choice (u32), the tokens it had drawn (u32), a tag (u8) and the
//! fields of its kind. All
//! numbers are little-endian, floats are their bits, texts and lists begin with their length (u32). The request
//! is not in it, for each process numbers its own. Who decodes trusts nothing: whatever arrives is an event or an error,
//! and takes memory in proportion to the bytes that came, not to those that were announced.

use crate::error::Error;
use crate::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};

/// The longest frame that is taken, without its length: far more than the scores of one step ever need.
pub const MAX_FRAME: usize = 64 << 20;

const PROMPT: u8 = 1;
const TEXT: u8 = 2;
const REASONING: u8 = 3;
const TOOL_CALL: u8 = 4;
const TOOL_ARGUMENTS: u8 = 5;
const FINISHED: u8 = 6;
const FAILED: u8 = 7;

/// Appends the frame of one event.
pub fn encode(choice: u32, completion_tokens: u32, kind: &EventKind, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    number(choice, out);
    number(completion_tokens, out);
    match kind {
        EventKind::Prompt { logprobs } => {
            out.push(PROMPT);
            entries(logprobs, out);
        }
        EventKind::Text { text, logprobs } => {
            out.push(TEXT);
            bytes(text.as_bytes(), out);
            entries(logprobs, out);
        }
        EventKind::Reasoning { text } => {
            out.push(REASONING);
            bytes(text.as_bytes(), out);
        }
        EventKind::ToolCall { index, id, name } => {
            out.push(TOOL_CALL);
            number(*index, out);
            bytes(id.as_bytes(), out);
            bytes(name.as_bytes(), out);
        }
        EventKind::ToolArguments { index, text } => {
            out.push(TOOL_ARGUMENTS);
            number(*index, out);
            bytes(text.as_bytes(), out);
        }
        EventKind::Finished { reason, usage } => {
            out.push(FINISHED);
            out.push(match reason {
                FinishReason::Stop => 0,
                FinishReason::Length => 1,
                FinishReason::ToolCalls => 2,
            });
            let Usage { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens } = *usage;
            for tokens in [prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens] {
                number(tokens, out);
            }
        }
        EventKind::Failed { code, message } => {
            out.push(FAILED);
            bytes(code.as_bytes(), out);
            bytes(message.as_bytes(), out);
        }
    }
    let length = length_of(out.len() - begin - 4);
    out[begin..begin + 4].copy_from_slice(&length);
}

fn number(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&length_of(value.len()));
    out.extend_from_slice(value);
}

fn entries(logprobs: &[TokenLogprob], out: &mut Vec<u8>) {
    out.extend_from_slice(&length_of(logprobs.len()));
    for entry in logprobs {
        one(entry.token_id, &entry.bytes, entry.logprob, out);
        out.extend_from_slice(&length_of(entry.top.len()));
        for (token_id, bytes, logprob) in &entry.top {
            one(*token_id, bytes, *logprob, out);
        }
    }
}

fn one(token_id: u32, token: &[u8], logprob: f64, out: &mut Vec<u8>) {
    number(token_id, out);
    bytes(token, out);
    out.extend_from_slice(&logprob.to_le_bytes());
}

/// What is longer than a u32 tells is told as the longest, which no decoder takes.
fn length_of(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// The events of one request, from the pieces in which their frames arrive.
#[derive(Debug)]
pub struct EventDecoder {
    request_id: u64,
    /// Which choices ended.
    ended: Vec<bool>,
    /// What each choice had drawn, as far as it was told.
    drawn: Vec<u32>,
    /// The beginning of a frame whose rest has not come.
    pending: Vec<u8>,
    broken: bool,
}

impl EventDecoder {
    /// Events will carry `request_id`, whichever they had where they come from; choices are 0 to `choices` - 1.
    pub fn new(request_id: u64, choices: u32) -> Self {
        let choices = choices as usize;
        Self {
            request_id,
            ended: vec![false; choices],
            drawn: vec![0; choices],
            pending: Vec::new(),
            broken: false,
        }
    }

    /// The events that became whole with this piece.
    ///
    /// Fails with `Internal` for bytes that are no events, for a choice that was not asked for or ended before, and ever
    /// after. Events before the fault in the same piece are lost with it, ends included: `fail` tells those of their choices.
    pub fn push(&mut self, piece: &[u8]) -> Result<EventBatch, Error> {
        let mut events = EventBatch::default();
        // Who hears nothing of an end must hear of a failure: a choice has ended when its end is handed out.
        let mut ended = self.ended.clone();
        let done = if self.broken {
            Err(fault("they were broken before"))
        } else {
            self.read(piece, &mut ended, &mut events)
        };
        if let Err(error) = done {
            self.broken = true;
            self.pending = Vec::new();
            return Err(error);
        }
        self.ended = ended;
        for event in &events.events {
            self.drawn[event.choice as usize] = event.completion_tokens;
        }
        Ok(events)
    }

    /// Whether every choice ended, and nothing came behind that.
    pub fn is_complete(&self) -> bool {
        !self.broken && self.pending.is_empty() && self.ended.iter().all(|&ended| ended)
    }

    /// A `Failed` event for each choice that did not end; afterwards all have ended.
    pub fn fail(&mut self, code: &str, message: &str) -> EventBatch {
        let mut events = EventBatch::default();
        for ((choice, ended), &completion_tokens) in (0u32..).zip(&mut self.ended).zip(&self.drawn) {
            if !std::mem::replace(ended, true) {
                let kind = EventKind::Failed { code: code.to_owned(), message: message.to_owned() };
                events.events.push(Event { request_id: self.request_id, choice, completion_tokens, kind });
            }
        }
        events
    }

    fn read(&mut self, piece: &[u8], ended: &mut [bool], events: &mut EventBatch) -> Result<(), Error> {
        if self.pending.is_empty() {
            let rest = self.read_frames(piece, ended, events)?;
            self.pending.extend_from_slice(rest);
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(piece);
        let left = self.read_frames(&pending, ended, events)?.len();
        pending.drain(..pending.len() - left);
        self.pending = pending;
        Ok(())
    }

    /// Reads whole frames, gives what is left behind them.
    fn read_frames<'a>(
        &self,
        mut data: &'a [u8],
        ended: &mut [bool],
        events: &mut EventBatch,
    ) -> Result<&'a [u8], Error> {
        while let Some((length, rest)) = data.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > MAX_FRAME {
                return Err(fault("one is too long"));
            }
            let Some((frame, rest)) = rest.split_at_checked(length) else { break };
            events.events.push(self.event(frame, ended)?);
            data = rest;
        }
        Ok(data)
    }

    fn event(&self, frame: &[u8], ended: &mut [bool]) -> Result<Event, Error> {
        let mut fields = Fields(frame);
        let choice = fields.number()?;
        let completion_tokens = fields.number()?;
        let kind = fields.kind()?;
        if !fields.0.is_empty() {
            return Err(fault("one goes on behind its end"));
        }
        let ended = ended.get_mut(choice as usize).ok_or_else(|| fault("one is of no choice"))?;
        if *ended {
            return Err(fault("a choice goes on behind its end"));
        }
        *ended = matches!(kind, EventKind::Finished { .. } | EventKind::Failed { .. });
        Ok(Event { request_id: self.request_id, choice, completion_tokens, kind })
    }
}

/// What is left of a frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn kind(&mut self) -> Result<EventKind, Error> {
        Ok(match self.byte()? {
            PROMPT => EventKind::Prompt { logprobs: self.entries()? },
            TEXT => EventKind::Text { text: self.text()?, logprobs: self.entries()? },
            REASONING => EventKind::Reasoning { text: self.text()? },
            TOOL_CALL => EventKind::ToolCall { index: self.number()?, id: self.text()?, name: self.text()? },
            TOOL_ARGUMENTS => EventKind::ToolArguments { index: self.number()?, text: self.text()? },
            FINISHED => EventKind::Finished { reason: self.reason()?, usage: self.usage()? },
            FAILED => EventKind::Failed { code: self.text()?, message: self.text()? },
            _ => return Err(fault("one is of an unknown kind")),
        })
    }

    fn byte(&mut self) -> Result<u8, Error> {
        self.take(1).map(|taken| taken[0])
    }

    fn number(&mut self) -> Result<u32, Error> {
        let (taken, rest) = self.0.split_first_chunk::<4>().ok_or_else(short)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*taken))
    }

    fn float(&mut self) -> Result<f64, Error> {
        let (taken, rest) = self.0.split_first_chunk::<8>().ok_or_else(short)?;
        self.0 = rest;
        Ok(f64::from_le_bytes(*taken))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = self.number()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, Error> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| fault("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn reason(&mut self) -> Result<FinishReason, Error> {
        match self.byte()? {
            0 => Ok(FinishReason::Stop),
            1 => Ok(FinishReason::Length),
            2 => Ok(FinishReason::ToolCalls),
            _ => Err(fault("one ends for an unknown reason")),
        }
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        Ok(Usage {
            prompt_tokens: self.number()?,
            cached_tokens: self.number()?,
            completion_tokens: self.number()?,
            reasoning_tokens: self.number()?,
        })
    }

    /// The lists grow as their items are read: a length alone reserves nothing.
    fn entries(&mut self) -> Result<Vec<TokenLogprob>, Error> {
        let mut entries = Vec::new();
        for _ in 0..self.number()? {
            let (token_id, bytes, logprob) = self.one()?;
            let mut top = Vec::new();
            for _ in 0..self.number()? {
                top.push(self.one()?);
            }
            entries.push(TokenLogprob { token_id, bytes, logprob, top });
        }
        Ok(entries)
    }

    fn one(&mut self) -> Result<(u32, Vec<u8>, f64), Error> {
        Ok((self.number()?, self.bytes()?.to_vec(), self.float()?))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn fault(what: &str) -> Error {
    Error::Internal(format!("the engine's events cannot be read: {what}"))
}

fn short() -> Error {
    fault("one ends before its fields do")
}
