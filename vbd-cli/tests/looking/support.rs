//! Layers in a directory of their own, and the program run there.

use std::path::PathBuf;
use std::process::Command;

use blob::test_util::noise;
use lsmt::{Uuid, Writer, WriterOptions};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const DISK_LEN_BYTES: u64 = 1 << 20;
pub(crate) const BASE_UUID: &str = "11111111-2222-4333-8444-AABBCCDDEEFF";

/// What a run of the program has come to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A directory with layers.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A plain layer, a ZFile above it, and a ZFile in tar above that.
    pub(crate) fn with_stack() -> Self {
        let place = Self::new();
        let base = layer(BASE_UUID, "", &[(0, 64, false), (1024, 512, false)]);
        place.write("base.lsmt", &base);
        let app = layer("", BASE_UUID, &[(32, 64, false), (512, 256, true)]);
        place.write("app.zfile", &compressed(&app));
        let top = layer("", "", &[(1024, 8, false)]);
        place.write("top.tar", &wrapped(&compressed(&top)));
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Changes a byte of a file.
    pub(crate) fn damage(&self, name: &str, at: usize) {
        let mut bytes = self.read(name);
        bytes[at] ^= 1;
        self.write(name, &bytes);
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn vbd(&self, args: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_vbd"))
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("NO_COLOR")
            .output()
            .unwrap();
        Run {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A layer of runs: first sector, sectors, whether zeroed.
pub(crate) fn layer(uuid: &str, parent: &str, runs: &[(u64, u64, bool)]) -> Vec<u8> {
    let uuid_of = |text: &str| match text {
        "" => Uuid::NIL,
        text => Uuid::from_text(text.as_bytes().try_into().unwrap()),
    };
    let options = WriterOptions {
        virtual_size_bytes: DISK_LEN_BYTES,
        uuid: uuid_of(uuid),
        parent_uuid: uuid_of(parent),
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    for (first, len, zeroed) in runs {
        match zeroed {
            true => writer.zeroed(*first, *len).unwrap(),
            false => {
                let len = usize::try_from(len * 512).unwrap();
                writer.data(*first, &noise(len, *first)).unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

pub(crate) fn compressed(content: &[u8]) -> Vec<u8> {
    let mut writer = zfile::Writer::new(Vec::new(), zfile::WriterOptions::default()).unwrap();
    writer.append(content).unwrap();
    writer.finish_overwriting().unwrap()
}

pub(crate) fn wrapped(payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    let mut bytes = blob::tar::wrap_header(len);
    bytes.extend_from_slice(payload);
    let zeroes = usize::try_from(blob::tar::wrap_trailer_len_bytes(len)).unwrap();
    bytes.resize(bytes.len() + zeroes, 0);
    bytes
}
