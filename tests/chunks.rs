//! Streams of chunks through the decoder: what our own writer spells comes back as the events that it was made of, however
//! its bytes are cut; what other servers send is read as they mean it; what is no stream is an error, whatever it is.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::HashMap;

use ecocore::chunks::{ChunkDecoder, MAX_EVENT};
use ecocore::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};
use ecocore::sse::{AnswerOptions, Form, SseWriter};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const REQUEST: u64 = 9;

fn options(form: Form, choices: u32, logprobs: bool) -> AnswerOptions {
    AnswerOptions {
        completion_id: "chatcmpl-1".into(),
        created: 1,
        model: "m\u{f6}d\\el\n".into(),
        system_fingerprint: "fp".into(),
        stream: true,
        choices,
        include_usage: true,
        logprobs,
        form,
        tells_service_tier: false,
        prompts: 1,
        echo: vec![],
        echo_hidden: 0,
        prompt_only: false,
        fields: String::new(),
    }
}

/// The writer's stream of events, with a ping behind each.
fn written(options: &AnswerOptions, events: &[Event]) -> Vec<u8> {
    let mut writer = SseWriter::new();
    writer.open(REQUEST, options).unwrap();
    let mut stream = Vec::new();
    for event in events {
        writer.push(&EventBatch { events: vec![event.clone()], ..EventBatch::default() });
        stream.extend(writer.take(REQUEST));
        stream.extend(b": ping\n\n");
    }
    assert!(writer.is_finished(REQUEST));
    stream
}

