//! Reading a file straight into guest memory.
//!
//! The plain way is a read into a buffer and a volatile copy from there: each byte is moved twice. For a layer that is
//! stored as it is, the kernel can put the bytes where the guest wants them. The standard library has no such read, for
//! it knows only memory that belongs to this program alone.

use std::os::fd::AsRawFd;
use std::ptr;

use blob::{FileBlob, ReadAt, range_is_inside};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::guest::GuestMemory;

/// Most pieces of guest memory in one read: what the kernel takes at a time (IOV_MAX).
const MAX_PIECES: usize = 1024;
/// Most requests have one or two buffers, others one for each of sixteen pages; room for a thousand takes time to prepare.
const FEW_PIECES: usize = 4;
const SOME_PIECES: usize = 64;

/// Reads bytes of `file` from byte `offset` on to these pieces of guest memory, one after another, and returns how many
/// were at hand: the read waits for no device. 0 also when there is anything wrong, with the file, the range or the
/// memory: whoever then reads in the ordinary way learns what it is.
///
/// The copy is made by this thread inside a system call. So it ends with the thread, and no device ever writes to guest
/// memory by itself.
pub fn read_ready_to_guest(
    file: &FileBlob,
    offset: u64,
    memory: &GuestMemory,
    pieces: impl Iterator<Item = (GuestAddress, usize)> + Clone,
) -> usize {
    // A piece that lies in two regions is two vectors.
    if pieces.clone().nth(FEW_PIECES / 2).is_none() {
        read_vectors::<FEW_PIECES>(file, offset, memory, pieces)
    } else if pieces.clone().nth(SOME_PIECES / 2).is_none() {
        read_vectors::<SOME_PIECES>(file, offset, memory, pieces)
    } else {
        read_vectors::<MAX_PIECES>(file, offset, memory, pieces)
    }
}

fn read_vectors<const MAX: usize>(
    file: &FileBlob,
    offset: u64,
    memory: &GuestMemory,
    pieces: impl Iterator<Item = (GuestAddress, usize)> + Clone,
) -> usize {
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; MAX];
    let mut free = vectors.iter_mut();
    let mut total_bytes = 0_usize;
    let slices = || {
        let slices = |(address, len)| memory.get_slices(address, len);
        pieces.clone().flat_map(slices)
    };
    for slice in slices() {
        let (Ok(slice), Some(vector)) = (slice, free.next()) else {
            break;
        };
        vector.iov_base = slice.ptr_guard_mut().as_ptr().cast();
        vector.iov_len = slice.len();
        total_bytes += slice.len();
    }
    let used = MAX - free.len();
    let Some(flags) = file.ready_read_flags() else {
        return 0;
    };
    if !range_is_inside(offset, total_bytes, file.len_bytes()) {
        return 0;
    }
    let (Ok(count), Ok(offset)) = (libc::c_int::try_from(used), i64::try_from(offset)) else {
        return 0;
    };
    let flags = flags.bits().cast_signed();
    #[expect(
        unsafe_code,
        reason = "guest memory belongs to others too, so there is no slice of it to hand to a safe read"
    )]
    // SAFETY: The first `count` vectors are initialized, and each is exactly a `VolatileSlice` of a mapping that
    // `memory`, which is borrowed until this returns, keeps in place. All of it is memory that another process changes
    // at will and that is only accessed by volatile copies and atomics, so bytes that appear in it are one more content
    // it may have; no reference into it exists. Where its file has been cut short, the kernel reports EFAULT.
    let read = unsafe {
        libc::preadv2(
            file.file().as_raw_fd(),
            vectors.as_ptr(),
            count,
            offset,
            flags,
        )
    };
    let read = usize::try_from(read).unwrap_or(0);
    mark(slices(), read);
    read
}

