//! What the sampler remembers between the steps of an engine: one entry per running sequence.
//!
//! Takes batches and logits, gives drawn tokens. Which sequences run, and where their logits come from, is
//! the business of others. A sequence with a grammar starts on its next mask as soon as its token is drawn.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::batch::{Batch, Score};
use crate::error::Error;
use crate::grammar::{Grammar, Guide};
use crate::penalties::History;
use crate::sampled::{NoToken, SampledTokens, Scored};
use crate::sampler::{Draw, Logits, Mask, Row, SamplingParams, Scratch, sample_rows, score_row};

/// What may be drawn for one sequence. The default is every token at any time.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    /// What the answer has to be.
    pub grammar: Option<Arc<Grammar>>,
    /// Tokens that end the answer: not drawn before `min_tokens` others, unless a grammar allows nothing else.
    pub end_ids: Vec<u32>,
    /// How many tokens come before an end token.
    pub min_tokens: u32,
}

/// Parameters, seed, history and grammar of each running sequence.
#[derive(Debug)]
pub struct SamplerState {
    vocab_size: usize,
    sequences: FxHashMap<u64, Sequence>,
}

#[derive(Debug)]
struct Sequence {
    params: Arc<SamplingParams>,
    seed: u64,
    choice: u32,
    history: History,
    guide: Option<Guide>,
    end_ids: Vec<u32>,
    min_tokens: u32,
}

/// The draws of one batch, in the order of its sampled rows.
#[derive(Debug, Clone)]
pub struct SamplerInputs {
    rows: Vec<InputRow>,
    scores: Vec<InputScore>,
}

/// A prompt token to score, and how many of the likeliest are wanted beside it.
#[derive(Debug, Clone)]
struct InputScore {
    score: Score,
    count: u32,
}

#[derive(Debug, Clone)]
struct InputRow {
    sequence_id: u64,
    /// `None` if the sequence was not open.
    drawing: Option<(Arc<SamplingParams>, Draw)>,
}

