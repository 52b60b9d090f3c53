//! Promise: what is made of a disk reads as that disk, and no unit of it is stored that need not be; whatever is made of
//! a stack reads as the stack did. All compared with plain byte arrays.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod goldens;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use blob::test_util::noise;
use builder::{
    BuildError, Commit, CommitForm, Content, Empty, Format, LayerOptions, Merge, Packing, Raw,
    Resized, SourceOptions, Stack, create, diff, export_qcow2, export_raw, export_stream,
    open_content,
};
use image::Image;
use lsmt::test_util::Run;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::Config;
use proptest::{prop_assert, prop_assert_eq, proptest};

use support::{Files, LayerPlan, Memory, SECTOR, flat, len, options, read, stacks};

/// Granularities that small disks have several units of.
fn granularities() -> impl Strategy<Value = u32> {
    prop_oneof![Just(512_u32), Just(1024), Just(4096), Just(65536)]
}

/// Where a disk changes, in sectors: from, how many, and by noise or by zeroes.
fn patches() -> impl Strategy<Value = Vec<(usize, usize, bool, u64)>> {
    prop::collection::vec(
        (0..300_usize, 1..30_usize, any::<bool>(), any::<u64>()),
        0..8,
    )
}

fn patch(disk: &mut [u8], patches: &[(usize, usize, bool, u64)]) {
    for (first, sectors, by_zeroes, seed) in patches {
        let start = (first * SECTOR).min(disk.len());
        let end = (start + sectors * SECTOR).min(disk.len());
        match by_zeroes {
            true => disk[start..end].fill(0),
            false => disk[start..end].copy_from_slice(&noise(end - start, *seed)),
        }
    }
}

/// Bytes by data and zeroed bytes that a layer has to decide, in whole units.
fn needed(base: &[u8], new: &[u8], unit: usize) -> (u64, u64) {
    let mut bytes = (0, 0);
    for (base, new) in base.chunks(unit).zip(new.chunks(unit)) {
        let is_zero = new.iter().all(|byte| *byte == 0);
        match base == new {
            true => {}
            false if is_zero => bytes.1 += new.len() as u64,
            false => bytes.0 += new.len() as u64,
        }
    }
    bytes
}

fn stack(paths: &[std::path::PathBuf]) -> Stack {
    Stack::new(Arc::new(Image::open(paths).unwrap()))
}