/// Logs the first `len_bytes` bytes of these slices as written.
fn mark<'a, B: BitmapSlice + 'a, E>(
    slices: impl Iterator<Item = Result<VolatileSlice<'a, B>, E>>,
    mut len_bytes: usize,
) {
    for slice in slices.map_while(Result::ok) {
        if len_bytes == 0 {
            break;
        }
        let written = slice.len().min(len_bytes);
        slice.bitmap().mark_dirty(0, written);
        len_bytes -= written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::test_memory;
    use vm_memory::Bytes;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, FileBlob) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let blob = FileBlob::open(file.path()).unwrap();
        (file, blob)
    }

    fn content(memory: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    #[test]
    fn bytes_go_to_the_pieces_in_order_and_nowhere_else() {
        let bytes = blob::test_util::noise(20_000, 1);
        let (_file, blob) = file(&bytes);
        // Two regions that touch: the second piece lies in both.
        let memory = test_memory(&[(0, 8192), (8192, 8192)]);
        let pieces = [(100, 50), (8000, 1000), (0, 10)].map(|(at, len)| (GuestAddress(at), len));
        let read = read_ready_to_guest(&blob, 777, &memory, pieces.into_iter());
        assert_eq!(read, 1060);
        assert_eq!(content(&memory, 100, 50), bytes[777..827]);
        assert_eq!(content(&memory, 8000, 1000), bytes[827..1827]);
        assert_eq!(content(&memory, 0, 10), bytes[1827..1837]);
        for (at, len) in [(10, 90), (150, 7850), (9000, 7384)] {
            assert!(
                content(&memory, at, len).iter().all(|byte| *byte == 0),
                "{at}"
            );
        }
    }

    #[test]
    fn what_is_wrong_reads_nothing() {
        let (named, blob) = file(&[7; 8192]);
        let memory = test_memory(&[(0, 8192)]);
        let read = |offset, at, len| {
            let pieces = [(GuestAddress(at), len)];
            read_ready_to_guest(&blob, offset, &memory, pieces.into_iter())
        };
        assert_eq!(read(8000, 0, 193), 0, "beyond the end of the file");
        assert_eq!(read(u64::MAX, 0, 1), 0);
        assert_eq!(read(0, 100_000, 10), 0, "no memory there");
        assert_eq!(read(0, 8000, 1000), 192, "as far as there is memory");
        named.as_file().set_len(100).unwrap();
        assert_eq!(read(0, 0, 200), 100, "as far as there is a file");
        assert_eq!(read(200, 0, 200), 0);
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_read_in_part() {
        let bytes = blob::test_util::noise(8192, 2);
        let (_file, blob) = file(&bytes);
        let memory = test_memory(&[(0, 1 << 20)]);
        for (count, expected) in [
            (1, 1),
            (2, 2),
            (3, 3),
            (100, 100),
            (1024, 1024),
            (1100, 1024),
        ] {
            memory.write_slice(&[0; 65536], GuestAddress(0)).unwrap();
            let pieces = (0..count).map(|number| (GuestAddress(number * 20), 5));
            let read = read_ready_to_guest(&blob, 0, &memory, pieces);
            assert_eq!(read, 5 * expected, "{count}");
            let last = (expected - 1) * 5;
            let at = (expected as u64 - 1) * 20;
            assert_eq!(content(&memory, at, 5), bytes[last..last + 5]);
            assert_eq!(content(&memory, at + 5, 20), [0; 20]);
        }
    }

    #[test]
    fn memory_whose_file_is_gone_is_an_error_and_not_a_signal() {
        use crate::guest::{DirtyPages, GuestRegion, map_file};
        let (_file, blob) = file(&[7; 8192]);
        let shared = tempfile::tempfile().unwrap();
        shared.set_len(8192).unwrap();
        let alarm = std::sync::Arc::new(crate::system::Alarm::new().unwrap());
        let mapping = map_file(
            shared.try_clone().unwrap(),
            0,
            8192,
            DirtyPages::default(),
            &alarm,
        );
        let region = GuestRegion::new(mapping.unwrap(), 0).unwrap();
        let memory = GuestMemory::from_regions(vec![region]).unwrap();
        shared.set_len(4096).unwrap();
        let pieces = [(GuestAddress(4096), 4096)];
        assert_eq!(
            read_ready_to_guest(&blob, 0, &memory, pieces.into_iter()),
            0
        );
    }
}
