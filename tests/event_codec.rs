//! Events through the codec: what was encoded comes back to the bit, however its bytes are cut; what was not is an
//! error, whatever it is.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use ecocore::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};
use ecocore::event_codec::{EventDecoder, MAX_FRAME, encode};
use ecocore::sse::{AnswerOptions, Form, SseWriter};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const REQUEST: u64 = 9;
const CHOICES: u32 = 3;

fn logprob() -> impl Strategy<Value = f64> {
    let bits = any::<u64>().prop_map(f64::from_bits);
    prop_oneof![-30.0..0.0f64, bits, Just(f64::NAN), Just(f64::NEG_INFINITY), Just(-0.0), Just(-1e-310)]
}

fn entry() -> impl Strategy<Value = TokenLogprob> {
    let bytes = || vec(any::<u8>(), 0..6);
    let top = vec((any::<u32>(), bytes(), logprob()), 0..4);
    (any::<u32>(), bytes(), logprob(), top).prop_map(|(token_id, bytes, logprob, top)| TokenLogprob {
        token_id,
        bytes,
        logprob,
        top,
    })
}

/// What may happen to a choice before its end.
fn told() -> impl Strategy<Value = EventKind> {
    let text = || ".{0,8}".prop_map(String::from);
    prop_oneof![
        vec(entry(), 0..4).prop_map(|logprobs| EventKind::Prompt { logprobs }),
        (text(), vec(entry(), 0..3)).prop_map(|(text, logprobs)| EventKind::Text { text, logprobs }),
        text().prop_map(|text| EventKind::Reasoning { text }),
        (any::<u32>(), text(), text()).prop_map(|(index, id, name)| EventKind::ToolCall { index, id, name }),
        (any::<u32>(), text()).prop_map(|(index, text)| EventKind::ToolArguments { index, text }),
    ]
}

fn end() -> impl Strategy<Value = EventKind> {
    let reason =
        prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length), Just(FinishReason::ToolCalls)];
    let tokens = || any::<u32>();
    let usage =
        (tokens(), tokens(), tokens(), tokens()).prop_map(|(prompt, cached, completion, reasoning)| Usage {
            prompt_tokens: prompt,
            cached_tokens: cached,
            completion_tokens: completion,
            reasoning_tokens: reasoning,
        });
    prop_oneof![
        3 => (reason, usage).prop_map(|(reason, usage)| EventKind::Finished { reason, usage }),
        1 => (".{0,8}", ".{0,30}").prop_map(|(code, message)| EventKind::Failed { code, message }),
    ]
}

/// Choice, tokens drawn, what happened.
type Told = (u32, u32, EventKind);

/// The whole life of a request: events of its choices in any order, then an end for each.
fn life() -> impl Strategy<Value = Vec<Told>> {
    let events = vec((0..CHOICES, any::<u32>(), told()), 0..12);
    (events, vec((any::<u32>(), end()), CHOICES as usize)).prop_map(|(mut events, ends)| {
        events.extend((0..).zip(ends).map(|(choice, (drawn, end))| (choice, drawn, end)));
        events
    })
}

fn encoded(events: &[Told]) -> Vec<u8> {
    let mut out = Vec::new();
    for (choice, drawn, kind) in events {
        encode(*choice, *drawn, kind, &mut out);
    }
    out
}

/// NaN is equal to nothing, itself included; its letters are.
fn spelled(events: impl IntoIterator<Item = Told>) -> Vec<String> {
    fn bits(entries: &mut [TokenLogprob]) -> Vec<u64> {
        let of = |entry: &mut TokenLogprob| {
            let top: Vec<u64> = entry.top.iter().map(|top| top.2.to_bits()).collect();
            [vec![entry.logprob.to_bits()], top].concat()
        };
        entries.iter_mut().flat_map(of).collect()
    }
    let spell = |(choice, drawn, mut kind): Told| {
        let bits = match &mut kind {
            EventKind::Prompt { logprobs } | EventKind::Text { logprobs, .. } => bits(logprobs),
            _ => vec![],
        };
        format!("{choice} {drawn} {kind:?} {bits:x?}")
    };
    events.into_iter().map(spell).collect()
}

fn told_by(event: Event) -> Told {
    (event.choice, event.completion_tokens, event.kind)
}

fn decoder() -> EventDecoder {
    EventDecoder::new(REQUEST, CHOICES)
}

