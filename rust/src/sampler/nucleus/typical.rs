//! What typical_p keeps of a whole row, without a list of it.
//!
//! These are the tokens whose information content is nearest to the mean: all between two logits, and of those that are as far
//! as the last the ones with the lowest ids. The maxima of the blocks, or a sample of the row, tell how far they go about. What
//! is surely nearer is only summed, and the exact last token is selected from the ring around it. A bad guess costs another
//! ring, never the result.

use super::super::blocks::{BLOCK, Blocks};
use super::super::candidates::{Candidate, Typical, part_of, reach};
use super::super::passes::{Contents, GuessAbove, Split, Weigh, WeighedAbove};
use super::super::weights::{FLOOR, ONE, Scale};
use super::{BlockMass, deviation_of, narrowed};

impl BlockMass {
    /// The token that the random bits point at among those that typical_p keeps.
    pub fn pick_typical(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64, random: u64) -> Option<u32> {
        let (typical, last) = self.keep_typical(blocks, scale, part);
        self.pick_from(blocks, scale, |id, logit| typical.order(id, logit) >= last, random)
    }

    /// Sums the fewest tokens closest to the mean whose mass reaches the part `part` of the row's; gives their order, and the
    /// place of the last in it.
    fn keep_typical(&mut self, blocks: &Blocks<'_>, scale: Scale, part: f64) -> (Typical, u64) {
        let least = scale.lowest_logit(1);
        blocks.reaching(least, &mut self.visited);
        let (mass, contents) = blocks.pass(Contents { blocks, scale, visited: &self.visited });
        let typical = Typical::new(scale, mass, contents);
        let need = part_of(mass, part);
        let (mut near, mut far) =
            self.guess_deviation(blocks, typical, part, mass as f64 / f64::from(ONE), least);
        let mut step = 0.01;
        let last = loop {
            let ring = Ring::new(typical, near, far, least);
            self.split_by(blocks, scale, typical, ring);
            step = (far - near).max(8.0 * step);
            let Some(rest) = need.checked_sub(self.sums.iter().sum()).filter(|&rest| rest > 0) else {
                near -= step;
                continue;
            };
            self.work.clone_from(&self.window);
            match reach(&mut self.work, rest) {
                0 => far += step,
                last if ring.holds(typical, last) => break last,
                _ => (near, far) = (near - step, far + step),
            }
        };
        for one in self.window.iter().filter(|one| one.order >= last) {
            self.sums[place_among(&self.visited, *one)] += u64::from(one.weight);
        }
        (typical, last)
    }

    /// Puts the tokens of a ring into the window, in the order of typical_p, and what is inside of it into the sums.
    fn split_by(&mut self, blocks: &Blocks<'_>, scale: Scale, typical: Typical, ring: Ring) {
        let Self { visited, sums, window, inner, beyond, .. } = self;
        sums.clear();
        window.clear();
        blocks.reaching(ring.lowest, visited);
        let high = if ring.is_disk { ring.highest } else { ring.low };
        blocks.pass(Split { blocks, scale, low: ring.lowest, high, visited, above: sums, window });
        if ring.is_disk {
            sums.fill(0);
        } else if ring.high < f32::INFINITY {
            // Everything from the upper side of the ring on is in the sums, too.
            beyond.clear();
            let below = window.len();
            blocks.reaching(ring.high, inner);
            let (low, high) = (ring.high, ring.highest);
            blocks.pass(Split { blocks, scale, low, high, visited: inner, above: beyond, window });
            let mut place = 0;
            for (&index, &mass) in inner.iter().zip(&*beyond) {
                place += visited[place..].iter().take_while(|&&visited| visited < index).count();
                sums[place] -= mass;
            }
            for one in &window[below..] {
                sums[place_among(visited, *one)] -= u64::from(one.weight);
            }
        }
        for one in window {
            one.order = typical.order(one.id(), one.logit());
        }
    }

