//! The writer's bytes, read back by another JSON parser: a stream says what the plain answer says, whenever
//! its connection takes bytes, and a connection that waits to be woken misses nothing.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::HashMap;

use ecocore::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};
use ecocore::sse::{AnswerOptions, Form, SseWriter};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

const REQUEST: u64 = 1;

fn options(stream: bool, choices: u32, include_usage: bool, logprobs: bool) -> AnswerOptions {
    AnswerOptions {
        completion_id: "chatcmpl-\"1\"".into(),
        created: 1,
        model: "möd\\el\n".into(),
        system_fingerprint: "fp".into(),
        stream,
        choices,
        include_usage,
        logprobs,
        form: Form::Chat,
        tells_service_tier: false,
        prompts: 1,
        echo: vec![],
        echo_hidden: 0,
        prompt_only: false,
        fields: String::new(),
    }
}

fn event(choice: u32, kind: EventKind) -> Event {
    Event { request_id: REQUEST, choice, completion_tokens: 0, kind }
}

fn entry() -> impl Strategy<Value = TokenLogprob> {
    let bytes = || vec(any::<u8>(), 0..5);
    let logprob = || prop_oneof![-30.0..0.0f64, Just(f64::NEG_INFINITY), Just(0.0), Just(-1e-310)];
    let top = vec((any::<u32>(), bytes(), logprob()), 0..3);
    (any::<u32>(), bytes(), logprob(), top).prop_map(|(token_id, bytes, logprob, top)| TokenLogprob {
        token_id,
        bytes,
        logprob,
        top,
    })
}

/// A piece of an answer; arguments continue the last call of their choice.
fn told() -> impl Strategy<Value = EventKind> {
    let text = || ".{0,8}".prop_map(String::from);
    prop_oneof![
        3 => (text(), vec(entry(), 0..3)).prop_map(|(text, logprobs)| EventKind::Text { text, logprobs }),
        1 => text().prop_map(|text| EventKind::Reasoning { text }),
        1 => (text(), text()).prop_map(|(id, name)| EventKind::ToolCall { index: 0, id, name }),
        2 => text().prop_map(|text| EventKind::ToolArguments { index: 0, text }),
    ]
}

/// Numbers the calls of each choice and drops arguments before the first.
fn number_calls(events: Vec<Event>) -> Vec<Event> {
    let mut calls = HashMap::new();
    let number = |mut event: Event| {
        let calls = calls.entry(event.choice).or_insert(0);
        match &mut event.kind {
            EventKind::ToolCall { index, .. } => (*index, *calls) = (*calls, *calls + 1),
            EventKind::ToolArguments { index, .. } => *index = calls.checked_sub(1)?,
            _ => {}
        }
        Some(event)
    };
    events.into_iter().filter_map(number).collect()
}

/// The events of all choices, interleaved: text, reasoning and calls, then an end for each.
fn events() -> impl Strategy<Value = (u32, Vec<Event>)> {
    (1u32..4).prop_flat_map(|choices| {
        let told = (0..choices, told()).prop_map(|(choice, kind)| event(choice, kind));
        let ends: Vec<u32> = (0..choices).collect();
        (Just(choices), vec(told, 0..16).prop_map(number_calls), Just(ends).prop_shuffle()).prop_map(
            |(choices, mut events, ends)| {
                events.extend(ends.into_iter().map(|choice| {
                    let reason = if choice % 2 == 0 { FinishReason::Stop } else { FinishReason::Length };
                    let usage = Usage {
                        prompt_tokens: 9,
                        cached_tokens: 4 + choice,
                        completion_tokens: 1 + choice,
                        reasoning_tokens: choice,
                    };
                    event(choice, EventKind::Finished { reason, usage })
                }));
                (choices, events)
            },
        )
    })
}

/// What a reader of the answer learns of one choice.
#[derive(Debug, Default, PartialEq)]
struct Read {
    content: String,
    reasoning: String,
    /// Id, name and arguments.
    calls: Vec<[String; 3]>,
    entries: Vec<Value>,
    reason: Option<String>,
}

