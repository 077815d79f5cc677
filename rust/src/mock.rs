//! The mock model: logits that spell a readable text, at next to no cost.
//!
//! Takes a batch, gives logits of the byte tokenizer (ids 0 to 255 are bytes, 256 is the end token). It stands
//! in for a model in tests and in benchmarks of everything around the model.

use crate::batch::Batch;
use crate::error::Error;

/// What the mock model says, over and over: the byte at position `p` of any sequence is that at `p` modulo the length.
const TEXT: &[u8] = b"A river does not hurry, and yet it reaches the sea. \
Every stone on its way taught it a turn. \
Those who sit on the bank hear the same song all day, and it is never the same water. \
Rain is only a river that has not found its bed. \
When the evening comes, the mill wheel rests and the river goes on. ";

/// The end token of the byte tokenizer.
const END: usize = 256;

/// Logit of the next byte; all others have 0. So far ahead that a draw at temperature 1 strays once in 10^10.
const PEAK: f32 = 30.0;

/// Logit of the end token: the text has no end, but a bias towards it may give one.
const END_LOGIT: f32 = -30.0;

/// Writes the logits of each position of `batch` that needs them into `out`, which is (`Batch::logit_indices`,
/// `vocab_size`), row-major.
///
/// A row is a function of its last token and that token's position. It continues the text at that position;
/// after a token that is not the text's own, such as the last of a prompt, the text starts with a capital
/// letter. A token that is still being drawn (-1) counts as the text's own, which it is unless something bent
/// the draw: so the text is the same however many steps are in flight.
///
/// Fails with `InvalidParameter` if `out` has another size or `vocab_size` does not hold the byte tokenizer.
pub fn mock_logits(batch: &Batch, vocab_size: usize, out: &mut [f32]) -> Result<(), Error> {
    if vocab_size <= END {
        return Err(Error::parameter(
            "out",
            format!("must have at least {} columns, got {vocab_size}", END + 1),
        ));
    }
    let num_rows = batch.logit_indices().count();
    if out.len() != num_rows * vocab_size {
        let message = format!("must have {num_rows} rows of {vocab_size}, got {} values", out.len());
        return Err(Error::parameter("out", message));
    }
    out.fill(0.0);
    for (index, row) in batch.logit_indices().zip(out.chunks_exact_mut(vocab_size)) {
        let index = index as usize;
        row[END] = END_LOGIT;
        row[usize::from(next_byte(batch.token_ids[index], batch.positions[index]))] = PEAK;
    }
    Ok(())
}

/// What follows `token_id` at `position`.
fn next_byte(token_id: i64, position: i64) -> u8 {
    let place = position.unsigned_abs() as usize;
    let here = TEXT[place % TEXT.len()];
    let next = TEXT[(place + 1) % TEXT.len()];
    let own = [-1, i64::from(here), i64::from(here.to_ascii_uppercase())];
    if own.contains(&token_id) { next } else { next.to_ascii_uppercase() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchRow;

    /// A batch of rows (token ids, position of the first, whether it samples).
    fn batch(rows: &[(&[i64], i64, bool)]) -> Batch {
        let mut batch = Batch { block_size: 4, ..Batch::default() };
        for (index, &(token_ids, start, samples)) in rows.iter().enumerate() {
            batch.rows.push(BatchRow {
                sequence_id: index as u64,
                start: start as u32,
                length: token_ids.len() as u32,
                prompt_length: 1,
                samples,
                ..BatchRow::default()
            });
            batch.token_ids.extend(token_ids);
            batch.positions.extend((start..).take(token_ids.len()));
        }
        batch
    }

    fn likeliest(batch: &Batch) -> Vec<u8> {
        let mut logits = vec![f32::NAN; batch.sampled_rows().count() * 300];
        mock_logits(batch, 300, &mut logits).unwrap();
        let best = |row: &[f32]| (0..300).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u8;
        logits.chunks_exact(300).map(best).collect()
    }

    /// The reply to a prompt of `prompt_length` line feeds, one token at a time.
    fn reply(prompt_length: i64, length: i64) -> String {
        let mut bytes = vec![b'\n'];
        for position in prompt_length - 1..prompt_length - 1 + length {
            let last = i64::from(*bytes.last().unwrap());
            bytes.extend(likeliest(&batch(&[(&[last], position, true)])));
        }
        String::from_utf8(bytes[1..].to_vec()).unwrap()
    }

    #[test]
    fn a_reply_opens_with_a_capital_and_reads_on_in_circles() {
        assert_eq!(reply(2, 25), "River does not hurry, and");
        let length = TEXT.len() as i64;
        assert_eq!(reply(2, length + 5)[length as usize..], *"river");
    }

    #[test]
    fn a_token_still_being_drawn_changes_nothing() {
        for position in 0..2 * TEXT.len() as i64 {
            let own = i64::from(TEXT[position as usize % TEXT.len()]);
            let known = likeliest(&batch(&[(&[own], position, true)]));
            assert_eq!(likeliest(&batch(&[(&[-1], position, true)])), known);
        }
    }

    #[test]
    fn only_the_last_token_of_a_sampled_row_counts() {
        let alone = likeliest(&batch(&[(&[10], 7, true)]));
        let crowd =
            batch(&[(&[1, 2, 3], 0, false), (&[9, 8, 10], 5, true), (&[4], 0, false), (&[10], 7, true)]);
        assert_eq!(likeliest(&crowd), [alone[0], alone[0]]);
    }

    #[test]
    fn the_end_token_is_the_least_likely() {
        let mut logits = vec![f32::NAN; 258];
        mock_logits(&batch(&[(&[10], 0, true)]), 258, &mut logits).unwrap();
        assert_eq!((logits[END], logits[257]), (-30.0, 0.0));
        assert_eq!(logits.iter().filter(|&&logit| logit == PEAK).count(), 1);
    }

    #[test]
    fn an_array_of_another_size_is_refused() {
        let batch = batch(&[(&[10], 0, true)]);
        assert!(mock_logits(&batch, 257, &mut [0.0; 514]).is_err());
        assert!(mock_logits(&batch, 256, &mut [0.0; 256]).is_err());
        assert!(mock_logits(&batch, 257, &mut [0.0; 257]).is_ok());
    }
}
