//! What must not matter: the vectors of the processor, how many threads there are, how rows and texts are grouped and in which
//! order they come, and what was seen before. Each is varied, and every bit of the results is compared.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "../benches/inputs/mod.rs"]
mod inputs;

use std::sync::Arc;

use ecocore::penalties::{History, Penalties};
use ecocore::sampler::{
    Draw, Logits, Mask, Row, Sampled, SamplingParams, Scratch, Vectors, sample_row_with, sample_rows,
};
use ecocore::stop::StopSet;
use ecocore::text_stream::{TextStream, TextStreams};
use ecocore::tokenizer::Tokenizer;
use ecocore::vocab::Vocab;
use inputs::{Dice, Family};
use rayon::ThreadPoolBuilder;

const THREADS: [usize; 4] = [1, 2, 3, 8];

// --- the sampler -----------------------------------------------------------------------------------------

/// What a row needs, owned.
struct Owned {
    logits: Vec<f32>,
    halves: Vec<u16>,
    params: SamplingParams,
    history: History,
    allowed: Vec<bool>,
    masked: bool,
    draw: Draw,
}

impl Owned {
    fn row(&self) -> Row<'_> {
        // One row in three comes in half precision.
        let logits = match self.draw.position % 3 {
            0 => Logits::Bf16(&self.halves),
            _ => Logits::F32(&self.logits),
        };
        let mask = self.masked.then_some(Mask::Bools(&self.allowed));
        Row { logits, params: &self.params, history: &self.history, mask, draw: self.draw }
    }
}

/// Rows of every setting: filters, penalties, masks, log-probabilities, ties and numbers that are none.
fn rows(count: usize, vocab: usize) -> Vec<Owned> {
    let mut dice = Dice::new(7);
    let (flat, peaked) = (inputs::flat(vocab), inputs::peaked(vocab));
    (0..count)
        .map(|index| {
            let mut logits = if index % 2 == 0 { flat.clone() } else { peaked.clone() };
            logits.rotate_left(dice.below(vocab));
            match index % 7 {
                3 => logits.iter_mut().for_each(|logit| *logit = logit.round()),
                5 => logits.iter_mut().step_by(11).for_each(|logit| *logit = f32::NAN),
                6 => logits[dice.below(vocab)] = f32::INFINITY,
                _ => {}
            }
            let halves = logits.iter().map(|&logit| half::bf16::from_f32(logit).to_bits()).collect();
            let params = params(index, &mut dice);
            let seen: Vec<u32> = (0..200).map(|_| dice.below(vocab) as u32).collect();
            let history = History::new(&params.penalties, &seen[..80], &seen[60..]);
            let allowed = (0..vocab).map(|id| id % 64 == 5 || dice.below(3) == 0).collect();
            let draw = Draw { seed: dice.below(usize::MAX) as u64, position: index as u32, choice: 0 };
            Owned { logits, halves, params, history, allowed, masked: index % 4 == 1, draw }
        })
        .collect()
}

fn params(index: usize, dice: &mut Dice) -> SamplingParams {
    let one = |choices: &[f64], turn: usize| choices[turn % choices.len()];
    let penalties =
        Penalties { repetition: 1.2, frequency: 0.3, presence: 0.1, bias: vec![(3, 4.0), (900, -2.0)] };
    SamplingParams {
        temperature: one(&[1.0, 0.7, 0.0, 1.4], index),
        top_k: [0, 0, 0, 40, 1000][index % 5],
        top_p: one(&[1.0, 0.9, 0.5], index / 2),
        min_p: one(&[0.0, 0.0, 0.02], index / 3),
        typical_p: one(&[1.0, 1.0, 1.0, 0.8], index / 5),
        penalties: if dice.below(3) == 0 { penalties } else { Penalties::default() },
        top_logprobs: index.is_multiple_of(2).then_some(index as u32 % 21),
    }
}

/// Each row by the narrowest instructions, alone: what all others must give.
fn by_portable_instructions(rows: &[Owned]) -> Vec<Sampled> {
    let portable = Vectors::available()[0];
    rows.iter().map(|row| sample_row_with(portable, &row.row(), &mut Scratch::default())).collect()
}

#[test]
fn every_kind_of_vectors_draws_the_same() {
    // Vocabularies of whole blocks, of one block and a rest, of less than a block.
    for vocab in [1000, 1024, 1087, 20_000, 50_001] {
        let rows = rows(60, vocab);
        let expected = by_portable_instructions(&rows);
        let kinds = Vectors::available();
        println!("{vocab} tokens by {kinds:?}");
        let mut scratch = Scratch::default();
        for vectors in kinds {
            for (row, expected) in rows.iter().zip(&expected) {
                assert_eq!(sample_row_with(vectors, &row.row(), &mut scratch), *expected, "{vectors:?}");
            }
        }
    }
}

#[test]
fn threads_company_and_order_of_rows_change_no_draw() {
    let rows = rows(70, 20_000);
    let expected = by_portable_instructions(&rows);
    for threads in THREADS {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // Small groups are drawn by the caller's thread, large ones by all.
        for size in [1, 2, 7, 30, 70] {
            let groups = rows.chunks(size).map(|group| group.iter().map(Owned::row).collect::<Vec<_>>());
            let drawn: Vec<Sampled> = groups.flat_map(|group| pool.install(|| sample_rows(&group))).collect();
            assert_eq!(drawn, expected, "{threads} threads, groups of {size}");
        }
        let order = shuffled(rows.len(), threads as u64);
        let group: Vec<Row<'_>> = order.iter().map(|&index| rows[index].row()).collect();
        let drawn = pool.install(|| sample_rows(&group));
        assert!(
            order.iter().zip(&drawn).all(|(&index, drawn)| *drawn == expected[index]),
            "{threads} threads"
        );
    }
}