/// A small reader of server-sent events: the data of each, which must all be well formed.
fn data(stream: &str) -> Vec<&str> {
    assert!(stream.is_empty() || stream.ends_with("\n\n"));
    let data = |event| str::strip_prefix(event, "data: ").expect("every event is data");
    let data: Vec<&str> = stream.split_terminator("\n\n").map(data).collect();
    assert!(data.iter().all(|data| !data.contains('\n')));
    data
}

fn read_entries(logprobs: &Value, into: &mut Vec<Value>) {
    if let Some(content) = logprobs["content"].as_array() {
        into.extend(content.iter().cloned());
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn read_stream(stream: &str, include_usage: bool) -> (HashMap<u64, Read>, Option<Value>) {
    let mut data = data(stream);
    assert_eq!(data.pop(), Some("[DONE]"));
    let (mut choices, mut usage) = (HashMap::<u64, Read>::new(), None);
    for data in data {
        let chunk: Value = serde_json::from_str(data).expect("every chunk is JSON");
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk.get("usage").is_some(), include_usage);
        assert!(usage.is_none(), "the usage comes last");
        let Some(choice) = chunk["choices"].get(0) else {
            usage = Some(chunk["usage"].clone());
            continue;
        };
        let index = choice["index"].as_u64().unwrap();
        let first = !choices.contains_key(&index);
        assert!(index == 0 || choices.contains_key(&(index - 1)), "choices appear in order");
        let read = choices.entry(index).or_default();
        let delta = choice["delta"].as_object().unwrap();
        assert_eq!(delta.get("role").is_some(), first);
        assert_eq!(read.reason, None, "nothing follows the reason");
        read.content.push_str(delta.get("content").map_or("", |content| content.as_str().unwrap()));
        read.reasoning.push_str(delta.get("reasoning_content").map_or("", |text| text.as_str().unwrap()));
        for call in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            assert_eq!(delta.len(), 1);
            let arguments = call["function"]["arguments"].as_str().unwrap();
            if call.get("id").is_some() {
                assert_eq!((call["index"].as_u64(), arguments), (Some(read.calls.len() as u64), ""));
                assert_eq!(call["type"], "function");
                read.calls.push(
                    [&call["id"], &call["function"]["name"], &call["function"]["arguments"]].map(text_of),
                );
            } else {
                assert_eq!(call.as_object().unwrap().len(), 2);
                read.calls[call["index"].as_u64().unwrap() as usize][2].push_str(arguments);
            }
        }
        read_entries(&choice["logprobs"], &mut read.entries);
        read.reason = choice["finish_reason"].as_str().map(str::to_owned);
        assert_eq!(read.reason.is_some(), delta.is_empty());
    }
    (choices, usage)
}

fn read_plain(body: &str) -> (HashMap<u64, Read>, Value) {
    let answer: Value = serde_json::from_str(body).expect("the answer is JSON");
    assert_eq!(answer["object"], "chat.completion");
    let choice = |choice: &Value| {
        let message = choice["message"].as_object().unwrap();
        let calls = message.get("tool_calls").map(|calls| calls.as_array().unwrap());
        assert!(calls.is_none_or(|calls| !calls.is_empty()));
        assert!(message.get("reasoning_content").is_none_or(|text| !text_of(text).is_empty()));
        assert!(message["content"].is_string() || calls.is_some());
        assert!(message["refusal"].is_null());
        let call = |call: &Value| {
            let function = &call["function"];
            assert_eq!(call["type"], "function");
            [&call["id"], &function["name"], &function["arguments"]].map(text_of)
        };
        let mut read = Read {
            content: message["content"].as_str().unwrap_or_default().to_owned(),
            reasoning: message.get("reasoning_content").map(text_of).unwrap_or_default(),
            calls: calls.into_iter().flatten().map(call).collect(),
            reason: choice["finish_reason"].as_str().map(str::to_owned),
            ..Read::default()
        };
        read_entries(&choice["logprobs"], &mut read.entries);
        (choice["index"].as_u64().unwrap(), read)
    };
    (answer["choices"].as_array().unwrap().iter().map(choice).collect(), answer["usage"].clone())
}