fn read(decoder: &mut ChunkDecoder, stream: &[u8], cuts: &[Index]) -> Vec<Event> {
    let mut cuts: Vec<usize> =
        cuts.iter().map(|cut| cut.index(stream.len().max(1))).chain([0, stream.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).flat_map(|cut| decoder.push(&stream[cut[0]..cut[1]]).unwrap().events).collect()
}

fn entry(logprobs: bool) -> impl Strategy<Value = TokenLogprob> {
    let bytes = || vec(any::<u8>(), 0..5);
    // Digits as few that the reader of JSON, which may miss the last bit of long ones, reads back the same number.
    let logprob = || {
        prop_oneof![(-300_000..0).prop_map(|number| f64::from(number) / 10_000.0), Just(-9999.0), Just(0.0)]
    };
    let top = vec((Just(0u32), bytes(), logprob()), 0..if logprobs { 3 } else { 1 });
    (bytes(), logprob(), top).prop_map(|(bytes, logprob, top)| TokenLogprob {
        token_id: 0,
        bytes,
        logprob,
        top,
    })
}

fn told(logprobs: bool) -> impl Strategy<Value = EventKind> {
    let text = || ".{1,8}".prop_map(String::from);
    let entries = vec(entry(logprobs), if logprobs { 1..3 } else { 0..1 });
    prop_oneof![
        3 => (".{0,8}", entries).prop_map(|(text, logprobs)| EventKind::Text { text, logprobs }),
        1 => text().prop_map(|text| EventKind::Reasoning { text }),
        1 => (text(), text()).prop_map(|(id, name)| EventKind::ToolCall { index: 0, id, name }),
        2 => text().prop_map(|text| EventKind::ToolArguments { index: 0, text }),
    ]
}

/// Numbers the calls of each choice, drops arguments before the first, and what tells nothing.
fn numbered(events: Vec<Event>) -> Vec<Event> {
    let mut calls = HashMap::new();
    let number = |mut event: Event| {
        let calls = calls.entry(event.choice).or_insert(0u32);
        match &mut event.kind {
            EventKind::ToolCall { index, .. } => (*index, *calls) = (*calls, *calls + 1),
            EventKind::ToolArguments { index, .. } => *index = calls.checked_sub(1)?,
            EventKind::Text { text, logprobs } if text.is_empty() && logprobs.is_empty() => return None,
            _ => {}
        }
        Some(event)
    };
    events.into_iter().filter_map(number).collect()
}

/// The whole life of a request: events of its choices in any order, then an end for each.
fn life(most: u32) -> impl Strategy<Value = (u32, bool, Vec<Event>)> {
    (1..=most, any::<bool>()).prop_flat_map(|(choices, logprobs)| {
        let event = |(choice, kind)| Event { request_id: REQUEST, choice, completion_tokens: 0, kind };
        let events = vec((0..choices, told(logprobs)).prop_map(event), 0..16).prop_map(numbered);
        (events, vec((0..3usize, 0..50u32), choices as usize)).prop_map(move |(mut events, ends)| {
            for (choice, (reason, more)) in (0..).zip(ends) {
                let reason = [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls][reason];
                let own = events.iter().filter(|event| event.choice == choice).map(tokens).sum::<u32>();
                let usage = Usage {
                    prompt_tokens: 9,
                    cached_tokens: 4,
                    completion_tokens: own + more,
                    reasoning_tokens: more / 2,
                };
                events.push(event((choice, EventKind::Finished { reason, usage })));
            }
            count(&mut events);
            (choices, logprobs, events)
        })
    })
}

/// What each choice has drawn with each of its events.
fn count(events: &mut [Event]) {
    let mut drawn = HashMap::new();
    for event in events {
        let drawn = drawn.entry(event.choice).or_insert(0);
        *drawn = match &event.kind {
            EventKind::Finished { usage, .. } => usage.completion_tokens,
            _ => *drawn + tokens(event),
        };
        event.completion_tokens = *drawn;
    }
}

/// The beginning of a call is told with what comes behind it, and then more has been drawn.
fn told_late(events: &[Event]) -> Vec<Event> {
    let without_count = |event: &Event| match event.kind {
        EventKind::ToolCall { .. } => Event { completion_tokens: 0, ..event.clone() },
        _ => event.clone(),
    };
    events.iter().map(without_count).collect()
}

/// How many tokens a chunk is counted as.
fn tokens(event: &Event) -> u32 {
    match &event.kind {
        EventKind::Text { logprobs, .. } => logprobs.len().max(1) as u32,
        _ => 1,
    }
}

/// What each choice is told, without its usage; and the usage of all.
fn by_choice(choices: u32, events: &[Event]) -> (Vec<Vec<EventKind>>, Usage) {
    let mut told = vec![vec![]; choices as usize];
    let mut total = Usage::default();
    for event in events {
        let mut kind = event.kind.clone();
        if let EventKind::Finished { usage, .. } = &mut kind {
            let usage = std::mem::take(usage);
            total = Usage {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens,
                completion_tokens: total.completion_tokens + usage.completion_tokens,
                reasoning_tokens: total.reasoning_tokens + usage.reasoning_tokens,
            };
        }
        told[event.choice as usize].push(kind);
    }
    (told, total)
}

proptest! {
    #[test]
    fn what_our_own_writer_spelled_comes_back_however_it_is_cut(
        (choices, logprobs, events) in life(3), cuts in vec(any::<Index>(), 0..9), returns in any::<bool>()
    ) {
        let mut stream = written(&options(Form::Chat, choices, logprobs), &events);
        if returns {
            stream = String::from_utf8(stream).unwrap().replace('\n', "\r\n").into_bytes();
        }
        let mut decoder = ChunkDecoder::new(REQUEST, choices, 0);
        let back = read(&mut decoder, &stream, &cuts);
        prop_assert!(decoder.is_complete());
        prop_assert!(back.iter().all(|event| event.request_id == REQUEST));
        prop_assert!(decoder.fail("engine_lost", "").events.is_empty());
        prop_assert_eq!(by_choice(choices, &back), by_choice(choices, &events));
        // One choice's events come in the order in which they were told, usage and all.
        if choices == 1 {
            prop_assert_eq!(told_late(&back), told_late(&events));
        }
        let whole = ChunkDecoder::new(REQUEST, choices, 0).push(&stream).unwrap();
        prop_assert_eq!(&back, &whole.events);
        prop_assert_eq!(whole.num_tokens, events.iter().filter(|event| !is_end(&event.kind)).map(tokens).sum::<u32>());
    }

    #[test]
    fn so_does_a_completion_whose_answer_is_spelled_the_same_again(
        (_, logprobs, events) in life(1), cuts in vec(any::<Index>(), 0..9)
    ) {
        let events: Vec<Event> = events
            .into_iter()
            .filter(|event| matches!(event.kind, EventKind::Text { .. } | EventKind::Finished { .. }))
            .collect();
        let options = options(Form::Completion, 1, logprobs);
        let stream = written(&options, &events);
        let back = read(&mut ChunkDecoder::new(REQUEST, 1, 0), &stream, &cuts);
        prop_assert_eq!(
            String::from_utf8(written(&options, &back)).unwrap(), String::from_utf8(stream).unwrap()
        );
    }

    #[test]
    fn a_stream_that_ends_early_fails_the_choices_that_did_not_end(
        (choices, logprobs, events) in life(3), place in any::<Index>()
    ) {
        let stream = written(&options(Form::Chat, choices, logprobs), &events);
        let mut decoder = ChunkDecoder::new(REQUEST, choices, 0);
        let mut told = decoder.push(&stream[..place.index(stream.len())]).unwrap().events;
        let complete = decoder.is_complete();
        let rest = decoder.fail("engine_lost", "it stopped").events;
        prop_assert!(!complete || rest.is_empty());
        told.extend(rest);
        let ends = |choice| told.iter().filter(|event| event.choice == choice && is_end(&event.kind)).count();
        prop_assert!((0..choices).all(|choice| ends(choice) == 1));
        prop_assert!(decoder.is_complete());
        let (told, _) = by_choice(choices, &told);
        let (whole, _) = by_choice(choices, &events);
        for (told, whole) in told.iter().zip(whole) {
            let (end, told) = told.split_last().unwrap();
            prop_assert!(whole.starts_with(told), "what was told is the beginning of the answer");
            let failed = EventKind::Failed { code: "engine_lost".into(), message: "it stopped".into() };
            prop_assert!(*end == failed || (Some(end) == whole.last() && told.len() + 1 == whole.len()));
        }
    }

    #[test]
    fn any_bytes_are_events_or_an_error(pieces in vec(vec(any::<u8>(), 0..64), 0..6)) {
        let mut decoder = ChunkDecoder::new(REQUEST, 2, 0);
        for piece in pieces {
            let _ = decoder.push(&piece);
        }
        decoder.fail("engine_lost", "");
    }

    #[test]
    fn a_changed_byte_ends_each_choice_once(
        (choices, logprobs, events) in life(3), place in any::<Index>(), byte in any::<u8>(), cut in any::<Index>()
    ) {
        let mut stream = written(&options(Form::Chat, choices, logprobs), &events);
        let place = place.index(stream.len());
        stream[place] = byte;
        let mut decoder = ChunkDecoder::new(REQUEST, choices, 0);
        let cut = cut.index(stream.len());
        let mut told = vec![];
        for piece in [&stream[..cut], &stream[cut..]] {
            told.extend(decoder.push(piece).map_or(vec![], |batch| batch.events));
        }
        told.extend(decoder.fail("engine_lost", "").events);
        let ends = |choice| told.iter().filter(|event| event.choice == choice && is_end(&event.kind)).count();
        prop_assert!((0..choices).all(|choice| ends(choice) == 1));
    }
}

fn is_end(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Finished { .. } | EventKind::Failed { .. })
}

