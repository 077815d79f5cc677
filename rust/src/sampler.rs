//! From a row of logits to one token.
//!
//! Takes logits, parameters, what the sequence has seen, and the name of the draw; gives the token and, if
//! asked, raw log-probabilities. The same inputs give the same token on every machine and in any company:
//! probabilities are integers, so no sum depends on its order, and the random number depends on
//! (seed, position, choice) alone. docs/sampling.md tells the steps and their order.
//!
//! What a row costs is one pass for the maxima of its blocks, which for most settings weighs it roughly too. The steps after
//! that look at the few blocks that matter; where a token may depend on more, one more pass weighs the row exactly.

mod blocks;
mod candidates;
mod logprobs;
mod mask;
mod nucleus;
mod passes;
mod vectors;
mod weights;

use std::cell::RefCell;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;

use crate::error::Error;
use crate::penalties::{History, Penalties};
use crate::rng::{Purpose, random_bits};
use crate::sampled::Logprobs;
use blocks::{BlockStore, Blocks};
use candidates::{Candidates, logit_of, order, part_of};
use logprobs::RawDistribution;
pub use mask::Mask;
use nucleus::BlockMass;
pub use vectors::Vectors;
use weights::{ONE, Scale};

/// Below this temperature the likeliest token is taken.
pub const GREEDY_TEMPERATURE: f64 = 1e-5;
/// The most likely tokens that a row may ask to be told of.
pub const MAX_TOP_LOGPROBS: u32 = 20;

/// How the tokens of one sequence are drawn. The default draws from the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits. 0, or below [`GREEDY_TEMPERATURE`]: the likeliest token, ties by lower id.
    pub temperature: f64,
    /// Only the `top_k` likeliest tokens are drawn, ties by lower id. 0: all.
    pub top_k: u32,
    /// Then only the fewest likeliest whose mass reaches this part. 1: all; 0: the likeliest one.
    pub top_p: f64,
    /// Then only tokens at least this likely compared with the likeliest. 0: all.
    pub min_p: f64,
    /// Then only the fewest, closest to the entropy first, whose mass reaches this part. 1: all.
    pub typical_p: f64,
    /// Bias and penalties, applied to the logits before everything else.
    pub penalties: Penalties,
    /// How many of the likeliest tokens to tell with the draw's log-probability; `None`: not even that.
    pub top_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            penalties: Penalties::default(),
            top_logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Checks every number. The error names the parameter as requests spell it.
    pub fn validate(&self) -> Result<(), Error> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::parameter("temperature", "must be at least 0 and finite"));
        }
        for (name, value) in [("top_p", self.top_p), ("min_p", self.min_p), ("typical_p", self.typical_p)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::parameter(name, "must be between 0 and 1"));
            }
        }
        if self.typical_p == 0.0 {
            return Err(Error::parameter("typical_p", "must be above 0"));
        }
        if self.top_logprobs.is_some_and(|count| count > MAX_TOP_LOGPROBS) {
            return Err(Error::parameter("top_logprobs", format!("must be at most {MAX_TOP_LOGPROBS}")));
        }
        self.penalties.validate()
    }

    /// Checks that the vocabulary holds every id of the bias.
    pub fn validate_vocab(&self, vocab_size: usize) -> Result<(), Error> {
        let outside = self.penalties.bias.iter().find(|(id, _)| *id as usize >= vocab_size);
        outside.map_or(Ok(()), |(id, _)| {
            Err(Error::parameter(
                "logit_bias",
                format!("names token {id}; the vocabulary ends at {}", vocab_size - 1),
            ))
        })
    }

    fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_TEMPERATURE
    }
}

/// The name of one draw. Equal names give equal random numbers, whatever else is in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Seed of the request.
    pub seed: u64,
    /// How many tokens the sequence drew before.
    pub position: u32,
    /// Index of the choice within the request.
    pub choice: u32,
}

impl Draw {
    fn bits(self) -> u64 {
        random_bits(self.seed, self.position, self.choice, Purpose::Draw)
    }
}

