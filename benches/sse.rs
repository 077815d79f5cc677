//! What a server-sent event costs: 256 answers, one text event each per step, taken after every step.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ecocore::event::{Event, EventBatch, EventKind, TokenLogprob};
use ecocore::sse::{AnswerOptions, Form, SseWriter};

const ANSWERS: u64 = 256;

fn writer(logprobs: bool) -> SseWriter {
    let mut writer = SseWriter::new();
    for request_id in 0..ANSWERS {
        let options = AnswerOptions {
            completion_id: format!("chatcmpl-{request_id:032x}"),
            created: 1_700_000_000,
            model: "HuggingFaceTB/SmolLM2-135M-Instruct".into(),
            system_fingerprint: "fp_0123456789abcdef".into(),
            stream: true,
            choices: 1,
            include_usage: true,
            logprobs,
            form: Form::Chat,
            tells_service_tier: false,
            prompts: 1,
            echo: vec![],
            echo_hidden: 0,
            prompt_only: false,
            fields: String::new(),
        };
        writer.open(request_id, &options).expect("each request is opened once");
    }
    writer
}

/// One step's events: a word of text each, with a quote to escape in every eighth.
fn step(top_logprobs: Option<usize>) -> EventBatch {
    let entry = |top| TokenLogprob {
        token_id: 5,
        bytes: b" world".to_vec(),
        logprob: -0.123456789,
        top: (0..top).map(|id| (id as u32, b" other".to_vec(), -1.23456789 - id as f64)).collect(),
    };
    let event = |request_id| {
        let text = if request_id % 8 == 0 { " \"so\"\n" } else { " world" };
        let kind =
            EventKind::Text { text: text.into(), logprobs: top_logprobs.map(entry).into_iter().collect() };
        Event { request_id, choice: 0, completion_tokens: 0, kind }
    };
    EventBatch { events: (0..ANSWERS).map(event).collect(), ..EventBatch::default() }
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse");
    group.throughput(Throughput::Elements(ANSWERS));
    for (name, top_logprobs) in [("256 frames", None), ("256 frames with 20 logprobs", Some(20))] {
        let events = step(top_logprobs);
        let mut writer = writer(top_logprobs.is_some());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for request_id in writer.push(black_box(&events)) {
                    black_box(writer.take(request_id));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
