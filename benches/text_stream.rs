//! What text and stop strings cost per step: 256 streams, one token each.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ecocore::stop::StopSet;
use ecocore::text_stream::{TextStream, TextStreams};
use ecocore::vocab::Vocab;

const STREAMS: usize = 256;
const STOPS: [&str; 4] = ["\n\nUser:", "<|im_end|>", "```\n", "###"];

/// Words as tokens have them, with a line break and a part of a character among them.
const WORDS: [&[u8]; 12] = [
    b" the",
    b" quick",
    b" brown",
    b"\n",
    b" fox",
    b" \xe2\x82",
    b"\xac",
    b" jumps",
    b",",
    b" over",
    b"#",
    b" dog",
];

fn vocab() -> Arc<Vocab> {
    Arc::new(Vocab::from_entries(WORDS.into_iter().map(|word| (word.to_vec(), false)).collect()))
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
                    next = (next + 1) % WORDS.len() as u32;
                    black_box(stream.push(next, &mut out));
                }
            });
        });
    }
    let mut many = TextStreams::new(vocab());
    let stops = STOPS.map(str::to_owned);
    let handles: Vec<u64> =
        (0..STREAMS).map(|_| many.open(&stops, true).expect("stops are usable")).collect();
    let ids: Vec<u32> = (0..STREAMS as u32).map(|index| index % WORDS.len() as u32).collect();
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

criterion_group!(benches, streams);
criterion_main!(benches);
