//! A grammar's place in one running sequence: takes the drawn tokens, gives the mask of the next one.
//!
//! The next mask is computed on a thread of the pool as soon as a token is drawn, while the model computes
//! the next step; whoever asks for it waits only if it is not there yet. A sequence whose masks took long is told as
//! late while its next one is computed, so that a batch can go on without it; and what one sequence may have computed
//! for it is bounded.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use llguidance::Matcher;
use rustix::time::{ClockId, clock_gettime};
use toktrie::SimpleVob;

use super::Grammar;

/// A mask that takes longer holds up the whole batch noticeably. Masks of honest schemas take 0.05 ms, seldom 1 ms.
const LONG: Duration = Duration::from_millis(4);

/// For so many masks after one that took long, the next is expected to do so too.
const WARY: u8 = 16;

/// Follows one sequence through its grammar.
#[derive(Debug)]
pub struct Guide {
    state: State,
    drawn: u32,
    /// How many of the next masks may take long.
    wary: u8,
}

#[derive(Debug)]
enum State {
    /// Nothing was drawn. Every sequence of a grammar shares its first mask.
    Fresh(Arc<Grammar>),
    /// A thread is taking in the last token.
    Computing(Receiver<Option<Box<Place>>>),
    /// The mask is there.
    Ready(Box<Place>),
    /// The grammar could not be followed any further.
    Lost,
}

struct Place {
    matcher: Matcher,
    mask: SimpleVob,
    took: Duration,
    left: Allowance,
}

/// What the masks of a sequence may still cost: all that it may cost its neighbours.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    /// What the threads themselves compute, without waiting for a core, so no sequence fails because of another.
    /// Honest schemas take 0.05 s for an answer beyond 0.2 ms for each token, without optimization.
    time: Duration,
    /// Spent on new states of the lexer, which stay in memory. Honest schemas take 130,000 for an answer at
    /// most, or 500 for each token of long strings whose characters are counted.
    fuel: u64,
}

impl Allowance {
    const AT_START: Self = Self { time: Duration::from_millis(100), fuel: 500_000 };
    const FOR_A_TOKEN: Self = Self { time: Duration::from_millis(1), fuel: 2000 };

    /// What is left after one more token; `None` if that cost too much.
    fn after(self, time: Duration, fuel: u64) -> Option<Self> {
        let time = (self.time + Self::FOR_A_TOKEN.time).checked_sub(time)?;
        let fuel = (self.fuel + Self::FOR_A_TOKEN.fuel).checked_sub(fuel)?;
        Some(Self { time, fuel })
    }
}

/// Time that this thread has computed.
fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // A clock of the kernel counts up from zero, so neither part is negative.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} allowed tokens", self.mask.num_set())
    }
}

/// The text outgrew the limits of its grammar, or left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

impl Guide {
    /// At the start of `grammar`.
    #[must_use]
    pub fn new(grammar: Arc<Grammar>) -> Self {
        Self { state: State::Fresh(grammar), drawn: 0, wary: 0 }
    }

    /// How many tokens were taken in.
    #[must_use]
    pub fn drawn(&self) -> u32 {
        self.drawn
    }

    /// Whether the next mask is not there yet and may take long. Does not wait.
    pub fn is_late(&mut self) -> bool {
        if let State::Computing(place) = &self.state {
            match place.try_recv() {
                Ok(place) => self.arrive(place),
                Err(TryRecvError::Empty) => return self.wary > 0,
                Err(TryRecvError::Disconnected) => self.arrive(None),
            }
        }
        false
    }

    /// Waits until the next mask is there.
    pub fn settle(&mut self) -> Result<(), Lost> {
        if let State::Computing(place) = &self.state {
            // A thread that panicked sends nothing.
            let place = place.recv().ok().flatten();
            self.arrive(place);
        }
        match self.state {
            State::Lost => Err(Lost),
            _ => Ok(()),
        }
    }

    fn arrive(&mut self, place: Option<Box<Place>>) {
        let took_long = place.as_ref().is_some_and(|place| place.took > LONG);
        self.wary = if took_long { WARY } else { self.wary.saturating_sub(1) };
        self.state = place.map_or(State::Lost, State::Ready);
    }

    /// The tokens that may be drawn next, one bit for each; `None` before [`Guide::settle`] has succeeded.
    #[must_use]
    pub fn mask(&self) -> Option<&[u32]> {
        match &self.state {
            State::Fresh(grammar) => Some(grammar.first.as_slice()),
            State::Ready(place) => Some(place.mask.as_slice()),
            State::Computing(_) | State::Lost => None,
        }
    }

    /// Takes in the token that was drawn and returns at once.
    pub fn advance(&mut self, token: u32) {
        self.drawn += 1;
        let state = std::mem::replace(&mut self.state, State::Lost);
        let (send, receive) = sync_channel(1);
        match state {
            State::Fresh(grammar) => rayon::spawn(move || {
                // Nobody receives if the sequence was closed meanwhile.
                let _ = send.send(step(grammar.matcher(), Allowance::AT_START, token));
            }),
            State::Ready(place) => rayon::spawn(move || {
                let _ = send.send(step(place.matcher, place.left, token));
            }),
            State::Computing(_) | State::Lost => return,
        }
        self.state = State::Computing(receive);
    }
}

/// Whoever holds one ends with it, so what a panic left behind is never looked at.
fn step(mut matcher: Matcher, left: Allowance, token: u32) -> Option<Box<Place>> {
    let begun = computed();
    matcher.consume_token(token).ok()?;
    let mask = matcher.compute_mask_or_eos().ok()?;
    let fuel = matcher.last_step_stats().ok()?.lexer_cost;
    let took = computed().saturating_sub(begun);
    let left = left.after(took, fuel)?;
    Some(Box::new(Place { matcher, mask, took, left }))
}

impl Grammar {
    /// A matcher of its own for one sequence: no sequence meets the limits sooner because of another.
    fn matcher(&self) -> Matcher {
        self.start.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_grows_by_the_token_and_ends() {
        let (little, much) = (Duration::from_micros(200), Duration::from_millis(60));
        let long = (0..10_000).try_fold(Allowance::AT_START, |left, _| left.after(little, 500));
        assert!(long.is_some());
        let left = Allowance::AT_START.after(much, 0);
        assert!(left.is_some_and(|left| left.after(much, 0).is_none()));
        assert!(Allowance::AT_START.after(little, 600_000).is_none());
    }
}
