//! Work to be counted: `instructions WORKLOAD TIMES` does one workload so many times. benches/instructions.py runs it under
//! callgrind, which forgets what it counted until the process asks for its own number: that ends the preparation.

mod inputs;

use std::hint::black_box;

use ecocore::penalties::{History, Penalties};
use ecocore::sampler::{Draw, Logits, Row, SamplingParams, Scratch, Vectors, sample_row};
use ecocore::tokenizer::Tokenizer;
use inputs::{Family, MakeText};

/// As many as any workload is done: what is fresh must be there before the counting starts.
const MOST_TIMES: usize = 8;
/// What is made when it is first needed is there when the counting starts: one more comes before.
const WITH_FIRST: u64 = MOST_TIMES as u64 + 1;
const VOCAB: usize = 128_256;
const DOCUMENT: usize = 16_000;
const WORDS: usize = 2000;

/// Does its work so many times.
type Work = fn(usize);

const WORKLOADS: [(&str, Work); 16] = [
    ("sampler, greedy", |times| sample(inputs::peaked, &greedy(), times)),
    ("sampler, plain", |times| sample(inputs::peaked, &SamplingParams::default(), times)),
    ("sampler, top_p 0.9, peaked", |times| sample(inputs::peaked, &top_p(), times)),
    ("sampler, top_p 0.9, flat", |times| sample(inputs::flat, &top_p(), times)),
    ("sampler, top_k 50", |times| sample(inputs::peaked, &top_k(), times)),
    ("sampler, typical_p 0.9, flat", |times| sample(inputs::flat, &typical_p(), times)),
    ("sampler, top_p 0.9, penalties", |times| sample(inputs::peaked, &penalties(), times)),
    ("tokenizer, fresh prose", |times| encode(Family::Llama3, inputs::prose, times)),
    ("tokenizer, fresh code", |times| encode(Family::Llama3, inputs::code, times)),
    ("tokenizer, fresh scripts", |times| encode(Family::Llama3, inputs::scripts, times)),
    ("tokenizer, fresh prose, digits apart", |times| encode(Family::SmolLm2, inputs::prose, times)),
    ("tokenizer, fresh prose, whole texts", |times| encode(Family::Gemma, inputs::prose, times)),
    ("tokenizer, chat messages", |times| encode(Family::Llama3, |_, seed| inputs::message(seed), times)),
    ("tokenizer, chat of 32 kB with a new turn", encode_chat),
    ("tokenizer, opening a file", from_json),
    ("text stream, a step of 256 with 4 stops", push),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["workloads"] => WORKLOADS.iter().for_each(|(name, _)| println!("{name}")),
        ["vectors"] => println!("{:?}", Vectors::widest()),
        [name, times] => {
            let (_, work) =
                WORKLOADS.iter().find(|(known, _)| known == name).expect("`workloads` lists them");
            let times: usize = times.parse().expect("a number");
            assert!(times <= MOST_TIMES, "at most {MOST_TIMES} times");
            work(times);
        }
        // `cargo bench` passes an argument of its own.
        _ => println!("counted by `make instructions`, which runs this under callgrind"),
    }
}

/// Does what is counted, and ends the process: taking apart what was prepared is no part of it.
fn counted(work: impl FnOnce()) {
    black_box(std::process::id());
    work();
    std::process::exit(0);
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

fn top_p() -> SamplingParams {
    SamplingParams { top_p: 0.9, ..SamplingParams::default() }
}

fn top_k() -> SamplingParams {
    SamplingParams { top_k: 50, ..SamplingParams::default() }
}

fn typical_p() -> SamplingParams {
    SamplingParams { typical_p: 0.9, ..SamplingParams::default() }
}

fn penalties() -> SamplingParams {
    let penalties =
        Penalties { repetition: 1.1, frequency: 0.2, presence: 0.1, bias: vec![(7, 1.0), (4000, -1.0)] };
    SamplingParams { penalties, ..top_p() }
}

/// Each time a row of its own draw: the same logits, another random number.
fn sample(row: fn(usize) -> Vec<f32>, params: &SamplingParams, times: usize) {
    let logits = row(VOCAB);
    let drawn: Vec<u32> = (0..512).map(|index| index * 37).collect();
    let history = History::new(&params.penalties, &drawn[..256], &drawn);
    let mut scratch = Scratch::default();
    let mut sample = |position| {
        let draw = Draw { seed: 1, position, choice: 0 };
        let logits = Logits::F32(black_box(&logits));
        black_box(sample_row(&Row { logits, params, history: &history, mask: None, draw }, &mut scratch));
    };
    sample(u32::MAX);
    counted(|| (0..times as u32).for_each(sample));
}

fn open(family: Family) -> Tokenizer {
    let tokenizer = Tokenizer::from_json(&inputs::tokenizer_json(family, WORDS)).expect("a sound file");
    assert_eq!(tokenizer.backend(), "ecocore");
    // With one thread in the pool this comes after what the tokenizer finds out behind the scenes.
    rayon::scope(|_| ());
    tokenizer
}

/// Each time a text that was not there before.
fn encode(family: Family, text: MakeText, times: usize) {
    let tokenizer = open(family);
    let texts: Vec<String> = (0..WITH_FIRST).map(|seed| text(DOCUMENT, seed)).collect();
    let encode = |text: &String| {
        black_box(tokenizer.encode(black_box(text)).expect("any text"));
    };
    encode(&texts[MOST_TIMES]);
    counted(|| texts[..times].iter().for_each(encode));
}

fn encode_chat(times: usize) {
    let tokenizer = open(Family::Llama3);
    let prompts: Vec<String> = (0..WITH_FIRST).map(inputs::chat).collect();
    let encode = |prompt: &String| {
        black_box(tokenizer.encode_chat(black_box(prompt)).expect("any text"));
    };
    encode(&prompts[MOST_TIMES]);
    counted(|| prompts[..times].iter().for_each(encode));
}

fn from_json(times: usize) {
    let file = inputs::tokenizer_json(Family::Llama3, WORDS);
    let open = || black_box(Tokenizer::from_json(black_box(&file)).expect("a sound file"));
    drop(open());
    counted(|| (0..times).for_each(|_| drop(open())));
}

fn push(times: usize) {
    let (mut streams, handles, steps) = inputs::streams();
    let mut push = |step: &Vec<u32>| {
        black_box(streams.push(black_box(&handles), step).expect("handles are open"));
    };
    push(&steps[MOST_TIMES]);
    counted(|| steps[..times].iter().for_each(push));
}