/// Pushes the events in batches of the given sizes; the connection takes only when it is woken and willing.
fn write(options: &AnswerOptions, events: &[Event], sizes: &[usize], willing: &[bool]) -> String {
    let mut writer = SseWriter::new();
    writer.open(REQUEST, options).unwrap();
    let (mut bytes, mut woken, mut rest) = (Vec::new(), false, events);
    let mut willing = willing.iter().copied().cycle();
    for size in sizes.iter().copied().cycle() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        let batch = EventBatch { events: now.to_vec(), ..EventBatch::default() };
        let wakes = writer.push(&batch);
        assert!(!woken || wakes.is_empty(), "nobody is woken twice for one take");
        woken |= wakes == [REQUEST];
        if woken && (willing.next() == Some(true) || rest.is_empty()) {
            assert!(writer.buffered(REQUEST) > 0);
            bytes.extend(writer.take(REQUEST));
            woken = false;
        }
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(writer.buffered(REQUEST), 0);
    assert!(writer.is_finished(REQUEST));
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_stream_says_what_the_plain_answer_says(
        (choices, events) in events(),
        sizes in vec(1usize..5, 1..4),
        willing in vec(any::<bool>(), 1..5),
        include_usage: bool,
        logprobs: bool,
    ) {
        let stream = write(&options(true, choices, include_usage, logprobs), &events, &sizes, &willing);
        let plain = write(&options(false, choices, include_usage, logprobs), &events, &sizes, &willing);
        let (streamed, streamed_usage) = read_stream(&stream, include_usage);
        let (whole, usage) = read_plain(&plain);
        prop_assert_eq!(&streamed, &whole);
        prop_assert_eq!(streamed_usage, include_usage.then(|| usage.clone()));
        prop_assert_eq!(&usage["completion_tokens"], (1..=choices).sum::<u32>());
        prop_assert_eq!(&usage["prompt_tokens_details"]["cached_tokens"], 4);

        for (index, read) in whole {
            let own = events.iter().filter(|event| u64::from(event.choice) == index);
            let (mut text, mut thought, mut calls, mut tokens) = (String::new(), String::new(), vec![], vec![]);
            for event in own {
                match event.kind.clone() {
                    EventKind::Text { text: piece, logprobs } => {
                        text.push_str(&piece);
                        tokens.extend(logprobs.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()));
                    }
                    EventKind::Reasoning { text } => thought.push_str(&text),
                    EventKind::ToolCall { id, name, .. } => calls.push([id, name, String::new()]),
                    EventKind::ToolArguments { index, text } => calls[index as usize][2].push_str(&text),
                    EventKind::Prompt { .. } | EventKind::Finished { .. } | EventKind::Failed { .. } => {}
                }
            }
            prop_assert_eq!((read.content, read.reasoning, read.calls), (text, thought, calls));
            let spelled: Vec<&str> = read.entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
            let none: Vec<String> = vec![];
            prop_assert_eq!(spelled, if logprobs { tokens } else { none });
        }
    }

    #[test]
    fn a_failed_answer_is_a_status_or_an_error_event(
        (choices, events) in events(),
        fail_at: prop::sample::Index,
        take_at: prop::sample::Index,
        stream: bool,
    ) {
        let mut writer = SseWriter::new();
        writer.open(REQUEST, &options(stream, choices, false, false)).unwrap();
        let fail_at = fail_at.index(events.len());
        let take_at = take_at.index(events.len());
        let mut bytes = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let mut event = event.clone();
            if index == fail_at {
                event.kind = EventKind::Failed { code: "engine_error".into(), message: "lost".into() };
            }
            writer.push(&EventBatch { events: vec![event], ..EventBatch::default() });
            if index == take_at {
                bytes.extend(writer.take(REQUEST));
            }
        }
        let taken = !bytes.is_empty();
        bytes.extend(writer.take(REQUEST));
        let text = String::from_utf8(bytes).unwrap();
        prop_assert!(writer.is_finished(REQUEST));
        prop_assert_eq!(writer.usage(REQUEST), None);
        if taken {
            let last: Value = serde_json::from_str(data(&text).last().unwrap()).unwrap();
            prop_assert_eq!(&last["error"]["code"], "engine_error");
            prop_assert!(!text.contains("[DONE]"));
            prop_assert_eq!(writer.failure(REQUEST), None);
        } else {
            prop_assert_eq!(text, "");
            prop_assert_eq!(writer.failure(REQUEST), Some(("engine_error", "lost")));
        }
    }
}
