//! Tokens to events: takes the tokens drawn in one step, gives what each choice has to tell. Text and stop
//! strings are `text_stream`'s, calls and thoughts `tool_calls`'; how an event is spelled on a wire is `sse`'s.

mod logprobs;
mod parsed;

use std::hash::RandomState;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::batch::Batch;
use crate::error::Error;
use crate::event::{Event, EventBatch, EventKind, FinishReason, TokenLogprob, Usage};
use crate::sampled::{Logprobs, SampledTokens, Scored};
use crate::stop::StopCache;
use crate::text_stream::{StoppingText, content};
use crate::tool_calls::ToolOptions;
use crate::vocab::Vocab;

use logprobs::{LogprobQueue, entry};
use parsed::Parsed;

/// Special tokens are never text of an answer.
const SKIP_SPECIAL_TOKENS: bool = true;

/// What one choice asks of its output.
#[derive(Debug, Clone, Default)]
pub struct ChoiceOptions {
    /// The request that owns the choice.
    pub request_id: u64,
    /// Which of the request's choices.
    pub choice: u32,
    /// Tokens of the prompt, for the usage.
    pub prompt_tokens: u32,
    /// How many tokens may be drawn, at least 1.
    pub max_tokens: u32,
    /// Stop strings; see [`crate::stop::StopSet`].
    pub stop: Vec<String>,
    /// Tokens that end the choice. They are no text, but count as drawn.
    pub end_ids: Vec<u32>,
    /// Whether text events carry log-probabilities.
    pub logprobs: bool,
    /// Stop strings are looked for in the text that becomes final after so many tokens.
    pub min_tokens: u32,
    /// Tool calls and thoughts.
    pub tools: ToolOptions,
}

/// The output of every running sequence. One call per step; its cost is that of the new tokens.
#[derive(Debug)]
pub struct OutputStreams {
    vocab: Arc<Vocab>,
    stops: StopCache,
    choices: FxHashMap<u64, Choice>,
    /// Makes call ids that nobody guesses and no other process repeats.
    id_key: RandomState,
}

impl OutputStreams {
    /// No sequence yet.
    pub fn new(vocab: Arc<Vocab>) -> Self {
        Self { vocab, stops: StopCache::default(), choices: FxHashMap::default(), id_key: RandomState::new() }
    }

    /// Starts a choice.
    ///
    /// Fails with `InvalidParameter` for unusable stop strings, `max_tokens` 0 or a limit of no calls, and with `Internal` if
    /// the sequence is open already.
    pub fn open(&mut self, sequence_id: u64, options: ChoiceOptions) -> Result<(), Error> {
        if self.choices.contains_key(&sequence_id) {
            return Err(Error::Internal(format!("the output of sequence {sequence_id} is open already")));
        }
        if options.max_tokens == 0 {
            return Err(Error::parameter("max_tokens", "must be at least 1"));
        }
        if options.tools.max_calls == Some(0) {
            return Err(Error::parameter("max_tool_calls", "must be at least 1"));
        }
        let stops = self.stops.get(&options.stop)?;
        let parsed = (options.tools.syntax.is_some() || options.tools.reasoning)
            .then(|| Box::new(Parsed::new(sequence_id, &self.id_key, &options.tools)));
        let logprobs = options.logprobs.then(LogprobQueue::default);
        let content = Content { text: StoppingText::new(stops), logprobs };
        self.choices.insert(sequence_id, Choice::new(content, parsed, options));
        Ok(())
    }

    /// Forgets a choice without an event; unknown ids are ignored.
    pub fn close(&mut self, sequence_id: u64) {
        self.choices.remove(&sequence_id);
    }

    /// Sequences that end with these tokens whatever their text reads: with an end token, or because they got none. Told in
    /// far less time than the events, so that the next step can begin without them.
    pub fn ended(&self, tokens: &SampledTokens) -> Vec<u64> {
        let drawn = tokens.sequence_ids.iter().zip(&tokens.token_ids);
        let at_end = drawn.filter(|(sequence_id, token_id)| {
            self.choices.get(sequence_id).is_some_and(|choice| choice.end_ids.contains(token_id))
        });
        at_end.map(|(&id, _)| id).chain(tokens.failed.iter().map(|&(id, _)| id)).collect()
    }

