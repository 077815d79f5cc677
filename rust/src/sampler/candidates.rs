//! The tokens that may still be drawn, as a list in id order, and the filters that shorten it.
//!
//! A filter never sorts the list: it finds the last token to keep by selection and drops what comes after.

use std::cmp::Reverse;

use super::blocks::Blocks;
use super::passes::Gather;
use super::weights::{CONTENT, Scale};

/// One token with its integer mass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Place among all tokens: larger is likelier; of equal logits the lower id is larger.
    pub order: u64,
    /// Integer mass.
    pub weight: u32,
}

impl Candidate {
    pub fn new(id: u32, logit: f32, weight: u32) -> Self {
        Self { order: order(id, logit), weight }
    }

    pub fn id(self) -> u32 {
        !(self.order as u32)
    }

    /// The logit, but that -0.0 has become 0.0 and NaN -inf.
    pub fn logit(self) -> f32 {
        logit_of((self.order >> 32) as u32)
    }
}

/// Sorts tokens by logit, ties by lower id: above is likelier.
pub(super) fn order(id: u32, logit: f32) -> u64 {
    u64::from(key(logit)) << 32 | u64::from(!id)
}

/// Sorts logits as unsigned numbers.
pub(super) fn key(logit: f32) -> u32 {
    let logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
    // Adding zero turns -0.0 into 0.0, which it equals.
    let bits = (logit + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The logit that a key stands for.
pub(super) fn logit_of(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key ^ 1 << 31 } else { !key })
}

/// How much of `mass` is the part `part`, rounded up to a whole weight and at least one. The part is taken
/// to 32 binary places, downwards: of ten equal tokens 0.9 is nine.
pub(super) fn part_of(mass: u64, part: f64) -> u64 {
    let part = (part * 2f64.powi(32)) as u128;
    let need = (u128::from(mass) * part + u128::from(u32::MAX)) >> 32;
    (need as u64).max(1)
}

/// The place below `mass` that 64 random bits point at.
pub(super) fn target(random: u64, mass: u64) -> u64 {
    ((u128::from(random) * u128::from(mass)) >> 64) as u64
}

/// The order in which typical_p takes tokens: first those whose information content is closest to its mean, the entropy; ties
/// by lower id (locally typical sampling, Meister et al. 2022).
///
/// With p = e^x / Z both -ln p and the entropy hold ln Z, which cancels: the deviation is
/// |x - mean of x|. It is taken in units of 2^-20 with the mean rounded down, all in integers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typical {
    scale: Scale,
    mean: u32,
}

impl Typical {
    /// Of tokens with this mass, whose weights times contents have this sum.
    pub fn new(scale: Scale, mass: u64, contents: u128) -> Self {
        Self { scale, mean: (contents / u128::from(mass.max(1))) as u32 }
    }

    /// Place among all tokens: larger is taken earlier.
    pub fn order(self, id: u32, logit: f32) -> u64 {
        u64::from(!self.scale.content(logit).abs_diff(self.mean)) << 32 | u64::from(!id)
    }

    /// What contents are measured by.
    pub fn scale(self) -> Scale {
        self.scale
    }

    /// The mean, in the units of contents.
    pub fn content(self) -> u32 {
        self.mean
    }

    /// The mean in nats, about.
    pub fn mean(self) -> f32 {
        self.mean as f32 / CONTENT
    }
}

/// Candidates of one row in id order, with the buffer that selection works in.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    work: Vec<Candidate>,
    /// Indices of the blocks that are looked at.
    visited: Vec<u32>,
}

impl Candidates {
    /// Collects the tokens whose logit is at least `bound`.
    pub fn gather(&mut self, blocks: &Blocks<'_>, scale: Scale, bound: f32) {
        self.list.clear();
        blocks.reaching(bound, &mut self.visited);
        blocks.pass(Gather { blocks, scale, bound, visited: &self.visited, list: &mut self.list });
    }

    /// Sum of the weights.
    pub fn mass(&self) -> u64 {
        mass(&self.list)
    }

    /// Keeps the `count` likeliest.
    pub fn keep_likeliest(&mut self, count: usize) {
        if count >= self.list.len() {
            return;
        }
        self.work.clone_from(&self.list);
        let last = self.work.select_nth_unstable_by_key(count - 1, |one| Reverse(one.order)).1.order;
        self.list.retain(|one| one.order >= last);
    }

    /// Keeps what has at least this place among all tokens.
    pub fn keep_from(&mut self, last: u64) {
        self.list.retain(|one| one.order >= last);
    }

    /// Keeps the fewest likeliest whose mass reaches `need`.
    pub fn keep_mass(&mut self, need: u64) {
        self.work.clone_from(&self.list);
        let last = reach(&mut self.work, need);
        self.list.retain(|one| one.order >= last);
    }

    /// Keeps what weighs at least `weight`.
    pub fn keep_heavier(&mut self, weight: u32) {
        self.list.retain(|one| one.weight >= weight);
    }

