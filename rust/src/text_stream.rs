//! Token ids to text, while they arrive: takes ids, gives the text that is final. What a token's bytes are
//! is `vocab`'s, where a text stops is `stop`'s; what an end of text means for a request is `output`'s.

use std::str;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::stop::{Released, StopCache, StopMatcher, StopSet};
use crate::vocab::Vocab;

/// Bytes to text, cut anywhere. The pieces joined equal `String::from_utf8_lossy` of the bytes joined.
///
/// Only a character that may still be completed is held, so at most 3 bytes; bytes that can become no
/// character turn into U+FFFD at once, one for each maximal part of a character.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8Stream {
    pending: [u8; 3],
    length: usize,
}

impl Utf8Stream {
    /// A stream at the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and appends what became final.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut rest = self.complete_pending(bytes, out);
        loop {
            match str::from_utf8(rest) {
                Ok(text) => return out.push_str(text),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(str::from_utf8(valid).expect("validated up to here"));
                    let Some(invalid) = error.error_len() else {
                        self.length = after.len();
                        self.pending[..after.len()].copy_from_slice(after);
                        return;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
            }
        }
    }

    /// Ends the text: a character that was never completed becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if std::mem::take(&mut self.length) > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// How many bytes wait for the rest of their character, at most 3.
    pub fn pending(&self) -> usize {
        self.length
    }

    /// Settles the pending character with the first of `bytes`, as far as they reach; gives the others.
    fn complete_pending<'a>(&mut self, mut bytes: &'a [u8], out: &mut String) -> &'a [u8] {
        while let (1.., Some((&byte, after))) = (self.length, bytes.split_first()) {
            let mut character = [0; 4];
            character[..self.length].copy_from_slice(&self.pending[..self.length]);
            character[self.length] = byte;
            match str::from_utf8(&character[..=self.length]) {
                Ok(text) => {
                    out.push_str(text);
                    self.length = 0;
                }
                Err(error) if error.error_len().is_none() => {
                    self.pending[self.length] = byte;
                    self.length += 1;
                }
                Err(_) => {
                    // The byte does not continue the character; it may begin the next one.
                    self.finish(out);
                    return bytes;
                }
            }
            bytes = after;
        }
        bytes
    }
}

/// What one token did to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Whether a stop string has ended the text. Nothing follows it.
    pub stopped: bool,
}

/// Bytes to text up to a stop string. Holds back what may become a stop string or a character, and no more.
#[derive(Debug, Clone)]
pub struct StoppingText {
    stops: Arc<StopSet>,
    matcher: StopMatcher,
    utf8: Utf8Stream,
    stopped: bool,
    released: u64,
}

impl StoppingText {
    /// At the start of a text.
    pub fn new(stops: Arc<StopSet>) -> Self {
        Self { stops, matcher: StopMatcher::default(), utf8: Utf8Stream::new(), stopped: false, released: 0 }
    }

    /// Takes the next bytes and appends the text that became final. After a stop it changes nothing.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) -> Pushed {
        if !self.stopped {
            let Released { held, fresh, stopped } = self.matcher.push(&self.stops, bytes);
            self.released += (held.len() + fresh.len()) as u64;
            if !held.is_empty() {
                self.utf8.push(held, out);
            }
            self.utf8.push(fresh, out);
            if stopped {
                self.utf8.finish(out);
                self.stopped = true;
            }
        }
        Pushed { stopped: self.stopped }
    }

    /// Takes bytes that become text as they are, because they are whole characters, nothing is held and no stop string may begin
    /// in them; says whether that is so. If not, nothing has changed.
    fn pass(&mut self, bytes: &[u8]) -> bool {
        let free = !self.stopped
            && self.utf8.pending() == 0
            && self.matcher.passes(&self.stops, bytes)
            && (bytes.is_ascii() || str::from_utf8(bytes).is_ok());
        if free {
            self.released += bytes.len() as u64;
        }
        free
    }

    /// Takes bytes at the start of the text that take part in no stop string.
    pub fn push_unstoppable(&mut self, bytes: &[u8], out: &mut String) {
        self.released += bytes.len() as u64;
        self.utf8.push(bytes, out);
    }

    /// Ends the text and appends what was held. After a stop string there is nothing.
    pub fn finish(&mut self, out: &mut String) {
        let held = self.matcher.finish(&self.stops);
        self.released += held.len() as u64;
        self.utf8.push(held, out);
        self.utf8.finish(out);
    }

    /// Whether a stop string has ended the text.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// How many bytes so far have become text. The others are held, or were cut by a stop.
    pub fn settled(&self) -> u64 {
        self.released - self.utf8.pending() as u64
    }
}

