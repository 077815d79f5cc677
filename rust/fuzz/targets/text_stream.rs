//! Any table of bytes, any stops, any cuts: what a stream has let go after each token is what looking at all of its bytes
//! would let go, no more and no less.
#![no_main]

use std::sync::Arc;

use arbitrary::{Arbitrary, Result, Unstructured};
use ecocore::stop::{MAX_STOP_BYTES, MAX_STOPS, StopSet};
use ecocore::text_stream::{TextStream, TextStreams, Utf8Stream};
use ecocore::vocab::Vocab;
use libfuzzer_sys::fuzz_target;

#[path = "../../../tests/reference/text_stream.rs"]
mod reference;

/// Letters that share bytes and complete each other, so that stops overlap and characters are cut.
const LETTERS: [&[u8]; 12] = [
    b"a",
    b"b",
    b"\n",
    b"#",
    "\u{e9}".as_bytes(),
    "\u{20ac}".as_bytes(),
    "\u{1f600}".as_bytes(),
    b"\xe2",
    b"\x82",
    b"\xac",
    b"\xf0\x9f",
    b"\xff",
];

/// A vocabulary, and what a few streams get of it in turns.
#[derive(Debug)]
struct Case {
    /// The bytes of each id, and whether it is special; no bytes are a hole.
    entries: Vec<(Vec<u8>, bool)>,
    streams: Vec<Stream>,
    /// Whose turn it is, and the id.
    pushes: Vec<(usize, u32)>,
}

#[derive(Debug)]
struct Stream {
    stops: Vec<String>,
    skip_special_tokens: bool,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let entries: Vec<_> = several(input, 1..=24, |input| Ok((bytes(input, 6)?, input.ratio(1, 8)?)))?;
        let streams = several(input, 1..=3, |input| {
            Ok(Stream {
                stops: several(input, 0..=5, |input| stop(input, &entries))?,
                skip_special_tokens: input.arbitrary()?,
            })
        })?;
        let (last_stream, last_id) = (streams.len() - 1, entries.len() as u32);
        let mut pushes = vec![];
        while !input.is_empty() && pushes.len() < 200 {
            pushes.push((input.int_in_range(0..=last_stream)?, input.int_in_range(0..=last_id)?));
        }
        Ok(Self { entries, streams, pushes })
    }
}

fn several<'a, T>(
    input: &mut Unstructured<'a>,
    range: std::ops::RangeInclusive<usize>,
    mut make: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..input.int_in_range(range)?).map(|_| make(input)).collect()
}

fn bytes(input: &mut Unstructured<'_>, most: usize) -> Result<Vec<u8>> {
    let letters = several(input, 0..=most, |input| match input.int_in_range(0..=15)? {
        letter @ 0..12 => Ok(LETTERS[letter].to_vec()),
        _ => Ok(vec![input.arbitrary()?]),
    })?;
    Ok(letters.concat())
}

/// Stops of tokens, of which some occur; and the ones that are refused.
fn stop(input: &mut Unstructured<'_>, entries: &[(Vec<u8>, bool)]) -> Result<String> {
    let text = match input.int_in_range(0..=15)? {
        0 => bytes(input, 4)?.repeat(input.int_in_range(0..=300)?),
        _ => several(input, 1..=3, |input| Ok(input.choose(entries)?.0.clone()))?.concat(),
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn is_refused(stops: &[String]) -> bool {
    stops.len() > MAX_STOPS || stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
}

/// One stream, and all that was pushed to it.
struct Pushed<'a> {
    kind: &'a Stream,
    stream: TextStream,
    handle: u64,
    bytes: Vec<u8>,
    text: String,
    by_handle: String,
    stopped: bool,
}

impl Pushed<'_> {
    /// What the stream must have given so far, and whether it must have stopped.
    fn expected(&self) -> (usize, bool) {
        let stops: Vec<Vec<u8>> = self.kind.stops.iter().map(|stop| stop.clone().into_bytes()).collect();
        reference::look_at_everything(&stops, &self.bytes)
    }

    /// Holds the stream to what looking at everything says.
    fn check(&self) {
        let (released, stopped) = self.expected();
        let waiting = if stopped { 0 } else { reference::unfinished(&self.bytes[..released]) };
        assert_eq!(self.stopped, stopped);
        assert_eq!(self.stream.settled(), (released - waiting) as u64);
        assert_eq!(self.text, String::from_utf8_lossy(&self.bytes[..released - waiting]));
        assert_eq!(self.by_handle, self.text);
    }
}

fuzz_target!(|case: Case| {
    let vocab = Arc::new(Vocab::from_entries(case.entries.clone()));
    let mut streams = TextStreams::new(Arc::clone(&vocab));
    let mut open: Vec<Pushed> = vec![];
    for kind in &case.streams {
        let set = StopSet::new(&kind.stops);
        let handle = streams.open(&kind.stops, kind.skip_special_tokens);
        assert_eq!((set.is_err(), handle.is_err()), (is_refused(&kind.stops), is_refused(&kind.stops)));
        let (Ok(set), Ok(handle)) = (set, handle) else { return };
        let stream = TextStream::new(Arc::clone(&vocab), Arc::new(set), kind.skip_special_tokens);
        let (text, by_handle) = (String::new(), String::new());
        open.push(Pushed { kind, stream, handle, bytes: vec![], text, by_handle, stopped: false });
    }
    for &(turn, id) in &case.pushes {
        let one = &mut open[turn];
        if !one.stopped
            && let Some((bytes, special)) = case.entries.get(id as usize)
            && !(*special && one.kind.skip_special_tokens)
        {
            one.bytes.extend_from_slice(bytes);
        }
        one.stopped = one.stream.push(id, &mut one.text).stopped;
        let pieces = streams.push(&[one.handle], &[id]).expect("the handle is open");
        for (piece, stopped) in pieces.iter() {
            one.by_handle.push_str(piece.text(&vocab));
            assert_eq!(stopped, one.stopped);
        }
        one.check();
    }
    for mut one in open {
        one.stream.finish(&mut one.text);
        one.by_handle.push_str(&streams.finish(one.handle).expect("the handle is open"));
        let (released, stopped) = one.expected();
        let whole = if stopped { &one.bytes[..released] } else { &one.bytes[..] };
        assert_eq!(one.text, String::from_utf8_lossy(whole));
        assert_eq!(one.by_handle, one.text);

        // The same bytes without stops, each alone.
        let (mut utf8, mut text) = (Utf8Stream::new(), String::new());
        one.bytes.iter().for_each(|byte| utf8.push(&[*byte], &mut text));
        utf8.finish(&mut text);
        assert_eq!(text, String::from_utf8_lossy(&one.bytes));
    }
});
