//! A sampler that is slow and obvious: it sorts whole rows. The second opinion of tests and fuzz targets.

use ecocore::rng::{Purpose, random_bits};
use ecocore::sampler::{Draw, SamplingParams};

/// The token of a draw by sorting: (id, weight) of all tokens, shortened by one filter after the other. One is possible.
pub fn sorted_choice(logits: &[f32], params: &SamplingParams, draw: Draw) -> u32 {
    // Adding zero makes -0.0 and 0.0 the tie that they are.
    let usable = |logit: &f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 };
    let logits: Vec<f32> = logits.iter().map(usable).collect();
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if params.temperature < 1e-5 {
        return ids[0] as u32;
    }
    let weights: Vec<u64> = logits.iter().map(|&logit| weight(logit, peak, params.temperature)).collect();
    let mass = |ids: &[usize]| -> u64 { ids.iter().map(|&id| weights[id]).sum() };
    let fill = |ids: &mut Vec<usize>, part: f64| {
        let part = (part * 4_294_967_296.0).floor() as u128;
        let need = (u128::from(mass(ids)) * part).div_ceil(1 << 32).max(1) as u64;
        ids.truncate(count_until(ids.iter().map(|&id| weights[id]), |sum| sum >= need));
    };
    if params.top_k > 0 {
        ids.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        fill(&mut ids, params.top_p);
    }
    if params.min_p > 0.0 {
        ids.retain(|&id| weights[id] as f64 >= params.min_p * 2_147_483_648.0);
    }
    if params.typical_p < 1.0 {
        let inverse = (1.0 / params.temperature) as f32;
        let surprise = |id: usize| (f64::from((logits[id] - peak) * inverse) * -1_048_576.0) as u128;
        ids.retain(|&id| weights[id] > 0);
        let sum: u128 = ids.iter().map(|&id| surprise(id) * u128::from(weights[id])).sum();
        let mean = sum / u128::from(mass(&ids));
        ids.sort_by_key(|&id| (surprise(id).abs_diff(mean), id));
        fill(&mut ids, params.typical_p);
    }
    ids.sort_unstable();
    let random = random_bits(draw.seed, draw.position, draw.choice, Purpose::Draw);
    let target = ((u128::from(random) * u128::from(mass(&ids))) >> 64) as u64;
    ids[count_until(ids.iter().map(|&id| weights[id]), |sum| sum > target) - 1] as u32
}

/// floor(2^31 e^x), step by step as the contract in rust/src/sampler/weights.rs has it.
fn weight(logit: f32, peak: f32, temperature: f64) -> u64 {
    let x = (logit - peak) * (1.0 / temperature) as f32;
    if x.is_nan() || x < -24.0 {
        return 0;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let q = [0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94].into_iter();
    let q = q.fold(0.001_381_454f32, |q, coefficient| q * r + coefficient);
    let e = ((q * r) * r + r) + 1.0;
    (f64::from(e) * 2f64.powi(n as i32 + 31)) as u64
}

/// How many weights it takes until their sum is enough.
fn count_until(weights: impl Iterator<Item = u64>, enough: impl Fn(u64) -> bool) -> usize {
    let mut sum = 0;
    weights
        .take_while(|weight| {
            let more = !enough(sum);
            sum += weight;
            more
        })
        .count()
}
