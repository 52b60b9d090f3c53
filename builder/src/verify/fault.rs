//! What can be wrong with a layer, and where.

use std::collections::BTreeMap;
use std::ops::Range;

use blob::{ReadError, ReadErrorKind};
use image::LayerError;
use lsmt::Segment;
use serde::Serialize;

use super::Verdict;
use super::reach::{Places, Reach};
use crate::chain::chain;

/// Most faults that are kept of a layer, the first ones; the others are counted. A thousand tell whether a block has
/// gone or a disk.
pub const MAX_FAULTS: usize = 1000;

/// Of what kind a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// Wrappers, header, trailer, jump table or index.
    Structure,
    /// Blocks that do not decode to what they should.
    Block,
    /// Bytes that the system does not deliver.
    Unreadable,
    /// Bytes behind the payload of a tar file.
    Padding,
    /// All bytes together are not those that were expected.
    Digest,
}

/// Something that is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Of what kind.
    pub kind: FaultKind,
    /// What was found.
    pub cause: String,
    /// The numbers of the blocks, counted from 0.
    pub blocks: Option<Range<u64>>,
    /// Bytes of the blob, as it is stored.
    pub stored: Option<Range<u64>>,
    /// Bytes of the layer, as it is without its wrappers.
    pub content: Option<Range<u64>>,
    /// Disk sectors whose data in this layer lies there. `None` when the index cannot be read, or when it is not about
    /// certain bytes.
    pub reach: Option<Reach>,
    /// Those of them that no higher layer hides: what a reader of the disk meets. `None` when there is no disk.
    pub seen: Option<Reach>,
}

impl Fault {
    pub(super) fn of(kind: FaultKind, cause: String) -> Self {
        Self {
            kind,
            cause,
            blocks: None,
            stored: None,
            content: None,
            reach: None,
            seen: None,
        }
    }

    /// A layer that cannot be opened.
    pub(super) fn structure(error: &LayerError) -> Self {
        let kind = match is_unreadable(error) {
            true => FaultKind::Unreadable,
            false => FaultKind::Structure,
        };
        Self::of(kind, chain(error))
    }

    pub(super) fn stored(self, stored: Range<u64>) -> Self {
        Self {
            stored: Some(stored),
            ..self
        }
    }

    /// Takes in `next` if it goes on where this ends, and nothing else is new about it.
    fn joins(&mut self, next: &Self) -> bool {
        let follows = |a: &Option<Range<u64>>, b: &Option<Range<u64>>| match (a, b) {
            (Some(a), Some(b)) => a.end == b.start,
            (None, None) => true,
            _ => false,
        };
        let joins = self.kind == next.kind
            && self.content.is_some()
            && follows(&self.content, &next.content)
            && follows(&self.stored, &next.stored)
            && follows(&self.blocks, &next.blocks);
        if joins {
            let pairs = [
                (&mut self.content, &next.content),
                (&mut self.stored, &next.stored),
                (&mut self.blocks, &next.blocks),
            ];
            for (range, next) in pairs {
                if let (Some(range), Some(next)) = (range, next) {
                    range.end = next.end;
                }
            }
        }
        joins
    }
}

/// Whether the system is to blame, not the bytes.
fn is_unreadable(error: &LayerError) -> bool {
    let by_system = |error: &ReadError| error.kind() == ReadErrorKind::Io;
    match error {
        LayerError::File(_) => true,
        LayerError::Read(error)
        | LayerError::Tar(blob::tar::TarError::Read(error))
        | LayerError::ZFile(zfile::OpenError::Read(error))
        | LayerError::Lsmt(lsmt::OpenError::Read(error)) => by_system(error),
        _ => false,
    }
}

/// The first faults of a layer, in whatever order they are found.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// About the layer as a whole.
    whole: Vec<Fault>,
    /// By the byte of the layer where they begin.
    placed: BTreeMap<u64, Fault>,
    /// How many there were, with those that are no longer here.
    count: u64,
    /// What all of them come to.
    verdict: Verdict,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.count += 1;
        self.verdict = self.verdict.max(match fault.kind {
            FaultKind::Unreadable => Verdict::Unreadable,
            _ => Verdict::Damaged,
        });
        let Some(content) = &fault.content else {
            self.whole.push(fault);
            return;
        };
        self.placed.insert(content.start, fault);
        if self.placed.len() > MAX_FAULTS {
            self.placed.pop_last();
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        let left_out = other.count - other.whole.len() as u64 - other.placed.len() as u64;
        other
            .whole
            .into_iter()
            .chain(other.placed.into_values())
            .for_each(|it| self.add(it));
        self.count += left_out;
        self.verdict = self.verdict.max(other.verdict);
    }

    /// Joins neighbours, and says which disk sectors each fault is about.
    pub(super) fn place(&mut self, records: &[Segment]) {
        self.join();
        if self.placed.is_empty() {
            return;
        }
        let mut places = Places::new(records.iter().copied());
        for fault in self.placed.values_mut() {
            fault.reach = fault.content.as_ref().map(|content| places.reach(content));
        }
    }

    fn join(&mut self) {
        let mut joined: Vec<Fault> = Vec::new();
        for fault in std::mem::take(&mut self.placed).into_values() {
            let joins = |last: &mut Fault| last.joins(&fault);
            if !joined.last_mut().is_some_and(joins) {
                joined.push(fault);
            }
        }
        let start = |fault: &Fault| fault.content.as_ref().map_or(0, |content| content.start);
        self.placed = joined
            .into_iter()
            .map(|fault| (start(&fault), fault))
            .collect();
    }

    /// What they come to, how many there were, and those that are kept.
    pub(super) fn finish(mut self) -> (Verdict, u64, Vec<Fault>) {
        self.join();
        let mut faults = self.whole;
        faults.extend(self.placed.into_values());
        (self.verdict, self.count, faults)
    }
}
