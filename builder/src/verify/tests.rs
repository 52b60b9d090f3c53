//! What is found is what a reader of the disk meets.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use blob::test_util::noise;
use blob::{MemoryBlob, ReadError, ReadErrorKind, tar};
use image::Reader;
use lsmt::{Writer, WriterOptions};
use proptest::prelude::*;
use zfile::Algorithm;

use super::*;

const DISK_SECTORS: u64 = 400;

/// How a test layer is stored.
#[derive(Clone, Copy, Debug)]
struct Stored {
    algorithm: Algorithm,
    block_size_bytes: u32,
    overwritten: bool,
    tar: bool,
}

const LZ4: Stored = Stored {
    algorithm: Algorithm::Lz4,
    block_size_bytes: 4096,
    overwritten: true,
    tar: false,
};

/// A layer of runs: first sector, sectors, whether zeroed.
fn layer(runs: &[(u64, u64, bool)], seed: u64) -> Vec<u8> {
    let options = WriterOptions {
        virtual_size_bytes: DISK_SECTORS * 512,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    for (first, len, zeroed) in runs {
        match zeroed {
            true => writer.zeroed(*first, *len).unwrap(),
            false => {
                // Half noise, half pattern: blocks that shrink, and blocks that do not.
                let mut data = noise(usize::try_from(len * 512).unwrap(), seed ^ first);
                let half = data.len() / 2;
                data[..half].fill(u8::try_from(first % 251).unwrap());
                writer.data(*first, &data).unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

fn pack(content: &[u8], stored: Stored) -> Vec<u8> {
    let options = zfile::WriterOptions {
        algorithm: stored.algorithm,
        block_size_bytes: stored.block_size_bytes,
        allow_oversized_blocks: true,
        ..zfile::WriterOptions::default()
    };
    let mut writer = zfile::Writer::new(Vec::new(), options).unwrap();
    writer.append(content).unwrap();
    let payload = match stored.overwritten {
        true => writer.finish_overwriting().unwrap(),
        false => writer.finish().unwrap(),
    };
    if stored.tar { wrap(&payload) } else { payload }
}

fn wrap(payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    let mut bytes = tar::wrap_header(len);
    bytes.extend_from_slice(payload);
    let end = bytes.len() + usize::try_from(tar::wrap_trailer_len_bytes(len)).unwrap();
    bytes.resize(end, 0);
    bytes
}

/// Bytes of which a range cannot be read.
struct Bad {
    bytes: MemoryBlob,
    bad: Range<u64>,
}

impl ReadAt for Bad {
    fn len_bytes(&self) -> u64 {
        self.bytes.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let end = offset + buf.len() as u64;
        match offset < self.bad.end && self.bad.start < end {
            true => Err(ReadError::new(ReadErrorKind::Io, offset)),
            false => self.bytes.read_exact_at(buf, offset),
        }
    }
}

/// Verifies blobs in memory, of each of which a range cannot be read.
fn verify_blobs(blobs: &[(Vec<u8>, Range<u64>)], options: &VerifyOptions) -> Verification {
    let paths: Vec<_> = (0..blobs.len())
        .map(|i| PathBuf::from(i.to_string()))
        .collect();
    let by_path: HashMap<_, _> = paths.iter().cloned().zip(blobs).collect();
    let open = |path: &Path| -> Result<Bytes, LayerError> {
        let (bytes, bad) = by_path[path];
        Ok(Box::new(Bad {
            bytes: MemoryBlob::new(bytes.clone()),
            bad: bad.clone(),
        }))
    };
    verify_with(&paths, options, &(), &open)
}

fn verified(blobs: &[Vec<u8>]) -> Verification {
    let blobs: Vec<_> = blobs.iter().map(|bytes| (bytes.clone(), 0..0)).collect();
    verify_blobs(&blobs, &VerifyOptions::default())
}

/// The sectors of the disk that cannot be read, if there is a disk.
fn unreadable_sectors(blobs: &[Vec<u8>]) -> Option<BTreeSet<u64>> {
    let named = |bytes: &Vec<u8>| {
        let blob = Box::new(MemoryBlob::new(bytes.clone())) as Bytes;
        (PathBuf::from("layer"), blob)
    };
    let image = Image::from_blobs(blobs.iter().map(named).collect()).ok()?;
    let mut reader = Reader::new(Arc::new(image));
    let mut buf = [0; 512];
    let bad = |sector: &u64| reader.read_exact_at(&mut buf, sector * 512).is_err();
    Some((0..DISK_SECTORS).filter(bad).collect())
}

fn seen_sectors(verification: &Verification) -> BTreeSet<u64> {
    let faults = verification.layers.iter().flat_map(|layer| &layer.faults);
    let seen = faults.filter_map(|fault| fault.seen.as_ref());
    seen.flat_map(|reach| reach.ranges.iter().cloned().flatten())
        .collect()
}

fn stored() -> impl Strategy<Value = Stored> {
    let algorithm = prop_oneof![Just(Algorithm::Lz4), Just(Algorithm::Zstd)];
    let block_size = prop_oneof![Just(4096), Just(16_384)];
    (algorithm, block_size, any::<bool>(), any::<bool>()).prop_map(
        |(algorithm, block_size_bytes, overwritten, tar)| Stored {
            algorithm,
            block_size_bytes,
            overwritten,
            tar,
        },
    )
}

fn runs() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    let run = (0..30_u64, 1..40_u64, prop::bool::weighted(0.2));
    prop::collection::vec(run, 1..12).prop_map(|steps| {
        let mut position = 0;
        let mut runs = Vec::new();
        for (gap, len, zeroed) in steps {
            let first = position + gap;
            position = first + len;
            if position <= DISK_SECTORS {
                runs.push((first, len, zeroed));
            }
        }
        runs
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Wherever a guarded layer is changed, it is found, and the sectors that are named are those that cannot be read.
    #[test]
    fn changed_bytes_are_found_and_their_sectors_named(
        stack in prop::collection::vec((runs(), stored()), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        seed in any::<u64>(),
    ) {
        let mut blobs: Vec<_> = stack
            .iter()
            .map(|(runs, stored)| pack(&layer(runs, seed), *stored))
            .collect();
        prop_assert_eq!(verified(&blobs).verdict, Verdict::Good);
        let mut changed = BTreeSet::new();
        for (which, place, change) in changes {
            let ordinal = which.index(blobs.len());
            let blob = &mut blobs[ordinal];
            // Of a tar header, names and times may be anything.
            let header = if stack[ordinal].1.tar { 1536 } else { 0 };
            let place = header + place.index(blob.len() - header);
            if changed.insert((ordinal, place)) {
                blob[place] ^= change;
            }
        }
        let found = verified(&blobs);
        prop_assert_eq!(found.verdict, Verdict::Damaged);
        for (ordinal, layer) in found.layers.iter().enumerate() {
            let is_changed = changed.iter().any(|(changed, _)| *changed == ordinal);
            prop_assert_eq!(layer.verdict == Verdict::Damaged, is_changed, "{:?}", layer);
        }
        match unreadable_sectors(&blobs) {
            Some(unreadable) => prop_assert_eq!(seen_sectors(&found), unreadable),
            None => prop_assert!(
                found.layers.iter().flat_map(|it| &it.faults).any(|it| it.kind == FaultKind::Structure)
            ),
        }
    }
}

#[test]
fn hidden_damage_is_told_from_what_a_reader_meets() {
    let lower = pack(&layer(&[(0, 64, false)], 1), LZ4);
    let upper = pack(&layer(&[(0, 20, true)], 2), LZ4);
    let mut damaged = lower.clone();
    // The second half of the run is noise, stored as it is: its place in the file is easy to hit.
    let window = Source::from_blob(Box::new(MemoryBlob::new(lower)) as Bytes).unwrap();
    let run = window.zfile().unwrap().plan(4096 * 2, 4096).unwrap();
    let at = usize::try_from(run.stored().start).unwrap();
    damaged[at + 3] ^= 1;
    let found = verified(&[damaged, upper]);
    let [fault] = found.layers[0].faults.as_slice() else {
        panic!("{:?}", found.layers[0].faults);
    };
    assert_eq!(fault.kind, FaultKind::Block);
    assert_eq!(fault.blocks, Some(2..3));
    assert_eq!(fault.stored, Some(run.stored()));
    // Block 2 holds the second 4096 bytes of data: the header has the first block to itself.
    assert_eq!(fault.reach.as_ref().unwrap().ranges, vec![8..16]);
    assert!(fault.seen.as_ref().unwrap().is_empty());
    assert_eq!(found.layers[1].verdict, Verdict::Good);
    assert_eq!(found.verdict, Verdict::Damaged);
}

#[test]
fn what_the_system_does_not_deliver_is_unreadable_and_the_rest_is_checked() {
    let plain = layer(&[(8, 64, false)], 1);
    let packed = pack(&layer(&[(100, 64, false)], 2), LZ4);
    let middle = packed.len() as u64 / 2;
    let blobs = [(plain, 9000..9001), (packed, middle..middle + 1)];
    let found = verify_blobs(&blobs, &VerifyOptions::default());
    assert_eq!(found.verdict, Verdict::Unreadable);
    let [fault] = found.layers[0].faults.as_slice() else {
        panic!("{:?}", found.layers[0].faults);
    };
    assert_eq!(fault.kind, FaultKind::Unreadable);
    assert_eq!(fault.content, Some(8192..12_288));
    // Data begins at byte 4096 with sector 8.
    assert_eq!(fault.reach.as_ref().unwrap().ranges, vec![16..24]);
    assert_eq!(fault.seen.as_ref().unwrap().ranges, vec![16..24]);
    assert_eq!(
        found.layers[0].checked_bytes,
        blobs[0].0.len() as u64 - 4096
    );
    assert_eq!(found.layers[1].faults.len(), 1);
    assert_eq!(found.layers[1].faults[0].kind, FaultKind::Unreadable);
}

#[test]
fn damage_outweighs_what_cannot_be_read_and_no_layer_keeps_another_from_being_checked() {
    let good = pack(&layer(&[(0, 8, false)], 1), LZ4);
    let len = good.len() as u64;
    let blobs = [
        (b"nothing that could be a layer".to_vec(), 0..0),
        (good.clone(), 0..len),
        (good, 0..0),
    ];
    let found = verify_blobs(&blobs, &VerifyOptions::default());
    let verdicts: Vec<_> = found.layers.iter().map(|layer| layer.verdict).collect();
    assert_eq!(
        verdicts,
        [Verdict::Damaged, Verdict::Unreadable, Verdict::Good]
    );
    assert_eq!(found.verdict, Verdict::Damaged);
    let missing = [PathBuf::from("/no/such/layer")];
    let found = verify(&missing, &VerifyOptions::default(), &());
    assert_eq!(found.verdict, Verdict::Unreadable);
}

/// More damage than is kept: the first of it is kept, the rest counted, on any number of threads.
#[test]
fn list_of_faults_is_bounded_and_the_same_on_any_number_of_threads() {
    let mut writer = zfile::Writer::new(Vec::new(), zfile::WriterOptions::default()).unwrap();
    let blocks = 2 * MAX_FAULTS as u64 + 200;
    for _block in 0..blocks {
        writer.append(&[7; 4096]).unwrap();
    }
    let mut bytes = writer.finish().unwrap();
    let source = Source::from_blob(Box::new(MemoryBlob::new(bytes.clone())) as Bytes).unwrap();
    for block in (0..blocks).step_by(2) {
        let run = source.zfile().unwrap().plan(block * 4096, 4096).unwrap();
        bytes[usize::try_from(run.stored().start).unwrap()] ^= 1;
    }
    let on = |threads| {
        let options = VerifyOptions {
            threads,
            ..VerifyOptions::default()
        };
        let found = verify_blobs(&[(bytes.clone(), 0..0)], &options);
        serde_json::to_value(&found).unwrap()
    };
    let found = on(1);
    assert_eq!(found, on(4));
    let layer = &found["layers"][0];
    let faults = layer["faults"].as_array().unwrap();
    let blocks_of = |fault: &serde_json::Value| fault["blocks"]["start"].as_u64();
    // One more fault is about the layer as a whole: there is none in this ZFile.
    assert_eq!(layer["fault_count"], blocks / 2 + 1);
    assert_eq!(faults.len(), MAX_FAULTS + 1);
    let found: Vec<_> = faults.iter().filter_map(blocks_of).collect();
    let expected: Vec<_> = (0..MAX_FAULTS as u64).map(|number| number * 2).collect();
    assert_eq!(found, expected);
}

#[test]
fn neighbours_with_one_kind_of_damage_are_one_fault() {
    let mut bytes = pack(&layer(&[(0, 256, false)], 1), LZ4);
    let start = bytes.len() / 4;
    bytes[start..start + 30_000].fill(0);
    let found = verified(&[bytes]);
    assert_eq!(
        found.layers[0].faults.len(),
        1,
        "{:?}",
        found.layers[0].faults
    );
    assert!(found.layers[0].fault_count > 3);
}

#[test]
fn digest_is_compared_over_all_bytes_of_the_blob() {
    let bytes = wrap(&layer(&[(0, 64, false)], 1));
    let right = BlobDigest::of(&MemoryBlob::new(bytes.clone()), &()).unwrap();
    let with = |bytes: &[u8], threads| {
        let options = VerifyOptions {
            threads,
            digests: vec![right],
        };
        verify_blobs(&[(bytes.to_vec(), 0..0)], &options)
    };
    for threads in [1, 3] {
        let found = with(&bytes, threads);
        assert_eq!(found.verdict, Verdict::Good);
        assert_eq!(found.layers[0].digest, Some(right));
    }
    // Nothing else guards a plain layer, nor the name in a tar header.
    let mut changed = bytes.clone();
    changed[1536 + 5000] ^= 1;
    let found = with(&changed, 1);
    assert_eq!(found.layers[0].faults[0].kind, FaultKind::Digest);
    assert_eq!(found.verdict, Verdict::Damaged);
    assert_eq!(verified(&[changed]).verdict, Verdict::Good);
}

#[test]
fn bytes_behind_a_tar_payload_must_be_zero() {
    let good = wrap(&layer(&[(0, 64, false)], 1));
    let mut longer = good.clone();
    longer.extend([0; 5000]);
    assert_eq!(verified(&[longer.clone()]).verdict, Verdict::Good);
    let end = longer.len();
    longer[end - 7] = 1;
    let found = verified(&[longer]);
    let [fault] = found.layers[0].faults.as_slice() else {
        panic!("{:?}", found.layers[0].faults);
    };
    assert_eq!(fault.kind, FaultKind::Padding);
    assert_eq!(fault.stored, Some(end as u64 - 7..end as u64 - 6));
}

#[test]
fn upper_layer_alone_is_good_and_a_stack_without_a_size_is_not() {
    let unsized_layer = Writer::new(Vec::new(), &WriterOptions::default()).unwrap();
    let bytes = unsized_layer.finish().unwrap();
    let alone = verified(std::slice::from_ref(&bytes));
    assert_eq!(alone.verdict, Verdict::Good);
    assert!(alone.stack_error.unwrap().contains("virtual size"));
    assert_eq!(verified(&[bytes.clone(), bytes]).verdict, Verdict::Damaged);
}

#[test]
fn many_records_that_share_data_do_not_make_the_list_long() {
    // 200 records of one sector each, all pointing to the same sector: only a hostile writer makes them.
    let template = layer(&(0..200).map(|i| (i * 2, 1, false)).collect::<Vec<_>>(), 1);
    let mut content = template;
    let index = content.len() - 4096 - 4096;
    for record in 0..200 {
        content[index + record * 16 + 8] = 8;
        content[index + record * 16 + 9] = 0;
    }
    let mut bytes = pack(&content, LZ4);
    let source = Source::from_blob(Box::new(MemoryBlob::new(bytes.clone())) as Bytes).unwrap();
    let run = source.zfile().unwrap().plan(4096, 1).unwrap();
    bytes[usize::try_from(run.stored().start).unwrap()] ^= 1;
    let found = verified(&[bytes]);
    let reach = found.layers[0].faults[0].reach.as_ref().unwrap();
    assert_eq!((reach.sectors, reach.range_count), (200, 200));
    assert_eq!(reach.ranges.len(), MAX_RANGES);
}
