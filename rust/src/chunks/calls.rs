//! The tool calls of one choice: takes their deltas, gives events. Names may come in pieces, so a call is told when its
//! name has ended: with the first of its arguments, or with whatever comes behind it.

use std::hash::RandomState;

use crate::call_ids::CallIds;
use crate::error::Error;
use crate::event::EventKind;

use super::chunk::CallDelta;
use super::fault;

/// More calls than a request may hold of one message.
const MAX_CALLS: usize = 128;
const MAX_NAME: usize = 256;

#[derive(Debug)]
pub(super) struct Calls {
    /// The number that the stream gave each call, in the order of their beginnings, which is how they are numbered here.
    numbers: Vec<u64>,
    /// The id that the stream gave the last of them.
    last_id: String,
    /// The last of them, while its name is not whole.
    pending: Option<(String, String)>,
    /// For calls that got none.
    ids: CallIds,
}

impl Calls {
    pub(super) fn new(request_id: u64, choice: u32) -> Self {
        // The key is fresh for each choice: nobody else's calls are named by it.
        let ids = CallIds::new(RandomState::new(), request_id ^ u64::from(choice));
        Self { numbers: Vec::new(), last_id: String::new(), pending: None, ids }
    }

    /// Appends what a delta told.
    pub(super) fn push(&mut self, delta: CallDelta, kinds: &mut Vec<EventKind>) -> Result<(), Error> {
        let index = self.place(&delta, kinds)?;
        let is_last = index + 1 == self.numbers.len();
        if let Some((id, name)) = self.pending.as_mut().filter(|_| is_last) {
            gather(id, &delta.id)?;
            gather(name, &delta.name)?;
            self.last_id.clone_from(id);
        }
        if !delta.arguments.is_empty() {
            kinds.extend(self.flush()?);
            kinds.push(EventKind::ToolArguments { index: index as u32, text: delta.arguments });
        }
        Ok(())
    }

    /// The call whose name has ended, if there is one.
    pub(super) fn flush(&mut self) -> Result<Option<EventKind>, Error> {
        let Some((id, name)) = self.pending.take() else { return Ok(None) };
        if name.is_empty() {
            return Err(fault("a tool call has no name"));
        }
        let index = self.numbers.len() as u32 - 1;
        let id = if id.is_empty() { self.ids.of(index) } else { id };
        Ok(Some(EventKind::ToolCall { index, id, name }))
    }

    /// Which call a delta is of; a new one begins.
    fn place(&mut self, delta: &CallDelta, kinds: &mut Vec<EventKind>) -> Result<usize, Error> {
        let known = match delta.index {
            Some(number) => self.numbers.iter().position(|&known| known == number),
            // Some servers do not number calls: a new one has an id of its own.
            None if delta.id.is_empty() || delta.id == self.last_id => self.numbers.len().checked_sub(1),
            None => None,
        };
        if let Some(index) = known {
            return Ok(index);
        }
        if self.numbers.len() == MAX_CALLS {
            return Err(fault("an answer has too many tool calls"));
        }
        kinds.extend(self.flush()?);
        let next = self.numbers.iter().max().map_or(0, |most| most.saturating_add(1));
        self.numbers.push(delta.index.unwrap_or(next));
        self.pending = Some((String::new(), String::new()));
        Ok(self.numbers.len() - 1)
    }
}

/// Appends a piece of an id or a name; some servers say the whole of it each time.
fn gather(known: &mut String, piece: &str) -> Result<(), Error> {
    if known != piece {
        known.push_str(piece);
    }
    if known.len() > MAX_NAME { Err(fault("the name of a tool call is too long")) } else { Ok(()) }
}
