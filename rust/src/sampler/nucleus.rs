//! Rows that are not gathered into a list: all of the vocabulary, what min_p or typical_p leaves, or a nucleus.
//!
//! Such a row is summed block by block, and the drawn token found in the block that the random number points at. For a
//! nucleus, the maxima of the blocks or, where it holds much of the vocabulary, a sample of the row tell where its last
//! token lies about; everything likelier is only summed, and the exact last token is selected from the narrow window that
//! remains. What is surely below the window is known by its rough mass, which seldom leaves a doubt. A bad guess costs
//! another pass, never the result.

mod typical;

use super::blocks::{BLOCK, Blocks};
use super::candidates::{Candidate, key, logit_of, part_of, reach, target};
use super::passes::{GuessAbove, MassBelow, Masses, Split, Weigh, WeighedAbove};
use super::weights::{FLOOR, ONE, ROUGHNESS, Scale};

/// The mass of each block that matters, of all its tokens or of those that are kept.
#[derive(Debug, Default)]
pub(super) struct BlockMass {
    /// Indices of these blocks, rising.
    visited: Vec<u32>,
    sums: Vec<u64>,
    /// Tokens that a nucleus may end at, in id order.
    window: Vec<Candidate>,
    work: Vec<Candidate>,
    /// Some logits and their rough masses.
    sample: Vec<[f32; BLOCK]>,
    weights: Vec<[f32; BLOCK]>,
    /// Of the blocks that reach what typical_p drops at the top: indices and masses.
    inner: Vec<u32>,
    beyond: Vec<u64>,
}

/// Tokens sampled to guess where a nucleus ends, so many from each of some blocks.
const SAMPLE: usize = 2048;
const SAMPLED_OF_BLOCK: usize = 16;

/// Passes that narrow the window, and the part of a nucleus's mass from which on it is narrow.
const PASSES: usize = 6;
const NARROW: f64 = 0.01;

/// Where a nucleus ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At this place in the order of tokens.
    At(u64),
    /// Above the window.
    Above,
    /// Below the window.
    Below,
}

impl BlockMass {
    /// The vocabulary from which on a guess beats listing every token.
    const WORTH_GUESSING: usize = 4 * SAMPLE;

    /// Sums a row; gives its mass.
    pub fn sum(&mut self, blocks: &Blocks<'_>, scale: Scale) -> u64 {
        self.visited.clear();
        self.visited.extend(0..blocks.len() as u32);
        self.sums.clear();
        blocks.pass(Masses { blocks, scale, masses: &mut self.sums })
    }

    /// The token that the random bits point at, in id order, of a whole row.
    pub fn pick(&mut self, blocks: &Blocks<'_>, scale: Scale, random: u64) -> Option<u32> {
        pick_roughly(blocks, scale, random).or_else(|| {
            self.sum(blocks, scale);
            self.pick_from(blocks, scale, |_, _| true, random)
        })
    }

    /// Sums the tokens whose logit is at least `bound`; gives the place of the last in the order of tokens.
    pub fn keep_above(&mut self, blocks: &Blocks<'_>, scale: Scale, bound: f32) -> u64 {
        // Everything from the bound on is above the next float below.
        self.split(blocks, scale, bound, logit_of(key(bound) - 1));
        lowest_order(bound)
    }

    /// Sums the fewest likeliest whose mass reaches the part `part` of the row's, of which those below `least` are left out;
    /// gives the place of the last in the order of tokens.
    pub fn keep_nucleus(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64, least: f32) -> u64 {
        let (low, high) = self.guess(blocks, scale, part);
        let (mut low, mut high) = (low.max(least), high.max(least));
        let mut step = scale.nats(0.01);
        let last = loop {
            let found = self.split(blocks, scale, low, high);
            step = (8.0 * step).max(high - low);
            match self.end(blocks, scale, low, part, found) {
                End::Above => (low, high) = (high, high + step),
                End::Below if low > least => (low, high) = ((low - step).max(least), low),
                End::Below => break lowest_order(low),
                End::At(last) => break last,
            }
        };
        // Both lists go by rising blocks.
        let mut place = 0;
        for one in self.window.iter().filter(|one| one.order >= last) {
            let index = one.id() / BLOCK as u32;
            place += self.visited[place..].iter().take_while(|&&visited| visited < index).count();
            self.sums[place] += u64::from(one.weight);
        }
        last
    }