/// The text of one sequence: [`StoppingText`] of its tokens.
#[derive(Debug, Clone)]
pub struct TextStream {
    vocab: Arc<Vocab>,
    skip_special_tokens: bool,
    text: StoppingText,
}

impl TextStream {
    /// A stream at the start of its text. With `skip_special_tokens` special tokens are no text: they
    /// appear nowhere and take no part in a stop string.
    pub fn new(vocab: Arc<Vocab>, stops: Arc<StopSet>, skip_special_tokens: bool) -> Self {
        Self { vocab, skip_special_tokens, text: StoppingText::new(stops) }
    }

    /// Takes the next token and appends the text that became final. After a stop it changes nothing.
    pub fn push(&mut self, id: u32, out: &mut String) -> Pushed {
        self.text.push(content(&self.vocab, id, self.skip_special_tokens), out)
    }

    /// Takes a token whose own text is what becomes final with it; says whether it is one. If not, nothing has changed.
    fn pass(&mut self, id: u32) -> bool {
        let special = self.skip_special_tokens && self.vocab.is_special(id);
        self.vocab.bytes(id).is_some_and(|bytes| !special && self.text.pass(bytes))
    }

    /// Ends the text and appends what was held. After a stop string there is nothing.
    pub fn finish(&mut self, out: &mut String) {
        self.text.finish(out);
    }

    /// How many bytes of the tokens so far have become text. The others are held, or were cut by a stop.
    pub fn settled(&self) -> u64 {
        self.text.settled()
    }
}

/// The bytes that a token adds to a text: none for a skipped special token, and none for an id without an
/// entry (models have more ids than their vocabulary names).
pub(crate) fn content(vocab: &Vocab, id: u32, skip_special_tokens: bool) -> &[u8] {
    match vocab.bytes(id) {
        Some(bytes) if !(skip_special_tokens && vocab.is_special(id)) => bytes,
        _ => &[],
    }
}

/// What became final with one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The text of this token and nothing else; [`Vocab::text`] has it.
    Token(u32),
    /// Any text.
    Text(&'a str),
}

impl<'a> Piece<'a> {
    /// The text, where `vocab` is that of the stream.
    pub fn text(self, vocab: &'a Vocab) -> &'a str {
        match self {
            Self::Token(id) => vocab.text(id).expect("only tokens with a text are such pieces"),
            Self::Text(text) => text,
        }
    }
}

/// The text that one call of [`TextStreams::push`] made final: one piece per token, in one allocation.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    text: String,
    /// What each piece is, and whether its stream has stopped.
    ends: Vec<(End, bool)>,
}

/// What a piece is.
#[derive(Debug, Clone, Copy)]
enum End {
    /// That of a token.
    Token(u32),
    /// The text up to here.
    At(usize),
}

impl Pieces {
    /// Each piece, and whether a stop string has ended its stream.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Piece<'_>, bool)> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, stopped)| match end {
            End::Token(id) => (Piece::Token(id), stopped),
            End::At(end) => (Piece::Text(&self.text[std::mem::replace(&mut start, end)..end]), stopped),
        })
    }
}

/// Many [`TextStream`]s over one vocabulary, for loops that push one token to each per step.
#[derive(Debug)]
pub struct TextStreams {
    vocab: Arc<Vocab>,
    stops: StopCache,
    /// With their handles.
    streams: Vec<(u64, TextStream)>,
    /// Where the stream of each handle is.
    places: FxHashMap<u64, usize>,
    next_handle: u64,
}

impl TextStreams {
    /// No stream yet.
    pub fn new(vocab: Arc<Vocab>) -> Self {
        let (streams, places) = (Vec::new(), FxHashMap::default());
        Self { vocab, stops: StopCache::default(), streams, places, next_handle: 0 }
    }

    /// Opens a stream and gives its handle; handles are never used again. Fails as [`StopSet::new`].
    pub fn open(&mut self, stop: &[String], skip_special_tokens: bool) -> Result<u64, Error> {
        let stream = TextStream::new(Arc::clone(&self.vocab), self.stops.get(stop)?, skip_special_tokens);
        let handle = self.next_handle;
        self.next_handle += 1;
        self.places.insert(handle, self.streams.len());
        self.streams.push((handle, stream));
        Ok(handle)
    }

