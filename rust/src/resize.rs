//! Bicubic resizing of RGB images, bit for bit as torch resizes bytes with antialiasing.
//!
//! Takes rows of pixels, gives rows of pixels. Weights are worked out in float64 and rounded to 16 bits, sums are integers,
//! so no order of summation takes part. First all rows are brought to the width, then all columns to the height, and what
//! lies between is rounded to bytes, because torch does so.

use crate::error::Error;

/// Bytes of a pixel.
const CHANNELS: usize = 3;
/// Sharpness of the bicubic curve.
const A: f64 = -0.5;
/// Half its width at scale 1.
const SUPPORT: f64 = 2.0;

/// Resizes `pixels` (height, width, 3) from `from` (height, width) to `to`, with at least one pixel each.
///
/// Fails with `InvalidParameter` for a side of 0, pixels that are not as many as `from` says, or a size that does not fit
/// into memory.
pub fn resize_rgb(pixels: &[u8], from: (usize, usize), to: (usize, usize)) -> Result<Vec<u8>, Error> {
    let sides = [from.0, from.1, to.0, to.1];
    if sides.iter().any(|&side| side == 0 || side > i32::MAX as usize) {
        return Err(Error::parameter("size", "must have at least one pixel each way"));
    }
    if Some(pixels.len()) != from.0.checked_mul(from.1).and_then(|area| area.checked_mul(CHANNELS)) {
        return Err(Error::parameter("pixels", "must have the shape (height, width, 3)"));
    }
    let (height, width) = from;
    // The largest first, so that what cannot be held costs nothing.
    let mut resized = room(to.0 * to.1 * CHANNELS)?;
    if height == to.0 && width == to.1 {
        resized.extend_from_slice(pixels);
    } else if height == to.0 {
        along_rows(pixels, width, &Taps::new(width, to.1)?, &mut resized);
    } else if width == to.1 {
        along_columns(pixels, width, &Taps::new(height, to.0)?, &mut resized);
    } else {
        let mut wide = room(height * to.1 * CHANNELS)?;
        along_rows(pixels, width, &Taps::new(width, to.1)?, &mut wide);
        along_columns(&wide, to.1, &Taps::new(height, to.0)?, &mut resized);
    }
    Ok(resized)
}

/// An empty vector with room for `count` values. Where a size is a stranger's, to end the process would be too much.
fn room<T>(count: usize) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| Error::parameter("size", "needs more memory than there is"))?;
    Ok(values)
}

/// What each position of the result is made of.
struct Taps {
    /// First position of the source, and where its weights begin and end.
    windows: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
    /// Bits behind the point of a weight.
    precision: u32,
}

impl Taps {
    fn new(from: usize, to: usize) -> Result<Self, Error> {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let mut windows = room(to)?;
        let mut exact = room(to.saturating_mul(from.min(2 * support as usize + 2)))?;
        for position in 0..to {
            let center = scale * (position as f64 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from).max(first);
            let begin = exact.len();
            exact.extend((first..end).map(|at| cubic((at as f64 - center + 0.5) * (1.0 / stretch))));
            let total: f64 = exact[begin..].iter().sum();
            exact[begin..].iter_mut().for_each(|weight| *weight /= total);
            windows.push((first, begin..exact.len()));
        }
        let largest = exact.iter().copied().fold(0.0, f64::max);
        let fits = |bits: u32| ((0.5 + largest * f64::from(1 << (bits + 1))) as i64) < 1 << 15;
        let precision = (0..22).find(|&bits| !fits(bits)).unwrap_or(22);
        let one = f64::from(1 << precision);
        let mut weights = room(exact.len())?;
        weights.extend(exact.iter().map(|weight| (weight * one + 0.5_f64.copysign(*weight)) as i32));
        Ok(Self { windows, weights, precision })
    }

    /// A sum of weighted bytes as a byte.
    fn byte(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }

    fn half(&self) -> i32 {
        (1 << self.precision) >> 1
    }
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn along_rows(pixels: &[u8], width: usize, taps: &Taps, out: &mut Vec<u8>) {
    for row in pixels.chunks_exact(width * CHANNELS) {
        for (first, range) in &taps.windows {
            let mut sums = [taps.half(); CHANNELS];
            for (pixel, &weight) in
                row[first * CHANNELS..].chunks_exact(CHANNELS).zip(&taps.weights[range.clone()])
            {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            out.extend(sums.map(|sum| taps.byte(sum)));
        }
    }
}

fn along_columns(pixels: &[u8], width: usize, taps: &Taps, out: &mut Vec<u8>) {
    let line = width * CHANNELS;
    let mut sums = vec![0; line];
    for (first, range) in &taps.windows {
        sums.fill(taps.half());
        for (row, &weight) in pixels[first * line..].chunks_exact(line).zip(&taps.weights[range.clone()]) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| taps.byte(sum)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_picture_stays_even_at_any_size() {
        for to in [(1, 1), (3, 7), (20, 2), (5, 5)] {
            let grown = resize_rgb(&[200; 5 * 5 * 3], (5, 5), to).unwrap();
            assert_eq!(grown, vec![200; to.0 * to.1 * 3]);
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let pixels: Vec<u8> = (0..4 * 3 * 3).map(|value| value * 7 % 251).collect();
        assert_eq!(resize_rgb(&pixels, (4, 3), (4, 3)).unwrap(), pixels);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(resize_rgb(&[], (0, 4), (2, 2)).is_err());
        assert!(resize_rgb(&[0; 12], (2, 2), (2, 0)).is_err());
        assert!(resize_rgb(&[0; 11], (2, 2), (1, 1)).is_err());
    }

    #[test]
    fn a_size_that_does_not_fit_into_memory_is_refused() {
        let largest = i32::MAX as usize;
        assert!(resize_rgb(&[0; 12], (2, 2), (largest, largest)).is_err());
    }
}
