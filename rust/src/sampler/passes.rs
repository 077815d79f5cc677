//! The passes over a row, with the vectors of the processor.

use super::blocks::{BLOCK, Blocks};
use super::candidates::Candidate;
use super::vectors::{Lanes, Pass};
use super::weights::Scale;

/// Blocks that are reduced together: their maxima and sums leave the lanes for the price of two.
pub(super) const GROUP: usize = 4;

/// The largest logit of each block of a row, -inf where there is none, in whole groups.
pub(super) struct Maxima<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub maxima: &'a mut [[f32; GROUP]],
}

impl Pass for Maxima<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for (index, maxima) in self.maxima.iter_mut().enumerate() {
            let mut most = [lanes.splat(f32::NEG_INFINITY); GROUP];
            for (block, most) in self.blocks.group(index).into_iter().zip(&mut most) {
                // Two, because one instruction waits for the one before.
                let mut other = *most;
                for at in (0..BLOCK).step_by(2 * L::COUNT) {
                    *most = lanes.max(lanes.load(block, at), *most);
                    other = lanes.max(lanes.load(block, at + L::COUNT), other);
                }
                *most = lanes.max(*most, other);
            }
            *maxima = lanes.largest_of_each(most);
        }
    }
}

/// The same, and about what each block weighs, by a scale whose peak need not be that of the row. Gives about what all
/// weigh. See [`Scale::roughly`].
pub(super) struct Survey<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub maxima: &'a mut [[f32; GROUP]],
    pub rough: &'a mut [[f32; GROUP]],
}

impl Pass for Survey<'_, '_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f64 {
        let mut total = 0.0;
        for (index, (maxima, rough)) in self.maxima.iter_mut().zip(self.rough).enumerate() {
            let mut most = [lanes.splat(f32::NEG_INFINITY); GROUP];
            let mut sums = [lanes.splat(0.0); GROUP];
            let group = self.blocks.group(index);
            for (block, (most, sum)) in group.into_iter().zip(most.iter_mut().zip(&mut sums)) {
                for at in (0..BLOCK).step_by(L::COUNT) {
                    let logits = lanes.load(block, at);
                    *most = lanes.max(logits, *most);
                    *sum = lanes.add(*sum, self.scale.roughly(lanes, logits));
                }
            }
            *maxima = lanes.largest_of_each(most);
            *rough = lanes.sum_of_each(sums);
            total += rough.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        }
        total
    }
}

/// The mass of each block; gives the mass of the row.
pub(super) struct Masses<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub masses: &'a mut Vec<u64>,
}

impl Pass for Masses<'_, '_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let mut mass = 0;
        for index in 0..self.blocks.len() {
            let sum = lanes.total(mass_of(lanes, self.blocks, self.scale, index));
            self.masses.push(sum);
            mass += sum;
        }
        mass
    }
}

/// The mass of some blocks, and the sum of their weights times information contents.
pub(super) struct Contents<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    /// Indices of the blocks.
    pub visited: &'a [u32],
}

impl Pass for Contents<'_, '_> {
    type Output = (u64, u128);

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> (u64, u128) {
        let (mut mass, mut contents) = (lanes.no_sums(), 0);
        // A product is below 2^56, so that those of 256 tokens fit into 64 bits.
        for few in self.visited.chunks(GROUP) {
            let mut products = lanes.no_sums();
            for &index in few {
                let block = self.blocks.get(index as usize);
                let is_light = self.scale.is_light(self.blocks.maxima()[index as usize]);
                for start in (0..BLOCK).step_by(LIGHT * L::COUNT) {
                    let logits = load(lanes, block, start);
                    let weights = self.scale.weights(lanes, logits);
                    for (weights, of_each) in weights.into_iter().zip(self.scale.contents(lanes, logits)) {
                        products = lanes.accumulate_products(products, weights, of_each);
                    }
                    mass = add(lanes, mass, weights, is_light);
                }
            }
            contents += u128::from(lanes.total(products));
        }
        (lanes.total(mass), contents)
    }
}

/// The mass of the blocks whose largest logit is below a bound.
pub(super) struct MassBelow<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub bound: f32,
}

impl Pass for MassBelow<'_, '_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let mut mass = 0;
        for (index, _) in self.blocks.maxima().iter().enumerate().filter(|(_, most)| **most < self.bound) {
            mass += lanes.total(mass_of(lanes, self.blocks, self.scale, index));
        }
        mass
    }
}