    /// Pushes one id to each handle, in order.
    ///
    /// Fails with `InvalidParameter` for an unknown handle or lists of different length, and then no
    /// stream has moved.
    pub fn push(&mut self, handles: &[u64], ids: &[u32]) -> Result<Pieces, Error> {
        if handles.len() != ids.len() {
            let message =
                format!("has {} entries for {} handles; give one for each", ids.len(), handles.len());
            return Err(Error::parameter("ids", message));
        }
        let place =
            |handle| self.places.get(handle).copied().ok_or_else(|| unknown_handle("handles", *handle));
        let places = handles.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let mut pieces = Pieces { text: String::new(), ends: Vec::with_capacity(ids.len()) };
        for (place, &id) in places.into_iter().zip(ids) {
            let (_, stream) = &mut self.streams[place];
            let end = if stream.pass(id) {
                (End::Token(id), false)
            } else {
                let stopped = stream.push(id, &mut pieces.text).stopped;
                (End::At(pieces.text.len()), stopped)
            };
            pieces.ends.push(end);
        }
        Ok(pieces)
    }

    /// Ends a stream, forgets it and gives what it held. Fails with `InvalidParameter("handle")`.
    pub fn finish(&mut self, handle: u64) -> Result<String, Error> {
        let place = self.places.remove(&handle).ok_or_else(|| unknown_handle("handle", handle))?;
        let (_, mut stream) = self.streams.swap_remove(place);
        if let Some((moved, _)) = self.streams.get(place) {
            self.places.insert(*moved, place);
        }
        let mut text = String::new();
        stream.finish(&mut text);
        Ok(text)
    }
}

