//! Any parameters and any logits: what cannot be drawn from is refused by name, and what is drawn is the token of a full
//! sort, by every kind of vectors, alone and in company.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use ecocore::error::Error;
use ecocore::penalties::{History, Penalties};
use ecocore::sampler::{
    Draw, Logits, Mask, Row, Sampled, SamplingParams, Scratch, Vectors, sample_row, sample_row_with,
    sample_rows, score_row,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../../tests/reference/sampler.rs"]
mod reference;

/// Enough for every way of the sampler: it guesses at nuclei from 8192 tokens on.
const MOST_TOKENS: u32 = 9000;

/// One row as a caller might put it.
#[derive(Debug)]
struct Case {
    logits: Vec<f32>,
    params: SamplingParams,
    prompt: Vec<u32>,
    drawn: Vec<u32>,
    mask: Option<Vec<bool>>,
    draw: Draw,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let params = params(input)?;
        let draw =
            Draw { seed: input.arbitrary()?, position: input.arbitrary()?, choice: input.arbitrary()? };
        let prompt = ids(input)?;
        let drawn = ids(input)?;
        let size = match input.int_in_range(0..=3)? {
            0 => input.int_in_range(1..=MOST_TOKENS)?,
            _ => input.int_in_range(1..=200)?,
        };
        let mask = match input.arbitrary()? {
            true => Some(repeated(size, &input.arbitrary::<Vec<bool>>()?, false)),
            false => None,
        };
        let pattern: Vec<f32> =
            (0..input.int_in_range(1..=80)?).map(|_| logit(input)).collect::<Result<_>>()?;
        let mut logits = repeated(size, &pattern, 0.0);
        // Some places of their own, so that a large row is not the same block again and again.
        for _ in 0..input.int_in_range(0..=20)? {
            let place = input.int_in_range(0..=size - 1)?;
            logits[place as usize] = logit(input)?;
        }
        Ok(Self { logits, params, prompt, drawn, mask, draw })
    }
}

fn repeated<T: Copy>(size: u32, pattern: &[T], neutral: T) -> Vec<T> {
    let pattern = if pattern.is_empty() { &[neutral][..] } else { pattern };
    pattern.iter().copied().cycle().take(size as usize).collect()
}

/// Numbers as models give them, and the ones that are none.
fn logit(input: &mut Unstructured<'_>) -> Result<f32> {
    Ok(match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => *input.choose(&[
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            1e-45,
            -0.0,
        ])?,
        2 => f32::from(input.arbitrary::<i8>()?),
        _ => f32::from(input.arbitrary::<i16>()?) / 2048.0,
    })
}

fn number(input: &mut Unstructured<'_>, usual: &[f64]) -> Result<f64> {
    Ok(match input.int_in_range(0..=3)? {
        0 => input.arbitrary()?,
        1 => f64::from(input.arbitrary::<u16>()?) / 65535.0,
        _ => *input.choose(usual)?,
    })
}

fn params(input: &mut Unstructured<'_>) -> Result<SamplingParams> {
    let bias =
        |input: &mut Unstructured<'_>| Ok((input.int_in_range(0..=u32::from(u8::MAX))?, logit(input)?));
    let mut bias: Vec<(u32, f32)> =
        (0..input.int_in_range(0..=6)?).map(|_| bias(input)).collect::<Result<_>>()?;
    if input.ratio(7, 8)? {
        bias.sort_unstable_by_key(|entry| entry.0);
        bias.dedup_by_key(|entry| entry.0);
    }
    Ok(SamplingParams {
        temperature: number(input, &[0.0, 1.0, 0.7, 1.3, 1e-5, 9e-6, 1e-300, 1e300])?,
        top_k: *input.choose(&[0, 0, 1, 2, 40, 100, u32::MAX])?,
        top_p: number(input, &[1.0, 0.0, 0.9, 0.999_999_999, 1e-12])?,
        min_p: number(input, &[0.0, 0.0, 0.05, 1.0, 1e-12])?,
        typical_p: number(input, &[1.0, 1.0, 0.9, 1e-12])?,
        penalties: Penalties {
            bias,
            repetition: number(input, &[1.0, 1.0, 1.1, 1e-38, 1e38])? as f32,
            frequency: number(input, &[0.0, 0.0, 0.2, -2.0, 1e38])? as f32,
            presence: number(input, &[0.0, 0.0, 0.1, -2.0, -1e38])? as f32,
        },
        top_logprobs: input.arbitrary::<Option<u8>>()?.map(|count| u32::from(count) % 24),
    })
}

fn ids(input: &mut Unstructured<'_>) -> Result<Vec<u32>> {
    (0..input.int_in_range(0..=12)?).map(|_| input.int_in_range(0..=u32::from(u8::MAX))).collect()
}

