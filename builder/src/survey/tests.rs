//! Every number of a survey is what counting sector by sector gives.

use std::collections::BTreeSet;

use blob::test_util::noise;
use lsmt::test_util::{Run, sealed_in_place};
use lsmt::{Uuid, Writer, WriterOptions};
use proptest::prelude::*;

use super::*;

const DISK_SECTORS: u64 = 160;
/// Runs may lie beyond the end of the disk, as they do when it has been made smaller.
const LAYER_SECTORS: u64 = 200;

fn write_all(dir: &Path, blobs: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(ordinal, bytes): (usize, &Vec<u8>)| {
        let path = dir.join(format!("{ordinal}.lsmt"));
        std::fs::write(&path, bytes).unwrap();
        path
    };
    blobs.iter().enumerate().map(write).collect()
}

fn survey_of(blobs: &[Vec<u8>]) -> Survey {
    let dir = tempfile::tempdir().unwrap();
    Survey::of(&write_all(dir.path(), blobs))
}

/// A layer with names and, in its second sector, data.
fn named(uuid: &str, parent: &str) -> Vec<u8> {
    let uuid_of = |text: &str| match text {
        "" => Uuid::NIL,
        text => Uuid::from_text(text.as_bytes().try_into().unwrap()),
    };
    let options = WriterOptions {
        virtual_size_bytes: 1 << 20,
        uuid: uuid_of(uuid),
        parent_uuid: uuid_of(parent),
        user_tag: b"a \x1b tag".to_vec(),
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    writer.data(1, &[7; 512]).unwrap();
    writer.finish().unwrap()
}

/// What decides each sector of the disk: a layer and whether by data.
fn model(stack: &[Vec<Run>]) -> Vec<Option<(usize, usize, bool)>> {
    let mut disk = vec![None; usize::try_from(DISK_SECTORS).unwrap()];
    for (ordinal, runs) in stack.iter().enumerate() {
        for (number, run) in runs.iter().enumerate() {
            for sector in run.first_sector..run.first_sector + run.len_sectors {
                if let Some(decided) = disk.get_mut(usize::try_from(sector).unwrap()) {
                    *decided = Some((ordinal, number, run.data.is_some()));
                }
            }
        }
    }
    disk
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let run = (0..20_u64, 1..12_u64, any::<bool>());
    prop::collection::vec(run, 0..20).prop_map(|steps| {
        let mut position = 0;
        let mut runs = Vec::new();
        for (gap, len_sectors, is_data) in steps {
            let first_sector = position + gap;
            position = first_sector + len_sectors;
            if position > LAYER_SECTORS {
                break;
            }
            let len = usize::try_from(len_sectors * 512).unwrap();
            runs.push(Run {
                first_sector,
                len_sectors,
                data: is_data.then(|| noise(len, first_sector)),
            });
        }
        runs
    })
}

fn check_layer(
    ordinal: usize,
    surveyed: &SurveyedLayer,
    runs: &[Run],
    disk: &[Option<(usize, usize, bool)>],
) {
    let share = surveyed.share.as_ref().unwrap();
    let facts = &surveyed.facts.as_ref().unwrap().lsmt;
    let own = || disk.iter().flatten().filter(|decided| decided.0 == ordinal);
    let data = own().filter(|decided| decided.2).count() as u64;
    let zeroed = own().filter(|decided| !decided.2).count() as u64;
    assert_eq!(share.data_bytes, data * 512);
    assert_eq!(share.zeroed_bytes, zeroed * 512);
    let seen: BTreeSet<_> = own().map(|decided| decided.1).collect();
    assert_eq!(share.hidden_records, runs.len() - seen.len());
    // In these layers every record has data of its own.
    let stored = |run: &Run| run.data.as_ref().map_or(0, Vec::len) as u64;
    let stored: u64 = runs.iter().map(stored).sum();
    assert_eq!(share.live_bytes, data * 512);
    assert_eq!(share.hidden_bytes, stored - data * 512);
    assert_eq!(share.live_bytes + share.dead_bytes(), facts.room_bytes);
    assert_eq!(facts.data_bytes, stored);
    assert_eq!(facts.segment_count, runs.len());
    for (class, count) in facts.size_classes.iter().enumerate() {
        let of_class = |run: &&Run| run.len_sectors.ilog2() == u32::try_from(class).unwrap();
        assert_eq!(*count, runs.iter().filter(of_class).count() as u64);
    }
}

fn check_map(survey: &Survey, max_cells: u64, disk: &[Option<(usize, usize, bool)>]) {
    let map = DiskMap::new(survey.image.as_deref().unwrap(), max_cells).unwrap();
    assert!(map.cell_sectors.is_power_of_two() || map.cells.len() == 1);
    assert!(map.cells.len() as u64 <= max_cells);
    let len = usize::try_from(map.cell_sectors).unwrap();
    let chunks: Vec<_> = disk.chunks(len).collect();
    assert_eq!(chunks.len(), map.cells.len());
    for (position, (sectors, cell)) in chunks.iter().zip(&map.cells).enumerate() {
        assert_eq!(map.sectors_of(position), sectors.len() as u64);
        let data = |layer| {
            let mine =
                |it: &&Option<_>| matches!(it, Some((ordinal, _, true)) if *ordinal == layer);
            sectors.iter().filter(mine).count()
        };
        let zeroed = sectors
            .iter()
            .filter(|it| matches!(it, Some((_, _, false))))
            .count();
        let all: usize = (0..survey.layers.len()).map(data).sum();
        assert_eq!(cell.data_sectors, all as u64);
        assert_eq!(cell.zeroed_sectors, zeroed as u64);
        match cell.origin {
            Origin::Data(layer) => {
                let most = data(usize::from(layer));
                assert!(most > 0 && (0..survey.layers.len()).all(|other| data(other) <= most));
            }
            Origin::Zeroed => assert!(all == 0 && zeroed * 2 >= sectors.len()),
            Origin::Hole => assert!(all == 0 && zeroed * 2 < sectors.len()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn numbers_are_those_of_a_count_sector_by_sector(
        stack in prop::collection::vec(runs(), 1..6),
        seed in any::<u64>(),
        max_cells in 1..400_u64,
    ) {
        let blobs: Vec<_> = stack
            .iter()
            .zip(seed..)
            .map(|(runs, seed)| sealed_in_place(runs, DISK_SECTORS * 512, seed))
            .collect();
        let survey = survey_of(&blobs);
        prop_assert!(survey.is_sound(), "{:?}", survey.layers);
        let disk = model(&stack);
        for (ordinal, (layer, runs)) in survey.layers.iter().zip(&stack).enumerate() {
            check_layer(ordinal, layer, runs, &disk);
        }
        let whole = survey.disk.as_ref().unwrap();
        let holes = disk.iter().filter(|decided| decided.is_none()).count() as u64;
        prop_assert_eq!(whole.hole_bytes, holes * 512);
        prop_assert_eq!(
            whole.data_bytes + whole.zeroed_bytes + whole.hole_bytes,
            DISK_SECTORS * 512
        );
        check_map(&survey, max_cells, &disk);
    }
}

/// Two records may share data, wholly or in part; it is stored once.
#[test]
fn shared_data_counts_once() {
    let options = WriterOptions {
        virtual_size_bytes: DISK_SECTORS * 512,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    // The data of the records lies at 8..18, 18..20 and 20..24.
    for (first, len) in [(0, 10), (20, 2), (40, 4)] {
        writer.data(first, &noise(len * 512, first)).unwrap();
    }
    let mut bytes = writer.finish().unwrap();
    let index = bytes.len() - 4096 - 4096;
    // The second and the third now point into the first.
    bytes[index + 16 + 8] = 10;
    bytes[index + 32 + 8] = 16;
    let survey = survey_of(&[bytes]);
    let share = survey.layers[0].share.as_ref().unwrap();
    assert_eq!(share.data_bytes, 16 * 512);
    // 8..18 and 16..20 together.
    assert_eq!(share.live_bytes, 12 * 512);
    assert_eq!((share.hidden_bytes, share.unused_bytes), (0, 4 * 512));
}

#[test]
fn map_that_would_be_too_large_is_refused() {
    let survey = survey_of(&[named("", "")]);
    let image = survey.image.unwrap();
    assert!(DiskMap::new(&image, 1 << 16).is_ok());
    assert_eq!(
        DiskMap::new(&image, (1 << 16) + 1).unwrap_err().to_string(),
        "a map of 65537 cells is larger than the limit of 65536"
    );
}

#[test]
fn broken_chain_of_names_is_a_warning_and_no_name_breaks_none() {
    let a = "11111111-2222-4333-8444-AABBCCDDEEFF";
    let b = "99999999-2222-4333-8444-AABBCCDDEEFF";
    for (lower, upper, warnings) in [
        (named(a, ""), named(b, a), 0),
        (named(a, ""), named(b, &a.to_lowercase()), 0),
        (named(a, ""), named(b, ""), 0),
        (named("", ""), named(b, a), 0),
        (named(a, ""), named(b, b), 1),
    ] {
        let survey = survey_of(&[lower, upper]);
        assert!(survey.is_sound());
        assert_eq!(
            survey.chain_warnings.len(),
            warnings,
            "{:?}",
            survey.chain_warnings
        );
    }
}

#[test]
fn one_bad_layer_is_named_and_the_others_are_shown() {
    let mut bad = named("", "");
    let end = bad.len() - 4096;
    bad.truncate(end);
    let survey = survey_of(&[named("", ""), bad, named("", "")]);
    assert!(!survey.is_sound() && survey.disk.is_none() && survey.stack_error.is_none());
    assert!(
        survey.layers[1]
            .error
            .as_ref()
            .unwrap()
            .contains("no trailer")
    );
    for ordinal in [0, 2] {
        assert_eq!(
            survey.layers[ordinal]
                .facts
                .as_ref()
                .unwrap()
                .lsmt
                .data_bytes,
            512
        );
    }
    let json = serde_json::to_value(&survey).unwrap();
    assert_eq!(json["layers"][0]["lsmt"]["user_tag"], "a \\u{1b} tag");
    assert!(json["layers"][1]["error"].is_string() && json["layers"][1]["lsmt"].is_null());
}

#[test]
fn good_layers_that_make_no_disk_are_shown_with_the_reason() {
    let unsized_layer = Writer::new(Vec::new(), &WriterOptions::default()).unwrap();
    let survey = survey_of(&[unsized_layer.finish().unwrap()]);
    assert!(!survey.is_sound() && survey.layers[0].error.is_none());
    assert!(survey.stack_error.unwrap().contains("virtual size"));
}