proptest! {
    #![proptest_config(Config::with_cases(96))]

    #[test]
    fn a_created_layer_reads_as_its_disk(
        sectors in 1..300_usize, patches in patches(), granularity in granularities(), cut in 1..50_usize,
        threads in 1..4_usize,
    ) {
        let mut bytes = vec![0; sectors * SECTOR];
        patch(&mut bytes, &patches);
        let files = Files::new();
        let memory = Memory { bytes: bytes.clone(), cut: cut * SECTOR };
        let options = options(bytes.len(), threads);
        let written = create(&memory, granularity, files.output("out"), &options, &()).unwrap();
        prop_assert_eq!(read(&[files.path("out")]), bytes.clone());
        let unit = usize::try_from(granularity).unwrap();
        let (data, _) = needed(&vec![0; bytes.len()], &bytes, unit);
        prop_assert_eq!((written.data_bytes, written.zeroed_bytes), (data, 0));
        prop_assert_eq!(files.path("out").metadata().unwrap().len() % 4096, 0);
    }

    /// Sizes grow and shrink, and what a shorter disk has left behind does not come back.
    #[test]
    fn a_stack_with_a_diff_on_top_reads_as_the_new_disk(
        layers in stacks(), sectors in 1..350_usize, patches in patches(), granularity in granularities(),
        cut in 1..50_usize, threads in 1..4_usize,
    ) {
        let files = Files::new();
        let mut paths = files.write(&layers);
        let base = flat(&layers, sectors * SECTOR);
        let mut new = base.clone();
        patch(&mut new, &patches);
        let below = Stack::new(Arc::new(Image::open_with_len(&paths, new.len() as u64).unwrap()));
        let memory = Memory { bytes: new.clone(), cut: cut * SECTOR };
        let options = options(new.len(), threads);
        let output = files.output("out");
        let written = diff([&below, &memory], granularity, output, &options, &()).unwrap();
        paths.push(files.path("out"));
        prop_assert_eq!(read(&paths), new.clone());
        let unit = usize::try_from(granularity).unwrap();
        let wanted = needed(&base, &new, unit);
        prop_assert_eq!((written.data_bytes, written.zeroed_bytes), wanted);
    }

    #[test]
    fn merged_layers_read_as_before_in_their_place(
        layers in stacks(), from in 0..6_usize, more in 0..6_usize, threads in 1..4_usize,
    ) {
        let from = from.min(layers.len() - 1);
        let to = (from + more).min(layers.len() - 1);
        let files = Files::new();
        let mut paths = files.write(&layers);
        let before = read(&paths);
        prop_assert_eq!(&before, &flat(&layers, len(&layers)));

        let merge = Merge::open(&paths, from..=to).unwrap();
        let size = usize::try_from(merge.virtual_size_bytes).unwrap();
        let output = files.output("out");
        let written = merge.write(output, &options(size, threads), &()).unwrap();
        prop_assert!(written.virtual_size_bytes > 0);
        if from == 0 {
            prop_assert_eq!(written.zeroed_bytes, 0);
            // What the lower part is by itself, the merged layer is by itself.
            prop_assert_eq!(read(&[files.path("out")]), flat(&layers[..=to], size));
        }
        paths.splice(from..=to, [files.path("out")]);
        prop_assert_eq!(read(&paths), before);
    }

    #[test]
    fn a_committed_layer_reads_as_before_and_commits_to_itself(layers in stacks(), threads in 1..4_usize) {
        let files = Files::new();
        let mut paths = files.write(&layers);
        let before = read(&paths);
        for path in &mut paths {
            let commit = Commit::open_file(path).unwrap();
            prop_assert_eq!(commit.form(), CommitForm::Sealed);
            let size = usize::try_from(commit.virtual_size_bytes).unwrap();
            let options = options(size, threads);
            let name = format!("{}.commit", path.file_name().unwrap().display());
            commit.write(files.output(&name), &options, &()).unwrap();
            *path = files.path(&name);
            let again = Commit::open_file(path).unwrap();
            again.write(files.output("again"), &options, &()).unwrap();
            prop_assert_eq!(fs::read(&path).unwrap(), fs::read(files.path("again")).unwrap());
        }
        prop_assert_eq!(read(&paths), before);
    }

    #[test]
    fn an_exported_disk_is_the_disk(
        layers in stacks(), start in 0..100_000_u64, more in 0..200_000_u64, sparse in any::<bool>(),
    ) {
        let files = Files::new();
        let paths = files.write(&layers);
        let disk = flat(&layers, len(&layers));
        let stack = stack(&paths);
        let start = start.min(disk.len() as u64);
        let end = (start + more).min(disk.len() as u64);
        let part = &disk[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];

        export_raw(&stack, start..end, files.output("raw"), sparse, &()).unwrap();
        prop_assert_eq!(fs::read(files.path("raw")).unwrap(), part);
        let mut streamed = Vec::new();
        export_stream(&stack, start..end, &mut streamed, &()).unwrap();
        prop_assert_eq!(streamed, part);

        export_qcow2(&stack, files.output("out.qcow2"), &()).unwrap();
        let qcow2 = open_content(&files.path("out.qcow2"), &SourceOptions::default()).unwrap();
        let mut bytes = vec![1; disk.len()];
        prop_assert_eq!(qcow2.len_bytes(), disk.len() as u64);
        qcow2.read_exact_at(&mut bytes, 0).unwrap();
        prop_assert_eq!(bytes, disk);
    }
}

/// A disk of 40 MiB: runs longer than a record, pieces that need not be read, and zeroes in what must.
fn large() -> Vec<u8> {
    let mut bytes = vec![0; 40 << 20];
    bytes[..12 << 20].copy_from_slice(&noise(12 << 20, 1));
    bytes[5000..9000].fill(0);
    bytes[20 << 20..][..100_000].copy_from_slice(&noise(100_000, 2));
    let end = bytes.len();
    bytes[end - 700..].copy_from_slice(&noise(700, 3));
    bytes
}

