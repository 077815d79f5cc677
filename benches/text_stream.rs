//! What text and stop strings cost per step: 256 streams, one token each.

mod inputs;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ecocore::batch::{Batch, BatchRow};
use ecocore::output::{ChoiceOptions, OutputStreams};
use ecocore::sampled::SampledTokens;
use ecocore::stop::StopSet;
use ecocore::text_stream::{TextStream, TextStreams};
use ecocore::tool_calls::{Syntax, ToolOptions};
use ecocore::vocab::Vocab;
use inputs::{PIECES, STOPS, STREAMS};

/// The beginning of a call whose argument is a long text.
const CALL: &[u8] = b"<tool_call>{\"name\":\"write\",\"arguments\":{\"text\":\"";

fn vocab() -> Arc<Vocab> {
    Arc::new(Vocab::from_entries(PIECES.into_iter().map(|word| (word.to_vec(), false)).collect()))
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("text_stream");
    group.throughput(Throughput::Elements(STREAMS as u64));
    for (name, stops) in [("no stops", &STOPS[..0]), ("4 stops", &STOPS[..])] {
        let set = Arc::new(StopSet::new(stops).expect("stops are usable"));
        let mut streams = vec![TextStream::new(vocab(), set, true); STREAMS];
        let (mut out, mut next) = (String::new(), 0);
        group.bench_function(format!("256 streams, {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                for stream in &mut streams {
                    next = (next + 1) % PIECES.len() as u32;
                    black_box(stream.push(next, &mut out));
                }
            });
        });
    }
    let mut many = TextStreams::new(vocab());
    let stops = STOPS.map(str::to_owned);
    let handles: Vec<u64> =
        (0..STREAMS).map(|_| many.open(&stops, true).expect("stops are usable")).collect();
    let ids: Vec<u32> = (0..STREAMS as u32).map(|index| index % PIECES.len() as u32).collect();
    group.bench_function("256 streams, 4 stops, by handle", |bencher| {
        bencher.iter(|| black_box(many.push(&handles, black_box(&ids)).expect("handles are open")));
    });
    group.finish();

    let largest: Vec<String> = (0..16)
        .map(|stop| {
            (0..1024).map(|index| char::from(b' ' + ((stop * 7 + index * index) % 90) as u8)).collect()
        })
        .collect();
    let mut group = criterion.benchmark_group("stop_set");
    group.bench_function("compile 4 stops", |bencher| bencher.iter(|| StopSet::new(black_box(&STOPS))));
    group.bench_function("compile 16 stops of 1 kB", |bencher| {
        bencher.iter(|| StopSet::new(black_box(&largest)))
    });
    group.finish();
}

/// A step of [`STREAMS`] sequences in which all draw the same token.
#[allow(clippy::needless_update, reason = "what a draw tells may grow")]
fn step(token_id: u32) -> (Batch, SampledTokens) {
    let sequence_ids: Vec<u64> = (0..STREAMS as u64).collect();
    let row = |&sequence_id: &u64| BatchRow {
        sequence_id,
        start: 0,
        length: 1,
        prompt_length: 1,
        samples: true,
        output_index: 0,
        cached_tokens: 0,
    };
    let batch = Batch { rows: sequence_ids.iter().map(row).collect(), ..Batch::default() };
    let tokens = SampledTokens {
        sequence_ids,
        token_ids: vec![token_id; STREAMS],
        logprobs: vec![None; STREAMS],
        ..SampledTokens::default()
    };
    (batch, tokens)
}

/// What events cost: text of answers that look for nothing, then for calls, then a call's arguments.
fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("output");
    group.throughput(Throughput::Elements(STREAMS as u64));
    let steps: Vec<_> = (0..PIECES.len() as u32).map(step).collect();
    let choice = |request_id| ChoiceOptions { request_id, max_tokens: u32::MAX, ..ChoiceOptions::default() };
    let mut bench = |name: &str, options: &dyn Fn(u64) -> ChoiceOptions, start: Option<u32>| {
        let entries = PIECES.into_iter().chain([CALL]).map(|word| (word.to_vec(), false)).collect();
        let mut streams = OutputStreams::new(Arc::new(Vocab::from_entries(entries)));
        for sequence_id in 0..STREAMS as u64 {
            streams.open(sequence_id, options(sequence_id)).expect("each is opened once");
        }
        if let Some((batch, tokens)) = start.map(step) {
            streams.push(&batch, &tokens).expect("the tokens are those of the step");
        }
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                next = (next + 1) % steps.len();
                let (batch, tokens) = &steps[next];
                black_box(streams.push(batch, tokens).expect("the tokens are those of the step"))
            });
        });
    };
    bench("256 texts", &choice, None);
    let looking = |request_id| {
        let names = vec!["write".to_owned()];
        let tools = ToolOptions { syntax: Some(Syntax::Hermes), names, ..ToolOptions::default() };
        ChoiceOptions { tools, ..choice(request_id) }
    };
    bench("256 texts that may hold calls", &looking, None);
    bench("256 calls with long arguments", &looking, Some(PIECES.len() as u32));
    group.finish();
}

criterion_group!(benches, streams, events);
criterion_main!(benches);