/// The logits after bias, penalties and mask, by the order that docs/sampling.md lists.
fn changed(case: &Case) -> Vec<f32> {
    let bounded = |logit: f32| if logit > f32::MAX { f32::MAX } else { logit };
    let Penalties { bias, repetition, frequency, presence } = &case.params.penalties;
    let seen = |id: u32| case.drawn.iter().filter(|&&one| one == id).count();
    let change = |(id, &logit): (u32, &f32)| {
        let (times, mut logit) = (seen(id), bounded(logit));
        logit += bias.iter().find(|entry| entry.0 == id).map_or(0.0, |entry| entry.1);
        if times > 0 || case.prompt.contains(&id) {
            logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
        }
        if times > 0 {
            logit -= times as f32 * frequency;
            logit -= presence;
        }
        let allowed = case.mask.as_ref().is_none_or(|mask| mask[id as usize]);
        if allowed { logit } else { f32::NEG_INFINITY }
    };
    (0..).zip(&case.logits).map(change).collect()
}

fn check(case: &Case) {
    let size = case.logits.len();
    if case.params.validate_vocab(size).is_err() {
        let outside = case.params.penalties.bias.iter().any(|entry| entry.0 as usize >= size);
        return assert!(outside, "a bias of known tokens is refused");
    }
    let history = History::new(&case.params.penalties, &case.prompt, &case.drawn);
    let bits = case.mask.as_ref().map(|mask| bits_of(mask));
    let row = |mask| Row {
        logits: Logits::F32(&case.logits),
        params: &case.params,
        history: &history,
        mask,
        draw: case.draw,
    };
    let bools = case.mask.as_deref().map(Mask::Bools);
    let sampled = sample_row(&row(bools), &mut Scratch::default());
    assert_eq!(sample_row(&row(bits.as_deref().map(Mask::Bits)), &mut Scratch::default()), sampled);
    for vectors in Vectors::available() {
        assert_eq!(sample_row_with(vectors, &row(bools), &mut Scratch::default()), sampled);
    }
    let together = sample_rows(&[row(bools), row(None), row(bools)]);
    assert_eq!(together[0], sampled);
    assert_eq!(together[2], sampled);

    let changed = changed(case);
    let possible = changed.iter().any(|&logit| logit > f32::NEG_INFINITY);
    assert_eq!(sampled.possible, possible);
    if possible {
        assert_eq!(sampled.id, reference::sorted_choice(&changed, &case.params, case.draw));
    } else {
        let lowest = case.mask.as_ref().and_then(|mask| mask.iter().position(|&allowed| allowed));
        assert_eq!(sampled.id as usize, lowest.unwrap_or(0));
    }
    check_logprobs(case, &sampled);

    // The upper halves of the numbers: any bits at all. A bfloat16 is the float32 with these upper bits.
    let halves: Vec<u16> = case.logits.iter().map(|logit| (logit.to_bits() >> 16) as u16).collect();
    let widened: Vec<f32> = halves.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect();
    let sample = |logits| sample_row(&Row { logits, ..row(bools) }, &mut Scratch::default());
    assert_eq!(sample(Logits::Bf16(&halves)), sample(Logits::F32(&widened)));
    assert!((sample(Logits::F16(&halves)).id as usize) < size);
}

/// As many as were asked for, finite, the likeliest first.
fn check_logprobs(case: &Case, sampled: &Sampled) {
    let count = case.params.top_logprobs;
    assert_eq!(sampled.logprobs.is_some(), count.is_some());
    let (Some(told), Some(count)) = (&sampled.logprobs, count) else { return };
    assert_eq!(told.top.len(), (count as usize).min(case.logits.len()));
    assert!(
        told.top.iter().map(|entry| entry.1).chain([told.chosen]).all(|log| (-9999.0..=1e-9).contains(&log))
    );
    assert!(told.top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    let scored = score_row(Logits::F32(&case.logits), sampled.id, count, &mut Scratch::default());
    assert_eq!(&scored, told);
}

fn bits_of(mask: &[bool]) -> Vec<u32> {
    let word =
        |flags: &[bool]| (0..).zip(flags).fold(0, |word, (place, &flag)| word | u32::from(flag) << place);
    mask.chunks(32).map(word).collect()
}

fuzz_target!(|case: Case| {
    let size = case.logits.len() as u32;
    let known = |ids: &[u32]| ids.iter().copied().filter(|&id| id < size).collect();
    let case = Case { prompt: known(&case.prompt), drawn: known(&case.drawn), ..case };
    match case.params.validate() {
        Err(Error::InvalidParameter { name, .. }) => assert!(!name.is_empty()),
        Err(other) => panic!("{other:?} names no parameter"),
        Ok(()) => check(&case),
    }
});