    /// Two deviations from the mean, in nats, between which the last token lies: surely, where the maxima of the blocks tell, or
    /// probably. `total` is the mass in units of the likeliest token.
    fn guess_deviation(
        &mut self,
        blocks: &Blocks<'_>,
        typical: Typical,
        part: f64,
        total: f64,
        least: f32,
    ) -> (f32, f32) {
        /// Lists of one block in so many are cheaper than guesses.
        const FEW: usize = 8;
        const ALL: (f32, f32) = (0.0, f32::INFINITY);
        if blocks.vocab_size() < Self::WORTH_GUESSING {
            return ALL;
        }
        let (scale, mean) = (typical.scale(), typical.mean());
        if let Some(bound) = self.bound_by_maxima(blocks, scale, part * total) {
            // What reaches from there to the peak holds enough.
            let far = (-scale.distance(bound) - mean).max(mean) + 0.01;
            blocks.reaching(Ring::new(typical, 0.0, far, least).lowest, &mut self.visited);
            if self.visited.len() * FEW <= blocks.len() {
                return (0.0, far);
            }
        }
        match self.guess_deviation_by_sample(blocks, typical, part, total) {
            (near, far) if near <= far => (near, far),
            // As in a nucleus.
            _ => ALL,
        }
    }

    fn guess_deviation_by_sample(
        &mut self,
        blocks: &Blocks<'_>,
        typical: Typical,
        part: f64,
        total: f64,
    ) -> (f32, f32) {
        const STEPS: usize = 14;
        const NEAR: f32 = 0.1;
        let (scale, mean) = (typical.scale(), typical.mean());
        let around = |deviation: f32| [mean + deviation, mean - deviation].map(|nats| scale.logit_at(nats));
        self.sample(blocks);
        let Self { sample, weights, visited, .. } = self;
        weights.resize(sample.len(), [0.0; BLOCK]);
        let (sum, squares) = blocks.pass(Weigh { values: sample, scale, weights });
        let within = |deviation| {
            let [low, high] =
                around(deviation).map(|bound| blocks.pass(WeighedAbove { values: sample, weights, bound }));
            low - high
        };
        let (mut near, mut far) = (0.0, -FLOOR);
        for _ in 0..STEPS {
            let middle = (near + far) / 2.0;
            if within(middle) < part * sum {
                near = middle;
            } else {
                far = middle;
            }
        }
        let density = (within(far + NEAR) - within((far - NEAR).max(0.0))) / f64::from(2.0 * NEAR);
        let step = deviation_of(part, squares, density).unwrap_or(NEAR);
        // As if a nucleus, whose mass grows downwards.
        let masses = |low: f32, high: f32| {
            let ([lowest, highest], [low, high]) = (around(-low), around(-high));
            blocks.reaching(lowest, visited);
            let bounds = [lowest, low, high, highest];
            let [all, most, some, few] = blocks.pass(GuessAbove { blocks, scale, bounds, visited });
            [all - few, most - some]
        };
        let guess = (-far - step, (step - far).min(0.0));
        let (low, high) = narrowed(part * total, total, (FLOOR, 0.0), guess, masses);
        (-high, -low)
    }
}

/// What is as far from the mean as from one deviation to another, as logits.
#[derive(Debug, Clone, Copy)]
struct Ring {
    lowest: f32,
    low: f32,
    high: f32,
    highest: f32,
    /// Whether nothing is inside.
    is_disk: bool,
    /// Whether what is below weighs nothing.
    is_deep: bool,
}

impl Ring {
    /// In nats; what is below `least` weighs nothing.
    fn new(typical: Typical, near: f32, far: f32, least: f32) -> Self {
        let (scale, mean) = (typical.scale(), typical.mean());
        let upwards =
            |deviation| if deviation < mean { scale.logit_at(mean - deviation) } else { f32::INFINITY };
        let lowest = scale.logit_at(mean + far).max(least);
        let (low, high) = (scale.logit_at(mean + near), upwards(near));
        let is_disk = !(near > 0.0 && low < high);
        Self { lowest, low, high, highest: upwards(far), is_disk, is_deep: lowest <= least }
    }

    /// Whether the token of this place in the order is surely farther than all inside, and nearer than all outside.
    fn holds(self, typical: Typical, place: u64) -> bool {
        let deviation = !(place >> 32) as u32;
        let (mean, content) = (typical.content(), |logit| typical.scale().content(logit));
        let is_outside = |most: Option<u32>| most.is_some_and(|most| deviation < most);
        let inside =
            [self.low, self.high].map(|logit| content(logit.min(typical.scale().peak())).abs_diff(mean));
        (self.is_disk || inside.iter().all(|&least| deviation > least))
            && (self.is_deep || is_outside(content(self.lowest).checked_sub(mean)))
            && (self.highest == f32::INFINITY || is_outside(mean.checked_sub(content(self.highest))))
    }
}

/// Where the block of a token is among the visited ones, which hold it.
fn place_among(visited: &[u32], one: Candidate) -> usize {
    visited.partition_point(|&index| index < one.id() / BLOCK as u32)
}
