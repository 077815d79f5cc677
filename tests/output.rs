//! Output streams against a slow, obvious reading of each choice's tokens, all at once and after the fact.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;

use ecocore::batch::{Batch, BatchRow};
use ecocore::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};
use ecocore::output::{ChoiceOptions, OutputStreams};
use ecocore::sampled::{Logprobs, SampledTokens};
use ecocore::vocab::Vocab;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const END: u32 = 0;
const SPECIAL: u32 = 1;
const UNNAMED: u32 = 99;
const WORDS: [&[u8]; 10] =
    [b"a", b"b", b"ab", b"ba", b"aab", b"\n", b"\xe2", b"\x82", b"\xac", "a€b".as_bytes()];

fn vocab() -> Arc<Vocab> {
    let special = [b"<|end|>", b"<|odd|>"].map(|bytes| (bytes.to_vec(), true));
    let words = WORDS.map(|bytes| (bytes.to_vec(), false));
    Arc::new(Vocab::from_entries(special.into_iter().chain(words).collect()))
}

fn token_bytes(id: u32) -> &'static [u8] {
    id.checked_sub(2).and_then(|word| WORDS.get(word as usize)).copied().unwrap_or_default()
}

/// A choice and the tokens that the sampler would draw for it.
#[derive(Debug, Clone)]
struct Script {
    options: ChoiceOptions,
    tokens: Vec<u32>,
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let token = prop_oneof![
        1 => Just(END),
        1 => Just(SPECIAL),
        1 => Just(UNNAMED),
        20 => 2..2 + WORDS.len() as u32,
    ];
    let stop = select(vec!["ab", "aba", "bab", "b\n", "€", "a€", "aaaa", "\n\n"]).prop_map(str::to_owned);
    let script = (vec(token, 1..40), vec(stop, 0..4), 1u32..40, any::<bool>(), any::<bool>());
    let script = script.prop_map(|(tokens, stop, max_tokens, ends, logprobs)| {
        let end_ids = if ends { vec![END] } else { vec![] };
        let options =
            ChoiceOptions { prompt_tokens: 3, max_tokens, stop, end_ids, logprobs, ..Default::default() };
        Script { options, tokens }
    });
    vec(script, 1..6).prop_map(|mut scripts| {
        for (index, script) in scripts.iter_mut().enumerate() {
            script.options.request_id = index as u64 / 2;
            script.options.choice = index as u32 % 2;
        }
        scripts
    })
}

fn logprobs(id: u32) -> Logprobs {
    Logprobs { chosen: -f64::from(id), top: vec![(id, -f64::from(id))] }
}

/// One step: the sequences in `drawing` draw the next token of their script.
fn step(streams: &mut OutputStreams, scripts: &[Script], drawing: &[(usize, usize)]) -> EventBatch {
    let row = |&(sequence, _): &(usize, usize)| BatchRow {
        sequence_id: sequence as u64,
        start: 0,
        length: 1,
        prompt_length: 1,
        samples: true,
        output_index: 0,
        cached_tokens: 2,
    };
    let batch = Batch { rows: drawing.iter().map(row).collect(), ..Batch::default() };
    let token_ids: Vec<u32> = drawing.iter().map(|&(sequence, at)| scripts[sequence].tokens[at]).collect();
    let asked = |(&(sequence, _), &id): (&(usize, usize), &u32)| {
        scripts[sequence].options.logprobs.then(|| logprobs(id))
    };
    let tokens = SampledTokens {
        sequence_ids: drawing.iter().map(|&(sequence, _)| sequence as u64).collect(),
        logprobs: drawing.iter().zip(&token_ids).map(asked).collect(),
        token_ids,
        failed: Vec::new(),
        scores: vec![],
    };
    streams.push(&batch, &tokens).unwrap()
}

/// What a choice should tell: its text as bytes, and how it ends (None while it runs).
fn read_after_the_fact(script: &Script) -> (Vec<u8>, Option<(FinishReason, usize)>) {
    let ChoiceOptions { stop, end_ids, max_tokens, .. } = &script.options;
    let mut bytes = Vec::new();
    for (index, &id) in script.tokens.iter().enumerate() {
        let count = index + 1;
        if end_ids.contains(&id) {
            return (bytes, Some((FinishReason::Stop, count)));
        }
        let before = bytes.len();
        bytes.extend_from_slice(token_bytes(id));
        for end in before + 1..=bytes.len() {
            let longest =
                stop.iter().filter(|stop| bytes[..end].ends_with(stop.as_bytes())).map(String::len).max();
            if let Some(length) = longest {
                bytes.truncate(end - length);
                return (bytes, Some((FinishReason::Stop, count)));
            }
        }
        if count == *max_tokens as usize {
            return (bytes, Some((FinishReason::Length, count)));
        }
    }
    (bytes, None)
}

