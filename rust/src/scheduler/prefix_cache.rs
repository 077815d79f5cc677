//! Which block holds the keys and values of which beginning of a prompt.
//!
//! Takes keys that name a whole prefix, gives the block of its last tokens. Counting holders and choosing what
//! to evict are the block pool's; when a prefix may be offered at all is the scheduler's.

use rustc_hash::FxHashMap;

use super::blocks::BlockId;
use crate::error::Error;

/// Domain of the first link of a chain, so that these hashes mean nothing elsewhere.
const DOMAIN: &str = "ecocore prefix cache, tenant root, version 1";

/// What a prompt shows besides its tokens, such as an image: equal tokens stand for it whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Position of its first token.
    pub start: u32,
    /// Differs between things that are shown, and tells how many tokens stand for one.
    pub digest: Vec<u8>,
}

/// Names a prefix: the tenant, every token of it, and all that is shown from one of them on.
///
/// A chain of BLAKE3, one link per full block: the root is derived from the tenant's salt, and each link is the
/// hash of the block's token ids, and of what is shown from there on, keyed with the link before. 256 bits, so that equal keys mean equal prefixes
/// (nobody can make two that collide) and tokens need not be compared; and nobody who lacks the salt can name,
/// hence find, another tenant's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixKey([u8; 32]);

impl PrefixKey {
    /// The empty prefix of the tenant with this salt.
    pub fn root(salt: &[u8]) -> Self {
        Self(blake3::derive_key(DOMAIN, salt))
    }

    /// This prefix, longer by one block of tokens.
    pub fn followed_by(&self, token_ids: &[u32]) -> Self {
        self.followed_by_showing(token_ids, &[])
    }

    /// This prefix, longer by one block of tokens in which `shown` begins. All blocks of a chain have as many tokens, so
    /// what follows them is never taken for one.
    pub fn followed_by_showing(&self, token_ids: &[u32], shown: &[Shown]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for id in token_ids {
            hasher.update(&id.to_le_bytes());
        }
        for Shown { start, digest } in shown {
            hasher.update(&start.to_le_bytes());
            hasher.update(&(digest.len() as u64).to_le_bytes());
            hasher.update(digest);
        }
        Self(hasher.finalize().into())
    }
}

/// Prefixes that are in the pool, and the block of each one's last tokens.
#[derive(Debug, Clone)]
pub struct PrefixCache {
    blocks: FxHashMap<PrefixKey, BlockId>,
    /// The other direction: what each block holds.
    keys: Vec<Option<PrefixKey>>,
}

impl PrefixCache {
    /// An empty cache over a pool of `num_blocks`.
    pub fn new(num_blocks: u32) -> Self {
        Self { blocks: FxHashMap::default(), keys: vec![None; num_blocks as usize] }
    }

    /// The block that ends this prefix.
    pub fn find(&self, key: &PrefixKey) -> Option<BlockId> {
        self.blocks.get(key).copied()
    }

    /// Says that `block` ends this prefix. Of two blocks with the same prefix the first stays the known one.
    pub fn insert(&mut self, key: PrefixKey, block: BlockId) {
        if self.keys[block as usize].is_none() && !self.blocks.contains_key(&key) {
            self.blocks.insert(key, block);
            self.keys[block as usize] = Some(key);
        }
    }

    /// Whether the block can be found.
    pub fn holds(&self, block: BlockId) -> bool {
        self.keys[block as usize].is_some()
    }

    /// Forgets what the block held, because it was given out anew.
    pub fn forget(&mut self, block: BlockId) {
        if let Some(key) = self.keys[block as usize].take() {
            self.blocks.remove(&key);
        }
    }

    /// Checks that both directions agree.
    pub fn check_integrity(&self) -> Result<(), Error> {
        let found = self.keys.iter().flatten().count();
        if found != self.blocks.len() {
            return Err(Error::Internal(format!(
                "{} prefixes, but {found} blocks hold one",
                self.blocks.len()
            )));
        }
        match self.blocks.iter().find(|&(key, &block)| self.keys[block as usize] != Some(*key)) {
            Some((_, block)) => Err(Error::Internal(format!("block {block} is cached for another prefix"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_the_tenant_and_every_token_before() {
        let root = PrefixKey::root(b"alice");
        let prefix = root.followed_by(&[1, 2]).followed_by(&[3, 4]);

        assert_eq!(prefix, PrefixKey::root(b"alice").followed_by(&[1, 2]).followed_by(&[3, 4]));
        for other in [
            root,
            root.followed_by(&[3, 4]), // the same last block after another beginning
            root.followed_by(&[1, 2, 3, 4]), // the same tokens in one block
            root.followed_by(&[3, 4]).followed_by(&[1, 2]), // the same blocks in another order
            root.followed_by(&[1, 2]).followed_by(&[3, 5]), // another last token
            root.followed_by(&[1, 2]).followed_by(&[3, 260]), // ids are not cut to bytes
            PrefixKey::root(b"bob").followed_by(&[1, 2]).followed_by(&[3, 4]),
            PrefixKey::root(b"").followed_by(&[1, 2]).followed_by(&[3, 4]),
        ] {
            assert_ne!(prefix, other);
        }
    }

    #[test]
    fn a_key_names_what_is_shown_and_where_it_begins() {
        let key = |shown: &[(u32, &[u8])]| {
            let shown = shown.iter().map(|&(start, digest)| Shown { start, digest: digest.to_vec() });
            PrefixKey::root(b"").followed_by_showing(&[9, 9, 9, 9], &shown.collect::<Vec<_>>())
        };
        assert_eq!(key(&[(1, b"cat")]), key(&[(1, b"cat")]));
        assert_eq!(key(&[]), PrefixKey::root(b"").followed_by(&[9, 9, 9, 9]));
        let others = [
            key(&[]),
            key(&[(1, b"cat")]),
            key(&[(1, b"dog")]),
            key(&[(2, b"cat")]),
            key(&[(1, b"cat"), (2, b"dog")]),
            key(&[(1, b"cat"), (3, b"dog")]),
            key(&[(1, b"ca"), (2, b"tdog")]),
        ];
        for (index, one) in others.iter().enumerate() {
            assert!(!others[..index].contains(one), "{index}");
        }
    }

    #[test]
    fn the_first_block_of_a_prefix_stays_the_known_one() {
        let mut cache = PrefixCache::new(2);
        let key = PrefixKey::root(b"").followed_by(&[7]);
        cache.insert(key, 0);
        cache.insert(key, 1);
        assert_eq!((cache.find(&key), cache.holds(1)), (Some(0), false));
        cache.check_integrity().unwrap();
    }

    #[test]
    fn a_forgotten_block_is_not_found() {
        let mut cache = PrefixCache::new(2);
        let key = PrefixKey::root(b"").followed_by(&[7]);
        cache.insert(key, 0);
        cache.forget(0);
        assert_eq!((cache.find(&key), cache.holds(0)), (None, false));

        cache.insert(key, 1);
        assert_eq!(cache.find(&key), Some(1));
        cache.check_integrity().unwrap();
    }
}