    /// The token that the random bits point at among those that are kept, whose masses by block are in the sums.
    pub fn pick_from(
        &self,
        blocks: &Blocks<'_>,
        scale: Scale,
        is_kept: impl Fn(u32, f32) -> bool,
        random: u64,
    ) -> Option<u32> {
        let mut left = target(random, self.sums.iter().sum());
        let place = self.sums.iter().position(|&sum| match left.checked_sub(sum) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })?;
        let index = self.visited[place] as usize;
        for (place, &logit) in blocks.get(index).iter().enumerate() {
            let id = (index * BLOCK + place) as u32;
            if !is_kept(id, logit) {
                continue;
            }
            match left.checked_sub(u64::from(scale.weight(logit))) {
                Some(rest) => left = rest,
                None => return Some(id),
            }
        }
        None
    }

    /// Where the nucleus ends by what a split from `low` upwards found. The rest of the row is weighed exactly only where that
    /// matters.
    fn end(&mut self, blocks: &Blocks<'_>, scale: Scale, low: f32, part: f64, found: Found) -> End {
        let (least, most) = self.bounds(blocks, scale, found.visited);
        let (least, most) = (part_of(least, part), part_of(most, part));
        let end = self.end_for(least, found);
        if least == most || self.is_end_for(end, most, found) {
            return end;
        }
        let rest = blocks.pass(MassBelow { blocks, scale, bound: low });
        self.end_for(part_of(found.visited + rest, part), found)
    }

    fn end_for(&mut self, need: u64, found: Found) -> End {
        if found.above >= need {
            End::Above
        } else if found.above + found.within < need {
            End::Below
        } else {
            self.work.clone_from(&self.window);
            End::At(reach(&mut self.work, need - found.above))
        }
    }

    /// Whether what is the end for a smaller need is the end for this one.
    fn is_end_for(&self, end: End, need: u64, found: Found) -> bool {
        match end {
            End::At(last) => {
                let kept = self.window.iter().filter(|one| one.order >= last);
                found.above + kept.map(|one| u64::from(one.weight)).sum::<u64>() >= need
            }
            End::Above => found.above >= need,
            End::Below => true,
        }
    }

    /// Puts the tokens from `low` to `high` into the window, and what is above into the sums.
    fn split(&mut self, blocks: &Blocks<'_>, scale: Scale, low: f32, high: f32) -> Found {
        blocks.reaching(low, &mut self.visited);
        self.sums.clear();
        self.window.clear();
        let visited = blocks.pass(Split {
            blocks,
            scale,
            low,
            high,
            visited: &self.visited,
            above: &mut self.sums,
            window: &mut self.window,
        });
        Found { above: self.sums.iter().sum(), within: mass_of(&self.window), visited }
    }

    /// Between which two the mass of the row lies of which the visited blocks weigh `visited`.
    fn bounds(&self, blocks: &Blocks<'_>, scale: Scale, visited: u64) -> (u64, u64) {
        if self.visited.len() == blocks.len() {
            return (visited, visited);
        }
        let (rough, ..) = blocks.rough_masses();
        let seen: f64 = self.visited.iter().map(|&index| f64::from(rough[index as usize])).sum();
        let (least, most) = RoughMass::of(blocks, scale).of_others(seen, blocks.len() - self.visited.len());
        (visited + least, visited + most)
    }

    /// Two logits between which the nucleus of this part of the mass ends: surely, where the maxima of the blocks tell, or
    /// probably.
    fn guess(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64) -> (f32, f32) {
        let total = RoughMass::of(blocks, scale);
        let need = part_of(total.of_others(0.0, blocks.len()).1, part) as f64 / f64::from(ONE);
        if let Some(bound) = self.bound_by_maxima(blocks, scale, need) {
            return (bound, f32::INFINITY);
        }
        if blocks.vocab_size() < Self::WORTH_GUESSING {
            return (f32::NEG_INFINITY, f32::INFINITY);
        }
        match self.guess_by_sample(blocks, scale, part, total.mass()) {
            (low, high) if low <= high => (low, high),
            // At the hottest temperatures every number may become infinite.
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        }
    }

    /// A logit above which the maxima alone weigh `need`, in units of the likeliest token.
    fn bound_by_maxima(&mut self, blocks: &Blocks<'_>, scale: Scale, need: f64) -> Option<f32> {
        let values = blocks.blocks_of_maxima();
        self.weights.resize(values.len(), [0.0; BLOCK]);
        let (sum, _) = blocks.pass(Weigh { values, scale, weights: &mut self.weights });
        // More than a rough sum can be wrong by.
        let need = (need + blocks.len() as f64 / f64::from(ONE)) / (1.0 - ROUGHNESS);
        (sum >= need).then(|| above_which(blocks, values, &self.weights, scale, need))
    }

    /// Two logits between which the likeliest tokens probably reach this part of the mass `total`, which is in units of the
    /// likeliest token.
    ///
    /// A sample tells about where. A pass over the row tells the masses above two logits around that, 1.5 standard
    /// deviations of the sample's guess to each side, and between those two the mass above a logit is nearly linear. Where a few tokens
    /// hold much of the mass, a sample says little, and another such pass is cheaper than a wide window.
    fn guess_by_sample(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64, total: f64) -> (f32, f32) {
        let need = part * total;
        self.sample(blocks);
        let Self { sample, weights, visited, .. } = self;
        weights.resize(sample.len(), [0.0; BLOCK]);
        let (sum, squares) = blocks.pass(Weigh { values: sample, scale, weights });
        let middle = above_which(blocks, sample, weights, scale, part * sum);
        let above = |bound| blocks.pass(WeighedAbove { values: sample, weights, bound });
        let near = scale.nats(0.1);
        let density = (above(middle - near) - above(middle + near)) / f64::from(2.0 * near);
        let step = deviation_of(part, squares, density).unwrap_or(near);
        let masses = |low, high| {
            blocks.reaching(low, visited);
            blocks.pass(GuessAbove { blocks, scale, bounds: [low, high], visited })
        };
        let ends = (scale.logit_at(-FLOOR).max(f32::MIN), scale.peak());
        narrowed(need, total, ends, (middle - step, middle + step), masses)
    }

    /// Fills the sample with tokens from all over the row.
    fn sample(&mut self, blocks: &Blocks<'_>) {
        const PARTS: usize = BLOCK / SAMPLED_OF_BLOCK;
        self.sample.clear();
        let index = |part: usize| part * blocks.len() / (SAMPLE / SAMPLED_OF_BLOCK);
        for few in (0..SAMPLE / SAMPLED_OF_BLOCK).step_by(PARTS) {
            let mut block = [f32::NEG_INFINITY; BLOCK];
            for (part, logits) in block.chunks_exact_mut(SAMPLED_OF_BLOCK).enumerate() {
                logits.copy_from_slice(&blocks.get(index(few + part))[..SAMPLED_OF_BLOCK]);
            }
            self.sample.push(block);
        }
    }
}

