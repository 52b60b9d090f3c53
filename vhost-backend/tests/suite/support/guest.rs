//! Guest memory in pieces, as front-ends hand it over: several files, gaps, addresses that agree in nothing.

use std::fs::File;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// One piece of guest memory.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) guest: u64,
    pub(crate) len: u64,
    pub(crate) user: u64,
    pub(crate) offset: u64,
    pub(crate) file: File,
}

/// Rings live in the first piece.
pub(crate) const RINGS: u64 = 0;
/// Buffers live here, in two pieces that touch: a buffer may lie across the border.
pub(crate) const BUFFERS: u64 = 0x4000_0000;
pub(crate) const BORDER: u64 = BUFFERS + 0x80_0000;
/// End of guest memory.
pub(crate) const END: u64 = BORDER + 0x80_0000;

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) memory: GuestMemoryMmap,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let layout = [
            (RINGS, 0x20_0000, 0x10_0000_0000, 0),
            (BUFFERS, BORDER - BUFFERS, 0x20_0000_0000, 0x1000),
            (BORDER, END - BORDER, 0x7fff_0000_0000, 0x20_0000),
        ];
        let pieces = layout.map(|(guest, len, user, offset)| {
            let file = File::from(
                rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
            );
            file.set_len(offset + len).unwrap();
            Piece {
                guest,
                len,
                user,
                offset,
                file,
            }
        });
        let mappings = pieces.iter().map(|piece| {
            let file = FileOffset::new(piece.file.try_clone().unwrap(), piece.offset);
            let mapping = MmapRegion::from_file(file, usize::try_from(piece.len).unwrap()).unwrap();
            GuestRegionMmap::new(mapping, GuestAddress(piece.guest)).unwrap()
        });
        let memory = GuestMemoryMmap::from_regions(mappings.collect()).unwrap();
        Self {
            pieces: pieces.into(),
            memory,
        }
    }

    /// The front-end's name for a guest address.
    pub(crate) fn user(&self, guest: u64) -> u64 {
        let piece = self
            .pieces
            .iter()
            .find(|piece| (piece.guest..piece.guest + piece.len).contains(&guest));
        let piece = piece.expect("an address inside guest memory");
        piece.user + (guest - piece.guest)
    }
}

impl Piece {
    /// The four numbers of a memory region message.
    pub(crate) fn region(&self) -> Vec<u8> {
        [self.guest, self.len, self.user, self.offset]
            .map(u64::to_le_bytes)
            .concat()
    }
}
