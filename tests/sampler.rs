//! The sampler against a slow and obvious one that sorts whole rows, on rows and parameters of every kind.

#[path = "reference/sampler.rs"]
mod reference;

use ecocore::penalties::{History, Penalties};
use ecocore::rng::{Purpose, random_bits};
use ecocore::sampler::{
    Draw, Logits, Mask, Row, Sampled, SamplingParams, Scratch, Vectors, sample_row, sample_row_with,
    sample_rows,
};
use proptest::prelude::*;
use reference::sorted_choice;

fn sample(logits: &[f32], params: &SamplingParams, draw: Draw) -> Sampled {
    let history = History::default();
    let row = Row { logits: Logits::F32(logits), params, history: &history, mask: None, draw };
    let sampled = sample_row(&row, &mut Scratch::default());
    for vectors in Vectors::available() {
        let same = sample_row_with(vectors, &row, &mut Scratch::default());
        assert_eq!(same, sampled, "{vectors:?} and the widest vectors draw differently");
    }
    sampled
}

/// Rows as models make them, and as they never should.
fn logits(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    let kinds = prop_oneof![
        // Peaked, flat, full of ties, with numbers that are none.
        Just(0u8),
        Just(1),
        Just(2),
        Just(3)
    ];
    (sizes, kinds, any::<u32>()).prop_map(|(size, kind, seed)| {
        let normal = |index: usize| {
            let bits = random_bits(u64::from(seed), index as u32, 0, Purpose::Draw);
            (bits.to_le_bytes().iter().map(|&byte| f32::from(byte)).sum::<f32>() - 1020.0) / 209.0
        };
        let row = (0..size).map(|index| match (kind, normal(index)) {
            (0, z) if index % 97 == seed as usize % 97 => 9.0 + 2.0 * z,
            (0, z) => 2.2 * z,
            (1, z) => z,
            (2, z) => z.round(),
            (_, z) if z > 2.2 => f32::INFINITY,
            (_, z) if z > 1.0 => f32::NAN,
            (_, z) if z < -1.0 => f32::NEG_INFINITY,
            (_, z) => 30.0 * z,
        });
        row.collect()
    })
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0), Just(1.0), 0.05..2.0f64];
    let top_k = prop_oneof![3 => Just(0u32), 2 => 1..40u32, 1 => 1..10_000u32];
    let top_p = prop_oneof![1 => Just(1.0), 2 => 0.0..1.0f64, 1 => Just(0.9)];
    let min_p = prop_oneof![2 => Just(0.0), 1 => 0.0..=1.0f64, 1 => 0.0..0.01f64];
    let typical_p = prop_oneof![2 => Just(1.0), 1 => 0.01..1.0f64];
    (temperature, top_k, top_p, min_p, typical_p).prop_map(|(temperature, top_k, top_p, min_p, typical_p)| {
        SamplingParams { temperature, top_k, top_p, min_p, typical_p, ..SamplingParams::default() }
    })
}

fn draws() -> impl Strategy<Value = Draw> {
    (any::<u64>(), any::<u32>(), 0..8u32).prop_map(|(seed, position, choice)| Draw { seed, position, choice })
}

