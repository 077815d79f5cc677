//! Bias and penalties of one sequence, as a short list of changed logits.
//!
//! Takes the tokens that a sequence has seen, gives `(id, new logit)` in id order. The cost follows the
//! history and the bias, never the vocabulary, and the caller's logits stay as they are.

use crate::error::Error;

/// How logits change before the draw; the neutral value switches a part off.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Added to the logit of each id; sorted by id, each once.
    pub bias: Vec<(u32, f32)>,
    /// Positive logits of seen tokens (prompt and output) are divided by it, others multiplied. Neutral: 1.
    pub repetition: f32,
    /// Subtracted once for every time the token was drawn. Neutral: 0.
    pub frequency: f32,
    /// Subtracted once from tokens that were drawn at all. Neutral: 0.
    pub presence: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { bias: Vec::new(), repetition: 1.0, frequency: 0.0, presence: 0.0 }
    }
}

impl Penalties {
    /// Checks that every number is usable. The error names the parameter as requests spell it.
    pub fn validate(&self) -> Result<(), Error> {
        if !(self.repetition >= f32::MIN_POSITIVE && self.repetition.is_finite()) {
            return Err(Error::parameter("repetition_penalty", "must be above 0 and finite"));
        }
        if !self.frequency.is_finite() {
            return Err(Error::parameter("frequency_penalty", "must be finite"));
        }
        if !self.presence.is_finite() {
            return Err(Error::parameter("presence_penalty", "must be finite"));
        }
        if self.bias.iter().any(|(_, bias)| !bias.is_finite()) {
            return Err(Error::parameter("logit_bias", "must hold finite numbers"));
        }
        if self.bias.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Error::parameter("logit_bias", "must name each token once, in id order"));
        }
        Ok(())
    }

    /// Whether tokens seen before have a say, so that a history must be kept.
    #[must_use]
    pub fn look_back(&self) -> bool {
        self.repeats() || self.frequency != 0.0 || self.presence != 0.0
    }

    fn repeats(&self) -> bool {
        self.repetition != 1.0
    }

    /// Writes the changed logits of a row into `patches`, sorted by id: bias, then repetition, then
    /// frequency, then presence, each rounded to float32. `logit` tells the row's own value of an id.
    pub fn patches(&self, history: &History, logit: impl Fn(u32) -> f32, patches: &mut Vec<(u32, f32)>) {
        let patch =
            |Change { id, bias, count, repeats }| (id, self.changed(logit(id) + bias, repeats, count));
        patches.clear();
        patches.extend(self.changes(history).map(patch));
    }

    /// Which logits of a row change, and by what; in id order, each id once.
    pub fn changes<'a>(&'a self, history: &'a History) -> impl Iterator<Item = Change> {
        let drawn: &[(u32, u32)] = if self.look_back() { &history.drawn } else { &[] };
        let prompt: &[u32] = if self.repeats() { &history.prompt } else { &[] };
        let (mut bias, mut drawn, mut prompt) =
            (self.bias.iter().peekable(), drawn.iter().peekable(), prompt.iter().peekable());
        std::iter::from_fn(move || {
            let next = [bias.peek().map(|b| b.0), drawn.peek().map(|d| d.0), prompt.peek().map(|&&id| id)];
            let id = next.into_iter().flatten().min()?;
            let bias = bias.next_if(|b| b.0 == id).map_or(0.0, |b| b.1);
            let count = drawn.next_if(|d| d.0 == id).map_or(0, |d| d.1);
            let seen = prompt.next_if(|&&p| p == id).is_some() || count > 0;
            Some(Change { id, bias, count, repeats: seen && self.repeats() })
        })
    }

    fn changed(&self, mut logit: f32, repeats: bool, count: u32) -> f32 {
        if repeats {
            logit = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
        }
        if count > 0 {
            logit -= count as f32 * self.frequency;
            logit -= self.presence;
        }
        logit
    }
}

/// How one logit changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The token.
    pub id: u32,
    /// What is added.
    pub bias: f32,
    /// How often the token was drawn, which frequency and presence punish.
    pub count: u32,
    /// Whether the repetition penalty applies.
    pub repeats: bool,
}

