//! The memory table of User-mode Linux, which has room for more regions than it holds.
//!
//! Its SET_MEM_TABLE always has the length of two regions and says how many of them mean something. The message crate
//! demands that the length fits the number exactly, so this one form of this one message is taken here.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result, VhostUserBackendReqHandlerMut};

use crate::session::Session;
use crate::session::peek::{HEADER_LEN_BYTES, MAX_DESCRIPTORS, Peek};

const SET_MEM_TABLE: u32 = 5;
/// Protocol version 1, and that this is a reply.
const REPLY_FLAGS: u32 = 1 | 1 << 2;
const NEED_REPLY_FLAG: u32 = 1 << 3;
/// The number of regions and padding.
const TABLE_HEADER_LEN_BYTES: usize = 8;
const REGION_LEN_BYTES: usize = 32;

/// A memory table that is longer than its regions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomyTable {
    region_count: usize,
    payload_len_bytes: usize,
    wants_reply: bool,
}

/// Whether `message` is such a table. Every other message, right or wrong, is the message crate's to judge.
pub(crate) fn recognise(message: &Peek) -> Option<RoomyTable> {
    let region_count = usize::try_from(message.first_word).ok()?;
    let payload_len_bytes = usize::try_from(message.payload_len_bytes).ok()?;
    let room = payload_len_bytes.checked_sub(TABLE_HEADER_LEN_BYTES)?;
    let roomy = message.request == SET_MEM_TABLE
        && message.flags & !NEED_REPLY_FLAG == 1
        && (1..=MAX_DESCRIPTORS).contains(&region_count)
        && room.is_multiple_of(REGION_LEN_BYTES)
        && (region_count + 1..=MAX_DESCRIPTORS).contains(&(room / REGION_LEN_BYTES));
    roomy.then_some(RoomyTable {
        region_count,
        payload_len_bytes,
        wants_reply: message.flags & NEED_REPLY_FLAG != 0,
    })
}

impl RoomyTable {
    /// Takes the message from the socket and does what it says.
    ///
    /// # Errors
    ///
    /// As the message crate: any error ends the connection.
    pub(crate) fn take(self, stream: &UnixStream, session: &Mutex<Session>) -> Result<()> {
        let mut message = vec![0; HEADER_LEN_BYTES + self.payload_len_bytes];
        let files = receive(stream, &mut message)?;
        if files.len() != self.region_count {
            return Err(Error::IncorrectFds);
        }
        let regions = message
            .get(HEADER_LEN_BYTES + TABLE_HEADER_LEN_BYTES..)
            .unwrap_or_default();
        let regions: Vec<VhostUserMemoryRegion> = regions
            .chunks_exact(REGION_LEN_BYTES)
            .take(self.region_count)
            .map(region)
            .collect();
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let result = session.set_mem_table(&regions, files, None);
        if self.wants_reply && session.acknowledges() {
            acknowledge(stream, result.is_ok())?;
        }
        result.map(|_| ())
    }
}

/// Fills `message` from the socket and returns the files that came with it.
fn receive(stream: &UnixStream, message: &mut [u8]) -> Result<Vec<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(message)];
    let received = rustix::net::recvmsg(stream, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| Error::SocketError(error.into()))?;
    let files = control.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => fds.map(File::from).collect(),
        _ => Vec::new(),
    });
    let files = files.collect();
    // All of it has arrived, though perhaps in pieces.
    let rest = message.get_mut(received.bytes..).unwrap_or_default();
    (&*stream).read_exact(rest).map_err(Error::SocketError)?;
    Ok(files)
}

fn region(bytes: &[u8]) -> VhostUserMemoryRegion {
    let mut words = bytes.chunks_exact(8).map(|word| {
        word.iter()
            .rev()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    });
    let mut next = || words.next().unwrap_or_default();
    VhostUserMemoryRegion::new(next(), next(), next(), next())
}

fn acknowledge(stream: &UnixStream, success: bool) -> Result<()> {
    let header = [SET_MEM_TABLE, REPLY_FLAGS, 8]
        .map(u32::to_le_bytes)
        .concat();
    let status = u64::from(!success).to_le_bytes();
    (&*stream)
        .write_all(&[&header[..], &status].concat())
        .map_err(Error::SocketError)
}