fn unknown_handle(parameter: &str, handle: u64) -> Error {
    Error::parameter(
        parameter,
        format!("{handle} is no open stream; `open` gives handles and `finish` ends them"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_utf8(pieces: &[&[u8]], expected: &[&str]) {
        let mut stream = Utf8Stream::new();
        let mut actual = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            stream.push(piece, &mut out);
            actual.push(out);
        }
        let mut out = String::new();
        stream.finish(&mut out);
        actual.push(out);
        assert_eq!(actual, expected);
        assert_eq!(actual.concat(), String::from_utf8_lossy(&pieces.concat()));
    }

    #[test]
    fn a_character_appears_with_its_last_byte() {
        check_utf8(&[b"\xe2", b"\x82", b"\xac!"], &["", "", "\u{20ac}!", ""]);
        check_utf8(&[b"a\xf0\x9f", b"\x98\x80"], &["a", "\u{1f600}", ""]);
    }

    #[test]
    fn what_can_become_no_character_is_replaced_at_once() {
        check_utf8(&[b"\x80", b"\xff"], &["\u{fffd}", "\u{fffd}", ""]);
        check_utf8(&[b"\xe2\x82", b"A"], &["", "\u{fffd}A", ""]);
        check_utf8(&[b"\xe2\x82", b"\xe2", b"\x82\xac"], &["", "\u{fffd}", "\u{20ac}", ""]);
        // A surrogate and an overlong form are no characters from their second byte on.
        check_utf8(&[b"\xed", b"\xa0", b"\x80"], &["", "\u{fffd}\u{fffd}", "\u{fffd}", ""]);
        check_utf8(&[b"\xc0", b"\xaf"], &["\u{fffd}", "\u{fffd}", ""]);
    }

    #[test]
    fn an_unfinished_character_is_one_replacement_at_the_end() {
        check_utf8(&[b"\xf0\x9f\x98"], &["", "\u{fffd}"]);
    }

    /// Ids 0 to 255 are bytes, 256 is a special token, 257 and on are `words`.
    fn vocab(words: &[&str]) -> Arc<Vocab> {
        let bytes = (0..=255u8).map(|byte| (vec![byte], false));
        let special = std::iter::once((b"<|end|>".to_vec(), true));
        let words = words.iter().map(|word| (word.as_bytes().to_vec(), false));
        Arc::new(Vocab::from_entries(bytes.chain(special).chain(words).collect()))
    }

    #[track_caller]
    fn check(words: &[&str], stop: &[&str], ids: &[u32], expected: &[&str]) {
        let mut stream = TextStream::new(vocab(words), Arc::new(StopSet::new(stop).unwrap()), true);
        let mut pieces = Vec::new();
        for &id in ids {
            let mut out = String::new();
            stream.push(id, &mut out);
            pieces.push(out);
        }
        let mut out = String::new();
        stream.finish(&mut out);
        pieces.push(out);
        assert_eq!(pieces, expected);
    }

    #[test]
    fn tokens_become_text_up_to_the_stop() {
        let words = ["Hel", "lo", "\nUs", "er: hi"];
        check(&words, &["\nUser:"], &[257, 258, 259, 260, 257], &["Hel", "lo", "", "", "", ""]);
    }

    #[test]
    fn special_tokens_are_no_text_and_do_not_break_a_stop() {
        check(&["ST", "OP"], &["STOP"], &[257, 256, 258], &["", "", "", ""]);
        check(&["ST", "OR"], &["STOP"], &[257, 256, 258], &["", "", "STOR", ""]);
    }

    #[test]
    fn ids_without_an_entry_are_no_text() {
        check(&[], &[], &[65, 9999, 66], &["A", "", "B", ""]);
    }

    #[test]
    fn a_character_cut_by_a_stop_becomes_a_replacement() {
        check(&["STOP"], &["STOP"], &[65, 0xe2, 0x82, 257], &["A", "", "", "\u{fffd}", ""]);
    }

    #[test]
    fn a_held_stop_and_a_held_character_are_both_given_at_the_end() {
        check(&["ST"], &["STOP"], &[0xe2, 257], &["", "", "\u{fffd}ST"]);
    }

    #[test]
    fn a_stop_of_half_a_character_holds_the_character() {
        check(&[], &["\u{e9}"], &[0xc3, 0xa8], &["", "\u{e8}", ""]);
    }

    #[test]
    fn a_failed_push_moves_no_stream() {
        let mut streams = TextStreams::new(vocab(&[]));
        let handle = streams.open(&[], true).unwrap();
        assert!(streams.push(&[handle, 77], &[65, 66]).is_err());
        assert!(streams.push(&[handle], &[65, 66]).is_err());
        let pieces = streams.push(&[handle, handle], &[65, 66]).unwrap();
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [(Piece::Token(65), false), (Piece::Token(66), false)]);
        assert_eq!(streams.finish(handle).unwrap(), "");
        assert!(streams.finish(handle).is_err());
    }

    #[test]
    fn a_piece_is_the_token_itself_only_where_nothing_else_matters() {
        let vocab = vocab(&["Hel", "lo", "\nUs", "er"]);
        let mut streams = TextStreams::new(Arc::clone(&vocab));
        let handle = streams.open(&["\nUser".to_owned()], true).unwrap();
        let mut check = |id, expected, stopped| {
            let pieces = streams.push(&[handle], &[id]).unwrap();
            assert_eq!(pieces.iter().collect::<Vec<_>>(), [(expected, stopped)]);
        };
        check(257, Piece::Token(257), false);
        check(256, Piece::Text(""), false);
        check(9999, Piece::Text(""), false);
        check(0xe2, Piece::Text(""), false);
        check(257, Piece::Text("\u{fffd}Hel"), false);
        check(259, Piece::Text(""), false);
        check(258, Piece::Text("\nUslo"), false);
        check(258, Piece::Token(258), false);
        check(259, Piece::Text(""), false);
        check(260, Piece::Text(""), true);
        check(257, Piece::Text(""), true);
        assert_eq!((Piece::Token(258).text(&vocab), Piece::Text("a").text(&vocab)), ("lo", "a"));
    }

    #[test]
    fn the_end_of_one_stream_moves_no_other() {
        let mut streams = TextStreams::new(vocab(&[]));
        let [first, second, third] = [(); 3].map(|()| streams.open(&["xyz".to_owned()], true).unwrap());
        streams.push(&[second, third], &[u32::from(b'x'), 0xe2]).unwrap();
        assert_eq!(streams.finish(first).unwrap(), "");
        let fourth = streams.open(&[], true).unwrap();
        assert!(streams.push(&[first], &[65]).is_err());
        assert_eq!(streams.finish(third).unwrap(), "\u{fffd}");
        assert_eq!(streams.finish(fourth).unwrap(), "");
        assert_eq!(streams.finish(second).unwrap(), "x");
    }
}
