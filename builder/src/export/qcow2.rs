//! Writing qcow2 images: version 3, clusters of 64 KiB, nothing compressed, no snapshots.
//!
//! ```text
//! | header | data and L2 tables, as they come … | L1 table | refcount blocks | refcount table |   all in whole clusters
//! ```
//!
//! Every cluster of the file is in use once, so its reference count is 1. Clusters that are zero are not in the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blob::PageBuffer;

use crate::content::Content;
use crate::error::BuildError;
use crate::parallel::{Buffers, in_order, threads};
use crate::walk::{PIECE_LEN_BYTES, Piece, Walk};
use crate::zeroes::is_zero;
use crate::{Output, Progress};

const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
const CLUSTER_BITS: u32 = 16;
const CLUSTER_LEN: u32 = 1 << CLUSTER_BITS;
const CLUSTER: usize = 1 << CLUSTER_BITS;
const CLUSTER_LEN_BYTES: u64 = CLUSTER_LEN as u64;
const _: () = assert!(PIECE_LEN_BYTES.is_multiple_of(CLUSTER_LEN_BYTES));
/// Entries of 8 bytes in a table of one cluster.
const TABLE_ENTRIES: u64 = CLUSTER_LEN_BYTES / 8;
/// Reference counts have 16 bits.
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNTS_PER_BLOCK: u64 = CLUSTER_LEN_BYTES / 2;
const HEADER_LEN_BYTES: u32 = 104;
/// Set in an entry of an L1 or L2 table: nobody else uses that cluster.
const COPIED: u64 = 1 << 63;
/// The longest L1 table that QEMU takes, 32 MiB, is enough for the longest disk.
const _: () =
    assert!(lsmt::MAX_VIRTUAL_SIZE_BYTES / CLUSTER_LEN_BYTES / TABLE_ENTRIES * 8 <= 32 << 20);

/// Writes a disk as a qcow2 image.
///
/// # Errors
///
/// When the disk cannot be read, or the file not be written.
pub fn export_qcow2(
    disk: &dyn Content,
    output: Output,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let path = output.path().to_owned();
    let failed = |source| BuildError::Write {
        path: path.clone(),
        source,
    };
    progress.begin("exporting", Some(disk.len_bytes()));
    let buffers = Buffers::default();
    let read = |piece: Piece| {
        // The end of the last cluster lies beyond the end of the disk.
        let padded = piece.len_bytes.next_multiple_of(CLUSTER);
        let mut bytes = buffers.take(padded);
        let (there, beyond) = bytes.split_at_mut(piece.len_bytes);
        beyond.fill(0);
        disk.read_exact_at(there, piece.offset)?;
        Ok::<_, BuildError>((piece, bytes))
    };
    let mut image = Image::new(output.file(), disk.len_bytes());
    let pieces = Walk::new([disk, disk], 0..disk.len_bytes(), CLUSTER_LEN);
    let write = |(piece, bytes): (Piece, PageBuffer)| {
        let mut offset = piece.offset;
        for cluster in bytes.chunks(CLUSTER) {
            if !is_zero(cluster) {
                image.data(offset, cluster).map_err(failed)?;
            }
            offset += CLUSTER_LEN_BYTES;
        }
        progress.advance(piece.skipped_bytes + piece.len_bytes as u64);
        buffers.give(bytes);
        Ok(())
    };
    in_order(
        threads(0),
        pieces.map(|piece| piece.map_err(BuildError::from)),
        read,
        write,
    )?;
    image.finish().map_err(failed)?;
    output.finish()?;
    Ok(())
}

/// A qcow2 image being written from front to back.
struct Image<'a> {
    file: &'a File,
    len_bytes: u64,
    /// Clusters of the file that are in use.
    clusters: u64,
    /// Where the L2 tables are, with [`COPIED`]; 0 where there is none.
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its number.
    l2: Option<(usize, Vec<u64>)>,
}

