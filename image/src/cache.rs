//! Decoded blocks of which only a part was wanted: whoever wants another part need not decode them again.
//!
//! A guest that reads here and there seldom comes back to a block, and each block that is kept is copied. So newcomers
//! share little memory, which stays in the processor's caches; only a block that is wanted again, or decoded again soon,
//! gets a place among the residents (after S3-FIFO, SOSP'23).

use std::collections::hash_map;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// Each shard has a lock of its own, so that threads seldom meet at one.
const MAX_SHARDS: usize = 64;
/// A shard that holds only a few blocks would throw away what its neighbour has room for.
const MIN_SHARD_LEN_BYTES: usize = 1 << 20;
/// Room for newcomers in all shards: the processor's caches hold it, and a guest that reads all of a disk from end to end
/// finds the rest of a block there for each of some dozen layers.
const NEWCOMERS_LEN_BYTES: usize = 4 << 20;
/// Least room for newcomers in a shard: one block of the largest size.
const MIN_NEWCOMERS_LEN_BYTES: usize = 64 << 10;
/// Most blocks that a shard remembers having dropped. It remembers no more than it keeps.
const MAX_DROPPED: usize = 1024;

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
    /// Those that are here, and those that are only remembered.
    blocks: HashMap<Key, Entry>,
    newcomers: Row,
    /// Who was used since it was last looked at gets another round.
    residents: Row,
    /// Newcomers that nobody wanted, the latest last. Those that came back stay in line until it is their turn.
    dropped: VecDeque<Key>,
}

/// Blocks in the order in which they came.
#[derive(Debug, Default)]
struct Row {
    order: VecDeque<Key>,
    held_bytes: usize,
    limit_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// The block from its beginning on, as far as anybody wanted it. `None`: it is only remembered as dropped.
    content: Option<Arc<Vec<u8>>>,
    /// Of all of the block, for which there is room in the buffer.
    len_bytes: usize,
    used: bool,
}

impl BlockCache {
    /// A cache that holds at most `len_bytes` of content; with 0, it holds nothing.
    pub(crate) fn new(len_bytes: usize) -> Self {
        let shards = (len_bytes / MIN_SHARD_LEN_BYTES).clamp(1, MAX_SHARDS);
        let shard_len_bytes = len_bytes / shards;
        Self {
            shards: (0..shards)
                .map(|_| Mutex::new(Shard::new(shard_len_bytes, shards)))
                .collect(),
            hasher: RandomState::new(),
            shard_len_bytes,
        }
    }

    /// Whether it can hold anything at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.shard_len_bytes > 0
    }

    /// The content of a block from its beginning on, if at least its first `len_bytes` bytes are here.
    pub(crate) fn get(&self, key: Key, len_bytes: usize) -> Option<Arc<Vec<u8>>> {
        let mut shard = self
            .shard(key)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = shard.blocks.get_mut(&key)?;
        let content = entry.content.as_ref()?;
        entry.used = true;
        (content.len() >= len_bytes).then(|| Arc::clone(content))
    }

    /// Whether anything of a block is here.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.shard(key).is_some_and(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = shard.blocks.get(&key);
            entry.is_some_and(|entry| entry.content.is_some())
        })
    }

    /// Keeps the content of a block of `len_bytes`, or the beginning of it, in a buffer that has room for no more than all
    /// of it. Returns a buffer that is no longer needed, if there is one.
    pub(crate) fn put(&self, key: Key, content: Arc<Vec<u8>>, len_bytes: usize) -> Option<Vec<u8>> {
        if len_bytes > self.shard_len_bytes {
            return None;
        }
        let shard = self.shard(key)?.lock();
        shard
            .unwrap_or_else(PoisonError::into_inner)
            .put(key, content, len_bytes)
    }

    fn shard(&self, key: Key) -> Option<&Mutex<Shard>> {
        let shards = u64::try_from(self.shards.len()).ok()?;
        let position = self.hasher.hash_one(key).checked_rem(shards)?;
        self.shards.get(usize::try_from(position).ok()?)
    }
}

impl Shard {
    /// One of so many shards.
    fn new(len_bytes: usize, shards: usize) -> Self {
        let newcomers = (NEWCOMERS_LEN_BYTES / shards)
            .min(len_bytes / 4)
            .max(MIN_NEWCOMERS_LEN_BYTES)
            .min(len_bytes);
        Self {
            newcomers: Row::new(newcomers),
            residents: Row::new(len_bytes - newcomers),
            ..Self::default()
        }
    }

