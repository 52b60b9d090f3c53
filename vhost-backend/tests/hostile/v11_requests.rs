//! Sectors at every border, and every type of request there could be.

use crate::attack::{Attack, DATA, HEADER, HEADER_PIECE, Piece, STATUS_PIECE, Seen, UNTOUCHED};
use crate::family::Family;
use crate::support::driver::{OK, WRITE};
use crate::support::image::SECTORS;

/// First sector, bytes, and whether the disk has them.
const RANGES: [(u64, u32, bool); 32] = [
    (0, 512, true),
    (0, 4096, true),
    (1, 512, true),
    (SECTORS - 1, 512, true),
    (SECTORS - 8, 4096, true),
    (SECTORS, 0, true),
    (0, 0, true),
    (SECTORS - 1, 1024, false),
    (SECTORS - 7, 4096, false),
    (SECTORS, 512, false),
    (SECTORS + 1, 0, false),
    (SECTORS + 1, 512, false),
    (SECTORS * 2, 512, false),
    (1 << 31, 512, false),
    (1 << 32, 512, false),
    ((1 << 32) + 1, 512, false),
    ((1 << 54) - 1, 512, false),
    (1 << 54, 512, false),
    ((1 << 55) - 1, 512, false),
    (1 << 55, 512, false),
    ((1 << 55) + 3, 512, false),
    ((1 << 55) - 8, 4096, false),
    (1 << 62, 512, false),
    ((1 << 63) - 1, 512, false),
    (1 << 63, 512, false),
    (u64::MAX - 7, 4096, false),
    (u64::MAX - 1, 1024, false),
    (u64::MAX, 512, false),
    (u64::MAX, 0, false),
    (3, 511, false),
    (3, 513, false),
    (3, 4095, false),
];

fn range(attack: &mut Attack<'_>, (sector, len, legal): (u64, u32, bool)) -> String {
    let report = attack.run(0, sector, &[HEADER_PIECE, (DATA, len, WRITE), STATUS_PIECE]);
    if legal {
        return attack.right(&report, sector);
    }
    assert!(report.data.iter().all(|byte| *byte == UNTOUCHED));
    attack.refused(&report)
}

/// One type in every form a driver might give it: without data, with data to read, with room for data.
fn kind(attack: &mut Attack<'_>, kind: u32) -> String {
    let forms: [(&str, &[Piece]); 4] = [
        ("bare", &[HEADER_PIECE, STATUS_PIECE]),
        (
            "16 bytes to read",
            &[HEADER_PIECE, (HEADER + 0x400, 16, 0), STATUS_PIECE],
        ),
        (
            "512 bytes to read",
            &[HEADER_PIECE, (HEADER + 0x400, 512, 0), STATUS_PIECE],
        ),
        (
            "room for 512",
            &[HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE],
        ),
    ];
    let mut outcomes = Vec::new();
    for (form, pieces) in forms {
        let report = attack.run(kind, 0, pieces);
        let Seen::Done(done) = &report.seen else {
            panic!("broken by a request of type {kind}");
        };
        let delivered = done.used_len as usize - 1;
        let (data, rest) = report.data.split_at(delivered.min(report.data.len()));
        let expected = match kind {
            0 => attack.sectors(0, data.len()),
            8 => b"vbd-",
            _ => &[],
        };
        assert!(data.starts_with(expected) || data.is_empty(), "wrong data");
        assert!(rest.iter().all(|byte| *byte == UNTOUCHED));
        // Nothing that would change the disk, and nothing unknown, is ever done.
        assert!([0, 4, 8].contains(&kind) || report.status != Some(OK));
        outcomes.push(format!("{form}: {}", report.text()));
    }
    attack.goes_on();
    summary(&outcomes)
}

/// One text for all forms if they agree.
fn summary(outcomes: &[String]) -> String {
    let results: Vec<&str> = outcomes
        .iter()
        .map(|text| text.split(": ").nth(1).unwrap())
        .collect();
    if results.iter().all(|result| *result == results[0]) {
        results[0].to_owned()
    } else {
        outcomes.join("; ")
    }
}

fn name(kind: u32) -> &'static str {
    match kind {
        0 => " (IN)",
        1 => " (OUT)",
        2 => " (SCSI_CMD)",
        3 => " (SCSI_CMD_OUT)",
        4 => " (FLUSH)",
        5 => " (FLUSH_OUT)",
        8 => " (GET_ID)",
        10 => " (GET_LIFETIME)",
        11 => " (DISCARD)",
        13 => " (WRITE_ZEROES)",
        14 => " (SECURE_ERASE)",
        15 => " (ZONE_APPEND)",
        16 => " (ZONE_REPORT)",
        18 => " (ZONE_OPEN)",
        20 => " (ZONE_CLOSE)",
        22 => " (ZONE_FINISH)",
        24 => " (ZONE_RESET)",
        26 => " (ZONE_RESET_ALL)",
        0x8000_0000 => " (BARRIER)",
        _ => "",
    }
}

#[test]
fn requests() {
    let mut family = Family::start("V-11", "Sectors at every border, every type of request");
    for (sector, len, legal) in RANGES {
        let prefix = if legal { "legal: " } else { "" };
        family.guest(
            format!("{prefix}{len} bytes at sector {sector}"),
            |attack| range(attack, (sector, len, legal)),
        );
    }
    let odd = [
        255,
        256,
        0x1_0000,
        0x8000_0000,
        0x8000_0001,
        u32::MAX - 1,
        u32::MAX,
    ];
    for number in (0..=40).chain(odd) {
        family.guest(format!("type {number}{}", name(number)), |attack| {
            kind(attack, number)
        });
    }
    for (room, expected) in [(0, 1), (1, 2), (19, 20), (20, 21), (21, 21), (4096, 21)] {
        family.guest(format!("legal: GET_ID with room for {room}"), |attack| {
            let report = attack.run(8, 0, &[HEADER_PIECE, (DATA, room, WRITE), STATUS_PIECE]);
            assert_eq!(report.status, Some(OK));
            assert_eq!(report.text(), format!("status 0, used length {expected}"));
            attack.outcome(&report)
        });
    }
    for sector in [1, SECTORS, u64::MAX] {
        family.guest(format!("FLUSH and GET_ID at sector {sector}"), |attack| {
            let pieces = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];
            let flush = attack.run(4, sector, &pieces);
            let id = attack.run(8, sector, &pieces);
            attack.goes_on();
            format!("{}; {}", flush.text(), id.text())
        });
    }
    family.finish();
}