/// The numbers below `count` in some order.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut dice = Dice::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, dice.below(last + 1));
    }
    order
}

// --- the tokenizer ---------------------------------------------------------------------------------------

/// Lengths around the stretch of text that the scanner looks at in one go, and many of them.
const LENGTHS: [usize; 6] = [8100, 8190, 8200, 16_380, 24_576, 40_000];

fn texts() -> Vec<String> {
    let long = LENGTHS.iter().flat_map(|&size| {
        [inputs::prose(size, 1), inputs::code(size, 2), inputs::scripts(size, 3), mixed(size)]
    });
    let short = (0..200).map(inputs::message);
    long.chain(short).collect()
}

/// Short stretches of everything, and runs longer than a register.
fn mixed(size: usize) -> String {
    let mut dice = Dice::new(size as u64);
    let mut text = String::new();
    while text.len() < size {
        let length = 1 + dice.below(90);
        match dice.below(6) {
            0 => text.push_str(&inputs::scripts(length, text.len() as u64)),
            1 => text.push_str(&inputs::code(length, text.len() as u64)),
            2 => text.push_str(&" ".repeat(length)),
            3 => text.push_str(&"\n".repeat(1 + length / 8)),
            4 => text.push_str(&"x".repeat(length)),
            _ => text.push_str(&"0123456789".repeat(length)[..length]),
        }
    }
    text
}

#[test]
fn long_texts_are_cut_as_the_crate_cuts_them() {
    for family in [Family::Llama3, Family::SmolLm2, Family::Gemma] {
        let file = inputs::tokenizer_json(family, 500);
        let tokenizer = Tokenizer::from_json(&file).unwrap();
        let oracle = tokenizers::Tokenizer::from_bytes(&file).unwrap();
        assert_eq!(tokenizer.backend(), "ecocore");
        for text in texts() {
            // Shifted, every character stands once at each place of a block.
            for start in (0..40).filter(|&start| text.is_char_boundary(start)).step_by(13) {
                let text = &text[start..];
                let expected = oracle.encode_fast(text, false).unwrap().get_ids().to_vec();
                assert_eq!(tokenizer.encode(text).unwrap(), expected, "{family:?}, {} bytes", text.len());
            }
        }
    }
}

#[test]
fn threads_company_order_and_known_words_change_no_id() {
    let texts = texts();
    for family in [Family::Llama3, Family::SmolLm2, Family::Gemma] {
        let file = inputs::tokenizer_json(family, 500);
        let tokenizer = Tokenizer::from_json(&file).unwrap();
        let alone: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        for (text, ids) in texts.iter().zip(&alone).step_by(20) {
            assert_eq!(
                Tokenizer::from_json(&file).unwrap().encode(text).unwrap(),
                *ids,
                "nothing was seen before"
            );
        }
        for threads in THREADS {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let fresh = Tokenizer::from_json(&file).unwrap();
            for _ in 0..2 {
                assert_eq!(pool.install(|| fresh.encode_batch(&texts)).unwrap(), alone, "{threads} threads");
            }
            let order = shuffled(texts.len(), threads as u64);
            let mixed: Vec<&String> = order.iter().map(|&index| &texts[index]).collect();
            let ids = pool.install(|| fresh.encode_batch(&mixed)).unwrap();
            assert!(order.iter().zip(ids).all(|(&index, ids)| ids == alone[index]), "{threads} threads");
        }
    }
}

// --- text streams ----------------------------------------------------------------------------------------

#[test]
fn neighbours_and_their_order_change_no_text() {
    const STREAMS: usize = 40;
    let pieces = inputs::PIECES.iter().map(|piece| (piece.to_vec(), false)).collect();
    let vocab = Arc::new(Vocab::from_entries(pieces));
    let set = Arc::new(StopSet::new(&inputs::STOPS).unwrap());
    let mut dice = Dice::new(3);
    let mut step = || (0..STREAMS).map(|_| dice.below(inputs::PIECES.len()) as u32).collect();
    let steps: Vec<Vec<u32>> = (0..100).map(|_| step()).collect();
    let alone = |index: usize| {
        let mut stream = TextStream::new(Arc::clone(&vocab), Arc::clone(&set), true);
        let mut text = String::new();
        steps.iter().for_each(|ids| {
            stream.push(ids[index], &mut text);
        });
        stream.finish(&mut text);
        text
    };
    let expected: Vec<String> = (0..STREAMS).map(alone).collect();

    let mut streams = TextStreams::new(Arc::clone(&vocab));
    let stops = inputs::STOPS.map(str::to_owned);
    let handles: Vec<u64> = (0..STREAMS).map(|_| streams.open(&stops, true).unwrap()).collect();
    let mut texts = vec![String::new(); STREAMS];
    for (seed, ids) in (0..).zip(&steps) {
        let order = shuffled(STREAMS, seed);
        let turn: Vec<u64> = order.iter().map(|&stream| handles[stream]).collect();
        let next: Vec<u32> = order.iter().map(|&stream| ids[stream]).collect();
        for (&stream, (piece, _)) in order.iter().zip(streams.push(&turn, &next).unwrap().iter()) {
            texts[stream].push_str(piece.text(&vocab));
        }
    }
    for (text, handle) in texts.iter_mut().zip(handles) {
        text.push_str(&streams.finish(handle).unwrap());
    }
    assert_eq!(texts, expected);
}
