//! What a guest reads when it starts from a disk, and what it may get.

use crate::support::driver::{Driver, IOERR, OK, WRITE};
use crate::support::image::SECTORS;

/// First sector and number of sectors, as an operating system asks: partition table and superblock, directories,
/// then programs in pieces of read-ahead, with returns to what was read before, up to both ends.
pub(crate) fn boot() -> Vec<(u64, u32)> {
    let mut reads = vec![(0, 8), (2, 2), (8, 8), (0, 1), (SECTORS - 1, 1)];
    reads.extend((0..12).map(|step| (8 + 64 * step, 8)));
    reads.extend((0..8).map(|step| (500 + 24 * step, 24)));
    reads.extend([(490, 256), (2000, 120), (2990, 16), (3000, 1), (505, 10)]);
    reads.extend([(SECTORS - 256, 256), (0, 64), (600, 10), (4000, 99)]);
    reads
}

/// How a trace went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) right: usize,
    pub(crate) failed: usize,
}

/// Makes the reads one after another. Each brings the right bytes or an error that counts none, and never a wrong one.
pub(crate) fn run(driver: &mut Driver, disk: &[u8], reads: &[(u64, u32)]) -> Tally {
    let mut tally = Tally::default();
    for (sector, sectors) in reads {
        let len = sectors * 512;
        let (status, used_len, data) = driver.request(0, 0, *sector, len, WRITE);
        let start = usize::try_from(*sector).unwrap() * 512;
        match status {
            OK => {
                assert_eq!(used_len, len + 1);
                let expected = &disk[start..start + data.len()];
                assert!(data == expected, "wrong bytes at sector {sector}");
                tally.right += 1;
            }
            IOERR => {
                assert_eq!(used_len, 1, "an error comes without data");
                // Parts that came before the one that failed may be there.
                let expected = &disk[start..start + data.len()];
                let mut bytes = data.iter().zip(expected);
                assert!(bytes.all(|(byte, right)| *byte == 0xEE || byte == right));
                tally.failed += 1;
            }
            other => panic!("status {other}"),
        }
    }
    tally
}
