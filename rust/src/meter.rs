//! How long requests take and what they use: takes one `EventBatch` per step with its time, gives counts and
//! histograms. Names and formats of metrics are the server's; the clock is the caller's.

use rustc_hash::FxHashMap;

use crate::event::{EventBatch, EventKind, Usage};

/// Upper bounds in seconds of the time to the first event.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0,
];
/// Upper bounds in seconds of the time between two events of a choice.
const INTER_TOKEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0,
];
/// Upper bounds in seconds of a whole request.
const WHOLE: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0,
];
/// Upper bounds of tokens.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0,
    100000.0,
];

/// Observations in ranges, each with an upper bound that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than the bounds: the last counts what is above all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|&bound| bound < value)] += 1;
        self.sum += value;
    }

    /// (upper bound, observations up to it), the last bound infinite.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let running = self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        bounds.zip(running).collect()
    }

    /// Sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// A request that has not ended.
#[derive(Debug)]
struct Open {
    begun: f64,
    /// When each choice had its last event; None before the first and after the end.
    last: Vec<Option<f64>>,
    running: usize,
    /// Of the choices that finished; the prompt is counted once.
    usage: Usage,
}

/// Meters every open request. Costs one look-up per event.
#[derive(Debug)]
pub struct RequestMeter {
    open: FxHashMap<u64, Open>,
    /// How choices ended, by the word for it.
    ended: FxHashMap<&'static str, u64>,
    first_token: Histogram,
    inter_token: Histogram,
    whole: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
}

impl Default for RequestMeter {
    fn default() -> Self {
        Self {
            open: FxHashMap::default(),
            ended: FxHashMap::default(),
            first_token: Histogram::new(FIRST_TOKEN),
            inter_token: Histogram::new(INTER_TOKEN),
            whole: Histogram::new(WHOLE),
            prompt_tokens: Histogram::new(TOKENS),
            generation_tokens: Histogram::new(TOKENS),
        }
    }
}

impl RequestMeter {
    /// A request of `choices` choices begins at `now`, in seconds. An id that is open already begins anew.
    pub fn open(&mut self, request_id: u64, choices: u32, now: f64) {
        let last = vec![None; choices as usize];
        let running = last.len();
        self.open.insert(request_id, Open { begun: now, last, running, usage: Usage::default() });
    }

    /// A request is left; what did not end until now counts as "abort". Unknown ids are ignored.
    pub fn close(&mut self, request_id: u64) {
        if let Some(open) = self.open.remove(&request_id) {
            *self.ended.entry("abort").or_default() += open.running as u64;
        }
    }

    /// Takes the events of one step, which happened at `now`. Requests that are not open are ignored.
    pub fn push(&mut self, events: &EventBatch, now: f64) {
        for event in &events.events {
            let Some(open) = self.open.get_mut(&event.request_id) else { continue };
            let Some(last) = open.last.get_mut(event.choice as usize) else { continue };
            match &event.kind {
                EventKind::Finished { reason, usage } => {
                    *self.ended.entry(reason.as_str()).or_default() += 1;
                    open.usage.prompt_tokens = usage.prompt_tokens;
                    open.usage.completion_tokens =
                        open.usage.completion_tokens.saturating_add(usage.completion_tokens);
                }
                EventKind::Prompt { .. } => continue,
                EventKind::Failed { .. } => *self.ended.entry("error").or_default() += 1,
                _ => {
                    match last.replace(now) {
                        Some(before) => self.inter_token.observe(now - before),
                        None => self.first_token.observe(now - open.begun),
                    }
                    continue;
                }
            }
            open.running = open.running.saturating_sub(1);
            if open.running == 0 {
                let Some(open) = self.open.remove(&event.request_id) else { continue };
                self.whole.observe(now - open.begun);
                self.prompt_tokens.observe(f64::from(open.usage.prompt_tokens));
                self.generation_tokens.observe(f64::from(open.usage.completion_tokens));
            }
        }
    }

    /// How many choices ended, by "stop", "length", "tool_calls", "error" or "abort"; sorted.
    pub fn ended(&self) -> Vec<(&'static str, u64)> {
        let mut ended: Vec<_> = self.ended.iter().map(|(&reason, &count)| (reason, count)).collect();
        ended.sort_unstable();
        ended
    }

    /// Every histogram by its name.
    pub fn histograms(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("time_to_first_token_seconds", &self.first_token),
            ("inter_token_latency_seconds", &self.inter_token),
            ("e2e_request_latency_seconds", &self.whole),
            ("request_prompt_tokens", &self.prompt_tokens),
            ("request_generation_tokens", &self.generation_tokens),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, FinishReason};

    fn batch(events: Vec<(u64, u32, EventKind)>) -> EventBatch {
        let event = |(request_id, choice, kind)| Event { request_id, choice, completion_tokens: 0, kind };
        EventBatch { events: events.into_iter().map(event).collect(), ..EventBatch::default() }
    }

    fn text() -> EventKind {
        EventKind::Text { text: "a".into(), logprobs: vec![] }
    }

    fn finished(completion_tokens: u32) -> EventKind {
        let usage = Usage { prompt_tokens: 7, completion_tokens, ..Usage::default() };
        EventKind::Finished { reason: FinishReason::Length, usage }
    }

    /// (observations, their sum) of a histogram.
    fn observed(meter: &RequestMeter, name: &str) -> (u64, f64) {
        let histogram = meter.histograms().into_iter().find(|(known, _)| *known == name).unwrap().1;
        (histogram.cumulative().last().unwrap().1, histogram.sum())
    }

    #[test]
    fn a_value_falls_into_the_first_range_that_holds_it() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 2.5] {
            histogram.observe(value);
        }
        assert_eq!(histogram.cumulative(), [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!(histogram.sum(), 7.5);
    }

    #[test]
    fn times_are_taken_for_each_choice_and_once_for_the_request() {
        let mut meter = RequestMeter::default();
        meter.open(1, 2, 10.0);
        meter.push(&batch(vec![(1, 0, text()), (9, 0, text())]), 11.0);
        meter.push(&batch(vec![(1, 0, text()), (1, 1, text())]), 11.5);
        meter.push(&batch(vec![(1, 1, text()), (1, 0, finished(3))]), 12.0);
        assert_eq!(observed(&meter, "e2e_request_latency_seconds"), (0, 0.0));
        meter.push(&batch(vec![(1, 1, finished(2)), (1, 1, text())]), 14.0);
        assert_eq!(observed(&meter, "time_to_first_token_seconds"), (2, 1.0 + 1.5));
        assert_eq!(observed(&meter, "inter_token_latency_seconds"), (2, 0.5 + 0.5));
        assert_eq!(observed(&meter, "e2e_request_latency_seconds"), (1, 4.0));
        assert_eq!(observed(&meter, "request_prompt_tokens"), (1, 7.0));
        assert_eq!(observed(&meter, "request_generation_tokens"), (1, 5.0));
        assert_eq!(meter.ended(), [("length", 2)]);
    }

    #[test]
    fn what_fails_and_what_is_left_has_a_word_too() {
        let mut meter = RequestMeter::default();
        meter.open(1, 1, 0.0);
        meter.open(2, 3, 0.0);
        let failed = EventKind::Failed { code: "engine_error".into(), message: String::new() };
        meter.push(&batch(vec![(1, 0, failed), (2, 0, finished(1)), (2, 8, text())]), 1.0);
        for request_id in [1, 2, 2, 3] {
            meter.close(request_id);
        }
        assert_eq!(meter.ended(), [("abort", 2), ("error", 1), ("length", 1)]);
        assert!(meter.open.is_empty());
    }
}
