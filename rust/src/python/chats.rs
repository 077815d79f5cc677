//! The chats that a tokenizer met lately, as Python's strings: takes a prompt, gives its ids, of which only those behind the
//! longest known beginning are made. What can be known of a beginning is the core's matter (`Tokenizer::continue_chat`).
//!
//! Strings are compared as Python holds them. Their UTF-8, which Python has to make of all that is beyond ASCII, would take
//! longer than everything else.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{mem, slice};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PySlice, PyString};

use crate::tokenizer::Cut;

/// Beginnings of fewer characters are made anew.
const SHORT: usize = 2048;
const MOST_CHATS: usize = 16;
/// Characters and ids of all chats: at most four bytes each, and as many for UTF-8 that Python keeps beside.
const ROOM: usize = 4 << 20;

/// The one that was used last is the last.
#[derive(Default)]
pub(super) struct Chats(Mutex<Vec<Chat>>);

/// The beginning of a prompt, up to a cut.
struct Chat {
    text: Py<PyString>,
    /// In characters.
    length: usize,
    ids: Vec<u32>,
}

impl Chats {
    /// The ids of a prompt. `encode` appends those of the text that it gets, which follows a cut, and gives the last cut in
    /// it, as `Tokenizer::continue_chat` does.
    pub(super) fn encode(
        &self,
        text: &Bound<'_, PyString>,
        encode: impl FnOnce(&Bound<'_, PyString>, &mut Vec<u32>) -> PyResult<Option<Cut>>,
    ) -> PyResult<Vec<u32>> {
        let mut ids = Vec::new();
        // A subclass of str may answer what it likes.
        let length = if text.is_exact_instance_of::<PyString>() { text.len()? } else { 0 };
        if length < SHORT {
            encode(text, &mut ids)?;
            return Ok(ids);
        }
        let Some(mut chat) = self.take(text, length)? else {
            if let Some(cut) = encode(text, &mut ids)? {
                let length = num_characters(text, cut)?;
                self.keep(Chat { text: part(text, 0, length)?, length, ids: ids[..cut.ids].to_vec() });
            }
            return Ok(ids);
        };
        let py = text.py();
        let rest = part(text, chat.length, length)?.into_bound(py);
        ids.reserve(chat.ids.len() + rest.len()?);
        ids.extend_from_slice(&chat.ids);
        let encoded = encode(&rest, &mut ids);
        if let Ok(Some(cut)) = encoded {
            chat.length += num_characters(&rest, cut)?;
            chat.text = part(text, 0, chat.length)?;
            let new = &ids[chat.ids.len()..cut.ids];
            chat.ids.reserve_exact(new.len());
            chat.ids.extend_from_slice(new);
        }
        self.keep(chat);
        encoded.map(|_| ids)
    }

    /// Takes out the chat that a prompt begins with.
    fn take(&self, text: &Bound<'_, PyString>, length: usize) -> PyResult<Option<Chat>> {
        // No lock is held while Python works: it may run a finalizer, and that may encode a chat.
        let mut chats = mem::take(&mut *self.lock());
        let begins =
            |chat: &Chat| text.call_method1(intern!(text.py(), "startswith"), (&chat.text,))?.is_truthy();
        let (mut found, mut longest) = (None, 0);
        for (place, chat) in chats.iter().enumerate().rev() {
            if (longest + 1..=length).contains(&chat.length) && begins(chat)? {
                (found, longest) = (Some(place), chat.length);
            }
        }
        let chat = found.map(|place| chats.remove(place));
        let mut kept = self.lock();
        chats.append(&mut kept);
        *kept = chats;
        Ok(chat)
    }

    fn keep(&self, chat: Chat) {
        let size = |chats: &[Chat]| chats.iter().map(|chat| chat.length + chat.ids.len()).sum::<usize>();
        if chat.length < SHORT || size(slice::from_ref(&chat)) > ROOM {
            return;
        }
        let mut chats = self.lock();
        chats.push(chat);
        let fits = |first: &usize| chats.len() - first <= MOST_CHATS && size(&chats[*first..]) <= ROOM;
        let first = (0..chats.len()).find(fits).unwrap_or_default();
        let dropped: Vec<Chat> = chats.drain(..first).collect();
        drop(chats);
        // A string's end is Python's matter, too.
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many characters lie before a cut.
fn num_characters(text: &Bound<'_, PyString>, cut: Cut) -> PyResult<usize> {
    Ok(text.to_str()?[..cut.bytes].chars().count())
}

/// The characters of `text` from `start` to `end`.
fn part(text: &Bound<'_, PyString>, start: usize, end: usize) -> PyResult<Py<PyString>> {
    let range = PySlice::new(text.py(), start as isize, end as isize, 1);
    Ok(text.get_item(range)?.cast_into::<PyString>()?.unbind())
}
