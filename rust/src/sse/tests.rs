//! The writer by itself: what each event becomes, and when.

use super::*;
use crate::event::{Event, FinishReason, TokenLogprob};

const REQUEST: u64 = 7;

fn options(stream: bool) -> AnswerOptions {
    AnswerOptions {
        completion_id: "chatcmpl-1".into(),
        created: 1700000000,
        model: "m\"1".into(),
        system_fingerprint: "fp_1".into(),
        stream,
        choices: 1,
        include_usage: false,
        logprobs: false,
        form: Form::Chat,
        tells_service_tier: false,
        prompts: 1,
        echo: vec![],
        echo_hidden: 0,
        prompt_only: false,
        fields: String::new(),
    }
}

fn batch(events: Vec<(u32, EventKind)>) -> EventBatch {
    let event = |(choice, kind)| Event { request_id: REQUEST, choice, completion_tokens: 0, kind };
    EventBatch { events: events.into_iter().map(event).collect(), ..EventBatch::default() }
}

fn text(text: &str) -> EventKind {
    EventKind::Text { text: text.into(), logprobs: vec![] }
}

fn finished(completion_tokens: u32) -> EventKind {
    let usage = Usage {
        prompt_tokens: 5,
        cached_tokens: 3 - completion_tokens.min(3),
        completion_tokens,
        reasoning_tokens: completion_tokens / 2,
    };
    EventKind::Finished { reason: FinishReason::Stop, usage }
}

fn failed() -> EventKind {
    EventKind::Failed { code: "engine_error".into(), message: "the step \"failed\"".into() }
}

fn writer(options: &AnswerOptions) -> SseWriter {
    let mut writer = SseWriter::new();
    writer.open(REQUEST, options).unwrap();
    writer
}

fn taken(writer: &mut SseWriter) -> String {
    String::from_utf8(writer.take(REQUEST)).unwrap()
}

const HEAD: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
                    \"model\":\"m\\\"1\",\"system_fingerprint\":\"fp_1\",\"choices\":[";

#[test]
fn a_stream_is_role_text_reason_and_done() {
    let mut writer = writer(&options(true));
    assert_eq!(writer.push(&batch(vec![(0, text("Hi\n"))])), [REQUEST]);
    let delta = |delta: &str, reason: &str| {
        format!("{HEAD}{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{reason}}}]}}\n\n")
    };
    let role = delta("{\"role\":\"assistant\",\"content\":\"\"}", "null");
    assert_eq!(taken(&mut writer), role + &delta("{\"content\":\"Hi\\n\"}", "null"));
    assert!(!writer.is_finished(REQUEST));

    writer.push(&batch(vec![(0, finished(2))]));
    assert_eq!(taken(&mut writer), delta("{}", "\"stop\"") + "data: [DONE]\n\n");
    assert!(writer.is_finished(REQUEST));
    assert_eq!(writer.usage(REQUEST).unwrap().completion_tokens, 2);
}

#[test]
fn the_usage_is_one_more_chunk_and_null_before() {
    let mut writer = writer(&AnswerOptions { include_usage: true, ..options(true) });
    writer.push(&batch(vec![(0, text("a")), (0, finished(2))]));
    let stream = taken(&mut writer);
    let events: Vec<&str> = stream.split_terminator("\n\n").collect();
    assert!(events[..3].iter().all(|event| event.ends_with(",\"usage\":null}")));
    let usage = "],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7,\
         \"prompt_tokens_details\":{\"cached_tokens\":1},\"completion_tokens_details\":{\"reasoning_tokens\":1}}}";
    assert_eq!(events[3], format!("{HEAD}{usage}"));
    assert_eq!(events[4..], ["data: [DONE]"]);
}

#[test]
fn a_plain_answer_is_one_object_at_the_end() {
    let mut writer = writer(&options(false));
    assert_eq!(writer.push(&batch(vec![(0, text("Hi "))])), [0u64; 0]);
    assert_eq!(writer.buffered(REQUEST), 0);
    assert_eq!(writer.push(&batch(vec![(0, text("\"you\"")), (0, finished(3))])), [REQUEST]);
    let expected = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\\\"1\",\
         \"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\
         \"content\":\"Hi \\\"you\\\"\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\
         \"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3,\"total_tokens\":8,\
         \"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":1}}}";
    assert_eq!(taken(&mut writer), expected);
}

