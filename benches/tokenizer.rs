//! Text to ids, on one core: `cargo bench --bench tokenizer`. The workloads of benches/bench_tokenize.py on made-up words, or
//! on the vocabulary of a file: `ECOCORE_TOKENIZER=tokenizer.json cargo bench --bench tokenizer`.

mod inputs;

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ecocore::tokenizer::Tokenizer;
use inputs::{Family, MakeText};

const DOCUMENT: usize = 8000;
/// Enough words for a vocabulary as large as that of Llama 3.
const WORDS: usize = 30_000;

/// What is measured, each under its name.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    if let Some(path) = std::env::var_os("ECOCORE_TOKENIZER").map(PathBuf::from) {
        let tokenizer =
            Tokenizer::from_file(&path).expect("ECOCORE_TOKENIZER is a tokenizer.json or a GGUF file");
        return vec![(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), tokenizer)];
    }
    [Family::Llama3, Family::SmolLm2, Family::Gemma]
        .map(|family| {
            let file = inputs::tokenizer_json(family, WORDS);
            (format!("{family:?}"), Tokenizer::from_json(&file).expect("a sound file"))
        })
        .into()
}

fn encode(criterion: &mut Criterion) {
    for (name, tokenizer) in tokenizers() {
        let mut group = criterion.benchmark_group(name);
        let texts: [(&str, MakeText); 3] =
            [("prose", inputs::prose), ("code", inputs::code), ("scripts", inputs::scripts)];
        for (kind, text) in texts {
            group.throughput(Throughput::Bytes(text(DOCUMENT, 1).len() as u64));
            // Every text is new; the words that it shares with earlier ones are known, as on a server.
            let mut seed = 0;
            let mut next = || {
                seed += 1;
                text(DOCUMENT, seed)
            };
            group.bench_function(format!("fresh {kind}"), |bencher| {
                bencher.iter_batched(&mut next, |text| tokenizer.encode(&text), BatchSize::SmallInput);
            });
            let known = text(DOCUMENT, 1);
            group.bench_function(format!("known {kind}"), |bencher| {
                bencher.iter(|| tokenizer.encode(black_box(&known)))
            });
        }
        group.throughput(Throughput::Bytes(inputs::QUESTION.len() as u64));
        group.bench_function("question, 30 B", |bencher| {
            bencher.iter(|| tokenizer.encode(black_box(inputs::QUESTION)))
        });
        let mut seed = 0;
        group.throughput(Throughput::Bytes(255));
        group.bench_function("chat message, 255 B", |bencher| {
            let next = || {
                seed += 1;
                inputs::message(seed)
            };
            bencher.iter_batched(next, |text| tokenizer.encode(&text), BatchSize::SmallInput);
        });
        let mut turn = 0;
        group.throughput(Throughput::Bytes(inputs::chat(0).len() as u64));
        group.bench_function("chat of 32 kB with a new turn", |bencher| {
            let next = || {
                turn += 1;
                inputs::chat(turn)
            };
            bencher.iter_batched(next, |prompt| tokenizer.encode_chat(&prompt), BatchSize::SmallInput);
        });
        group.finish();
    }
}

criterion_group!(benches, encode);
criterion_main!(benches);