/// Sums whose total is the mass of a block.
#[inline(always)]
fn mass_of<L: Lanes>(lanes: L, blocks: &Blocks<'_>, scale: Scale, index: usize) -> L::Sums {
    let block = blocks.get(index);
    let mut sums = lanes.no_sums();
    let is_light = scale.is_light(blocks.maxima()[index]);
    for start in (0..BLOCK).step_by(LIGHT * L::COUNT) {
        sums = add(lanes, sums, scale.weights(lanes, load(lanes, block, start)), is_light);
    }
    sums
}

/// Adds weights to sums, which is cheaper if they are light.
#[inline(always)]
fn add<L: Lanes>(lanes: L, mut sums: L::Sums, weights: [L::Ints; LIGHT], are_light: bool) -> L::Sums {
    if are_light {
        let [a, b, c, d] = weights;
        return lanes.accumulate(sums, lanes.add_ints(lanes.add_ints(a, b), lanes.add_ints(c, d)));
    }
    for one in weights {
        sums = lanes.accumulate(sums, one);
    }
    sums
}

#[inline(always)]
fn load<L: Lanes>(lanes: L, block: &[f32; BLOCK], start: usize) -> [L::Floats; LIGHT] {
    let mut logits = [lanes.splat(0.0); LIGHT];
    for (index, logits) in logits.iter_mut().enumerate() {
        *logits = lanes.load(block, start + index * L::COUNT);
    }
    logits
}

/// So many light weights ([`Scale::is_light`]) fit into 32 bits together.
const LIGHT: usize = 4;

/// Lists the tokens from `low` to `high` of some blocks, in id order, and writes down what each of these blocks weighs above;
/// gives the mass of these blocks.
pub(super) struct Split<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub low: f32,
    pub high: f32,
    /// Indices of the blocks, rising.
    pub visited: &'a [u32],
    pub above: &'a mut Vec<u64>,
    pub window: &'a mut Vec<Candidate>,
}

impl Pass for Split<'_, '_> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> u64 {
        let (low, high) = (lanes.splat(self.low), lanes.splat(self.high));
        let mut all = lanes.no_sums();
        let mut weights = [0; BLOCK];
        for &index in self.visited {
            let index = index as usize;
            let block = self.blocks.get(index);
            let is_light = self.scale.is_light(self.blocks.maxima()[index]);
            let (mut above, mut places) = (lanes.no_sums(), 0);
            for start in (0..BLOCK).step_by(LIGHT * L::COUNT) {
                let logits = load(lanes, block, start);
                let weighed = self.scale.weights(lanes, logits);
                let mut kept = weighed;
                for (index, (&logits, kept)) in logits.iter().zip(&mut kept).enumerate() {
                    let at = start + index * L::COUNT;
                    lanes.store(*kept, &mut weights, at);
                    let within;
                    (*kept, within) = lanes.split(*kept, logits, low, high);
                    places |= within << at;
                }
                all = add(lanes, all, weighed, is_light);
                above = add(lanes, above, kept, is_light);
            }
            self.above.push(lanes.total(above));
            let listed = |place| Candidate::new((index * BLOCK + place) as u32, block[place], weights[place]);
            self.window.extend(Places(places).map(listed));
        }
        lanes.total(all)
    }
}

/// Writes down the places of the values that are at least a bound, upwards.
pub(super) struct Reaching<'a> {
    pub values: &'a [[f32; BLOCK]],
    pub bound: f32,
    pub found: &'a mut Vec<u32>,
}

impl Pass for Reaching<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for (index, block) in self.values.iter().enumerate() {
            let places = reaching(lanes, block, lanes.splat(self.bound));
            self.found.extend(places.map(|place| (index * BLOCK + place) as u32));
        }
    }
}

/// Lists the tokens of some blocks whose logit is at least a bound, in id order.
pub(super) struct Gather<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub bound: f32,
    /// Indices of the blocks, rising.
    pub visited: &'a [u32],
    pub list: &'a mut Vec<Candidate>,
}