#[test]
fn every_number_of_threads_makes_the_same_layers() {
    let files = Files::new();
    let bytes = large();
    let mut changed = bytes.clone();
    for at in (0..changed.len()).step_by(3 << 20) {
        changed[at] ^= 0x55;
    }
    let mut made = Vec::new();
    for threads in [1, 2, 7] {
        let packing = Packing {
            threads,
            zfile: Some(zfile::WriterOptions::default()),
            tar: true,
        };
        let options = LayerOptions::new(packing, bytes.len() as u64);
        let old = Memory {
            bytes: bytes.clone(),
            cut: 1 << 20,
        };
        let new = Memory {
            bytes: changed.clone(),
            cut: 4096,
        };
        create(&old, 4096, files.output("base"), &options, &()).unwrap();
        let base = stack(&[files.path("base")]);
        diff([&base, &new], 512, files.output("diff"), &options, &()).unwrap();
        let paths = [files.path("base"), files.path("diff")];
        let merge = Merge::open(&paths, 0..=1).unwrap();
        merge.write(files.output("merged"), &options, &()).unwrap();
        assert_eq!(read(&paths), changed);
        assert_eq!(read(&[files.path("merged")]), changed);
        made.push(["base", "diff", "merged"].map(|name| fs::read(files.path(name)).unwrap()));
    }
    assert!(made.iter().all(|files| *files == made[0]));
}

#[test]
fn holes_of_a_file_are_not_read_and_zeroes_of_an_exported_one_are_holes() {
    let files = Files::new();
    let (image, len) = (files.path("image"), 1 << 40);
    let file = File::create(&image).unwrap();
    file.set_len(len).unwrap();
    file.write_all_at(&[7; 4096], 1 << 30).unwrap();
    file.write_all_at(&[0; 1 << 20], 1 << 31).unwrap();
    file.write_all_at(b"end", len - 3).unwrap();
    let raw = Raw::open(&image).unwrap();
    // Reading a terabyte of zeroes would take minutes.
    let options = LayerOptions::new(Packing::default(), len);
    let written = create(&raw, 4096, files.output("layer"), &options, &()).unwrap();
    assert_eq!((written.data_bytes, written.record_count), (8192, 2));
    let disk = stack(&[files.path("layer")]);
    export_raw(&disk, 0..len, files.output("flat"), true, &()).unwrap();
    let flat = files.path("flat").metadata().unwrap();
    assert_eq!((flat.len(), flat.blocks() * 512), (len, 8192));
    export_qcow2(&disk, files.output("qcow2"), &()).unwrap();
    let qcow2 = open_content(
        &files.path("qcow2"),
        &SourceOptions {
            format: Some(Format::Qcow2),
            ..SourceOptions::default()
        },
    );
    let mut end = [0; 4096];
    qcow2.unwrap().read_exact_at(&mut end, len - 4096).unwrap();
    assert_eq!(&end[4093..], b"end");
}

#[test]
fn a_file_that_is_not_sparse_has_all_its_room() {
    let files = Files::new();
    let len = 1 << 20;
    let disk = Empty::new(len);
    export_raw(&disk, 0..len, files.output("flat"), false, &()).unwrap();
    assert!(files.path("flat").metadata().unwrap().blocks() * 512 >= len);
    assert_eq!(fs::read(files.path("flat")).unwrap(), vec![0; 1 << 20]);
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let files = Files::new();
    let disk = Empty::new(4096);
    let plain = options(4096, 1);
    for granularity in [0, 256, 513, 2 << 20] {
        let error = create(&disk, granularity, files.output("out"), &plain, &()).unwrap_err();
        assert!(matches!(error, BuildError::Granularity { .. }), "{error}");
    }
    let error = export_raw(&disk, 4000..4097, files.output("out"), true, &()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the range 4000 to 4097 leaves the disk, which is 4096 bytes long"
    );
    let plan = LayerPlan {
        runs: vec![],
        virtual_size_bytes: 4096,
        seed: 0,
    };
    let paths = files.write(&[plan]);
    for which in [1..=1, 0..=1, 1..=0] {
        let error = Merge::open(&paths, which).unwrap_err();
        assert!(matches!(error, BuildError::NoSuchLayers { .. }), "{error}");
    }
    assert!(!files.path("out").exists());
}