/// One row of logits as the model left it. Half precision is widened exactly.
#[derive(Debug, Clone, Copy)]
pub enum Logits<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float16, as bits.
    F16(&'a [u16]),
    /// bfloat16, as bits.
    Bf16(&'a [u16]),
}

impl<'a> Logits<'a> {
    fn widen(self, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::F32(row) => return row,
            Self::F16(row) => {
                buffer.resize(row.len(), 0.0);
                row.reinterpret_cast::<f16>().convert_to_f32_slice(buffer);
            }
            Self::Bf16(row) => {
                buffer.clear();
                buffer.extend(row.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)));
            }
        }
        buffer
    }

    /// Number of logits.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::F32(row) => row.len(),
            Self::F16(row) | Self::Bf16(row) => row.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One row to draw from.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Logits over the vocabulary, which has at least one token. NaN counts as -inf, +inf as the largest float.
    pub logits: Logits<'a>,
    /// Validated parameters; the vocabulary holds the ids of their bias.
    pub params: &'a SamplingParams,
    /// What the sequence has seen; all ids are of the vocabulary.
    pub history: &'a History,
    /// Tokens that may be drawn; `None`: all.
    pub mask: Option<Mask<'a>>,
    /// The name of the draw.
    pub draw: Draw,
}

/// A drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// Raw log-probabilities, if the parameters ask for them.
    pub logprobs: Option<Logprobs>,
    /// False where no allowed token had a usable logit: then `id` is the lowest allowed one (0 if none is).
    pub possible: bool,
}

/// The raw log-probabilities of token `id` and of the `count` likeliest, in one row of logits.
#[must_use]
pub fn score_row(logits: Logits<'_>, id: u32, count: u32, scratch: &mut Scratch) -> Logprobs {
    let Scratch { wide, blocks, bounds, selection, .. } = scratch;
    let logits = logits.widen(wide);
    let mut blocks = Blocks::new(Vectors::widest(), logits, blocks);
    RawDistribution::read(&mut blocks, count as usize, &mut selection.mass, bounds).of(logits[id as usize])
}

/// Draws one token for each row, on several cores where that pays. A row's result depends on it alone.
#[must_use]
pub fn sample_rows(rows: &[Row<'_>]) -> Vec<Sampled> {
    /// Waking another core costs about what this many logits cost.
    const WORTH_SHARING: usize = 1 << 17;
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let sample = |row: &Row<'_>| SCRATCH.with_borrow_mut(|scratch| sample_row(row, scratch));
    let size: usize = rows.iter().map(|row| row.logits.len()).sum();
    if rows.len() > 1 && size >= WORTH_SHARING {
        rows.par_iter().map(sample).collect()
    } else {
        rows.iter().map(sample).collect()
    }
}

/// Buffers of one thread, kept from row to row so that a draw allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    wide: Vec<f32>,
    blocks: BlockStore,
    patches: Vec<(u32, f32)>,
    bounds: Vec<f32>,
    selection: Selection,
}

/// Draws one token.
#[must_use]
pub fn sample_row(row: &Row<'_>, scratch: &mut Scratch) -> Sampled {
    sample_row_with(Vectors::widest(), row, scratch)
}

/// Draws one token by the given instructions. All give the same.
#[must_use]
pub fn sample_row_with(vectors: Vectors, row: &Row<'_>, scratch: &mut Scratch) -> Sampled {
    let Scratch { wide, blocks, patches, bounds, selection } = scratch;
    let logits = row.logits.widen(wide);
    let mut blocks = Blocks::new(vectors, logits, blocks);
    let raw = row
        .params
        .top_logprobs
        .map(|count| RawDistribution::read(&mut blocks, count as usize, &mut selection.mass, bounds));

    row.params.penalties.patches(row.history, |id| blocks::bounded(blocks.logit(id)), patches);
    blocks.patch(patches);
    if let Some(allowed) = row.mask {
        blocks.mask(allowed);
    }

    let chosen = selection.choose(&mut blocks, row.params, row.draw, bounds);
    let id = chosen.unwrap_or_else(|| row.mask.and_then(Mask::lowest).unwrap_or(0));
    let logprobs = raw.map(|raw| raw.of(logits[id as usize]));
    Sampled { id, logprobs, possible: chosen.is_some() }
}