/// 1.5 standard deviations of the place where a sample with these squares and this density reaches a part of its mass.
fn deviation_of(part: f64, squares: f64, density: f64) -> Option<f32> {
    let deviation = ((part * (1.0 - part) * squares).sqrt() / density) as f32;
    (deviation > 0.0 && deviation.is_finite()).then_some(1.5 * deviation)
}

/// Two places between which the mass probably is `need`. It falls from `total` to nothing between the two `ends`, `guess` are two
/// places between them, and `masses` tells what it is at two.
fn narrowed(
    need: f64,
    total: f64,
    ends: (f32, f32),
    guess: (f32, f32),
    mut masses: impl FnMut(f32, f32) -> [f64; 2],
) -> (f32, f32) {
    let (mut below, mut beyond) = ((ends.0, total), (ends.1, 0.0));
    let (mut low, mut high) = guess;
    for _ in 0..PASSES {
        for point in [low, high].into_iter().zip(masses(low, high)) {
            if point.1 >= need && point.0 > below.0 {
                below = point;
            } else if point.1 < need && point.0 < beyond.0 {
                beyond = point;
            }
        }
        let (width, between) = (beyond.0 - below.0, below.1 - beyond.1);
        // How far a straight line may be off depends on how fast the mass changes, which is told by what is left below.
        let doubt = (0.01 + 0.15 * between / (total - need)).min(0.3);
        let end = below.0 + width * ((below.1 - need) / between) as f32;
        let margin = width * doubt as f32;
        (low, high) = ((end - margin).max(below.0), (end + margin).min(beyond.0));
        if 2.0 * doubt * between < NARROW * need {
            break;
        }
    }
    (low, high)
}