fn possible(logits: &[f32]) -> bool {
    logits.iter().any(|&logit| logit > f32::NEG_INFINITY)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_token_is_that_of_a_full_sort(row in logits(1..700), params in params(), draw in draws()) {
        prop_assume!(possible(&row));
        prop_assert_eq!(sample(&row, &params, draw).id, sorted_choice(&row, &params, draw));
    }

    #[test]
    fn a_mask_is_a_row_of_impossible_logits(
        row in logits(1..300), params in params(), draw in draws(), seed in any::<u64>(),
    ) {
        let allowed: Vec<bool> = (0..row.len() as u32).map(|id| random_bits(seed, id, 0, Purpose::Draw).is_multiple_of(3)).collect();
        let masked: Vec<f32> =
            row.iter().zip(&allowed).map(|(&logit, &ok)| if ok { logit } else { f32::NEG_INFINITY }).collect();
        prop_assume!(possible(&masked));
        let history = History::default();
        let drawn = Row { logits: Logits::F32(&row), params: &params, history: &history, mask: Some(Mask::Bools(&allowed)), draw };
        prop_assert_eq!(sample_row(&drawn, &mut Scratch::default()).id, sorted_choice(&masked, &params, draw));
    }

    #[test]
    fn penalties_are_a_row_of_changed_logits(
        row in logits(100..300), mut params in params(), draw in draws(),
        prompt in prop::collection::vec(0..100u32, 0..50), drawn in prop::collection::vec(0..100u32, 0..50),
        bias in prop::collection::btree_map(0..100u32, -100.0..100.0f32, 0..5),
        (repetition, frequency, presence) in (0.5..2.0f32, -2.0..2.0f32, -2.0..2.0f32),
    ) {
        prop_assume!(row.iter().all(|logit| logit.is_finite()));
        let mut changed = row.clone();
        for id in 0..100u32 {
            let logit = &mut changed[id as usize];
            let count = drawn.iter().filter(|&&one| one == id).count();
            *logit += bias.get(&id).unwrap_or(&0.0);
            if count > 0 || prompt.contains(&id) {
                *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            }
            if count > 0 {
                *logit = *logit - count as f32 * frequency - presence;
            }
        }
        params.penalties = Penalties { bias: bias.into_iter().collect(), repetition, frequency, presence };
        let history = History::new(&params.penalties, &prompt, &drawn);
        let drawn = Row { logits: Logits::F32(&row), params: &params, history: &history, mask: None, draw };
        prop_assert_eq!(sample_row(&drawn, &mut Scratch::default()).id, sorted_choice(&changed, &params, draw));
    }

    #[test]
    fn half_precision_draws_as_its_float32(row in logits(1..300), params in params(), draw in draws()) {
        let bf16: Vec<u16> = row.iter().map(|&logit| half::bf16::from_f32(logit).to_bits()).collect();
        let f16: Vec<u16> = row.iter().map(|&logit| half::f16::from_f32(logit).to_bits()).collect();
        let wide_bf16: Vec<f32> = bf16.iter().map(|&bits| half::bf16::from_bits(bits).to_f32()).collect();
        let wide_f16: Vec<f32> = f16.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect();
        let params = SamplingParams { top_logprobs: Some(5), ..params };
        let history = History::default();
        for (half, wide) in [(Logits::Bf16(&bf16), &wide_bf16), (Logits::F16(&f16), &wide_f16)] {
            let drawn = Row { logits: half, params: &params, history: &history, mask: None, draw };
            prop_assert_eq!(sample_row(&drawn, &mut Scratch::default()), sample(wide, &params, draw));
        }
    }

    #[test]
    fn log_probabilities_are_those_of_float64(row in logits(1..300), params in params(), draw in draws(), count in 0..=20u32) {
        prop_assume!(row.iter().all(|logit| logit.is_finite()));
        let params = SamplingParams { top_logprobs: Some(count), ..params };
        let sampled = sample(&row, &params, draw);
        let logprobs = sampled.logprobs.unwrap();
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let close = |id: u32, log: f64| (f64::from(row[id as usize]) - sum.ln() - log).abs() < 1e-6;
        prop_assert!(close(sampled.id, logprobs.chosen));
        prop_assert!(logprobs.top.iter().all(|&(id, log)| close(id, log)));
        let mut ids: Vec<u32> = (0..row.len() as u32).collect();
        ids.sort_by(|&a, &b| row[b as usize].partial_cmp(&row[a as usize]).unwrap().then(a.cmp(&b)));
        ids.truncate(count as usize);
        prop_assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), ids);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Large enough for the guesses where a nucleus, or what is typical, ends that holds much of the vocabulary.
    #[test]
    fn large_rows_draw_the_token_of_a_full_sort(row in logits(8192..16_000), params in params(), draw in draws()) {
        prop_assume!(possible(&row));
        prop_assert_eq!(sample(&row, &params, draw).id, sorted_choice(&row, &params, draw));
        let nucleus = SamplingParams {
            temperature: params.temperature.max(0.5), top_p: params.top_p, ..SamplingParams::default()
        };
        prop_assert_eq!(sample(&row, &nucleus, draw).id, sorted_choice(&row, &nucleus, draw));
        let typical = SamplingParams { top_p: 1.0, typical_p: params.top_p.max(1e-3), ..nucleus };
        prop_assert_eq!(sample(&row, &typical, draw).id, sorted_choice(&row, &typical, draw));
    }

    #[test]
    fn company_and_order_of_rows_change_nothing(
        rows in prop::collection::vec((logits(20_000..20_001), params(), draws()), 1..12),
    ) {
        let history = History::default();
        let row = |(logits, params, draw): &'_ (Vec<f32>, SamplingParams, Draw)| {
            let drawn = Row { logits: Logits::F32(logits), params, history: &history, mask: None, draw: *draw };
            sample_row(&drawn, &mut Scratch::default())
        };
        let alone: Vec<Sampled> = rows.iter().map(row).collect();
        let view = |index: usize| {
            let (logits, params, draw) = &rows[index];
            Row { logits: Logits::F32(logits), params, history: &history, mask: None, draw: *draw }
        };
        let forwards: Vec<Row<'_>> = (0..rows.len()).map(view).collect();
        let backwards: Vec<Row<'_>> = (0..rows.len()).rev().map(view).collect();
        prop_assert_eq!(&sample_rows(&forwards), &alone);
        prop_assert_eq!(sample_rows(&backwards).into_iter().rev().collect::<Vec<_>>(), alone);
    }
}

