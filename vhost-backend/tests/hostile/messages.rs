//! A message of a hostile front-end, and what became of it.

use std::fs::File;

use rustix::fs::MemfdFlags;

use crate::support::client::{Client, GET_FEATURES};

/// Protocol version 1, answer wanted.
const NEED_REPLY: u32 = 1 | 8;

/// What a backend did about a message that asks for an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Accepted,
    Refused,
    Ended,
}

impl Reaction {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused with an acknowledgement",
            Self::Ended => "connection ended",
        }
    }
}

/// Sends a message that has no answer but its acknowledgement.
pub(crate) fn tell(client: &mut Client, request: u32, payload: &[u8], files: &[&File]) -> Reaction {
    client.send(request, NEED_REPLY, payload, files);
    match client.reply(request) {
        None => Reaction::Ended,
        Some(status) if status == [0; 8] => Reaction::Accepted,
        // Some refusals are the last word.
        Some(_) if client.ask(GET_FEATURES, &[]).is_none() => Reaction::Ended,
        Some(_) => Reaction::Refused,
    }
}

/// Eight-byte numbers, one behind the other.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn memory_file(len_bytes: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len_bytes).unwrap();
    file
}