/// Everything that was told of one choice.
#[derive(Debug, Default, PartialEq)]
struct Told {
    text: String,
    pieces: Vec<String>,
    entries: Vec<TokenLogprob>,
    end: Option<(FinishReason, Usage)>,
}

fn tell(told: &mut Told, event: Event) {
    assert_eq!(told.end, None, "nothing follows the end");
    match event.kind {
        EventKind::Text { text, logprobs } => {
            assert!(!text.is_empty() || !logprobs.is_empty(), "an event tells something");
            told.text.push_str(&text);
            told.pieces.push(text);
            told.entries.extend(logprobs);
        }
        EventKind::Finished { reason, usage } => told.end = Some((reason, usage)),
        other => panic!("nothing fails, thinks or calls here: {other:?}"),
    }
}

fn run(scripts: &[Script], turns: &[Vec<usize>]) -> Vec<Told> {
    let mut streams = OutputStreams::new(vocab());
    for (index, script) in scripts.iter().enumerate() {
        streams.open(index as u64, script.options.clone()).unwrap();
    }
    let mut told: Vec<Told> = scripts.iter().map(|_| Told::default()).collect();
    let mut drawn = vec![0; scripts.len()];
    let everyone: Vec<usize> = (0..scripts.len()).collect();
    let longest = scripts.iter().map(|script| script.tokens.len()).max().unwrap_or(0);
    for turn in turns.iter().chain(std::iter::repeat_n(&everyone, longest)) {
        let mut drawing = Vec::new();
        for &index in turn.iter().filter(|&&index| index < scripts.len()) {
            if drawn[index] < scripts[index].tokens.len() {
                drawing.push((index, drawn[index]));
                drawn[index] += 1;
            }
        }
        let events = step(&mut streams, scripts, &drawing);
        for event in events.events {
            tell(&mut told[event.request_id as usize * 2 + event.choice as usize], event);
        }
        for sequence in events.finished_sequences {
            assert!(told[sequence as usize].end.is_some());
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_choice_tells_what_its_tokens_say(
        scripts in scripts(),
        turns in vec(subsequence((0..6).collect::<Vec<usize>>(), 0..=6), 0..20),
    ) {
        for (told, script) in run(&scripts, &turns).into_iter().zip(&scripts) {
            let (bytes, end) = read_after_the_fact(script);
            let expected = String::from_utf8_lossy(&bytes).into_owned();
            let tokens = |(_, usage): (FinishReason, Usage)| usage.completion_tokens as usize;
            prop_assert_eq!(told.end.map(|end| (end.0, tokens(end))), end);
            let entries: Vec<u8> = told.entries.iter().flat_map(|entry| entry.bytes.clone()).collect();
            if let Some((_, usage)) = told.end {
                prop_assert_eq!((usage.prompt_tokens, usage.cached_tokens), (3, 2));
                prop_assert_eq!(&told.text, &expected);
                if script.options.logprobs {
                    prop_assert_eq!(&entries, &bytes);
                }
            } else {
                prop_assert!(expected.starts_with(&told.text));
                prop_assert!(bytes.starts_with(&entries));
            }
            prop_assert_eq!(told.entries.is_empty(), entries.is_empty());
            if !script.options.logprobs {
                prop_assert!(entries.is_empty());
            }
            for entry in &told.entries {
                prop_assert_eq!(entry.logprob, -f64::from(entry.token_id));
                prop_assert!(token_bytes(entry.token_id).starts_with(&entry.bytes));
            }
        }
    }

    #[test]
    fn a_choice_is_told_the_same_in_any_company(
        scripts in scripts(),
        turns in vec(subsequence((0..6).collect::<Vec<usize>>(), 0..=6), 0..20),
    ) {
        let together = run(&scripts, &turns);
        for (index, script) in scripts.iter().enumerate() {
            let mut alone = script.clone();
            (alone.options.request_id, alone.options.choice) = (0, 0);
            prop_assert_eq!(&run(&[alone], &[])[0], &together[index]);
        }
    }
}