/// A misleading row: the sampled places hold all the same logit, the others everything else.
#[test]
fn a_wrong_guess_costs_only_time() {
    const SIZE: usize = 16_384;
    let nucleus = |top_p| SamplingParams { top_p, ..SamplingParams::default() };
    let typical = |typical_p| SamplingParams { typical_p, ..SamplingParams::default() };
    let each = [0.03, 0.5, 0.9, 0.999].into_iter().flat_map(|part| [nucleus(part), typical(part)]);
    let each: Vec<_> = each.collect();
    for (sampled, others) in [(3.0, 0.0), (-3.0, 0.0), (-30.0, 0.0), (0.0, 0.0)] {
        let is_sampled = |id: usize| (id / 64).is_multiple_of(2) && id % 64 < 16;
        let row: Vec<f32> = (0..SIZE)
            .map(|id| if is_sampled(id) { sampled } else { others + (id % 7) as f32 * 0.01 })
            .collect();
        for params in &each {
            for position in 0..20 {
                let draw = Draw { seed: 5, position, choice: 0 };
                assert_eq!(sample(&row, params, draw).id, sorted_choice(&row, params, draw), "{params:?}");
            }
        }
    }
}

/// Many tokens as far from the mean as the last, to one side of it or to both: their ids decide.
#[test]
fn of_tokens_that_are_equally_typical_the_lower_ids_are_kept() {
    const SIZE: usize = 16_384;
    let step = |steps: usize| move |id: usize| (id * 7919 % steps) as f32 * 0.25;
    let rows: [Box<dyn Fn(usize) -> f32>; 4] = [
        Box::new(|_| 1.5),
        Box::new(step(2)),
        Box::new(step(9)),
        Box::new(|id| if id < 5 { 9.0 } else { 0.0 }),
    ];
    for row in rows {
        let row: Vec<f32> = (0..SIZE).map(row).collect();
        for typical_p in [1e-9, 0.1, 0.5, 0.8, 0.97] {
            for (position, temperature) in (0..12).zip([0.3, 1.0, 2.0].into_iter().cycle()) {
                let params = SamplingParams { temperature, typical_p, ..SamplingParams::default() };
                let draw = Draw { seed: 6, position, choice: 0 };
                assert_eq!(sample(&row, &params, draw).id, sorted_choice(&row, &params, draw), "{params:?}");
            }
        }
    }
}

#[test]
fn a_row_without_a_possible_token_is_told_and_stays_in_the_mask() {
    let (params, history) =
        (SamplingParams { top_logprobs: Some(2), ..SamplingParams::default() }, History::default());
    let draw = Draw { seed: 1, position: 0, choice: 0 };
    let check = |logits: &[f32], mask: Option<&[bool]>, id| {
        let row = Row {
            logits: Logits::F32(logits),
            params: &params,
            history: &history,
            mask: mask.map(Mask::Bools),
            draw,
        };
        let sampled = sample_row(&row, &mut Scratch::default());
        assert_eq!((sampled.id, sampled.possible), (id, false));
        assert!(sampled.logprobs.unwrap().chosen.is_finite());
    };
    check(&[f32::NAN; 5], None, 0);
    check(&[f32::NEG_INFINITY; 100], None, 0);
    check(&[1.0, f32::NAN, f32::NEG_INFINITY], Some(&[false, true, true]), 1);
    check(&[1.0, 2.0], Some(&[false, false]), 0);
}

#[test]
fn unusable_parameters_are_refused_by_name() {
    let neutral = SamplingParams::default;
    let check = |params: SamplingParams, name: &str| {
        let message = params.validate().unwrap_err().to_string();
        assert!(message.starts_with(name), "{message}");
    };
    check(SamplingParams { temperature: f64::NAN, ..neutral() }, "temperature");
    check(SamplingParams { temperature: -0.1, ..neutral() }, "temperature");
    check(SamplingParams { top_p: 1.1, ..neutral() }, "top_p");
    check(SamplingParams { min_p: f64::NAN, ..neutral() }, "min_p");
    check(SamplingParams { typical_p: 0.0, ..neutral() }, "typical_p");
    check(SamplingParams { top_logprobs: Some(21), ..neutral() }, "top_logprobs");
}