impl<'a> Image<'a> {
    fn new(file: &'a File, len_bytes: u64) -> Self {
        let tables = len_bytes.div_ceil(CLUSTER_LEN_BYTES * TABLE_ENTRIES);
        Self {
            file,
            len_bytes,
            // The header.
            clusters: 1,
            // At most 2^17: a disk has at most 2^46 bytes, and a table speaks of 2^29.
            l1: vec![0; usize::try_from(tables).unwrap_or_default()],
            l2: None,
        }
    }

    /// The next cluster holds the disk from `offset` on. Offsets come in ascending order.
    fn data(&mut self, offset: u64, cluster: &[u8]) -> io::Result<()> {
        let number = offset / CLUSTER_LEN_BYTES;
        let table = usize::try_from(number / TABLE_ENTRIES).unwrap_or(usize::MAX);
        if self.l2.as_ref().is_some_and(|(other, _)| *other != table) {
            self.end_table()?;
        }
        let place = self.append(cluster)?;
        let (_, entries) = self.l2.get_or_insert_with(|| (table, vec![0; CLUSTER / 8]));
        let entry = usize::try_from(number % TABLE_ENTRIES).unwrap_or(usize::MAX);
        if let Some(entry) = entries.get_mut(entry) {
            *entry = place | COPIED;
        }
        Ok(())
    }

    fn end_table(&mut self) -> io::Result<()> {
        let Some((table, entries)) = self.l2.take() else {
            return Ok(());
        };
        let place = self.append(&be_bytes(&entries))?;
        if let Some(entry) = self.l1.get_mut(table) {
            *entry = place | COPIED;
        }
        Ok(())
    }

    /// Writes whole clusters, the last of which may be cut short, behind all others, and returns where they are.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let place = self.clusters * CLUSTER_LEN_BYTES;
        self.file.write_all_at(bytes, place)?;
        self.clusters += (bytes.len() as u64).div_ceil(CLUSTER_LEN_BYTES);
        Ok(place)
    }

    fn finish(mut self) -> io::Result<()> {
        self.end_table()?;
        let l1 = self.append(&be_bytes(&self.l1))?;
        // Blocks and table of the counts are clusters themselves, which need counts.
        let (mut blocks, mut table) = (0, 0);
        loop {
            let counted = self.clusters + blocks + table;
            let enough = counted.div_ceil(REFCOUNTS_PER_BLOCK);
            let enough_table = enough.div_ceil(TABLE_ENTRIES);
            if (enough, enough_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (enough, enough_table);
        }
        let counted = self.clusters + blocks + table;
        let mut places = Vec::new();
        for block in 0..blocks {
            let used = (counted - block * REFCOUNTS_PER_BLOCK).min(REFCOUNTS_PER_BLOCK);
            let counts = [0, 1].repeat(usize::try_from(used).unwrap_or_default());
            places.push(self.append(&counts)?);
        }
        let refcounts = self.append(&be_bytes(&places))?;
        self.file.set_len(counted * CLUSTER_LEN_BYTES)?;
        self.file
            .write_all_at(&self.header(l1, refcounts, table), 0)
    }

    fn header(&self, l1: u64, refcounts: u64, refcount_clusters: u64) -> Vec<u8> {
        let word = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut header = Vec::new();
        let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
        put(&be32(MAGIC));
        put(&be32(VERSION));
        // No backing file.
        put(&[0; 12]);
        put(&be32(CLUSTER_BITS));
        put(&be_bytes(&[self.len_bytes]));
        // No encryption.
        put(&be32(0));
        put(&be32(word(self.l1.len() as u64)));
        put(&be_bytes(&[l1, refcounts]));
        put(&be32(word(refcount_clusters)));
        // No snapshots, no features.
        put(&[0; 12 + 24]);
        put(&be32(REFCOUNT_ORDER));
        put(&be32(HEADER_LEN_BYTES));
        // No header extensions.
        put(&[0; 8]);
        header
    }
}

/// The format is big-endian throughout.
fn be_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[expect(clippy::big_endian_bytes, reason = "qcow2 is a big-endian format")]
fn be32(word: u32) -> [u8; 4] {
    word.to_be_bytes()
}
