//! What one row costs, on one core: `cargo bench --bench sampler`.
//!
//! Peaked rows look like a language model's: N(0, 2.2) with sixty tokens at +7 to +14. Flat rows are N(0, 1):
//! a nucleus of 0.9 then holds tens of thousands of tokens, the worst case of every filter. The rows and settings are those
//! of benches/bench_sample.py, without Python. A batch of 64 does not fit the caches; `all cores` is what the engine calls.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ecocore::penalties::{History, Penalties};
use ecocore::rng::{Purpose, random_bits};
use ecocore::sampler::{Draw, Logits, Row, SamplingParams, Scratch, sample_row, sample_rows};

/// Standard normal numbers, nearly: the sum of twelve uniform ones.
fn normal(index: usize) -> f32 {
    let uniform = |part| random_bits(0, index as u32, part, Purpose::Draw) as f64 / 2f64.powi(64);
    ((0..12).map(uniform).sum::<f64>() - 6.0) as f32
}

/// A row that starts where tensors start: at a multiple of 64 bytes.
struct Aligned {
    floats: Vec<f32>,
    start: usize,
}

impl Aligned {
    fn new(row: &[f32]) -> Self {
        let mut floats = vec![0.0; row.len() + 16];
        let start = floats.as_ptr().align_offset(64);
        floats.truncate(start + row.len());
        floats[start..].copy_from_slice(row);
        Self { floats, start }
    }

    fn logits(&self) -> Logits<'_> {
        Logits::F32(black_box(&self.floats[self.start..]))
    }
}

fn flat(vocab: usize) -> Vec<f32> {
    (0..vocab).map(normal).collect()
}

fn peaked(vocab: usize) -> Vec<f32> {
    let mut row: Vec<f32> = (0..vocab).map(|index| 2.2 * normal(index)).collect();
    for index in 0..60 {
        row[index * (vocab / 61) + index] = 7.0 + 7.0 * (index as f32 / 59.0);
    }
    row
}

fn settings() -> Vec<(&'static str, SamplingParams)> {
    let plain = SamplingParams::default;
    let penalties =
        Penalties { repetition: 1.1, frequency: 0.2, presence: 0.1, bias: vec![(7, 1.0), (4000, -1.0)] };
    vec![
        ("greedy", SamplingParams { temperature: 0.0, ..plain() }),
        ("plain", plain()),
        ("top_p", SamplingParams { top_p: 0.9, ..plain() }),
        ("top_k", SamplingParams { top_k: 50, ..plain() }),
        ("top_k_top_p", SamplingParams { top_k: 50, top_p: 0.9, ..plain() }),
        ("min_p", SamplingParams { min_p: 0.05, ..plain() }),
        ("typical", SamplingParams { typical_p: 0.9, ..plain() }),
        ("top_p_penalties", SamplingParams { top_p: 0.9, penalties, ..plain() }),
        ("greedy_logprobs", SamplingParams { temperature: 0.0, top_logprobs: Some(20), ..plain() }),
    ]
}

fn rows(criterion: &mut Criterion) {
    for vocab in [49_152, 128_256] {
        for (shape, logits) in [("peaked", peaked(vocab)), ("flat", flat(vocab))] {
            let logits = Aligned::new(&logits);
            let mut group = criterion.benchmark_group(format!("{shape}/{vocab}"));
            for (name, params) in settings() {
                let drawn: Vec<u32> = (0..512).map(|index| index * 37 % vocab as u32).collect();
                let history = History::new(&params.penalties, &drawn[..256], &drawn);
                let mut scratch = Scratch::default();
                let mut position = 0;
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter(|| {
                        position += 1;
                        let draw = Draw { seed: 1, position, choice: 0 };
                        let logits = logits.logits();
                        let row = Row { logits, params: &params, history: &history, mask: None, draw };
                        sample_row(&row, &mut scratch)
                    });
                });
            }
            group.finish();
        }
    }
}

/// 64 different rows in one call, on one core and on all.
fn batch(criterion: &mut Criterion) {
    const ROWS: usize = 64;
    const VOCAB: usize = 128_256;
    let history = History::default();
    for (shape, logits) in [("peaked", peaked(VOCAB)), ("flat", flat(VOCAB))] {
        let rotated = |by: usize| Aligned::new(&[&logits[by * 997..], &logits[..by * 997]].concat());
        let logits: Vec<Aligned> = (0..ROWS).map(rotated).collect();
        let mut group = criterion.benchmark_group(format!("{shape}/{VOCAB}/batch {ROWS}"));
        group.throughput(Throughput::Elements(ROWS as u64));
        for (name, params) in settings().into_iter().filter(|(name, _)| matches!(*name, "greedy" | "top_p")) {
            let row = |index: usize| {
                let draw = Draw { seed: index as u64, position: 0, choice: 0 };
                Row { logits: logits[index].logits(), params: &params, history: &history, mask: None, draw }
            };
            let mut scratch = Scratch::default();
            group.bench_function(BenchmarkId::new("one core", name), |bencher| {
                bencher.iter(|| (0..ROWS).map(|index| sample_row(&row(index), &mut scratch).id).sum::<u32>());
            });
            group.bench_function(BenchmarkId::new("all cores", name), |bencher| {
                bencher.iter(|| sample_rows(&(0..ROWS).map(row).collect::<Vec<_>>()));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400)).sample_size(20);
    targets = rows, batch
}
criterion_main!(benches);
