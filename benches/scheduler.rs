//! What the scheduler adds to a step: `cargo bench --bench scheduler`.
//!
//! A decode figure is the time of 64 steps (one block of tokens for each sequence), each scheduled and committed.
//! The model's own time is none of it.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ecocore::batch::Batch;
use ecocore::sampled::SampledTokens;
use ecocore::scheduler::{Scheduler, SchedulerConfig};

const STEPS: u64 = 64;

fn commit(scheduler: &mut Scheduler, batch: &Batch) {
    let sequence_ids: Vec<u64> = batch.sampled_rows().map(|row| row.sequence_id).collect();
    let tokens =
        SampledTokens { token_ids: vec![7; sequence_ids.len()], sequence_ids, ..SampledTokens::default() };
    scheduler.commit(batch.ticket, &tokens, &[]).expect("steps are committed in their order");
}

/// A scheduler in which `rows` sequences of `context` tokens have read their prompts and decode.
fn decoding(rows: u64, context: u32) -> Scheduler {
    let blocks_each = (context + STEPS as u32).div_ceil(64) + 1;
    let mut scheduler = Scheduler::new(SchedulerConfig {
        max_sequences: rows as usize,
        max_waiting: rows as usize,
        max_batch_tokens: rows as u32 * context, // all prompts in one step, so that all decode from the next on
        ..SchedulerConfig::new(rows as u32 * blocks_each)
    })
    .expect("the sizes are not 0");
    for id in 0..rows {
        let prompt = (0..context).map(|position| position + id as u32).collect();
        scheduler.submit(id, prompt, STEPS as usize + 2, b"").expect("the pool has room for all");
    }
    let batch = scheduler.schedule().expect("there is work");
    assert_eq!(batch.sampled_rows().count() as u64, rows);
    commit(&mut scheduler, &batch);
    scheduler
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (rows, context) in [(1, 1024), (16, 1024), (64, 1024), (256, 1024), (256, 4096)] {
        let ready = decoding(rows, context);
        group.throughput(Throughput::Elements(STEPS));
        group.bench_function(format!("{rows} rows of {context} tokens"), |bencher| {
            bencher.iter_batched_ref(
                || ready.clone(),
                |scheduler| {
                    for _ in 0..STEPS {
                        let batch = black_box(scheduler.schedule().expect("all decode"));
                        commit(scheduler, &batch);
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// The worst admission: a long prompt that is found in the cache, hashed and looked up block by block at once.
fn admit(criterion: &mut Criterion) {
    let prompt: Vec<u32> = (0..100_000).collect();
    let config = SchedulerConfig { max_batch_tokens: 200_000, ..SchedulerConfig::new(2000) };
    let mut scheduler = Scheduler::new(config).expect("the sizes are not 0");
    scheduler.submit(0, prompt.clone(), 1, b"").expect("the pool has room for it");
    let batch = scheduler.schedule().expect("there is work");
    commit(&mut scheduler, &batch);
    criterion.bench_function("admit 100,000 cached tokens", |bencher| {
        bencher.iter_batched_ref(
            || scheduler.clone(),
            |scheduler| {
                scheduler.submit(1, prompt.clone(), 1, b"").expect("the pool has room for it");
                black_box(scheduler.schedule())
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, decode, admit);
criterion_main!(benches);
