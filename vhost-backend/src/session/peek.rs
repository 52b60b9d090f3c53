//! A look at a message before anybody takes it from the socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

/// Length of a message header in bytes.
pub(crate) const HEADER_LEN_BYTES: usize = 12;
/// Longest payload any message has; the message crate refuses a longer one.
const MAX_PAYLOAD_LEN_BYTES: usize = 4096;
/// Most descriptors of a message: one for each region of a memory table.
pub(crate) const MAX_DESCRIPTORS: usize = 32;
const NEED_REPLY_FLAG: u32 = 1 << 3;
/// What is looked at: the header and the first word of the payload.
const PEEK_LEN_BYTES: usize = HEADER_LEN_BYTES + 4;

/// The beginning of a message that has arrived whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peek {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    pub(crate) payload_len_bytes: u32,
    /// The first four bytes of the payload; 0 if there are fewer.
    pub(crate) first_word: u32,
    descriptor_count: usize,
    truncated: bool,
}

impl Peek {
    /// The message at the head of the socket, if all of it has arrived, or something that the message crate will
    /// refuse at once: a header in two pieces, a length no message has.
    pub(crate) fn at_whole_message(stream: &UnixStream) -> io::Result<Option<Self>> {
        let available = usize::try_from(rustix::io::ioctl_fionread(stream)?).unwrap_or(usize::MAX);
        if available < HEADER_LEN_BYTES {
            return Ok(None);
        }
        let (peek, peeked) = Self::take(stream)?;
        let payload = usize::try_from(peek.payload_len_bytes).unwrap_or(usize::MAX);
        let whole = peeked < HEADER_LEN_BYTES
            || available - HEADER_LEN_BYTES >= payload.min(MAX_PAYLOAD_LEN_BYTES);
        Ok(whole.then_some(peek))
    }

    /// Why the descriptors of the message cannot be taken, if they cannot.
    ///
    /// The message crate would lose the header of a message over too many, and read its payload as the next one. It
    /// would take a message whose descriptors found no room in this process for one that came without any.
    pub(crate) fn descriptor_fault(&self) -> Option<&'static str> {
        match (self.truncated, self.descriptor_count) {
            (false, 0..=MAX_DESCRIPTORS) => None,
            (true, 0..MAX_DESCRIPTORS) => Some(
                "this process has no room left for the descriptors of a message; raise its limit (ulimit -n)",
            ),
            _ => Some("a message brings more descriptors than any message may"),
        }
    }

    /// Whether the front-end waits for an acknowledgement, if it has negotiated any.
    pub(crate) fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY_FLAG != 0
    }

    fn take(stream: &UnixStream) -> io::Result<(Self, usize)> {
        let mut bytes = [0; PEEK_LEN_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
        let peeked = rustix::net::recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )?;
        // Peeking duplicates the descriptors; counting closes the duplicates.
        let descriptors = control.drain().map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.count(),
            _ => 0,
        });
        let descriptor_count = descriptors.sum();
        let mut words = bytes.chunks_exact(4).map(|word| match word {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        });
        let mut next = || words.next().unwrap_or_default();
        let peek = Self {
            request: next(),
            flags: next(),
            payload_len_bytes: next(),
            first_word: next(),
            descriptor_count,
            truncated: peeked.flags.contains(ReturnFlags::CTRUNC),
        };
        Ok((peek, peeked.bytes))
    }
}