/// Every second sector differs, which is more than an index has records for.
#[test]
fn too_fine_a_diff_says_what_to_do() {
    struct Stripes(u64);
    impl Content for Stripes {
        fn len_bytes(&self) -> u64 {
            self.0
        }

        fn stretch_at(&self, _offset: u64) -> Result<builder::Stretch, builder::ContentError> {
            Ok(builder::Stretch::Data { end: self.0 })
        }

        fn read_exact_at(&self, buf: &mut [u8], _at: u64) -> Result<(), builder::ContentError> {
            for (number, sector) in buf.chunks_mut(SECTOR).enumerate() {
                sector.fill(u8::from(number.is_multiple_of(2)));
            }
            Ok(())
        }
    }
    let files = Files::new();
    let len = 1 << 30;
    let options = LayerOptions::new(Packing::default(), len);
    let error = create(&Stripes(len), 512, files.output("out"), &options, &()).unwrap_err();
    assert!(matches!(
        error,
        BuildError::TooManyRecords { max: 999_936, .. }
    ));
    assert!(
        error
            .to_string()
            .contains("a larger --granularity than 512")
    );
    assert!(!files.path("out").exists());
}

#[test]
fn a_read_write_layer_is_committed_from_its_directory() {
    let files = Files::new();
    let dir = files.path("block");
    fs::create_dir(&dir).unwrap();
    let error = Commit::open_dir(&dir).unwrap_err();
    assert!(
        error.to_string().contains("neither writable_data"),
        "{error}"
    );

    // A sealed layer is the last that is looked for.
    let plan = LayerPlan {
        runs: vec![Run {
            first_sector: 1,
            len_sectors: 2,
            data: Some(noise(1024, 1)),
        }],
        virtual_size_bytes: 1 << 20,
        seed: 1,
    };
    fs::rename(
        &files.write(&[plan.clone()])[0],
        dir.join("overlaybd.sealed"),
    )
    .unwrap();
    assert_eq!(Commit::open_dir(&dir).unwrap().form(), CommitForm::Sealed);

    // A data file with holes is the disk behind a header.
    let mut header = fs::read(dir.join("overlaybd.sealed")).unwrap();
    header.truncate(4096);
    header[28] = 0x13;
    let data = File::create(dir.join("writable_data")).unwrap();
    data.write_all_at(&header, 0).unwrap();
    data.set_len(4096 + (1 << 20)).unwrap();
    let bytes = noise(8192, 2);
    data.write_all_at(&bytes, 4096 + 65536).unwrap();
    File::create(dir.join("writable_index")).unwrap();
    let commit = Commit::open_dir(&dir).unwrap();
    assert_eq!(commit.form(), CommitForm::Sparse);
    let written = commit
        .write(files.output("out"), &options(1 << 20, 1), &())
        .unwrap();
    assert_eq!(written.data_bytes, 8192);
    let disk = read(&[files.path("out")]);
    assert_eq!(disk[65536..][..8192], bytes);
}

#[test]
fn a_resized_disk_ends_where_it_was_told_to() {
    for len in [1000_u64, 1500, 2000] {
        let memory = Memory {
            bytes: vec![7; 1500],
            cut: 512,
        };
        let disk = Resized::new(memory, len);
        let mut bytes = vec![1; usize::try_from(len).unwrap()];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        assert!(
            bytes
                .iter()
                .zip(0..)
                .all(|(byte, at)| *byte == if at < 1500 { 7 } else { 0 })
        );
        assert!(disk.read_exact_at(&mut [0; 2], len - 1).is_err());
        assert!(disk.stretch_at(len - 1).unwrap().end() <= len);
    }
}