impl SamplerInputs {
    /// Number of rows of logits that the draws need.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() + self.scores.iter().filter(|input| input.score.index.is_some()).count()
    }

    /// Whether the batch draws nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SamplerState {
    /// A state without sequences, for logits over `vocab_size` tokens.
    pub fn new(vocab_size: usize) -> Result<Self, Error> {
        check_vocab_size(vocab_size)?;
        Ok(Self { vocab_size, sequences: FxHashMap::default() })
    }

    /// Number of tokens in the vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Starts a sequence; one that is open under this id starts anew.
    pub fn open(
        &mut self,
        sequence_id: u64,
        params: Arc<SamplingParams>,
        seed: u64,
        choice: u32,
        prompt: &[u32],
        constraints: Constraints,
    ) -> Result<(), Error> {
        params.validate()?;
        params.validate_vocab(self.vocab_size)?;
        check_ids("prompt", prompt, self.vocab_size)?;
        check_ids("end_ids", &constraints.end_ids, self.vocab_size)?;
        let Constraints { grammar, end_ids, min_tokens } = constraints;
        if grammar.as_ref().is_some_and(|grammar| grammar.vocab_size() != self.vocab_size) {
            return Err(Error::parameter("grammar", "was compiled for a vocabulary of another size"));
        }
        let history = History::new(&params.penalties, prompt, &[]);
        let guide = grammar.map(Guide::new);
        let sequence = Sequence { params, seed, choice, history, guide, end_ids, min_tokens };
        self.sequences.insert(sequence_id, sequence);
        Ok(())
    }

    /// Forgets a sequence; unknown ids are ignored.
    pub fn close(&mut self, sequence_id: u64) {
        self.sequences.remove(&sequence_id);
    }

    /// Sequences whose next mask is not there yet and may take long: a step with one of them may have to wait for it.
    pub fn late(&mut self) -> Vec<u64> {
        let open = self.sequences.iter_mut();
        let late = open.filter_map(|(&id, sequence)| sequence.guide.as_mut()?.is_late().then_some(id));
        late.collect()
    }

    /// Gathers what the draws of `batch` need. Histories are read later, by `sample`, since an earlier
    /// step may still be in flight.
    #[must_use]
    pub fn prepare(&self, batch: &Batch) -> SamplerInputs {
        let rows = batch.sampled_rows().map(|row| {
            let drawing = self.sequences.get(&row.sequence_id).map(|sequence| {
                let Sequence { params, seed, choice, .. } = sequence;
                (Arc::clone(params), Draw { seed: *seed, position: row.output_index, choice: *choice })
            });
            InputRow { sequence_id: row.sequence_id, drawing }
        });
        let scores = batch.scores.iter().map(|score| {
            let asked = self.sequences.get(&score.sequence_id).and_then(|open| open.params.top_logprobs);
            InputScore { score: score.clone(), count: asked.unwrap_or(0) }
        });
        SamplerInputs { rows: rows.collect(), scores: scores.collect() }
    }

    /// Draws one token for each row and notes it in the sequence's history. A row whose sequence was closed
    /// meanwhile gets token 0. A row without a possible token, or whose grammar is lost, means nothing and is
    /// told in `failed`: one broken sequence does not end the step of others.
    pub fn sample(&mut self, logits: &[Logits<'_>], inputs: &SamplerInputs) -> Result<SampledTokens, Error> {
        if logits.len() != inputs.len() {
            let (rows, drawn) = (logits.len(), inputs.len());
            return Err(Error::parameter("logits", format!("has {rows} rows, the batch needs {drawn}")));
        }
        if let Some(row) = logits.iter().find(|row| row.len() != self.vocab_size) {
            let (found, wanted) = (row.len(), self.vocab_size);
            return Err(Error::parameter(
                "logits",
                format!("has {found} columns, the vocabulary {wanted} tokens"),
            ));
        }
        let (logits, scored) = logits.split_at(inputs.rows.len());
        let masks: Vec<RowMask> = inputs.rows.iter().map(|row| self.settle(row)).collect();
        let open = inputs.rows.iter().zip(logits).zip(&masks).enumerate();
        let open = open.filter_map(|(index, ((input, &logits), mask))| {
            let (params, draw) = input.drawing.as_ref()?;
            let Sequence { history, guide, .. } = self.sequences.get(&input.sequence_id)?;
            let mask = match mask {
                RowMask::Lost => return None,
                RowMask::Changed(words) => Some(words.as_slice()),
                RowMask::OfTheGuide => guide.as_ref().and_then(Guide::mask),
            };
            Some((index, Row { logits, params, history, mask: mask.map(Mask::Bits), draw: *draw }))
        });
        let (places, rows): (Vec<usize>, Vec<Row<'_>>) = open.unzip();
        let drawn = sample_rows(&rows);

        let lost = inputs.rows.iter().zip(&masks).filter(|(_, mask)| matches!(mask, RowMask::Lost));
        let lost = lost.map(|(row, _)| (row.sequence_id, NoToken::GrammarLost));
        let mut tokens = SampledTokens {
            sequence_ids: inputs.rows.iter().map(|row| row.sequence_id).collect(),
            token_ids: vec![0; inputs.rows.len()],
            logprobs: vec![None; inputs.rows.len()],
            failed: lost.collect(),
            scores: score(scored, &inputs.scores, self.vocab_size),
        };
        for (place, drawn) in places.into_iter().zip(drawn) {
            if !drawn.possible {
                tokens.failed.push((tokens.sequence_ids[place], NoToken::NothingComputed));
                continue;
            }
            self.note(tokens.sequence_ids[place], drawn.id);
            tokens.token_ids[place] = drawn.id;
            tokens.logprobs[place] = drawn.logprobs;
        }
        Ok(tokens)
    }

    /// Waits for the mask of a row's grammar, and takes the end tokens out of it while it is too early for them.
    fn settle(&mut self, row: &InputRow) -> RowMask {
        let vocab_size = self.vocab_size;
        let Some((sequence, (_, draw))) = self.sequences.get_mut(&row.sequence_id).zip(row.drawing.as_ref())
        else {
            return RowMask::OfTheGuide;
        };
        if let Some(guide) = &mut sequence.guide {
            // A grammar takes in each token once: a draw out of turn cannot be answered.
            if guide.settle().is_err() || guide.drawn() != draw.position {
                return RowMask::Lost;
            }
        }
        if draw.position >= sequence.min_tokens || sequence.end_ids.is_empty() {
            return RowMask::OfTheGuide;
        }
        let allowed = sequence.guide.as_ref().and_then(Guide::mask);
        let mut words = allowed.map_or_else(|| vec![u32::MAX; vocab_size.div_ceil(32)], <[u32]>::to_vec);
        for &id in &sequence.end_ids {
            words[id as usize / 32] &= !(1 << (id % 32));
        }
        let complete = words.iter().all(|&word| word == 0);
        if complete { RowMask::OfTheGuide } else { RowMask::Changed(words) }
    }

    fn note(&mut self, sequence_id: u64, id: u32) {
        let Some(sequence) = self.sequences.get_mut(&sequence_id) else { return };
        if sequence.params.penalties.look_back() {
            sequence.history.push(id);
        }
        if let Some(guide) = &mut sequence.guide {
            guide.advance(id);
        }
    }
}

/// Scores prompt tokens: `logits` has a row for each but the first token of a prompt.
fn score(logits: &[Logits<'_>], inputs: &[InputScore], vocab_size: usize) -> Vec<Scored> {
    let mut scratch = Scratch::default();
    let mut rows = logits.iter();
    let scored = inputs.iter().map(|InputScore { score, count }| Scored {
        sequence_id: score.sequence_id,
        position: score.position,
        token_id: score.token_id,
        // The state has checked the prompt's ids; a sequence that was never open is asked by nobody.
        logprobs: score.index.and_then(|_| rows.next()).and_then(|&row| {
            ((score.token_id as usize) < vocab_size)
                .then(|| score_row(row, score.token_id, *count, &mut scratch))
        }),
    });
    scored.collect()
}

/// Where the mask of a row comes from.
enum RowMask {
    /// From its grammar, if it has one.
    OfTheGuide,
    /// From here, one bit for each token.
    Changed(Vec<u32>),
    /// The grammar gives none any more.
    Lost,
}

/// Token ids are 32 bits wide, and a row needs at least one.
pub fn check_vocab_size(vocab_size: usize) -> Result<(), Error> {
    if (1..=1 << 31).contains(&vocab_size) {
        return Ok(());
    }
    Err(Error::parameter("vocab_size", "must be between 1 and 2147483648"))
}

/// Checks that the vocabulary holds every id; `name` is what the ids are called.
pub fn check_ids(name: &str, ids: &[u32], vocab_size: usize) -> Result<(), Error> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(Error::parameter(
            name,
            format!("holds token {id}; the vocabulary ends at {}", vocab_size - 1),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchRow;
    use crate::penalties::Penalties;

    const VOCAB: usize = 8;

    fn row(sequence_id: u64, output_index: u32, samples: bool) -> BatchRow {
        BatchRow {
            sequence_id,
            start: 0,
            length: 1,
            prompt_length: 1,
            samples,
            output_index,
            cached_tokens: 0,
        }
    }

    fn batch(rows: Vec<BatchRow>) -> Batch {
        Batch { rows, ..Batch::default() }
    }

    fn state(sequences: &[(u64, SamplingParams)]) -> SamplerState {
        let mut state = SamplerState::new(VOCAB).unwrap();
        for (id, params) in sequences {
            state.open(*id, Arc::new(params.clone()), 7 + id, 0, &[1, 2], Constraints::default()).unwrap();
        }
        state
    }

    fn step(state: &mut SamplerState, batch: &Batch, logits: &[f32; VOCAB]) -> Vec<u32> {
        let inputs = state.prepare(batch);
        state.sample(&vec![Logits::F32(logits); inputs.len()], &inputs).unwrap().token_ids
    }

    fn greedy(penalties: Penalties) -> SamplingParams {
        SamplingParams { temperature: 0.0, penalties, ..SamplingParams::default() }
    }

    #[test]
    fn drawn_tokens_count_against_their_own_sequence_only() {
        let frequency = Penalties { frequency: 1.0, ..Penalties::default() };
        let mut state = state(&[(1, greedy(frequency)), (2, greedy(Penalties::default()))]);
        let logits = [0.0, 5.0, 4.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let drawn: Vec<_> = (0..3)
            .map(|index| step(&mut state, &batch(vec![row(1, index, true), row(2, index, true)]), &logits))
            .collect();
        assert_eq!(drawn, [[1, 1], [2, 1], [1, 1]]);
    }

    #[test]
    fn rows_that_do_not_sample_need_no_logits() {
        let mut state = state(&[(1, greedy(Penalties::default())), (2, greedy(Penalties::default()))]);
        let batch = batch(vec![row(1, 0, false), row(2, 0, true)]);
        assert_eq!(step(&mut state, &batch, &[0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0]), [3]);
    }

    #[test]
    fn the_draw_follows_seed_and_output_index_and_not_the_row() {
        let plain = SamplingParams::default();
        let mut state = state(&[(1, plain.clone()), (2, plain.clone()), (3, plain)]);
        let logits = [0.0; VOCAB];
        let forwards = step(&mut state, &batch((1..=3).map(|id| row(id, 40, true)).collect()), &logits);
        let mut backwards =
            step(&mut state, &batch((1..=3).rev().map(|id| row(id, 40, true)).collect()), &logits);
        backwards.reverse();
        assert_eq!(forwards, backwards);
        let later: Vec<_> =
            (0..16).map(|index| step(&mut state, &batch(vec![row(1, index, true)]), &logits)[0]).collect();
        assert!(later.iter().any(|&id| id != later[0]), "every position drew {}", later[0]);
    }

    #[test]
    fn a_sequence_closed_in_flight_draws_token_zero_without_log_probabilities() {
        let told = SamplingParams { top_logprobs: Some(2), ..greedy(Penalties::default()) };
        let mut state = state(&[(1, told.clone()), (2, told)]);
        let inputs = state.prepare(&batch(vec![row(1, 0, true), row(2, 0, true)]));
        state.close(1);
        state.close(99);
        let logits = [0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0];
        let tokens = state.sample(&[Logits::F32(&logits); 2], &inputs).unwrap();
        assert_eq!((tokens.sequence_ids, tokens.token_ids), (vec![1, 2], vec![0, 3]));
        assert_eq!(tokens.logprobs.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_does_not_fit_the_vocabulary_is_refused_by_name() {
        let mut state = state(&[]);
        let bias = Penalties { bias: vec![(8, 1.0)], ..Penalties::default() };
        let name = |error: Error| error.to_string().split(' ').next().map(str::to_owned).unwrap();
        assert_eq!(
            name(state.open(1, Arc::new(greedy(bias)), 0, 0, &[], Constraints::default()).unwrap_err()),
            "logit_bias"
        );
        let plain = Arc::new(SamplingParams::default());
        assert_eq!(
            name(state.open(1, Arc::clone(&plain), 0, 0, &[8], Constraints::default()).unwrap_err()),
            "prompt"
        );
        state.open(1, plain, 0, 0, &[7], Constraints::default()).unwrap();
        let inputs = state.prepare(&batch(vec![row(1, 0, true)]));
        assert_eq!(name(state.sample(&[], &inputs).unwrap_err()), "logits");
        assert_eq!(name(state.sample(&[Logits::F32(&[0.0; 7])], &inputs).unwrap_err()), "logits");
        assert_eq!(name(SamplerState::new(0).unwrap_err()), "vocab_size");
    }
}