    /// The events of one step. Finished choices are forgotten; tokens of sequences that are not open are ignored. A sequence that lost
    /// its grammar fails alone.
    ///
    /// Fails with `Internal`, before anything has changed, if the tokens are not those of the batch or lack
    /// log-probabilities that a choice asked for.
    pub fn push(&mut self, batch: &Batch, tokens: &SampledTokens) -> Result<EventBatch, Error> {
        self.check(batch, tokens)?;
        let mut events = EventBatch::default();
        for &(sequence_id, why) in &tokens.failed {
            let (code, message) = why.words();
            self.fail_one(sequence_id, code, message, &mut events);
        }
        events.events.reserve(tokens.token_ids.len());
        self.tell_scores(&tokens.scores, &mut events);
        let draws = tokens.token_ids.iter().zip(&tokens.logprobs);
        for (row, (&token_id, logprobs)) in batch.sampled_rows().zip(draws) {
            let sequence_id = row.sequence_id;
            let Some(choice) = self.choices.get_mut(&sequence_id) else { continue };
            events.num_tokens += 1;
            let finished = choice.push(&self.vocab, token_id, logprobs.as_ref(), &mut events);
            if let Some(reason) = finished {
                let usage = choice.usage(row.cached_tokens);
                events.events.push(choice.event(EventKind::Finished { reason, usage }));
                events.finished_sequences.push(sequence_id);
                self.choices.remove(&sequence_id);
            }
        }
        Ok(events)
    }

    /// Tells of the prompt tokens that were scored, each once: a sequence that was preempted scores them anew.
    fn tell_scores(&mut self, scores: &[Scored], events: &mut EventBatch) {
        for run in scores.chunk_by(|a, b| a.sequence_id == b.sequence_id) {
            let Some(choice) = self.choices.get_mut(&run[0].sequence_id) else { continue };
            let fresh = run.iter().filter(|scored| scored.position >= choice.scored);
            let logprobs: Vec<TokenLogprob> = fresh.map(|scored| spell_score(&self.vocab, scored)).collect();
            if let Some(last) = run.last().filter(|_| !logprobs.is_empty()) {
                choice.scored = last.position + 1;
                events.events.push(choice.event(EventKind::Prompt { logprobs }));
            }
        }
    }

    /// A `Failed` event for each of the sequences that is open, which is then forgotten.
    pub fn fail(&mut self, sequence_ids: &[u64], code: &str, message: &str) -> EventBatch {
        let mut events = EventBatch::default();
        for &sequence_id in sequence_ids {
            self.fail_one(sequence_id, code, message, &mut events);
        }
        events
    }

    fn fail_one(&mut self, sequence_id: u64, code: &str, message: &str, events: &mut EventBatch) {
        let Some(choice) = self.choices.remove(&sequence_id) else { return };
        let kind = EventKind::Failed { code: code.to_owned(), message: message.to_owned() };
        events.events.push(choice.event(kind));
        events.finished_sequences.push(sequence_id);
    }

    fn check(&self, batch: &Batch, tokens: &SampledTokens) -> Result<(), Error> {
        let count = tokens.sequence_ids.len();
        let parallel = tokens.token_ids.len() == count && tokens.logprobs.len() == count;
        if !parallel || !batch.sampled_rows().map(|row| &row.sequence_id).eq(&tokens.sequence_ids) {
            let message = format!("the tokens are not those that step {} draws", batch.ticket);
            return Err(Error::Internal(message));
        }
        let drawn = tokens.sequence_ids.iter().zip(&tokens.logprobs).filter(|(_, drawn)| drawn.is_none());
        for (sequence_id, _) in
            drawn.filter(|(sequence_id, _)| tokens.failed.iter().all(|(failed, _)| failed != *sequence_id))
        {
            if self.choices.get(sequence_id).is_some_and(|choice| choice.content.logprobs.is_some()) {
                let message =
                    format!("sequence {sequence_id} asked for log-probabilities, but none were taken");
                return Err(Error::Internal(message));
            }
        }
        Ok(())
    }
}