/// The events of one choice, shortly: `"text"`, `~"thought"`, `0:id/name`, `0+"arguments"`, `stop 5+3(1,2)`, `!code`.
fn short(events: &[Event]) -> String {
    let one = |event: &Event| match &event.kind {
        EventKind::Prompt { .. } => "prompt".into(),
        EventKind::Text { text, logprobs } => {
            let spell = |one: &TokenLogprob| {
                let top: String = one
                    .top
                    .iter()
                    .map(|top| format!(" {:?}{}", String::from_utf8_lossy(&top.1), top.2))
                    .collect();
                format!("[{:?}{}{top}]", String::from_utf8_lossy(&one.bytes), one.logprob)
            };
            format!("{text:?}{}", logprobs.iter().map(spell).collect::<String>())
        }
        EventKind::Reasoning { text } => format!("~{text:?}"),
        EventKind::ToolCall { index, id, name } => format!("{index}:{id}/{name}"),
        EventKind::ToolArguments { index, text } => format!("{index}+{text:?}"),
        EventKind::Finished { reason, usage } => format!(
            "{} {}+{}({},{})",
            reason.as_str(),
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens
        ),
        EventKind::Failed { code, .. } => format!("!{code}"),
    };
    events
        .iter()
        .map(|event| format!("{}{}", if event.choice > 0 { "1 " } else { "" }, one(event)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A stream of chunks, each the JSON of its choices, and what is to come of it when it ends there.
fn check(chunks: &[&str], choices: u32, expected: &str) {
    let stream: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let mut decoder = ChunkDecoder::new(REQUEST, choices, 7);
    let mut events = decoder.push(stream.as_bytes()).unwrap().events;
    events.extend(decoder.fail("lost", "").events);
    assert_eq!(short(&events), expected, "{stream}");
}

#[test]
fn other_servers_are_read_as_they_mean_it() {
    const HELLO: &str = r#"{"choices":[{"delta":{"role":"assistant","content":"hi"}}]}"#;
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#;
    let cases: &[(&[&str], u32, &str)] = &[
        (&[HELLO, STOP, USAGE, "[DONE]"], 1, r#""hi" stop 5+3(0,0)"#),
        // Without usage, and without the last word.
        (&[HELLO, HELLO, STOP, "[DONE]"], 1, r#""hi" "hi" stop 7+2(0,0)"#),
        (&[HELLO, STOP], 1, r#""hi" stop 7+1(0,0)"#),
        (&[STOP], 1, "stop 7+0(0,0)"),
        // Cut short, in several ways.
        (&[HELLO], 1, r#""hi" !lost"#),
        (&[HELLO, "[DONE]"], 1, r#""hi" !engine_lost"#),
        (&[HELLO, STOP, "[DONE]"], 2, r#""hi" stop 7+1(0,0) 1 !engine_lost"#),
        // Usage in every chunk, in the last with a choice, of odd numbers, or null.
        (
            &[
                r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
                r#"{"choices":[{"delta":{"content":"b"},"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
                "[DONE]",
            ],
            1,
            r#""a" "b" length 5+2(0,0)"#,
        ),
        (
            &[
                r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"eos"}],"usage":null}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":-5,"completion_tokens":1e30,"prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":1.5}}}"#,
            ],
            1,
            r#""a" stop 0+4294967295(0,1)"#,
        ),
        // Usage is of all choices together.
        (
            &[
                r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}"#,
                r#"{"choices":[{"index":1,"delta":{"content":"c"},"finish_reason":"stop"}]}"#,
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":4}}}"#,
            ],
            2,
            r#"1 "b" "a" 1 "c" stop 5+1(2,1) 1 stop 5+8(2,3)"#,
        ),
        // Chunks that tell nothing: filters before the answer and behind it.
        (
            &[
                r#"{"choices":[],"prompt_filter_results":[{}]}"#,
                "{}",
                HELLO,
                STOP,
                r#"{"choices":[{"delta":{"content":""},"finish_reason":null}]}"#,
                USAGE,
            ],
            1,
            r#""hi" stop 5+3(0,0)"#,
        ),
        // Thoughts under either name, refusals, and an end in the same chunk.
        (
            &[
                r#"{"choices":[{"delta":{"reasoning_content":"a","content":null}}]}"#,
                r#"{"choices":[{"delta":{"reasoning":"b","content":""}}]}"#,
                r#"{"choices":[{"delta":{"refusal":"no"},"finish_reason":"content_filter"}]}"#,
            ],
            1,
            r#"~"a" ~"b" "no" stop 7+3(0,0)"#,
        ),
        // Calls: a name in pieces, arguments in pieces, names said twice, and two at once.
        (
            &[
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"ge","arguments":""}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"t","arguments":"{"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"get","arguments":"}"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":5,"id":"y","function":{"name":"f"}},{"index":6,"id":"z","function":{"name":"g","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#,
            ],
            1,
            r#"0:x/get 0+"{" 0+"}" 1:y/f 2:z/g 2+"{}" tool_calls 7+4(0,0)"#,
        ),
        // Without numbers: an id of its own begins a call.
        (
            &[
                r#"{"choices":[{"delta":{"tool_calls":[{"id":"x","function":{"name":"f","arguments":"{"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"}"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"id":"y","function":{"name":"g"}}]}}]}"#,
                STOP,
            ],
            1,
            r#"0:x/f 0+"{" 0+"}" 1:y/g stop 7+3(0,0)"#,
        ),
        // Completions.
        (
            &[
                r#"{"choices":[{"text":"a","logprobs":{"tokens":["a","bytes:\\xe2\\x82"],"token_logprobs":[-1,null],"top_logprobs":[{"b":-0.5,"a":-1},null]}}]}"#,
                r#"{"choices":[{"text":"","logprobs":null,"finish_reason":"length"}]}"#,
            ],
            1,
            "\"a\"[\"a\"-1 \"b\"-0.5 \"a\"-1][\"\u{fffd}\"-9999] length 7+2(0,0)",
        ),
        // Log-probabilities of a chat.
        (
            &[
                r#"{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":-1,"bytes":null,"top_logprobs":[{"token":"?","logprob":-2,"bytes":[98]}]}]},"finish_reason":"stop"}]}"#,
            ],
            1,
            r#""a"["a"-1 "b"-2] stop 7+1(0,0)"#,
        ),
        // Errors in the stream.
        (
            &[HELLO, r#"{"error":{"message":"secret","type":"server_error","code":"engine_error"}}"#, STOP],
            1,
            r#""hi" !engine_lost"#,
        ),
        (&[r#"{"error":"boom"}"#], 2, "!engine_lost 1 !engine_lost"),
        (&[r#"{"object":"error","message":"x","code":500}"#], 1, "!engine_lost"),
        (
            &[r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}"#],
            1,
            "!request_refused",
        ),
        (&[r#"{"error":{"code":null,"type":"invalid_request_error"}}"#], 1, "!request_refused"),
        (
            &[r#"{"error":{"code":"grammar_too_complex","message":{"a":[1]},"type":"server_error"}}"#],
            1,
            "!grammar_too_complex",
        ),
        (&[HELLO, STOP, r#"{"error":{"code":500}}"#], 1, r#""hi" stop 7+1(0,0)"#),
        (&[r#"{"error":null,"choices":null}"#, HELLO, STOP], 1, r#""hi" stop 7+1(0,0)"#),
    ];
    for (chunks, choices, expected) in cases {
        check(chunks, *choices, expected);
    }
}

#[test]
fn a_call_without_an_id_gets_one_of_its_own() {
    let chunk = br#"data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}]}

"#;
    let ids: Vec<String> = (0..2)
        .map(|_| match &ChunkDecoder::new(REQUEST, 1, 0).push(chunk).unwrap().events[0].kind {
            EventKind::ToolCall { id, .. } => id.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(ids.iter().all(|id| id.len() == 29 && id.starts_with("call_")));
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn the_words_of_the_other_server_stay_out_of_failures() {
    let mut decoder = ChunkDecoder::new(REQUEST, 1, 0);
    let events = decoder
        .push(b"data: {\"error\":{\"message\":\"sk-secret at 10.0.0.1\",\"code\":\"sk-secret\"}}\n\n")
        .unwrap()
        .events;
    assert!(!format!("{events:?}").contains("secret"));
}

#[test]
fn each_fault_is_named_and_for_good() {
    let call =
        |index: usize| format!("{{\"index\":{index},\"id\":\"{index}\",\"function\":{{\"name\":\"f\"}}}}");
    let calls = |first: usize| {
        let calls: Vec<String> = (first..first + 100).map(call).collect();
        format!("{{\"choices\":[{{\"delta\":{{\"tool_calls\":[{}]}}}}]}}", calls.join(","))
    };
    let many_calls = format!("{}\n\ndata: {}", calls(0), calls(100));
    let many_choices = format!("{{\"choices\":[{}]}}", vec!["{}"; 129].join(","));
    let deep = format!("{{\"choices\":[],\"x\":{}", "[".repeat(100_000));
    let long_name =
        format!("{{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"id\":\"{}\"}}]}}}}]}}", "x".repeat(257));
    let cases: &[(&str, &str)] = &[
        ("secret", "no JSON"),
        ("{\"choices\":[", "no JSON"),
        ("", "no JSON"),
        ("[1]", "another form"),
        ("{\"choices\":{}}", "another form"),
        ("{\"choices\":[{\"delta\":{\"content\":[\"secret\"]}}]}", "another form"),
        ("{\"choices\":[{\"index\":-1}]}", "another form"),
        (
            "{\"choices\":[{\"text\":\"\",\"logprobs\":{\"tokens\":[\"a\"],\"token_logprobs\":[]}}]}",
            "another form",
        ),
        ("{\"choices\":[{\"index\":1,\"delta\":{}}]}", "of no choice"),
        (
            "{\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[{\"text\":\"a\"}]}",
            "goes on behind its end",
        ),
        (
            "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"x\"}]},\"finish_reason\":\"stop\"}]}",
            "has no name",
        ),
        (&long_name, "too long"),
        (&many_calls, "too many tool calls"),
        (&many_choices, "another form"),
        (&deep, "no JSON"),
    ];
    for (data, words) in cases {
        let mut decoder = ChunkDecoder::new(REQUEST, 1, 0);
        let error = decoder.push(format!("data: {data}\n\n").as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error} for {data:.80}");
        assert!(!error.contains("secret"), "{error}");
        assert!(decoder.push(b"").unwrap_err().to_string().contains("broken before"));
        assert!(!decoder.is_complete());
        assert_eq!(short(&decoder.fail("engine_lost", "").events), "!engine_lost");
    }
}

#[test]
fn an_end_that_was_lost_with_a_broken_piece_is_told_as_a_failure() {
    let finish =
        |index| format!("data: {{\"choices\":[{{\"index\":{index},\"finish_reason\":\"stop\"}}]}}\n\n");
    let mut decoder = ChunkDecoder::new(REQUEST, 2, 0);
    assert_eq!(decoder.push(finish(0).as_bytes()).unwrap().events, []);
    assert!(decoder.push(format!("{}data: x\n\n", finish(1)).as_bytes()).is_err());
    assert_eq!(short(&decoder.fail("lost", "").events), "stop 0+0(0,0) 1 !lost");
}

#[test]
fn an_event_without_an_end_takes_no_more_memory_than_is_allowed() {
    let mut decoder = ChunkDecoder::new(REQUEST, 1, 0);
    let piece = vec![b'a'; 1 << 20];
    decoder.push(b"data: ").unwrap();
    let taken = (0..).take_while(|_| decoder.push(&piece).is_ok()).count();
    assert!(taken < MAX_EVENT >> 20);
    // Behind the end of all choices nothing is kept at all.
    decoder.fail("lost", "");
    let mut decoder = ChunkDecoder::new(REQUEST, 1, 0);
    decoder.push(b"data: {\"error\":{}}\n\n").unwrap();
    assert!((0..8).all(|_| decoder.push(&piece).unwrap() == EventBatch::default()));
    assert!(decoder.is_complete());
}