proptest! {
    #[test]
    fn what_was_encoded_comes_back_however_it_is_cut(events in life(), cuts in vec(any::<Index>(), 0..9)) {
        let data = encoded(&events);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len())).chain([0, data.len()]).collect();
        cuts.sort_unstable();
        let mut decoder = decoder();
        let mut back = Vec::new();
        for piece in cuts.windows(2) {
            prop_assert!(!decoder.is_complete() || piece[0] == data.len());
            back.extend(decoder.push(&data[piece[0]..piece[1]]).unwrap().events);
        }
        prop_assert!(back.iter().all(|event| event.request_id == REQUEST));
        prop_assert!(decoder.is_complete());
        prop_assert!(decoder.fail("engine_lost", "").events.is_empty());
        prop_assert_eq!(spelled(back.into_iter().map(told_by)), spelled(events));
    }

    #[test]
    fn any_bytes_are_events_or_an_error(pieces in vec(vec(any::<u8>(), 0..64), 0..6)) {
        let mut decoder = decoder();
        for piece in pieces {
            let _ = decoder.push(&piece);
        }
        decoder.fail("engine_lost", "");
    }

    #[test]
    fn a_changed_byte_is_another_event_or_an_error(events in life(), place in any::<Index>(), byte in any::<u8>()) {
        let mut data = encoded(&events);
        let place = place.index(data.len());
        data[place] = byte;
        let mut decoder = decoder();
        if let Ok(batch) = decoder.push(&data) {
            // Whatever it is now, it can be told again.
            let again: Vec<Told> = batch.events.into_iter().map(told_by).collect();
            prop_assert!(data.starts_with(&encoded(&again)));
        } else {
            prop_assert!(decoder.push(&[]).is_err(), "what broke once stays broken");
            prop_assert!(!decoder.is_complete());
        }
    }

    #[test]
    fn a_cut_stream_fails_the_choices_that_did_not_end(events in life(), place in any::<Index>()) {
        let data = encoded(&events);
        let mut decoder = decoder();
        let whole = decoder.push(&data[..place.index(data.len())]).unwrap();
        let is_end = |kind: &EventKind| matches!(kind, EventKind::Finished { .. } | EventKind::Failed { .. });
        let ended: Vec<u32> = whole.events.iter().filter(|event| is_end(&event.kind)).map(|event| event.choice).collect();
        prop_assert!(!decoder.is_complete());
        let failures = decoder.fail("engine_lost", "it stopped").events;
        let failed: Vec<u32> = failures.iter().map(|event| event.choice).collect();
        for failure in &failures {
            let last = whole.events.iter().rev().find(|event| event.choice == failure.choice);
            prop_assert_eq!(failure.completion_tokens, last.map_or(0, |event| event.completion_tokens));
        }
        let open: Vec<u32> = (0..CHOICES).filter(|choice| !ended.contains(choice)).collect();
        prop_assert_eq!(failed, open);
        prop_assert!(decoder.fail("engine_lost", "again").events.is_empty());
    }

    #[test]
    fn the_writer_hands_events_on_as_they_are(events in life(), takes in vec(any::<bool>(), 32)) {
        let mut writer = SseWriter::new();
        writer.open(3, &options()).unwrap();
        let mut data = Vec::new();
        for ((choice, drawn, kind), take) in events.iter().zip(takes.iter().cycle()) {
            let event = Event { request_id: 3, choice: *choice, completion_tokens: *drawn, kind: kind.clone() };
            writer.push(&EventBatch { events: vec![event], ..EventBatch::default() });
            if *take {
                data.extend(writer.take(3));
            }
        }
        data.extend(writer.take(3));
        prop_assert!(writer.is_finished(3));
        prop_assert_eq!(writer.failure(3), None);
        // A failed choice ends the answer: the others would be told to nobody.
        let last = events.iter().position(|(_, _, kind)| matches!(kind, EventKind::Failed { .. }));
        prop_assert_eq!(data, encoded(&events[..last.map_or(events.len(), |last| last + 1)]));
    }
}

fn options() -> AnswerOptions {
    AnswerOptions {
        completion_id: String::new(),
        created: 0,
        model: String::new(),
        system_fingerprint: String::new(),
        stream: true,
        choices: CHOICES,
        include_usage: false,
        logprobs: false,
        form: Form::Events,
        tells_service_tier: false,
        prompts: 1,
        echo: vec![],
        echo_hidden: 0,
        prompt_only: false,
        fields: String::new(),
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&u32::try_from(payload.len()).unwrap().to_le_bytes()[..], payload].concat()
}

#[test]
fn each_fault_is_named() {
    let finished = encoded(&[
        (0, 1, EventKind::Reasoning { text: "a".into() }),
        (1, 2, EventKind::Failed { code: "x".into(), message: "y".into() }),
    ]);
    let cases: [(&[u8], &str); 9] = [
        (&(MAX_FRAME as u32 + 1).to_le_bytes(), "too long"),
        (&frame(&[0, 0, 0]), "ends before its fields"),
        (&frame(&[0, 0, 0, 0, 0, 0, 0, 0, 99]), "unknown kind"),
        (&frame(&[0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0xff]), "not UTF-8"),
        (&frame(&[0, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 0, b'a']), "ends before its fields"),
        (&frame(&[0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, b'a', 0]), "goes on behind its end"),
        (&frame(&[3, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, b'a']), "of no choice"),
        (&[&finished[..], &frame(&[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0])].concat(), "a choice goes on"),
        (&frame(&[&[0, 0, 0, 0, 0, 0, 0, 0, 6, 3][..], &[0; 16]].concat()), "unknown reason"),
    ];
    for (data, words) in cases {
        let error = decoder().push(data).unwrap_err().to_string();
        assert!(error.contains(words), "{error} for {data:?}");
    }
}

#[test]
fn an_end_that_was_lost_with_a_broken_piece_is_told_as_a_failure() {
    let finished = |choice| {
        encoded(&[(choice, 0, EventKind::Finished { reason: FinishReason::Stop, usage: Usage::default() })])
    };
    let mut decoder = decoder();
    assert_eq!(decoder.push(&finished(0)).unwrap().events.len(), 1);
    assert!(decoder.push(&[finished(1), frame(&[0, 0, 0])].concat()).is_err());
    let failed: Vec<u32> =
        decoder.fail("engine_lost", "it stopped").events.iter().map(|event| event.choice).collect();
    assert_eq!(failed, [1, 2], "the end of 0 was told, that of 1 was not");
}

#[test]
fn a_length_alone_takes_no_memory() {
    // Four billion entries are announced where none follow.
    let hostile = frame(&[&[0, 0, 0, 0, 0, 0, 0, 0, 1][..], &u32::MAX.to_le_bytes()].concat());
    assert!(decoder().push(&hostile).is_err());
    let mut waiting = decoder();
    assert_eq!(waiting.push(&(MAX_FRAME as u32).to_le_bytes()).unwrap(), EventBatch::default());
    assert!(!waiting.is_complete());
}