/// About the lowest logit above which weights sum to `need`, which all together do. They surely do above the answer.
fn above_which(
    blocks: &Blocks<'_>,
    values: &[[f32; BLOCK]],
    weights: &[[f32; BLOCK]],
    scale: Scale,
    need: f64,
) -> f32 {
    const STEPS: usize = 12;
    let (mut low, mut high) = (scale.logit_at(-FLOOR).max(f32::MIN), scale.peak());
    let reaches = |bound| blocks.pass(WeighedAbove { values, weights, bound }) >= need;
    if !reaches(low) {
        return f32::NEG_INFINITY;
    }
    for _ in 0..STEPS {
        let middle = low / 2.0 + high / 2.0;
        if reaches(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The token that the random bits point at, in id order, of a whole row; `None` if rough masses do not tell.
///
/// With the mass `before` the block that it lies in, `within` and `after`, the token is the first at which the running mass
/// exceeds random / 2^64 of all three. Both `before` and `after` are known to lie between two numbers.
fn pick_roughly(blocks: &Blocks<'_>, scale: Scale, random: u64) -> Option<u32> {
    let (rough, by, total) = blocks.rough_masses();
    let part = random as f64 / 2f64.powi(64);
    let (index, before) = place_of(rough, part * total)?;
    let after = total - before - f64::from(rough[index]);
    let unit = f64::from(ONE) / by.mass_at(scale.peak());
    let (before, after) = (before * unit, after.max(0.0) * unit);
    let weights = blocks.get(index).map(|logit| f64::from(scale.weight(logit)));
    let within: f64 = weights.iter().sum();
    // By how much `random / 2^64 * all - before` may be off: the errors of the two do not add up. Each weight is rounded down,
    // by less than one, which moves it upwards for those before and downwards for those after.
    let middle = part * (before + within + after) - before;
    let (tokens_before, tokens_after) = ((index * BLOCK) as f64, ((blocks.len() - index) * BLOCK) as f64);
    let floors = ((1.0 - part) * tokens_before).max(part * tokens_after) + 1.0;
    let doubt = ((1.0 - part) * before + part * after) * ROUGHNESS + floors;
    let mut running = 0.0;
    for (place, weight) in weights.iter().enumerate() {
        let next = running + weight;
        if middle + doubt < next {
            return (middle - doubt >= running).then_some((index * BLOCK + place) as u32);
        }
        running = next;
    }
    None
}

/// The place at which the running sum exceeds `target`, and the sum before it.
fn place_of(sums: &[f32], target: f64) -> Option<(usize, f64)> {
    const RUN: usize = 64;
    let mut before = 0.0;
    for (run, few) in sums.chunks(RUN).enumerate() {
        // In lanes, because one addition waits for the one before.
        let mut lanes = [0.0f64; 8];
        let (eights, rest) = few.as_chunks::<8>();
        eights
            .iter()
            .for_each(|eight| lanes.iter_mut().zip(eight).for_each(|(sum, &one)| *sum += f64::from(one)));
        let sum = lanes.iter().sum::<f64>() + rest.iter().map(|&one| f64::from(one)).sum::<f64>();
        if before + sum > target {
            for (place, &one) in few.iter().enumerate() {
                if before + f64::from(one) > target {
                    return Some((run * RUN + place, before));
                }
                before += f64::from(one);
            }
            return None;
        }
        before += sum;
    }
    None
}

/// What the rough masses of a row tell.
struct RoughMass {
    /// In units of the scale that they were taken by.
    total: f64,
    /// What the likeliest token weighs in these units.
    peak: f64,
    tokens: f64,
}

impl RoughMass {
    fn of(blocks: &Blocks<'_>, scale: Scale) -> Self {
        let (_, by, total) = blocks.rough_masses();
        Self { total, peak: by.mass_at(scale.peak()), tokens: (blocks.len() * BLOCK) as f64 }
    }

    /// In units of the likeliest token.
    fn mass(&self) -> f64 {
        self.total / self.peak
    }

    /// Between which two the mass of the other blocks lies, so many, where the rough masses of some sum to `seen`.
    fn of_others(&self, seen: f64, others: usize) -> (u64, u64) {
        let unit = f64::from(ONE) / self.peak;
        let rest = (self.total - seen).max(0.0) * unit;
        // Each addition of float64 errs by 2^-53; they are fewer than the tokens.
        let doubt = rest * ROUGHNESS + self.tokens * self.total * unit * 2f64.powi(-52) + 1.0;
        // Each weight is rounded down.
        ((rest - doubt - (others * BLOCK) as f64) as u64, (rest + doubt) as u64)
    }
}

/// The masses of a row that two logits cut in three.
#[derive(Clone, Copy)]
struct Found {
    /// Above the window.
    above: u64,
    /// In the window.
    within: u64,
    /// All of the blocks that reach the window or what is above.
    visited: u64,
}

fn mass_of(list: &[Candidate]) -> u64 {
    list.iter().map(|one| u64::from(one.weight)).sum()
}

/// The lowest place in the order of tokens with at least this logit.
fn lowest_order(logit: f32) -> u64 {
    u64::from(key(logit)) << 32
}