    fn put(&mut self, key: Key, mut content: Arc<Vec<u8>>, len: usize) -> Option<Vec<u8>> {
        let new = |content| Entry {
            content: Some(content),
            len_bytes: len,
            used: false,
        };
        let row = match self.blocks.entry(key) {
            hash_map::Entry::Vacant(place) => {
                place.insert(new(content));
                &mut self.newcomers
            }
            hash_map::Entry::Occupied(mut place) => {
                if let Some(kept) = &mut place.get_mut().content {
                    // Its beginning is here, or two threads have decoded it at the same time.
                    if content.len() > kept.len() {
                        std::mem::swap(kept, &mut content);
                    }
                    return Arc::into_inner(content);
                }
                place.insert(new(content));
                &mut self.residents
            }
        };
        row.push(key, len);
        let mut spare = None;
        while self.newcomers.is_full() {
            spare = self.settle()?.or(spare);
        }
        while self.residents.is_full() {
            spare = self.evict()?.or(spare);
        }
        spare
    }

    /// Makes a resident of the oldest newcomer, if somebody wanted it or there is room. Otherwise drops it. `None` when
    /// there is none.
    fn settle(&mut self) -> Option<Option<Vec<u8>>> {
        let key = self.newcomers.order.pop_front()?;
        let entry = self.blocks.get_mut(&key)?;
        let len = entry.len_bytes;
        self.newcomers.held_bytes -= len;
        if std::mem::take(&mut entry.used) || self.residents.has_room(len) {
            self.residents.push(key, len);
            return Some(None);
        }
        let content = entry.content.take();
        self.dropped.push_back(key);
        self.forget();
        Some(content.and_then(Arc::into_inner))
    }

    /// Forgets those that were dropped first, as far as they are too many to remember.
    fn forget(&mut self) {
        let held = self.newcomers.order.len() + self.residents.order.len();
        while self.dropped.len() > held.min(MAX_DROPPED) {
            let oldest = self.dropped.pop_front();
            let Some(hash_map::Entry::Occupied(place)) = oldest.map(|key| self.blocks.entry(key))
            else {
                continue;
            };
            if place.get().content.is_none() {
                place.remove();
            }
        }
    }

    /// Drops the oldest resident that was not used since it was last looked at. `None` when there is none.
    fn evict(&mut self) -> Option<Option<Vec<u8>>> {
        loop {
            let key = self.residents.order.pop_front()?;
            let entry = self.blocks.get_mut(&key)?;
            if std::mem::take(&mut entry.used) {
                self.residents.order.push_back(key);
                continue;
            }
            let entry = self.blocks.remove(&key)?;
            self.residents.held_bytes -= entry.len_bytes;
            return Some(entry.content.and_then(Arc::into_inner));
        }
    }
}