/// A prompt token as it is told, special ones too: all of them are part of the prompt.
fn spell_score(vocab: &Vocab, scored: &Scored) -> TokenLogprob {
    let bytes = |id: u32| vocab.bytes(id).unwrap_or_default().to_vec();
    let logprobs = scored.logprobs.as_ref();
    let top = logprobs.map_or(&[][..], |logprobs| &logprobs.top);
    TokenLogprob {
        token_id: scored.token_id,
        bytes: bytes(scored.token_id),
        logprob: logprobs.map_or(f64::NAN, |logprobs| logprobs.chosen),
        top: top.iter().map(|&(id, logprob)| (id, bytes(id), logprob)).collect(),
    }
}

/// One open choice.
#[derive(Debug)]
struct Choice {
    request_id: u64,
    choice: u32,
    prompt_tokens: u32,
    max_tokens: u32,
    min_tokens: u32,
    completion_tokens: u32,
    /// Prompt tokens whose scores were told.
    scored: u32,
    end_ids: Vec<u32>,
    content: Content,
    /// None unless calls or thoughts are looked for.
    parsed: Option<Box<Parsed>>,
}

/// The text of a choice.
#[derive(Debug)]
struct Content {
    text: StoppingText,
    /// None unless log-probabilities were asked for.
    logprobs: Option<LogprobQueue>,
}

impl Content {
    /// Takes the next bytes of the text; unless it `may_stop`, they are outside of every stop string.
    fn push(&mut self, bytes: &[u8], may_stop: bool, out: &mut String) {
        if may_stop {
            self.text.push(bytes, out);
        } else {
            self.text.push_unstoppable(bytes, out);
        }
    }
}

/// What one token told, ready to become events.
#[derive(Debug, Default)]
struct Told {
    text: String,
    reasoning: String,
    /// Calls and their arguments, in order.
    calls: Vec<EventKind>,
}

impl Choice {
    fn new(content: Content, parsed: Option<Box<Parsed>>, options: ChoiceOptions) -> Self {
        Self {
            request_id: options.request_id,
            choice: options.choice,
            prompt_tokens: options.prompt_tokens,
            max_tokens: options.max_tokens,
            min_tokens: options.min_tokens,
            completion_tokens: 0,
            scored: 0,
            end_ids: options.end_ids,
            content,
            parsed,
        }
    }