    /// Keeps the fewest whose mass reaches the part `part` of the list's, in the order of [`Typical`].
    pub fn keep_typical(&mut self, scale: Scale, part: f64) {
        let mass = self.mass();
        let content = |one: &Candidate| u128::from(one.weight) * u128::from(scale.content(one.logit()));
        let typical = Typical::new(scale, mass, self.list.iter().map(content).sum());
        let order = |one: &Candidate| typical.order(one.id(), one.logit());
        self.work.clear();
        self.work.extend(self.list.iter().map(|one| Candidate { order: order(one), weight: one.weight }));
        let last = reach(&mut self.work, part_of(mass, part));
        self.list.retain(|one| order(one) >= last);
    }

    /// The token that the random bits point at, in id order.
    pub fn pick(&self, random: u64) -> Option<u32> {
        let mut left = target(random, self.mass());
        for one in &self.list {
            match left.checked_sub(u64::from(one.weight)) {
                Some(rest) => left = rest,
                None => return Some(one.id()),
            }
        }
        None
    }
}

fn mass(list: &[Candidate]) -> u64 {
    list.iter().map(|one| u64::from(one.weight)).sum()
}

/// The order of the last candidate, from the largest order downwards, with which the mass reaches `need`; 0
/// if all together do not. The list is used up.
///
/// Drops all but one of 256 ranges of orders at a time, so that it looks at each candidate about twice.
pub(super) fn reach(list: &mut Vec<Candidate>, mut need: u64) -> u64 {
    const SHORT: usize = 48;
    while list.len() > SHORT {
        let (least, most) =
            list.iter().fold((u64::MAX, 0), |(least, most), one| (least.min(one.order), most.max(one.order)));
        let shift = (u64::BITS - (most - least).leading_zeros()).saturating_sub(8);
        let range_of = |one: &Candidate| ((one.order - least) >> shift) as usize;
        let mut masses = [0u64; 256];
        for one in list.iter() {
            masses[range_of(one)] += u64::from(one.weight);
        }
        let reaching = masses.iter().rposition(|&mass| match need.checked_sub(mass) {
            Some(rest) if rest > 0 => {
                need = rest;
                false
            }
            _ => true,
        });
        let Some(range) = reaching else { return 0 };
        list.retain(|one| range_of(one) == range);
    }
    list.sort_unstable_by_key(|one| Reverse(one.order));
    for one in list {
        match need.checked_sub(u64::from(one.weight)) {
            Some(rest) if rest > 0 => need = rest,
            _ => return one.order,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_logit_then_by_lower_id() {
        let rising = [
            order(0, f32::NAN).min(order(0, f32::NEG_INFINITY)),
            order(9, -1e30),
            order(5, -1.0),
            order(4, -1.0),
            order(8, 0.0),
            order(7, -0.0),
            order(3, 1e-30),
            order(2, f32::MAX),
        ];
        assert!(rising.is_sorted_by(|a, b| a < b));
        assert_eq!(order(1, f32::NAN), order(1, f32::NEG_INFINITY));
    }

    #[test]
    fn a_candidate_remembers_its_id_and_logit() {
        for (id, logit) in [(0, 1.5), (7, -1.5), (u32::MAX, f32::NEG_INFINITY), (3, 0.0)] {
            let one = Candidate::new(id, logit, 1);
            assert_eq!((one.id(), one.logit()), (id, logit));
        }
    }

    #[test]
    fn a_part_is_rounded_up_and_never_nothing() {
        let check = |mass, part, expected| assert_eq!(part_of(mass, part), expected, "{part} of {mass}");
        check(10, 0.25, 3);
        check(10, 1.0, 10);
        check(10, 0.0, 1);
        check(10 << 31, 0.5, 5 << 31);
        check(u64::MAX, 1.0, u64::MAX);
        for tenths in 1..10 {
            assert_eq!(part_of(10 << 31, f64::from(tenths) / 10.0).div_ceil(1 << 31), tenths as u64);
        }
    }

    #[test]
    fn the_target_covers_the_mass_and_stays_below_it() {
        assert_eq!((target(0, 10), target(1 << 63, 10), target(u64::MAX, 10)), (0, 5, 9));
    }

    #[test]
    fn reaching_stops_at_the_first_that_fills_the_need() {
        let list: Vec<_> =
            (1..=1000u64).map(|order| Candidate { order: order * 7919 % 1009, weight: 2 }).collect();
        let mut sorted: Vec<u64> = list.iter().map(|one| one.order).collect();
        sorted.sort_unstable_by_key(|&order| Reverse(order));
        for need in [1, 2, 3, 100, 1001, 1999, 2000] {
            assert_eq!(reach(&mut list.clone(), need), sorted[need.div_ceil(2) as usize - 1], "need {need}");
        }
        assert_eq!(reach(&mut list.clone(), 2001), 0);
    }
}