impl Row {
    fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            ..Self::default()
        }
    }

    fn push(&mut self, key: Key, len: usize) {
        self.order.push_back(key);
        self.held_bytes += len;
    }

    fn has_room(&self, len: usize) -> bool {
        self.held_bytes + len <= self.limit_bytes
    }

    fn is_full(&self) -> bool {
        self.held_bytes > self.limit_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64 << 10;

    fn key(block: u64) -> Key {
        Key { ordinal: 1, block }
    }

    fn content(block: u64) -> Arc<Vec<u8>> {
        Arc::new(vec![block.to_le_bytes()[0]; LEN])
    }

    fn put(cache: &BlockCache, block: u64) -> Option<Vec<u8>> {
        cache.put(key(block), content(block), LEN)
    }

    fn held_bytes(cache: &BlockCache) -> usize {
        let held = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap();
            let entries = shard.blocks.values();
            let here: Vec<_> = entries.filter(|entry| entry.content.is_some()).collect();
            let held: usize = here.iter().map(|entry| entry.len_bytes).sum();
            assert_eq!(
                held,
                shard.newcomers.held_bytes + shard.residents.held_bytes
            );
            let kept = shard.newcomers.order.len() + shard.residents.order.len();
            assert_eq!(here.len(), kept);
            let remembered = shard.blocks.len() - kept;
            assert!(remembered <= shard.dropped.len());
            assert!(shard.dropped.len() <= kept.min(MAX_DROPPED));
            held
        };
        cache.shards.iter().map(held).sum()
    }

    #[test]
    fn holds_what_it_is_given_up_to_its_limit() {
        for limit in [0, 4096, LEN, 1 << 20, 3 << 20] {
            let cache = BlockCache::new(limit);
            for block in 0..200 {
                let _spare = put(&cache, block);
                assert!(held_bytes(&cache) <= limit, "{limit}");
            }
            let found = (0..200).filter(|block| cache.get(key(*block), LEN).is_some());
            let found = found.count();
            assert_eq!(found * LEN, held_bytes(&cache), "{limit}");
            // Every shard is full, as far as whole blocks go.
            assert_eq!(found, limit / LEN, "{limit}");
            assert_eq!(cache.is_enabled(), limit > 0);
        }
    }

    #[test]
    fn longest_beginning_of_a_block_stays_and_counts_as_all_of_it() {
        let cache = BlockCache::new(1 << 20);
        let beginning = |len: usize| {
            let mut buffer = Vec::with_capacity(LEN);
            buffer.resize(len, 7);
            Arc::new(buffer)
        };
        let kept = |len| cache.get(key(0), len).map(|content| content.len());
        assert_eq!(cache.put(key(0), beginning(100), LEN), None);
        assert_eq!(held_bytes(&cache), LEN);
        assert_eq!([kept(1), kept(100)], [Some(100); 2]);
        assert_eq!(kept(101), None);
        let spare = |len: usize| {
            let spare = cache.put(key(0), beginning(len), LEN);
            spare.map(|buffer| buffer.len())
        };
        assert_eq!(spare(300), Some(100));
        assert_eq!(spare(200), Some(200), "no longer than what is there");
        assert_eq!(kept(300), Some(300));
        assert_eq!(spare(LEN), Some(300));
        assert_eq!(kept(LEN), Some(LEN));
        assert_eq!(held_bytes(&cache), LEN);
    }

    #[test]
    fn used_blocks_outlive_others_and_contents_are_not_mixed_up() {
        let cache = BlockCache::new(1 << 20);
        for block in 0..200 {
            let _spare = put(&cache, block);
            assert_eq!(cache.get(key(0), LEN), Some(content(0)), "after {block}");
            let other = Key {
                ordinal: 2,
                block: 0,
            };
            assert_eq!(cache.get(other, 1), None);
        }
        assert_eq!(cache.get(key(199), LEN), Some(content(199)));
        assert_eq!(cache.get(key(100), LEN), None);
    }

    #[test]
    fn what_was_wanted_again_outlives_whatever_is_read_once() {
        for limit in [1 << 20, 5 << 20, 16 << 20] {
            let cache = BlockCache::new(limit);
            let wanted = 0..8;
            for block in wanted.clone() {
                let _spare = put(&cache, block);
                assert!(cache.get(key(block), LEN).is_some());
            }
            for block in 1000..3000 {
                let _spare = put(&cache, block);
            }
            for block in wanted {
                assert_eq!(cache.get(key(block), LEN), Some(content(block)), "{limit}");
            }
            assert!(held_bytes(&cache) <= limit);
        }
    }

    #[test]
    fn what_is_decoded_again_soon_stays() {
        let cache = BlockCache::new(1 << 20);
        for block in 1000..1100 {
            let _spare = put(&cache, block);
        }
        let _spare = put(&cache, 0);
        // As many others as push it out, and few enough that it is remembered.
        for block in 2000..2008 {
            let _spare = put(&cache, block);
        }
        assert_eq!(cache.get(key(0), LEN), None);
        let _spare = put(&cache, 0);
        for block in 3000..4000 {
            let _spare = put(&cache, block);
        }
        assert_eq!(cache.get(key(0), LEN), Some(content(0)));
        assert!(held_bytes(&cache) <= 1 << 20);
    }

    /// What is read once goes through the same few buffers, which the processor's caches hold.
    #[test]
    fn newcomers_share_few_buffers() {
        const LIMIT: usize = 16 << 20;
        let cache = BlockCache::new(LIMIT);
        let mut buffers = std::collections::HashSet::new();
        let mut spare = Vec::new();
        for block in 0..5000 {
            let mut buffer = std::mem::take(&mut spare);
            buffer.resize(LEN, 0);
            if block >= 1000 {
                buffers.insert(buffer.as_ptr() as usize);
            }
            spare = cache
                .put(key(block), Arc::new(buffer), LEN)
                .unwrap_or_default();
        }
        assert_eq!(held_bytes(&cache), LIMIT);
        assert!(buffers.len() < 80, "{}", buffers.len());
    }

    #[test]
    fn buffers_come_back_unless_somebody_reads_them() {
        let cache = BlockCache::new(LEN);
        assert_eq!(put(&cache, 0), None);
        let spare = put(&cache, 1);
        assert_eq!(spare.map(|buffer| buffer.len()), Some(LEN));
        let read = content(2);
        assert!(cache.put(key(2), Arc::clone(&read), LEN).is_some());
        assert_eq!(put(&cache, 3), None, "somebody reads block 2");
        assert_eq!(held_bytes(&cache), LEN);
        // The same block once more takes the place of the first.
        assert!(put(&cache, 3).is_some());
        assert_eq!(held_bytes(&cache), LEN);
    }
}