/// The tokens that one sequence has seen: how often each was drawn, and which the prompt holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// (id, times drawn), sorted by id. A sorted vector: it is merged in order once per draw, and an
    /// insertion moves a few kilobytes at most.
    drawn: Vec<(u32, u32)>,
    /// Ids of the prompt, sorted, each once; left empty where no repetition penalty asks for them.
    prompt: Vec<u32>,
}

impl History {
    /// The history that `penalties` need of a sequence with this prompt and these tokens drawn so far.
    #[must_use]
    pub fn new(penalties: &Penalties, prompt: &[u32], drawn: &[u32]) -> Self {
        let mut prompt = if penalties.repeats() { sorted(prompt) } else { Vec::new() };
        prompt.dedup();
        let drawn = if penalties.look_back() { sorted(drawn) } else { Vec::new() };
        let drawn = drawn.chunk_by(u32::eq).map(|run| (run[0], run.len() as u32)).collect();
        Self { drawn, prompt }
    }

    /// Notes one more drawn token.
    pub fn push(&mut self, id: u32) {
        match self.drawn.binary_search_by_key(&id, |entry| entry.0) {
            Ok(place) => self.drawn[place].1 = self.drawn[place].1.saturating_add(1),
            Err(place) => self.drawn.insert(place, (id, 1)),
        }
    }
}

fn sorted(ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [2.0, -2.0, 0.5, 4.0, -1.0];

    fn patches(penalties: &Penalties, prompt: &[u32], drawn: &[u32]) -> Vec<(u32, f32)> {
        let mut patches = vec![(99, 99.0)];
        penalties.validate().unwrap();
        let history = History::new(penalties, prompt, drawn);
        penalties.patches(&history, |id| LOGITS[id as usize], &mut patches);
        patches
    }

    #[test]
    fn neutral_penalties_change_nothing() {
        assert_eq!(patches(&Penalties::default(), &[0, 1], &[2, 3]), []);
    }

    #[test]
    fn repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_output() {
        let penalties = Penalties { repetition: 2.0, ..Penalties::default() };
        assert_eq!(patches(&penalties, &[1, 0, 1], &[3, 0]), [(0, 1.0), (1, -4.0), (3, 2.0)]);
    }

    #[test]
    fn frequency_counts_draws_and_presence_does_not_and_neither_sees_the_prompt() {
        let penalties = Penalties { frequency: 0.5, presence: 0.25, ..Penalties::default() };
        assert_eq!(patches(&penalties, &[0, 1], &[3, 2, 3]), [(2, -0.25), (3, 2.75)]);
    }

    #[test]
    fn bias_comes_before_repetition_and_repetition_before_the_counts() {
        let penalties =
            Penalties { bias: vec![(1, 4.0), (4, 1.5)], repetition: 2.0, frequency: 1.0, presence: 0.5 };
        assert_eq!(patches(&penalties, &[], &[1]), [(1, 1.0 - 1.0 - 0.5), (4, 0.5)]);
    }

    #[test]
    fn a_history_grows_as_if_it_had_been_built_whole() {
        let penalties = Penalties { frequency: 1.0, repetition: 1.5, ..Penalties::default() };
        let mut grown = History::new(&penalties, &[9, 3, 9], &[]);
        [5, 1, 5, 2, 1, 5].into_iter().for_each(|id| grown.push(id));
        assert_eq!(grown, History::new(&penalties, &[3, 9], &[1, 1, 2, 5, 5, 5]));
    }

    #[test]
    fn unusable_numbers_are_refused_by_name() {
        let check = |penalties: Penalties, name: &str| {
            assert!(penalties.validate().unwrap_err().to_string().starts_with(name));
        };
        let neutral = Penalties::default;
        check(Penalties { repetition: 0.0, ..neutral() }, "repetition_penalty");
        check(Penalties { repetition: f32::NAN, ..neutral() }, "repetition_penalty");
        check(Penalties { frequency: f32::INFINITY, ..neutral() }, "frequency_penalty");
        check(Penalties { presence: f32::NAN, ..neutral() }, "presence_penalty");
        check(Penalties { bias: vec![(0, f32::NAN)], ..neutral() }, "logit_bias");
        check(Penalties { bias: vec![(4, 1.0), (4, 2.0)], ..neutral() }, "logit_bias");
    }
}
