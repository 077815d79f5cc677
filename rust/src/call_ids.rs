//! The identities of tool calls: takes what a call is numbered by, gives a name that clients may send back.

use std::hash::{BuildHasher, RandomState};

/// Names for calls: no two of a process are alike, and nobody can guess the next one.
#[derive(Debug)]
pub(crate) struct CallIds {
    key: RandomState,
    /// Whose calls they are; with `key` it is nobody else's.
    of: u64,
}

impl CallIds {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    pub(crate) fn new(key: RandomState, of: u64) -> Self {
        Self { key, of }
    }

    /// "call_" and 24 letters and digits.
    pub(crate) fn of(&self, index: u32) -> String {
        let mut id = String::from("call_");
        for part in 0..3u8 {
            let mut hash = self.key.hash_one((self.of, index, part));
            for _ in 0..8 {
                id.push(char::from(Self::LETTERS[(hash % 62) as usize]));
                hash /= 62;
            }
        }
        id
    }
}