    /// Takes one token, adds the events of what became final, and says whether the choice has ended.
    fn push(
        &mut self,
        vocab: &Vocab,
        token_id: u32,
        logprobs: Option<&Logprobs>,
        events: &mut EventBatch,
    ) -> Option<FinishReason> {
        self.completion_tokens += 1;
        let mut told = Told::default();
        let stopped = self.end_ids.contains(&token_id) || self.read(vocab, token_id, logprobs, &mut told);
        let ended = stopped || self.completion_tokens >= self.max_tokens;
        if ended {
            if let Some(parsed) = &mut self.parsed {
                parsed.finish(&mut self.content, &mut told);
            }
            self.content.text.finish(&mut told.text);
        }
        self.tell(told, ended, events);
        let called = || self.parsed.as_ref().is_some_and(|parsed| parsed.has_called());
        match (stopped, ended) {
            (true, _) if called() => Some(FinishReason::ToolCalls),
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }

    /// Reads one token that is no end token, and says whether it ends the choice nevertheless.
    fn read(&mut self, vocab: &Vocab, token_id: u32, logprobs: Option<&Logprobs>, told: &mut Told) -> bool {
        let may_stop = self.completion_tokens > self.min_tokens;
        if let Some(parsed) = &mut self.parsed {
            let logprobs = logprobs.filter(|_| self.content.logprobs.is_some());
            return parsed.push(vocab, token_id, logprobs, &mut self.content, may_stop, told);
        }
        let bytes = content(vocab, token_id, SKIP_SPECIAL_TOKENS);
        if let (Some(queue), Some(logprobs)) = (&mut self.content.logprobs, logprobs) {
            queue.push(entry(vocab, token_id, bytes, logprobs));
        }
        self.content.push(bytes, may_stop, &mut told.text);
        self.content.text.is_stopped()
    }

    /// Adds the events of what was told.
    fn tell(&mut self, told: Told, ended: bool, events: &mut EventBatch) {
        let Told { text, reasoning, calls } = told;
        let logprobs = match &mut self.content.logprobs {
            Some(queue) => queue.release(self.content.text.settled(), ended),
            None => Vec::new(),
        };
        if !reasoning.is_empty() {
            events.events.push(self.event(EventKind::Reasoning { text: reasoning }));
        }
        if !text.is_empty() || !logprobs.is_empty() {
            events.events.push(self.event(EventKind::Text { text, logprobs }));
        }
        for kind in calls {
            if !matches!(&kind, EventKind::ToolArguments { text, .. } if text.is_empty()) {
                events.events.push(self.event(kind));
            }
        }
    }

    fn usage(&self, cached_tokens: u32) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens,
            completion_tokens: self.completion_tokens,
            reasoning_tokens: self.parsed.as_ref().map_or(0, |parsed| parsed.reasoning_tokens()),
        }
    }

    fn event(&self, kind: EventKind) -> Event {
        Event {
            request_id: self.request_id,
            choice: self.choice,
            completion_tokens: self.completion_tokens,
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchRow;
    use crate::sampled::NoToken;

    const END: u32 = 256;

    /// Ids 0 to 255 are bytes, 256 is the end token, 257 and on are `words`.
    fn streams(words: &[&str]) -> OutputStreams {
        let bytes = (0..=255u8).map(|byte| (vec![byte], false));
        let special = std::iter::once((b"<|end|>".to_vec(), true));
        let words = words.iter().map(|word| (word.as_bytes().to_vec(), false));
        OutputStreams::new(Arc::new(Vocab::from_entries(bytes.chain(special).chain(words).collect())))
    }

    fn options() -> ChoiceOptions {
        ChoiceOptions {
            request_id: 70,
            prompt_tokens: 5,
            max_tokens: 100,
            end_ids: vec![END],
            ..Default::default()
        }
    }

    /// One step that draws `id` for each sequence, with its id as log-probability.
    fn step(streams: &mut OutputStreams, draws: &[(u64, u32)]) -> EventBatch {
        let row = |&(sequence_id, _): &(u64, u32)| BatchRow {
            sequence_id,
            start: 0,
            length: 1,
            prompt_length: 1,
            samples: true,
            output_index: 0,
            cached_tokens: sequence_id as u32 % 4,
        };
        let batch = Batch { rows: draws.iter().map(row).collect(), ..Batch::default() };
        let logprobs =
            |id: u32| Logprobs { chosen: -f64::from(id), top: vec![(id, -f64::from(id)), (END, -9999.0)] };
        let tokens = SampledTokens {
            sequence_ids: draws.iter().map(|draw| draw.0).collect(),
            token_ids: draws.iter().map(|draw| draw.1).collect(),
            logprobs: draws.iter().map(|draw| Some(logprobs(draw.1))).collect(),
            failed: Vec::new(),
            scores: vec![],
        };
        streams.push(&batch, &tokens).unwrap()
    }

    /// Events in short: text with its entries, or how it ended with the completion tokens.
    fn tell(events: &EventBatch) -> Vec<String> {
        let entry = |entry: &TokenLogprob| String::from_utf8_lossy(&entry.bytes).into_owned();
        let tell = |event: &Event| match &event.kind {
            EventKind::Text { text, logprobs } if logprobs.is_empty() => text.clone(),
            EventKind::Text { text, logprobs } => {
                format!("{text} <- {}", logprobs.iter().map(entry).collect::<Vec<_>>().join("|"))
            }
            EventKind::Finished { reason, usage } => {
                format!("{} {}", reason.as_str(), usage.completion_tokens)
            }
            EventKind::Failed { code, .. } => format!("failed {code}"),
            other => panic!("no tools and no thoughts here: {other:?}"),
        };
        events.events.iter().map(tell).collect()
    }

    #[track_caller]
    fn check(words: &[&str], options: ChoiceOptions, ids: &[u32], expected: &[&[&str]]) {
        let mut streams = streams(words);
        streams.open(1, options).unwrap();
        let actual: Vec<Vec<String>> = ids.iter().map(|&id| tell(&step(&mut streams, &[(1, id)]))).collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn an_end_token_counts_and_is_no_text() {
        check(&["Hi"], options(), &[257, END], &[&["Hi"], &["stop 2"]]);
    }

    #[test]
    fn the_limit_ends_a_choice_with_exactly_that_many_tokens() {
        let limit = |max_tokens| ChoiceOptions { max_tokens, ..options() };
        check(&["Hi"], limit(2), &[257, 257, 257], &[&["Hi"], &["Hi", "length 2"], &[]]);
        check(&[], limit(1), &[65], &[&["A", "length 1"]]);
    }

    #[test]
    fn an_end_at_the_limit_is_a_stop() {
        let limit = ChoiceOptions { max_tokens: 2, stop: vec!["Z".into()], ..options() };
        check(&[], limit.clone(), &[65, END], &[&["A"], &["stop 2"]]);
        check(&[], limit, &[65, 90], &[&["A"], &["stop 2"]]);
    }

    #[test]
    fn a_stop_string_ends_the_choice_and_is_not_shown() {
        let stop = ChoiceOptions { stop: vec!["\nUser:".into()], ..options() };
        check(&["Hi\nU", "ser: a"], stop, &[257, 258, 258], &[&["Hi"], &["stop 2"], &[]]);
    }

    #[test]
    fn what_was_held_comes_before_the_end() {
        let stop = ChoiceOptions { stop: vec!["STOP".into()], ..options() };
        check(&["aST"], stop.clone(), &[257, END], &[&["a"], &["ST", "stop 2"]]);
        check(&["aST"], ChoiceOptions { max_tokens: 1, ..stop }, &[257], &[&["aST", "length 1"]]);
        check(&[], options(), &[0xe2, END], &[&[], &["\u{fffd}", "stop 2"]]);
    }

    #[test]
    fn entries_follow_the_text_of_their_tokens() {
        let wanted = ChoiceOptions { logprobs: true, stop: vec!["xyz".into()], ..options() };
        // Held tokens keep their entries; a token held in part appears when its last byte does.
        check(&["ax", "y", "b"], wanted.clone(), &[257, 258, 259], &[&["a"], &[], &["xyb <- ax|y|b"]]);
        // A stop drops the tokens it covers and cuts the one it begins in.
        check(&["ax", "y", "zb"], wanted.clone(), &[257, 258, 259], &[&["a"], &[], &[" <- a", "stop 3"]]);
        check(&["x", "yzb"], wanted.clone(), &[65, 257, 258], &[&["A <- A"], &[], &["stop 3"]]);
        check(&["ax"], wanted, &[257, END], &[&["a"], &["x <- ax", "stop 2"]]);
    }

    #[test]
    fn entries_of_half_characters_come_with_the_character() {
        let wanted = ChoiceOptions { logprobs: true, ..options() };
        let euro = "\u{20ac} <- \u{fffd}|\u{fffd}|\u{fffd}";
        check(&[], wanted, &[0xe2, 0x82, 0xac], &[&[], &[], &[euro]]);
    }

    #[test]
    fn special_tokens_have_no_entry() {
        let wanted = ChoiceOptions { logprobs: true, end_ids: vec![], ..options() };
        check(&[], wanted, &[65, END, 66], &[&["A <- A"], &[], &["B <- B"]]);
    }

    #[test]
    fn entries_name_the_likeliest_tokens_by_their_bytes() {
        let mut streams = streams(&[]);
        streams.open(1, ChoiceOptions { logprobs: true, ..options() }).unwrap();
        let events = step(&mut streams, &[(1, 65)]);
        let EventKind::Text { logprobs, .. } = &events.events[0].kind else { panic!("a text event") };
        let top = vec![(65, b"A".to_vec(), -65.0), (END, b"<|end|>".to_vec(), -9999.0)];
        assert_eq!(logprobs[0], TokenLogprob { token_id: 65, bytes: b"A".to_vec(), logprob: -65.0, top });
    }

    #[test]
    fn each_choice_of_a_step_is_told_apart() {
        let mut streams = streams(&[]);
        for (sequence_id, choice) in [(1, 0), (2, 1), (3, 2)] {
            streams.open(sequence_id, ChoiceOptions { choice, max_tokens: 1 + choice, ..options() }).unwrap();
        }
        streams.close(2);
        let events = step(&mut streams, &[(3, 65), (2, 66), (1, 67), (9, 68)]);
        assert_eq!(tell(&events), ["A", "C", "length 1"]);
        assert_eq!(events.events.iter().map(|event| event.choice).collect::<Vec<_>>(), [2, 0, 0]);
        assert_eq!(events.finished_sequences, [1]);
        let usage = Usage { prompt_tokens: 5, cached_tokens: 1, completion_tokens: 1, reasoning_tokens: 0 };
        assert_eq!(events.events[2].kind, EventKind::Finished { reason: FinishReason::Length, usage });
        assert_eq!(tell(&step(&mut streams, &[(1, 65), (3, 66)])), ["B"]);
    }

    #[test]
    fn failing_tells_the_open_choices_once() {
        let mut streams = streams(&[]);
        streams.open(4, options()).unwrap();
        let events = streams.fail(&[4, 5], "engine_error", "the step failed");
        assert_eq!(tell(&events), ["failed engine_error"]);
        assert_eq!(events.finished_sequences, [4]);
        assert!(streams.fail(&[4], "engine_error", "again").events.is_empty());
    }

    #[test]
    fn unusable_options_are_refused() {
        let mut streams = streams(&[]);
        let named = |error| matches!(error, Error::InvalidParameter { name, .. } if name == "max_tokens");
        assert!(named(streams.open(1, ChoiceOptions { max_tokens: 0, ..options() }).unwrap_err()));
        assert!(streams.open(1, ChoiceOptions { stop: vec![String::new()], ..options() }).is_err());
        streams.open(1, options()).unwrap();
        assert!(matches!(streams.open(1, options()), Err(Error::Internal(_))));
    }

    #[test]
    fn a_sequence_that_lost_its_grammar_fails_alone() {
        let mut streams = streams(&[]);
        streams.open(1, ChoiceOptions { logprobs: true, ..options() }).unwrap();
        streams.open(2, options()).unwrap();
        let row = |sequence_id| BatchRow {
            sequence_id,
            start: 0,
            length: 1,
            prompt_length: 1,
            samples: true,
            output_index: 0,
            cached_tokens: 0,
        };
        let batch = Batch { rows: vec![row(1), row(2)], ..Batch::default() };
        let (token_ids, logprobs) = (vec![0, 65], vec![None, None]);
        let tokens = SampledTokens {
            sequence_ids: vec![1, 2],
            token_ids,
            logprobs,
            failed: vec![(1, NoToken::GrammarLost)],
            scores: vec![],
        };
        let events = streams.push(&batch, &tokens).unwrap();
        assert_eq!(tell(&events), ["failed grammar_too_complex", "A"]);
        assert_eq!(events.finished_sequences, [1]);
        assert!(streams.push(&batch, &tokens).is_ok(), "a failed sequence is forgotten");
    }

    #[test]
    fn tokens_of_another_step_are_refused_and_change_nothing() {
        let mut streams = streams(&[]);
        streams.open(1, ChoiceOptions { max_tokens: 1, logprobs: true, ..options() }).unwrap();
        let tokens = SampledTokens {
            sequence_ids: vec![1],
            token_ids: vec![65],
            logprobs: vec![None],
            failed: vec![],
            scores: vec![],
        };
        let row = BatchRow {
            sequence_id: 1,
            start: 0,
            length: 1,
            prompt_length: 1,
            samples: true,
            output_index: 0,
            cached_tokens: 0,
        };
        let batch = Batch { rows: vec![row], ..Batch::default() };
        assert!(matches!(streams.push(&Batch::default(), &tokens), Err(Error::Internal(_))));
        assert!(matches!(streams.push(&batch, &tokens), Err(Error::Internal(_))), "entries are missing");
        assert_eq!(tell(&step(&mut streams, &[(1, 65)])), ["A <- A", "length 1"]);
    }
}
