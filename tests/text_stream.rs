//! Text streams and stop strings against slow, obvious versions: whatever the cuts, the joined text is the
//! whole text decoded at once, and exactly what may still become a stop is held back.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "reference/text_stream.rs"]
mod reference;

use std::sync::Arc;

use ecocore::stop::{Released, StopMatcher, StopSet};
use ecocore::text_stream::{TextStream, TextStreams, Utf8Stream};
use ecocore::vocab::Vocab;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use reference::{look_at_everything, unfinished};

/// Bytes that form characters, parts of characters and nonsense.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&[u8]> = vec![
        b"a",
        "é".as_bytes(),
        "€".as_bytes(),
        "😀".as_bytes(),
        b"\xc3",
        b"\xe2",
        b"\x82",
        b"\xac",
        b"\xf0\x9f",
        b"\x98\x80",
        b"\xed",
        b"\xa0",
        b"\xc0",
        b"\xff",
        b"\xf4",
        b"\x90",
    ];
    prop_oneof![
        vec(select(fragments), 0..24).prop_map(|fragments| fragments.concat()),
        vec(any::<u8>(), 0..48),
    ]
}

/// `text` cut at places that need not be between characters; pieces may be empty.
fn cut(text: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| text[pair[0]..pair[1]].to_vec()).collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    vec(any::<prop::sample::Index>(), 0..12)
}

/// Stops and a text over few letters, so that they overlap; the letters may share bytes.
fn stops_and_text() -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
    let alphabet = select(vec!["ab", "aé", "é\u{ea}\u{128}", "€\u{20ad}", "\n😀"]);
    alphabet.prop_flat_map(|alphabet| {
        let letter = select(alphabet.chars().collect::<Vec<_>>());
        let stop = vec(letter.clone(), 1..5).prop_map(String::from_iter);
        let text = vec(letter, 0..40).prop_map(|letters| String::from_iter(letters).into_bytes());
        let noise = vec(select(alphabet.as_bytes().to_vec()), 0..40);
        (vec(stop, 0..6), prop_oneof![text, noise])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_cut_of_any_bytes_decodes_as_the_whole(bytes in bytes(), cuts in cuts()) {
        let mut stream = Utf8Stream::new();
        let (mut text, mut pushed) = (String::new(), Vec::new());
        for piece in cut(&bytes, &cuts) {
            stream.push(&piece, &mut text);
            pushed.extend(piece);
            let waiting = unfinished(&pushed);
            prop_assert_eq!(stream.pending(), waiting);
            prop_assert_eq!(&text, &String::from_utf8_lossy(&pushed[..pushed.len() - waiting]));
        }
        stream.finish(&mut text);
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn the_matcher_lets_go_what_looking_at_everything_would((stops, text) in stops_and_text(), cuts in cuts()) {
        let set = StopSet::new(&stops).unwrap();
        let stops: Vec<Vec<u8>> = stops.into_iter().map(String::into_bytes).collect();
        let mut matcher = StopMatcher::default();
        let (mut released, mut pushed) = (Vec::new(), Vec::new());
        for piece in cut(&text, &cuts) {
            pushed.extend_from_slice(&piece);
            let Released { held, fresh, stopped } = matcher.push(&set, &piece);
            released.extend_from_slice(held);
            released.extend_from_slice(fresh);
            prop_assert_eq!((released.len(), stopped), look_at_everything(&stops, &pushed));
            prop_assert_eq!(&released[..], &pushed[..released.len()]);
            if stopped {
                return Ok(());
            }
        }
        released.extend_from_slice(matcher.finish(&set));
        prop_assert_eq!(released, text);
    }

    #[test]
    fn a_stream_is_the_text_before_the_stop((stops, text) in stops_and_text(), cuts in cuts()) {
        let pieces = cut(&text, &cuts);
        let vocab = Arc::new(Vocab::from_entries(pieces.iter().map(|piece| (piece.clone(), false)).collect()));
        let mut by_handle = TextStreams::new(Arc::clone(&vocab));
        let handle = by_handle.open(&stops, true).unwrap();
        let mut stream = TextStream::new(Arc::clone(&vocab), Arc::new(StopSet::new(&stops).unwrap()), true);
        let stops: Vec<Vec<u8>> = stops.into_iter().map(String::into_bytes).collect();
        let (mut out, mut pushed) = (String::new(), Vec::new());
        let mut ended = false;
        for (id, piece) in pieces.iter().enumerate() {
            pushed.extend_from_slice(piece);
            let before = out.len();
            let stopped = stream.push(id as u32, &mut out).stopped;
            let alike = by_handle.push(&[handle], &[id as u32]).unwrap();
            let alike: Vec<_> = alike.iter().map(|(piece, stopped)| (piece.text(&vocab), stopped)).collect();
            prop_assert_eq!(alike, [(&out[before..], stopped)]);
            let (released, complete) = look_at_everything(&stops, &pushed);
            let waiting = if complete { 0 } else { unfinished(&pushed[..released]) };
            prop_assert_eq!(stopped, complete);
            prop_assert_eq!(stream.settled(), (released - waiting) as u64);
            prop_assert_eq!(&out, &String::from_utf8_lossy(&pushed[..released - waiting]));
            ended |= stopped;
        }
        let before = out.len();
        stream.finish(&mut out);
        prop_assert_eq!(by_handle.finish(handle).unwrap(), &out[before..]);
        let end = if ended { look_at_everything(&stops, &text).0 } else { text.len() };
        prop_assert_eq!(out, String::from_utf8_lossy(&text[..end]));
    }
}