/// What is left of a row, in one of two forms: a short list, or masses by block.
#[derive(Debug, Default)]
struct Selection {
    candidates: Candidates,
    mass: BlockMass,
}

impl Selection {
    /// The token of this draw, or `None` if none is possible.
    fn choose(
        &mut self,
        blocks: &mut Blocks<'_>,
        params: &SamplingParams,
        draw: Draw,
        bounds: &mut Vec<f32>,
    ) -> Option<u32> {
        let top_k = Some(params.top_k as usize).filter(|&count| count > 0 && count < blocks.vocab_size());
        let of_all = !params.is_greedy() && top_k.is_none();
        let of_mass = params.top_p == 1.0 && params.min_p == 0.0;
        let is_rough = params.top_p < 1.0 || of_mass && params.typical_p == 1.0;
        let peak = match of_all && is_rough {
            true => blocks.survey_masses(params.temperature),
            false => blocks.survey(),
        };
        if peak == f32::NEG_INFINITY {
            return None;
        }
        if params.is_greedy() {
            return Some(blocks.first(peak));
        }
        let scale = Scale::new(peak, params.temperature);
        let random = draw.bits();
        if of_all && params.typical_p == 1.0 {
            return self.choose_of_all(blocks, params, scale, random);
        }
        if of_all && of_mass {
            return self.mass.pick_typical(blocks, scale, params.typical_p, random);
        }
        self.gather(blocks, params, top_k, scale, bounds);
        if params.min_p > 0.0 {
            self.candidates.keep_heavier(lightest(params.min_p));
        }
        if params.typical_p < 1.0 {
            self.candidates.keep_typical(scale, params.typical_p);
        }
        self.candidates.pick(random)
    }

    /// The token of this draw among those that top_p and min_p keep.
    fn choose_of_all(
        &mut self,
        blocks: &Blocks<'_>,
        params: &SamplingParams,
        scale: Scale,
        random: u64,
    ) -> Option<u32> {
        if params.top_p == 1.0 && params.min_p == 0.0 {
            return self.mass.pick(blocks, scale, random);
        }
        let last = self.last_of_all(blocks, params, scale);
        self.mass.pick_from(blocks, scale, |id, logit| order(id, logit) >= last, random)
    }

    /// Sums what top_p and min_p keep; gives the place of the last in the order of tokens.
    fn last_of_all(&mut self, blocks: &Blocks<'_>, params: &SamplingParams, scale: Scale) -> u64 {
        // What min_p drops comes after all that it keeps, so it may be dropped first.
        let bound =
            if params.min_p > 0.0 { scale.lowest_logit(lightest(params.min_p)) } else { f32::NEG_INFINITY };
        match params.top_p < 1.0 {
            true => self.mass.keep_nucleus(blocks, scale, params.top_p, bound),
            false => self.mass.keep_above(blocks, scale, bound),
        }
    }

    /// Makes the list of what top_k and top_p keep; what min_p drops may be missing already.
    fn gather(
        &mut self,
        blocks: &Blocks<'_>,
        params: &SamplingParams,
        top_k: Option<usize>,
        scale: Scale,
        bounds: &mut Vec<f32>,
    ) {
        if let Some(top_k) = top_k {
            self.candidates.gather(blocks, scale, blocks.reached_by(top_k, bounds));
            self.candidates.keep_likeliest(top_k);
            if params.top_p < 1.0 {
                self.candidates.keep_mass(part_of(self.candidates.mass(), params.top_p));
            }
        } else if params.top_p < 1.0 {
            let last = self.last_of_all(blocks, params, scale);
            self.candidates.gather(blocks, scale, logit_of((last >> 32) as u32));
            self.candidates.keep_from(last);
        } else {
            self.candidates.gather(blocks, scale, scale.lowest_logit(lightest(params.min_p)));
        }
    }
}

/// The least weight that `min_p` keeps; what weighs nothing is never drawn.
fn lightest(min_p: f64) -> u32 {
    ((min_p * f64::from(ONE)).ceil() as u32).max(1)
}
