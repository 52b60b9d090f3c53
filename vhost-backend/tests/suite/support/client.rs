//! vhost-user messages as bytes, so that a test can send what no library would.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_LOG_BASE: u32 = 6;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
pub(crate) const GET_CONFIG: u32 = 24;
pub(crate) const SET_CONFIG: u32 = 25;
pub(crate) const GET_INFLIGHT_FD: u32 = 31;
pub(crate) const SET_INFLIGHT_FD: u32 = 32;
pub(crate) const RESET_DEVICE: u32 = 34;
pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;
pub(crate) const SET_DEVICE_STATE_FD: u32 = 42;
pub(crate) const CHECK_DEVICE_STATE: u32 = 43;

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// One connection to a backend.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    /// Whether REPLY_ACK was negotiated: every message then asks for a reply and must get success.
    pub(crate) acknowledge: bool,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        // Every wait of a test has an end.
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream,
            acknowledge: false,
        }
    }

    /// Sends a message that has no reply of its own.
    pub(crate) fn tell(&mut self, request: u32, payload: &[u8], files: &[&File]) {
        let need_reply = if self.acknowledge { NEED_REPLY } else { 0 };
        self.send(request, VERSION | need_reply, payload, files);
        if self.acknowledge {
            let status = self.reply(request).expect("an acknowledgement");
            assert_eq!(status, 0_u64.to_le_bytes(), "message {request} was refused");
        }
    }

    /// Sends a message and returns its reply, `None` when the connection ended instead.
    pub(crate) fn ask(&mut self, request: u32, payload: &[u8]) -> Option<Vec<u8>> {
        self.send(request, VERSION, payload, &[]);
        self.reply(request)
    }

    pub(crate) fn ask_u64(&mut self, request: u32) -> u64 {
        u64::from_le_bytes(self.ask(request, &[]).unwrap().try_into().unwrap())
    }

    pub(crate) fn tell_u64(&mut self, request: u32, value: u64) {
        self.tell(request, &value.to_le_bytes(), &[]);
    }

    /// A message about a ring: index and number.
    pub(crate) fn tell_ring(&mut self, request: u32, index: u32, number: u32) {
        self.tell(request, &pair(index, number), &[]);
    }

    pub(crate) fn tell_ring_file(&mut self, request: u32, index: u8, file: Option<&File>) {
        let no_file = if file.is_none() { 0x100 } else { 0 };
        let files: Vec<&File> = file.into_iter().collect();
        self.tell(request, &(u64::from(index) | no_file).to_le_bytes(), &files);
    }

    pub(crate) fn vring_base(&mut self, index: u32) -> u16 {
        let reply = self
            .ask(GET_VRING_BASE, &pair(index, 0))
            .expect("a reply to GET_VRING_BASE");
        assert_eq!(reply[..4], index.to_le_bytes());
        u16::try_from(u32::from_le_bytes(reply[4..].try_into().unwrap())).unwrap()
    }

    /// The bytes of a range of the configuration space; empty when refused.
    pub(crate) fn config(&mut self, offset: u32, size: u32, flags: u32) -> Option<Vec<u8>> {
        let mut payload = [offset, size, flags].map(u32::to_le_bytes).concat();
        payload.resize(12 + size as usize, 0);
        self.ask(GET_CONFIG, &payload)
            .map(|reply| reply[12..].to_vec())
    }

    /// Hands over a dirty log, `len_bytes` at `offset` of `file`.
    pub(crate) fn set_log(&mut self, file: &File, offset: u64, len_bytes: u64) {
        let payload = [len_bytes, offset].map(u64::to_le_bytes).concat();
        self.send(SET_LOG_BASE, VERSION, &payload, &[file]);
        self.reply(SET_LOG_BASE).expect("a reply to SET_LOG_BASE");
    }

    /// Has a map of requests in flight made, and returns its file and length.
    pub(crate) fn get_inflight(&mut self, queues: u16, size: u16) -> (File, u64) {
        let request = inflight_payload(0, queues, size);
        self.send(GET_INFLIGHT_FD, VERSION, &request, &[]);
        let mut bytes = [0; 12 + 24];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        rustix::net::recvmsg(&self.stream, &mut iov, &mut control, flags).unwrap();
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next().map(File::from),
            _ => None,
        });
        let len_bytes = u64::from_le_bytes(bytes[12..20].try_into().unwrap());
        assert_eq!(bytes[20..28], [0; 8], "offset");
        assert_eq!(bytes[28..32], request[16..20], "queues and size");
        (file.expect("a map comes with its file"), len_bytes)
    }

    /// Hands over a map of requests in flight.
    pub(crate) fn set_inflight(&mut self, file: &File, len_bytes: u64, queues: u16, size: u16) {
        let payload = inflight_payload(len_bytes, queues, size);
        self.tell(SET_INFLIGHT_FD, &payload, &[file]);
    }

    pub(crate) fn send(&mut self, request: u32, flags: u32, payload: &[u8], files: &[&File]) {
        let announced = u32::try_from(payload.len()).unwrap();
        self.send_as(request, flags, announced, payload, files);
    }

    /// Sends a message that need not have the length it announces.
    pub(crate) fn send_as(
        &mut self,
        request: u32,
        flags: u32,
        len: u32,
        payload: &[u8],
        files: &[&File],
    ) {
        let header = [request, flags, len].map(u32::to_le_bytes).concat();
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let iov = [IoSlice::new(&header), IoSlice::new(payload)];
        // The backend may have ended the connection already; the reply, or its absence, is what a test judges.
        let _sent = rustix::net::sendmsg(&self.stream, &iov, &mut control, SendFlags::NOSIGNAL);
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let _sent = self.stream.write_all(bytes);
    }

    pub(crate) fn reply(&mut self, request: u32) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).ok()?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(
            (word(0), word(4)),
            (request, VERSION | REPLY),
            "reply header"
        );
        let mut payload = vec![0; word(8) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        Some(payload)
    }

    /// Whether the backend has ended the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        loop {
            let found = self.stream.read(&mut [0]);
            match found.map_err(|error| error.kind()) {
                // A wait with an end may be interrupted by nothing but a pause of this process.
                Err(ErrorKind::Interrupted) => {}
                // Closed, perhaps with something of ours unread.
                Ok(0) | Err(ErrorKind::ConnectionReset) => return true,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

fn inflight_payload(len_bytes: u64, queues: u16, size: u16) -> Vec<u8> {
    let mut payload = [len_bytes, 0].map(u64::to_le_bytes).concat();
    payload.extend([queues, size].map(u16::to_le_bytes).concat());
    payload.resize(24, 0);
    payload
}

pub(crate) fn pair(index: u32, number: u32) -> Vec<u8> {
    [index, number].map(u32::to_le_bytes).concat()
}
