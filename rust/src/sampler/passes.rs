//! The passes over a whole row, with the vectors of the processor.

use super::blocks::{BLOCK, Blocks};
use super::vectors::{Lanes, Pass};
use super::weights::Scale;

/// The largest logit of each block of a row; -inf where there is none.
pub(super) struct Maxima<'a> {
    pub blocks: &'a [[f32; BLOCK]],
    pub maxima: &'a mut Vec<f32>,
}

impl Pass for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for block in self.blocks {
            // Two, because one instruction waits for the one before.
            let mut most = [lanes.splat(f32::NEG_INFINITY); 2];
            for at in (0..BLOCK).step_by(2 * L::COUNT) {
                most[0] = lanes.max(lanes.load(block, at), most[0]);
                most[1] = lanes.max(lanes.load(block, at + L::COUNT), most[1]);
            }
            self.maxima.push(lanes.largest(lanes.max(most[0], most[1])));
        }
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
        for block in self.blocks.iter() {
            let mut sums = lanes.no_sums();
            for at in (0..BLOCK).step_by(L::COUNT) {
                sums = lanes.accumulate(sums, self.scale.weights(lanes, lanes.load(block, at)));
            }
            let sum = lanes.total(sums);
            self.masses.push(sum);
            mass += sum;
        }
        mass
    }
}

/// About the mass of a row, in units of the likeliest token's. See [`Scale::roughly`].
pub(super) struct RoughMass<'a, 'b> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
}

impl Pass for RoughMass<'_, '_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f64 {
        let mut mass = 0.0;
        for block in self.blocks.iter() {
            let mut sums = [lanes.splat(0.0); 2];
            for at in (0..BLOCK).step_by(2 * L::COUNT) {
                sums[0] = lanes.add(sums[0], self.scale.roughly(lanes, lanes.load(block, at)));
                sums[1] = lanes.add(sums[1], self.scale.roughly(lanes, lanes.load(block, at + L::COUNT)));
            }
            mass += f64::from(lanes.sum(lanes.add(sums[0], sums[1])));
        }
        mass
    }
}

/// Tells `found` the tokens between two bounds, as (index of the block, their places, its weights) in id order, and
/// writes down what each block weighs above; gives the mass of the row.
pub(super) struct Split<'a, 'b, F> {
    pub blocks: &'a Blocks<'b>,
    pub scale: Scale,
    pub low: f32,
    pub high: f32,
    pub above: &'a mut Vec<u64>,
    pub found: F,
}

impl<F: FnMut(usize, Places, &[u32; BLOCK])> Pass for Split<'_, '_, F> {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) -> u64 {
        let (low, high) = (lanes.splat(self.low), lanes.splat(self.high));
        let mut mass = 0;
        let mut weights = [0; BLOCK];
        for (index, block) in self.blocks.iter().enumerate() {
            let (mut all, mut above, mut places) = (lanes.no_sums(), lanes.no_sums(), 0);
            for at in (0..BLOCK).step_by(L::COUNT) {
                let logits = lanes.load(block, at);
                let weighed = self.scale.weights(lanes, logits);
                lanes.store(weighed, &mut weights, at);
                all = lanes.accumulate(all, weighed);
                above = lanes.accumulate(above, lanes.where_above(weighed, logits, high));
                places |= lanes.within(logits, low, high) << at;
            }
            mass += lanes.total(all);
            self.above.push(lanes.total(above));
            if places != 0 {
                (self.found)(index, Places(places), &weights);
            }
        }
        mass
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