#[test]
fn choices_interleave_and_their_usage_is_summed() {
    for stream in [true, false] {
        let mut writer = writer(&AnswerOptions { choices: 2, ..options(stream) });
        writer.push(&batch(vec![(1, text("b")), (0, text("a")), (1, finished(1))]));
        assert!(!writer.is_finished(REQUEST));
        assert_eq!(writer.usage(REQUEST), None);
        writer.push(&batch(vec![(1, text("late")), (1, finished(1)), (0, finished(3))]));
        let usage = Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 4, reasoning_tokens: 1 };
        assert_eq!(writer.usage(REQUEST), Some(usage));
        let bytes = taken(&mut writer);
        assert_eq!(bytes.matches("\"finish_reason\":\"stop\"").count(), 2);
        assert!(!bytes.contains("late"));
    }
}

#[test]
fn choices_appear_in_their_order() {
    let mut writer = writer(&AnswerOptions { choices: 3, ..options(true) });
    writer.push(&batch(vec![(1, text("b")), (0, text("a")), (2, finished(1))]));
    let stream = taken(&mut writer);
    let deltas = stream.split_terminator("\n\n").map(|event| &event[HEAD.len() - 1..]);
    let indices: Vec<&str> = deltas.filter_map(|delta| delta.split(&[':', ','][..]).nth(1)).collect();
    assert_eq!(indices, ["0", "1", "1", "0", "2", "2"]);
}

#[test]
fn log_probabilities_ride_with_their_text() {
    let entry = TokenLogprob { token_id: 1, bytes: b"a".to_vec(), logprob: -0.5, top: vec![] };
    let json = "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":[]}";
    let event = || EventKind::Text { text: "a".into(), logprobs: vec![entry.clone()] };
    for (stream, content) in [(true, json.to_owned()), (false, format!("{json},{json}"))] {
        let mut writer = writer(&AnswerOptions { logprobs: true, ..options(stream) });
        writer.push(&batch(vec![(0, event()), (0, text("")), (0, event()), (0, finished(2))]));
        let bytes = taken(&mut writer);
        let expected = format!("\"logprobs\":{{\"content\":[{content}],\"refusal\":null}}");
        assert_eq!(bytes.matches(&expected).count(), if stream { 2 } else { 1 });
    }
}

#[test]
fn a_failure_before_the_first_byte_is_left_to_the_status() {
    for stream in [true, false] {
        let mut writer = writer(&AnswerOptions { choices: 2, ..options(stream) });
        writer.push(&batch(vec![(0, text("never taken"))]));
        assert_eq!(writer.push(&batch(vec![(1, failed()), (0, text("more"))])), [REQUEST]);
        assert_eq!(writer.failure(REQUEST), Some(("engine_error", "the step \"failed\"")));
        assert_eq!(writer.buffered(REQUEST), 0);
        assert!(writer.is_finished(REQUEST));
        assert_eq!(writer.usage(REQUEST), None);
    }
}

#[test]
fn a_failure_after_the_first_byte_ends_the_stream_with_an_error() {
    let mut writer = writer(&options(true));
    writer.push(&batch(vec![(0, text("a"))]));
    taken(&mut writer);
    assert_eq!(writer.push(&batch(vec![(0, failed()), (0, finished(1))])), [REQUEST]);
    let expected = "data: {\"error\":{\"message\":\"the step \\\"failed\\\"\",\"type\":\"server_error\",\
         \"param\":null,\"code\":\"engine_error\"}}\n\n";
    assert_eq!(taken(&mut writer), expected);
    assert_eq!(writer.failure(REQUEST), None);
    assert!(writer.is_finished(REQUEST));
}

#[test]
fn a_connection_is_woken_once_until_it_takes() {
    let mut writer = writer(&options(true));
    assert_eq!(writer.push(&batch(vec![(0, text("a")), (0, text("b"))])), [REQUEST]);
    assert_eq!(writer.push(&batch(vec![(0, text("c"))])), [0u64; 0]);
    assert!(writer.buffered(REQUEST) > 0);
    taken(&mut writer);
    assert_eq!(writer.buffered(REQUEST), 0);
    assert_eq!(writer.push(&batch(vec![(0, text("d"))])), [REQUEST]);
}

