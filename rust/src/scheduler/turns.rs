//! Whose turn it is: keys are served in proportion, and within a key the first to come goes first.
//!
//! Counts the tokens that were spent on each key (virtual token counters: Sheng et al., "Fairness in Serving Large Language
//! Models", arXiv 2401.00588) and ranks by them. Who has room to run is the scheduler's matter.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::sequence::Handle;
use crate::error::Error;

/// What a drawn token counts, in prompt tokens: it takes a row of its own in a step that reads all weights.
const DRAW_WEIGHT: u64 = 2;

/// So much less than the least served of the busy keys a key may have had when it comes back: enough for a prompt of usual
/// length, so that one which asks now and then is served before those that ask all the time until its answer has begun.
const CREDIT: u64 = 4096;

/// Whom a sequence is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Only sequences of equal salt ever share blocks.
    pub salt: &'a [u8],
    /// Sequences of one key share its turns.
    pub key: u64,
    /// Lower goes first, whatever was spent. 0 is usual.
    pub priority: u32,
}

/// A tenant of the cache, whose sequences belong to key 0.
impl<'a, const N: usize> From<&'a [u8; N]> for Owner<'a> {
    fn from(salt: &'a [u8; N]) -> Self {
        Self { salt, ..Self::default() }
    }
}

/// Where a sequence stands in line: the least goes first.
///
/// Of two keys that had equally much, the one that runs less is next: a key that comes to a busy engine starts level with
/// the others, and need not wait for what they have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    priority: u32,
    spent: u64,
    running: u32,
    arrival: u64,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    /// Tokens spent on it, weighted; only differences mean something.
    spent: u64,
    /// Its sequences that did not end.
    open: u32,
    /// Those of them that run.
    running: u32,
}

/// The waiting sequences of one key and priority, by arrival: a preempted one comes back to its old place.
type Line = BTreeMap<u64, Handle>;

/// The queue, and the account of each key. A call costs as much as there are keys, at most; charging costs one look-up.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    accounts: FxHashMap<u64, Account>,
    lines: BTreeMap<(u32, u64), Line>,
    num_waiting: usize,
}

impl Turns {
    /// A sequence of this key was submitted.
    ///
    /// A key that had nothing open starts at most [`CREDIT`] before the least served of those that have: it cannot save up
    /// turns without end while it is away. What it had too much before still counts.
    pub fn open(&mut self, key: u64) {
        let busy = self.accounts.values().filter(|account| account.open > 0);
        let least = busy.map(|account| account.spent).min().unwrap_or(0);
        let account = self.accounts.entry(key).or_default();
        if account.open == 0 {
            account.spent = account.spent.max(least.saturating_sub(CREDIT));
        }
        account.open += 1;
    }

    /// A sequence of this key has ended.
    pub fn close(&mut self, key: u64) {
        let account = self.account(key);
        account.open -= 1;
        if account.open == 0 {
            self.forget_level();
        }
    }

    /// A sequence of this key begins to run.
    pub fn start(&mut self, key: u64) {
        self.account(key).running += 1;
    }

    /// So many tokens of a prompt are read for this key.
    pub fn charge_prompt(&mut self, key: u64, tokens: u32) {
        self.account(key).spent += u64::from(tokens);
    }

    /// A sequence of this key runs no longer: it ended or gave way.
    pub fn stop(&mut self, key: u64) {
        self.account(key).running -= 1;
    }

    /// A token is drawn for this key.
    pub fn charge_draw(&mut self, key: u64) {
        self.account(key).spent += DRAW_WEIGHT;
    }

    /// Sequences of this key that run.
    pub fn running(&self, key: u64) -> u32 {
        self.accounts.get(&key).map_or(0, |account| account.running)
    }

    /// Tokens spent on this key, to be compared with those of others.
    pub fn spent(&self, key: u64) -> u64 {
        self.accounts.get(&key).map_or(0, |account| account.spent)
    }

    /// Where a sequence stands.
    pub fn rank(&self, key: u64, priority: u32, arrival: u64) -> Rank {
        Rank { priority, spent: self.spent(key), running: self.running(key), arrival }
    }

    /// Puts a sequence into the queue.
    pub fn enqueue(&mut self, key: u64, priority: u32, arrival: u64, handle: Handle) {
        self.lines.entry((priority, key)).or_default().insert(arrival, handle);
        self.num_waiting += 1;
    }

    /// Takes a sequence out of the queue.
    pub fn dequeue(&mut self, key: u64, priority: u32, arrival: u64) {
        if let Some(line) = self.lines.get_mut(&(priority, key))
            && line.remove(&arrival).is_some()
        {
            self.num_waiting -= 1;
            if line.is_empty() {
                self.lines.remove(&(priority, key));
            }
        }
    }

    /// Who is next of all that wait, and where it stands.
    pub fn next(&self) -> Option<(Rank, Handle)> {
        let heads = self.lines.iter().filter_map(|(&(priority, key), line)| {
            let (&arrival, &handle) = line.first_key_value()?;
            Some((self.rank(key, priority, arrival), handle))
        });
        heads.min_by_key(|&(rank, _)| rank)
    }