impl Pass for Gather<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        /// From so many tokens of a block on it is cheaper to weigh them all.
        const MANY: u32 = 6;
        let mut weights = [0; BLOCK];
        for &index in self.visited {
            let (start, block) = (index as usize * BLOCK, self.blocks.get(index as usize));
            let places = reaching(lanes, block, lanes.splat(self.bound));
            let are_many = places.0.count_ones() >= MANY;
            if are_many {
                for start in (0..BLOCK).step_by(LIGHT * L::COUNT) {
                    let weighed = self.scale.weights(lanes, load(lanes, block, start));
                    for (index, weighed) in weighed.into_iter().enumerate() {
                        lanes.store(weighed, &mut weights, start + index * L::COUNT);
                    }
                }
            }
            for place in places {
                let weight = if are_many { weights[place] } else { self.scale.weight(block[place]) };
                self.list.push(Candidate::new((start + place) as u32, block[place], weight));
            }
        }
    }
}

#[inline(always)]
fn reaching<L: Lanes>(lanes: L, block: &[f32; BLOCK], bound: L::Floats) -> Places {
    let mut places = 0;
    for at in (0..BLOCK).step_by(L::COUNT) {
        places |= lanes.within(lanes.load(block, at), bound, lanes.splat(f32::INFINITY)) << at;
    }
    Places(places)
}

/// About what each of some values weighs; gives about their mass, and the sum of the squares.
pub(super) struct Weigh<'a> {
    pub values: &'a [[f32; BLOCK]],
    pub scale: Scale,
    pub weights: &'a mut [[f32; BLOCK]],
}

impl Pass for Weigh<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> (f64, f64) {
        let none = lanes.splat(0.0);
        let mut sums = [none; GROUP];
        for (block, weights) in self.values.iter().zip(self.weights) {
            for at in (0..BLOCK).step_by(L::COUNT) {
                let rough = self.scale.roughly(lanes, lanes.load(block, at));
                lanes.store_floats(rough, weights, at);
                sums[0] = lanes.add(sums[0], rough);
                sums[1] = lanes.mul_add(rough, rough, sums[1]);
            }
        }
        let [sum, squares, ..] = lanes.sum_of_each(sums);
        (f64::from(sum), f64::from(squares))
    }
}

/// The sum of those weights whose value is above a bound.
pub(super) struct WeighedAbove<'a> {
    pub values: &'a [[f32; BLOCK]],
    pub weights: &'a [[f32; BLOCK]],
    pub bound: f32,
}

impl Pass for WeighedAbove<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f64 {
        let bound = lanes.splat(self.bound);
        let mut sums = [lanes.splat(0.0); GROUP];
        for (values, weights) in self.values.iter().zip(self.weights) {
            for at in (0..BLOCK).step_by(L::COUNT) {
                let sum = &mut sums[at / L::COUNT % GROUP];
                *sum = lanes.add_above(*sum, lanes.load(weights, at), lanes.load(values, at), bound);
            }
        }
        lanes.sum_of_each(sums).into_iter().map(f64::from).sum()
    }
}

/// Very roughly the mass above each of so many bounds, two or four, in units of the likeliest token's.
pub(super) struct GuessAbove<'a, 'b, const N: usize> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub bounds: [f32; N],
    /// Indices of the blocks that reach the first.
    pub visited: &'a [u32],
}

impl<const N: usize> Pass for GuessAbove<'_, '_, N> {
    type Output = [f64; N];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> [f64; N] {
        /// So many blocks are summed before the sums leave float32.
        const RUN: usize = 32;
        let mut bounds = [lanes.splat(0.0); N];
        for (bound, &logit) in bounds.iter_mut().zip(&self.bounds) {
            *bound = lanes.splat(logit);
        }
        let mut sums = [0.0; N];
        for run in self.visited.chunks(RUN) {
            let mut few = [lanes.splat(0.0); GROUP];
            for &index in run {
                let block = self.blocks.get(index as usize);
                for at in (0..BLOCK).step_by(2 * L::COUNT) {
                    let logits = [lanes.load(block, at), lanes.load(block, at + L::COUNT)];
                    for (one, &logits) in logits.iter().enumerate() {
                        let rough = self.scale.very_roughly(lanes, logits);
                        for (index, &bound) in bounds.iter().enumerate() {
                            // Two bounds have two sums each, because one instruction waits for the one before.
                            let sum = &mut few[(one * N + index) % GROUP];
                            *sum = lanes.add_above(*sum, rough, logits, bound);
                        }
                    }
                }
            }
            for (index, few) in lanes.sum_of_each(few).into_iter().enumerate() {
                sums[index % N] += f64::from(few);
            }
        }
        sums
    }
}

/// Places within a block, one bit each; iterates over them upwards.
#[derive(Clone, Copy)]
pub(super) struct Places(pub u64);

impl Iterator for Places {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (place < BLOCK).then_some(place)
    }
}
