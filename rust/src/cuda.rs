//! What the kernels of `cuda/` need of the host: their sources, and the parameters of rows as `cuda/sample.cuh` reads them.
//!
//! The sources are part of the extension, so that an installed package compiles them where it finds a device.

use crate::penalties::{Change, History};
use crate::sampler::{Draw, GREEDY_TEMPERATURE, Mask, SamplingParams};

/// The files of `cuda/` by name; a kernel includes the headers by these names.
pub const SOURCES: &[(&str, &str)] = &[
    ("numbers.cuh", include_str!("../../cuda/numbers.cuh")),
    ("sample.cuh", include_str!("../../cuda/sample.cuh")),
    ("sample.cu", include_str!("../../cuda/sample.cu")),
];

/// Stands for "none" where a number is expected.
const NONE: u32 = u32::MAX;

/// The rows of one launch in the layout of the kernel: structs as bytes, in the machine's byte order.
#[derive(Debug, Clone, Default)]
pub struct PackedRows {
    /// `Input` of each row.
    pub inputs: Vec<u8>,
    /// `Change`s of all rows, those of a row together.
    pub changes: Vec<u8>,
    /// One bit for each token of the vocabulary, for each row that has a mask.
    pub masks: Vec<u32>,
}

impl PackedRows {
    /// Bytes of an `Input`.
    pub const INPUT: usize = 80;
    /// Bytes of a `Change`.
    pub const CHANGE: usize = 16;

    /// Adds a row: validated parameters, what its sequence has seen, the tokens that may be drawn, the name of the draw.
    pub fn push(
        &mut self,
        vocab_size: usize,
        params: &SamplingParams,
        history: &History,
        mask: Option<Mask<'_>>,
        draw: Draw,
    ) {
        let first = (self.changes.len() / Self::CHANGE) as u32;
        for Change { id, bias, count, repeats } in params.penalties.changes(history) {
            let words = [id, bias.to_bits(), count, u32::from(repeats)];
            self.changes.extend(words.into_iter().flat_map(u32::to_ne_bytes));
        }
        let num_changes = (self.changes.len() / Self::CHANGE) as u32 - first;
        let mask = mask.map_or(NONE, |mask| self.push_mask(vocab_size, mask));
        let greedy = params.temperature < GREEDY_TEMPERATURE;
        let wide = [draw.seed, part(params.top_p), part(params.typical_p)];
        let narrow = [
            draw.position,
            draw.choice,
            params.top_k,
            least(params.min_p),
            if greedy { 0 } else { ((1.0 / params.temperature) as f32).to_bits() },
            params.penalties.repetition.to_bits(),
            params.penalties.frequency.to_bits(),
            params.penalties.presence.to_bits(),
            first,
            num_changes,
            mask,
            params.top_logprobs.unwrap_or(NONE),
            u32::from(greedy),
            0,
        ];
        self.inputs.extend(wide.into_iter().flat_map(u64::to_ne_bytes));
        self.inputs.extend(narrow.into_iter().flat_map(u32::to_ne_bytes));
    }

    /// Adds a mask and gives its number.
    fn push_mask(&mut self, vocab_size: usize, mask: Mask<'_>) -> u32 {
        let words = vocab_size.div_ceil(32);
        let number = (self.masks.len() / words) as u32;
        match mask {
            Mask::Bits(bits) => self.masks.extend(&bits[..bits.len().min(words)]),
            Mask::Bools(flags) => self.masks.extend(flags.chunks(32).map(|flags| {
                let bits = flags.iter().enumerate();
                bits.fold(0, |word, (place, &allowed)| word | u32::from(allowed) << place)
            })),
        }
        // What a mask does not reach may not be drawn.
        self.masks.resize((number as usize + 1) * words, 0);
        number
    }
}

/// In parts of 2^32, downwards: of ten equal tokens 0.9 is nine.
fn part(part: f64) -> u64 {
    (part * 2f64.powi(32)) as u64
}

/// The least weight that `min_p` keeps.
fn least(min_p: f64) -> u32 {
    ((min_p * 2f64.powi(31)).ceil() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::penalties::Penalties;

    fn packed(rows: &[(SamplingParams, Option<Mask<'_>>)]) -> PackedRows {
        let mut packed = PackedRows::default();
        for (params, mask) in rows {
            let history = History::new(&params.penalties, &[1], &[2, 2]);
            packed.push(40, params, &history, *mask, Draw { seed: 7 << 32, position: 5, choice: 2 });
        }
        packed
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn a_neutral_row_switches_every_step_off() {
        let packed = packed(&[(SamplingParams::default(), None)]);
        assert_eq!(
            (packed.inputs.len(), packed.changes.len(), packed.masks.len()),
            (PackedRows::INPUT, 0, 0)
        );
        let one = 1f32.to_bits();
        let expected = [0, 7, 0, 1, 0, 1, 5, 2, 0, 1, one, one, 0, 0, 0, 0, NONE, NONE, 0, 0];
        assert_eq!(words(&packed.inputs), expected);
    }

    #[test]
    fn rows_have_their_changes_one_after_another() {
        let penalties = Penalties { bias: vec![(3, 0.5)], repetition: 2.0, ..Penalties::default() };
        let row = SamplingParams { penalties, ..SamplingParams::default() };
        let packed = packed(&[(row.clone(), None), (row, None)]);
        let half = 0.5f32.to_bits();
        let changes = [[1, 0, 0, 1], [2, 0, 2, 1], [3, half, 0, 0]].concat();
        assert_eq!(words(&packed.changes), [changes.clone(), changes].concat());
        let second = words(&packed.inputs[PackedRows::INPUT..]);
        assert_eq!(second[14..16], [3, 3]);
    }

    #[test]
    fn masks_are_bits_whatever_they_were() {
        let flags: Vec<bool> = (0..40).map(|id| id == 3 || id == 39).collect();
        let bits = [1 << 3];
        let row = SamplingParams::default();
        let packed = packed(&[
            (row.clone(), Some(Mask::Bools(&flags))),
            (row.clone(), None),
            (row, Some(Mask::Bits(&bits))),
        ]);
        assert_eq!(packed.masks, [1 << 3, 1 << 7, 1 << 3, 0]);
        let numbers = packed.inputs.chunks(PackedRows::INPUT).map(|row| words(row)[16]);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, NONE, 1]);
    }
}