    /// How many wait.
    pub fn num_waiting(&self) -> usize {
        self.num_waiting
    }

    /// How many of this key wait.
    pub fn num_waiting_of(&self, key: u64) -> usize {
        self.lines.iter().filter(|((_, owner), _)| *owner == key).map(|(_, line)| line.len()).sum()
    }

    /// All that wait.
    pub fn waiting(&self) -> impl Iterator<Item = Handle> + '_ {
        self.lines.values().flat_map(|line| line.values().copied())
    }

    /// Checks the counts against `keys` and `running`: the keys of all sequences that did not end, and of those that run.
    pub fn check_integrity(
        &self,
        keys: impl Iterator<Item = u64>,
        running: impl Iterator<Item = u64>,
    ) -> Result<(), Error> {
        let mut counted: FxHashMap<u64, (u32, u32)> = FxHashMap::default();
        keys.for_each(|key| counted.entry(key).or_default().0 += 1);
        running.for_each(|key| counted.entry(key).or_default().1 += 1);
        for (key, account) in &self.accounts {
            if counted.remove(key).unwrap_or_default() != (account.open, account.running) {
                return Err(Error::Internal(format!("key {key} does not have what its account says")));
            }
        }
        match counted.keys().next() {
            Some(key) => Err(Error::Internal(format!("key {key} has sequences and no account"))),
            None if self.lines.values().map(Line::len).sum::<usize>() != self.num_waiting => {
                Err(Error::Internal("the queue was counted wrongly".into()))
            }
            None => Ok(()),
        }
    }

    /// Forgets the accounts that would be lifted anyway when their keys come back, so that their number stays bounded by
    /// what is open and by who had more than its part. With nothing open, all start anew.
    fn forget_level(&mut self) {
        let busy = self.accounts.values().filter(|account| account.open > 0);
        let least = busy.map(|account| account.spent.saturating_sub(CREDIT)).min().unwrap_or(u64::MAX);
        self.accounts.retain(|_, account| account.open > 0 || account.spent > least);
    }

    fn account(&mut self, key: u64) -> &mut Account {
        self.accounts.get_mut(&key).expect("a key has an account while something of it is open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::sequence::{Sequence, Sequences};

    fn handles<const N: usize>() -> [Handle; N] {
        let mut sequences = Sequences::default();
        std::array::from_fn(|id| sequences.insert(Sequence::new(id as u64, 0, vec![1], 1, Owner::default())))
    }

    #[test]
    fn the_key_that_had_less_is_next_and_within_it_the_first_to_come() {
        let [a, b, c] = handles();
        let mut turns = Turns::default();
        for (key, arrival, handle) in [(1, 0, a), (1, 1, b), (2, 2, c)] {
            turns.open(key);
            turns.enqueue(key, 0, arrival, handle);
        }
        assert_eq!(turns.next().unwrap().1, a);
        turns.dequeue(1, 0, 0);
        turns.start(1);
        turns.charge_prompt(1, 10);
        assert_eq!(turns.next().unwrap().1, c);
        turns.dequeue(2, 0, 2);
        turns.start(2);
        turns.charge_prompt(2, 11);
        assert_eq!(turns.next().unwrap().1, b);
        assert_eq!((turns.num_waiting(), turns.num_waiting_of(1), turns.num_waiting_of(2)), (1, 1, 0));
    }

    #[test]
    fn priority_goes_before_what_was_spent() {
        let [a, b] = handles();
        let mut turns = Turns::default();
        turns.open(1);
        turns.open(2);
        turns.charge_prompt(2, 1000);
        turns.enqueue(1, 1, 0, a);
        turns.enqueue(2, 0, 1, b);
        assert_eq!(turns.next().unwrap().1, b);
    }

    #[test]
    fn who_comes_to_a_busy_engine_goes_before_what_others_begun() {
        let [a, b] = handles();
        let mut turns = Turns::default();
        turns.open(1);
        turns.start(1);
        turns.open(1);
        turns.enqueue(1, 0, 1, a);
        turns.open(2); // as much as key 1: nothing
        turns.enqueue(2, 0, 2, b);
        assert_eq!(turns.next().unwrap().1, b);
    }

    #[test]
    fn nobody_saves_up_turns_or_loses_a_debt_by_leaving() {
        let mut turns = Turns::default();
        turns.open(1);
        turns.open(2);
        turns.charge_prompt(2, 9000);
        turns.close(2); // had more than key 1, which is still here
        turns.open(2);
        assert_eq!(turns.spent(2), 9000);
        turns.charge_prompt(1, 20_000);
        turns.close(2);
        turns.open(2); // had less: is lifted, all but a credit
        assert_eq!(turns.spent(2), 20_000 - CREDIT);
    }

    #[test]
    fn accounts_are_bounded_by_what_is_open() {
        let mut turns = Turns::default();
        turns.open(0);
        turns.charge_prompt(0, 10_000);
        for key in 1..1000 {
            turns.open(key);
            turns.close(key);
        }
        assert_eq!(turns.accounts.len(), 1);
        turns.close(0);
        assert!(turns.accounts.is_empty());
    }
}
