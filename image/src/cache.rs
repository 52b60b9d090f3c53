//! Decoded blocks of which only a part was wanted: whoever wants another part need not decode them again.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// Each shard has a lock of its own, so that threads seldom meet at one.
const MAX_SHARDS: usize = 64;
/// A shard that holds only a few blocks would throw away what its neighbour has room for.
const MIN_SHARD_LEN_BYTES: usize = 1 << 20;

/// A block, by layer and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) ordinal: usize,
    pub(crate) block: u64,
}

/// A bounded set of decoded blocks, shared by all threads.
#[derive(Debug)]
pub(crate) struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    shard_len_bytes: usize,
}

#[derive(Debug, Default)]
struct Shard {
    blocks: HashMap<Key, Entry>,
    /// The order in which they came; what was used since it was last looked at gets another round.
    order: VecDeque<Key>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    content: Arc<Vec<u8>>,
    used: bool,
}

impl BlockCache {
    /// A cache that holds at most `len_bytes` of content; with 0, it holds nothing.
    pub(crate) fn new(len_bytes: usize) -> Self {
        let shards = (len_bytes / MIN_SHARD_LEN_BYTES).clamp(1, MAX_SHARDS);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            shard_len_bytes: len_bytes / shards,
        }
    }

    /// Whether it can hold anything at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.shard_len_bytes > 0
    }

    /// The content of a block, if it is here.
    pub(crate) fn get(&self, key: Key) -> Option<Arc<Vec<u8>>> {
        let mut shard = self
            .shard(key)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = shard.blocks.get_mut(&key)?;
        entry.used = true;
        Some(Arc::clone(&entry.content))
    }

    /// Keeps the content of a block, and returns a buffer that is no longer needed, if there is one.
    pub(crate) fn put(&self, key: Key, content: Arc<Vec<u8>>) -> Option<Vec<u8>> {
        let len = content.len();
        if len > self.shard_len_bytes {
            return None;
        }
        let mut shard = self
            .shard(key)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            content,
            used: false,
        };
        // Two threads may have decoded the same block at the same time.
        if let Some(old) = shard.blocks.insert(key, entry) {
            return Arc::into_inner(old.content);
        }
        shard.order.push_back(key);
        shard.held_bytes += len;
        let mut spare = None;
        while shard.held_bytes > self.shard_len_bytes {
            spare = shard.evict()?.or(spare);
        }
        spare
    }

    fn shard(&self, key: Key) -> Option<&Mutex<Shard>> {
        let shards = u64::try_from(self.shards.len()).ok()?;
        let position = self.hasher.hash_one(key).checked_rem(shards)?;
        self.shards.get(usize::try_from(position).ok()?)
    }
}

impl Shard {
    /// Drops the oldest block that was not used since it was last looked at. `None` when there is none.
    fn evict(&mut self) -> Option<Option<Vec<u8>>> {
        loop {
            let key = self.order.pop_front()?;
            let entry = self.blocks.get_mut(&key)?;
            if std::mem::take(&mut entry.used) {
                self.order.push_back(key);
                continue;
            }
            let entry = self.blocks.remove(&key)?;
            self.held_bytes -= entry.content.len();
            return Some(Arc::into_inner(entry.content));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(block: u64) -> Key {
        Key { ordinal: 1, block }
    }

    fn content(block: u64) -> Arc<Vec<u8>> {
        Arc::new(vec![block.to_le_bytes()[0]; 64 << 10])
    }

    fn held_bytes(cache: &BlockCache) -> usize {
        let shards = cache.shards.iter();
        shards.map(|shard| shard.lock().unwrap().held_bytes).sum()
    }

    #[test]
    fn holds_what_it_is_given_up_to_its_limit() {
        for limit in [0, 4096, 64 << 10, 1 << 20, 3 << 20] {
            let cache = BlockCache::new(limit);
            for block in 0..200 {
                let _spare = cache.put(key(block), content(block));
                assert!(held_bytes(&cache) <= limit, "{limit}");
            }
            let found = (0..200).filter(|block| cache.get(key(*block)).is_some());
            let found = found.count();
            assert_eq!(found * (64 << 10), held_bytes(&cache), "{limit}");
            // Every shard is full, as far as whole blocks go.
            assert_eq!(found, limit / (64 << 10), "{limit}");
            assert_eq!(cache.is_enabled(), limit > 0);
        }
    }

    #[test]
    fn used_blocks_outlive_others_and_contents_are_not_mixed_up() {
        let cache = BlockCache::new(1 << 20);
        for block in 0..200 {
            let _spare = cache.put(key(block), content(block));
            assert_eq!(cache.get(key(0)), Some(content(0)), "after {block}");
            let other = Key {
                ordinal: 2,
                block: 0,
            };
            assert_eq!(cache.get(other), None);
        }
        assert_eq!(cache.get(key(199)), Some(content(199)));
        assert_eq!(cache.get(key(100)), None);
    }

    #[test]
    fn buffers_come_back_unless_somebody_reads_them() {
        let cache = BlockCache::new(64 << 10);
        assert_eq!(cache.put(key(0), content(0)), None);
        let spare = cache.put(key(1), content(1));
        assert_eq!(spare.map(|buffer| buffer.len()), Some(64 << 10));
        let read = content(2);
        assert!(cache.put(key(2), Arc::clone(&read)).is_some());
        assert_eq!(
            cache.put(key(3), content(3)),
            None,
            "somebody reads block 2"
        );
        assert_eq!(held_bytes(&cache), 64 << 10);
        // The same block once more takes the place of the first.
        assert!(cache.put(key(3), content(3)).is_some());
        assert_eq!(held_bytes(&cache), 64 << 10);
    }
}