#[test]
fn a_backlog_is_what_a_quicker_reader_would_have_taken() {
    let mut writer = writer(&options(true));
    writer.push(&batch(vec![(0, text("a"))]));
    taken(&mut writer);
    let long = "b".repeat(1000);
    writer.push(&batch(vec![(0, text(&long))]));
    assert_eq!(writer.backlog(REQUEST), 0);
    let first = writer.buffered(REQUEST);
    writer.push(&batch(vec![(0, text("c")), (0, text("d"))]));
    assert_eq!(writer.backlog(REQUEST), writer.buffered(REQUEST) - first);
    writer.push(&batch(vec![(0, text(&long)), (0, text(&long))]));
    assert!(writer.backlog(REQUEST) > 2 * long.len());
    taken(&mut writer);
    assert_eq!(writer.backlog(REQUEST), 0);
    writer.push(&batch(vec![(0, text("c")), (0, text("d"))]));
    assert_eq!(writer.backlog(REQUEST), writer.buffered(REQUEST) / 2);
    writer.push(&batch(vec![(0, finished(2))]));
    assert_eq!((writer.backlog(REQUEST), writer.backlog(9)), (0, 0));
}

#[test]
fn delivered_is_what_was_taken() {
    let drawn = |choice, completion_tokens, kind| EventBatch {
        events: vec![Event { request_id: REQUEST, choice, completion_tokens, kind }],
        ..EventBatch::default()
    };
    for stream in [true, false] {
        let mut writer = writer(&AnswerOptions { choices: 2, ..options(stream) });
        let mut delivered = Vec::new();
        for (choice, tokens, kind) in
            [(0, 2, text("a")), (1, 1, text("b")), (1, 4, finished(4)), (0, 3, finished(3))]
        {
            writer.push(&drawn(choice, tokens, kind));
            delivered.push(writer.delivered(REQUEST));
            writer.take(REQUEST);
        }
        delivered.push(writer.delivered(REQUEST));
        assert_eq!(delivered, if stream { [0, 2, 3, 6, 7] } else { [0, 0, 0, 0, 7] });
    }
    let mut told = writer(&AnswerOptions { prompt_only: true, ..options(true) });
    told.push(&drawn(0, 1, finished(1)));
    told.take(REQUEST);
    assert_eq!((told.delivered(REQUEST), told.delivered(99)), (0, 0));
    assert_eq!(told.usage(REQUEST).unwrap().completion_tokens, 0);
}

#[test]
fn a_failure_keeps_what_was_delivered_before() {
    let mut writer = writer(&options(true));
    let drawn = |completion_tokens, kind| EventBatch {
        events: vec![Event { request_id: REQUEST, choice: 0, completion_tokens, kind }],
        ..EventBatch::default()
    };
    writer.push(&drawn(5, text("a")));
    writer.take(REQUEST);
    writer.push(&drawn(6, text("b")));
    writer.push(&drawn(6, failed()));
    assert_eq!(writer.delivered(REQUEST), 5);
    assert!(taken(&mut writer).contains("error"));
    assert_eq!(writer.delivered(REQUEST), 6);
}

#[test]
fn a_closed_or_unknown_answer_is_silent() {
    let mut writer = writer(&options(true));
    writer.push(&batch(vec![(0, text("a"))]));
    writer.close(REQUEST);
    assert_eq!(writer.push(&batch(vec![(0, text("b"))])), [0u64; 0]);
    assert_eq!(taken(&mut writer), "");
    assert!(writer.is_finished(REQUEST));
    assert_eq!((writer.buffered(REQUEST), writer.failure(REQUEST), writer.usage(REQUEST)), (0, None, None));
}

#[test]
fn a_broken_rule_fails_the_answer_and_nobody_else() {
    let mut writer = writer(&options(true));
    assert_eq!(writer.push(&batch(vec![(3, text("a"))])), [REQUEST]);
    assert_eq!(writer.failure(REQUEST).unwrap().0, "internal_error");
    assert!(writer.open(REQUEST, &options(true)).is_err());
    assert!(writer.open(8, &AnswerOptions { choices: 0, ..options(true) }).is_err());
}
