//! The same reads without a backend: which stored bytes requests of a guest come from, and how fast fio and a loop with
//! `pread` get just these.

use std::collections::HashSet;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image::{Image, Plan};

use crate::server::{Server, Subject};

const PAGE_BYTES: u64 = 4096;

/// Stored bytes that are in one piece.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Position of the file among those of the backend.
    file: usize,
    offset: u64,
    len_bytes: u64,
}

/// What a number of requests need of the files behind a backend, in the order of the requests.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    files: &'a [PathBuf],
    requests: usize,
    pieces: Vec<Piece>,
}

impl<'a> Replay<'a> {
    /// What the requests at these offsets need.
    pub(crate) fn new(
        server: &'a Server,
        offsets: impl Iterator<Item = u64>,
        block_bytes: usize,
    ) -> Result<Self> {
        let mut replay = Self {
            files: &server.files,
            requests: 0,
            pieces: Vec::new(),
        };
        let image = match server.subject {
            Subject::Vbd(_) | Subject::Polling(_) | Subject::Base(_) => {
                Some(Image::open(&server.files)?)
            }
            _ => None,
        };
        let mut plan = Plan::default();
        for offset in offsets {
            replay.requests += 1;
            match &image {
                Some(image) => {
                    image.plan(offset, block_bytes, &mut plan)?;
                    let stored = plan.steps().iter().filter_map(image::Step::stored);
                    replay.pieces.extend(stored.map(|(file, range)| Piece {
                        file,
                        offset: range.start,
                        len_bytes: range.end - range.start,
                    }));
                }
                None => replay.pieces.push(Piece {
                    file: 0,
                    offset,
                    len_bytes: block_bytes as u64,
                }),
            }
        }
        Ok(replay)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    /// All that is needed, in whole pages.
    pub(crate) fn page_bytes(&self) -> u64 {
        let pages: HashSet<(usize, u64)> = self
            .pieces
            .iter()
            .flat_map(|piece| {
                let last = (piece.offset + piece.len_bytes).div_ceil(PAGE_BYTES);
                (piece.offset / PAGE_BYTES..last).map(|page| (piece.file, page))
            })
            .collect();
        pages.len() as u64 * PAGE_BYTES
    }

    /// Requests per second with one `pread` after the other.
    pub(crate) fn pread(&self) -> Result<f64> {
        let opened: Result<Vec<File>, _> = self.files.iter().map(File::open).collect();
        let opened = opened?;
        let most = self.pieces.iter().map(|piece| piece.len_bytes).max();
        let mut buffer = vec![0; usize::try_from(most.unwrap_or_default())?];
        let start = Instant::now();
        for piece in &self.pieces {
            let part = buffer.get_mut(..usize::try_from(piece.len_bytes)?);
            let part = part.context("a piece longer than the longest")?;
            opened[piece.file].read_exact_at(part, piece.offset)?;
        }
        Ok(self.requests as f64 / start.elapsed().as_secs_f64())
    }

    /// Requests per second with fio, started by this command, which has as many bytes in flight as so many requests are.
    pub(crate) fn fio(&self, mut fio: Command, depth: usize) -> Result<f64> {
        let log = tempfile::NamedTempFile::new()?;
        std::fs::write(log.path(), self.log()?)?;
        let each = self.pieces.len().div_ceil(self.requests.max(1));
        let output = fio
            .args(["--name=replay", "--readonly", "--output-format=json"])
            // What the kernel does for any program that says nothing about its reads.
            .args(["--ioengine=io_uring", "--direct=0", "--fadvise_hint=0"])
            .arg(format!("--iodepth={}", depth * each))
            .arg(format!("--read_iolog={}", log.path().display()))
            .output()
            .context("fio cannot be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let elapsed = fio_elapsed(&text, self.pieces.len());
        let elapsed = elapsed.with_context(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("fio ({}): {text}{complaint}", output.status)
        })?;
        Ok(self.requests as f64 / elapsed.as_secs_f64())
    }

    /// The pieces as a log of fio, version 2.
    fn log(&self) -> Result<String> {
        let mut log = String::from("fio version 2 iolog\n");
        for action in ["add", "open"] {
            for file in self.files {
                writeln!(log, "{} {action}", file.display())?;
            }
        }
        for piece in &self.pieces {
            let file = self.files.get(piece.file).context("a piece of no file")?;
            let (offset, len) = (piece.offset, piece.len_bytes);
            writeln!(log, "{} read {offset} {len}", file.display())?;
        }
        Ok(log)
    }
}

/// The time that fio took for all reads.
fn fio_elapsed(text: &str, reads: usize) -> Result<Duration> {
    let json = text.find('{').and_then(|start| text.get(start..));
    let json: serde_json::Value = serde_json::from_str(json.context("no JSON")?)?;
    let job = &json["jobs"][0];
    ensure!(job["error"].as_i64() == Some(0), "it failed");
    let done = job["read"]["total_ios"].as_u64().unwrap_or_default();
    ensure!(done == reads as u64, "{done} reads of {reads}");
    let milliseconds = job["read"]["runtime"].as_u64().context("no runtime")?;
    ensure!(milliseconds > 0, "too short to be measured");
    Ok(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Piece, Replay};

    fn replay(files: &[PathBuf]) -> Replay<'_> {
        let piece = |file, offset, len_bytes| Piece {
            file,
            offset,
            len_bytes,
        };
        Replay {
            files,
            requests: 2,
            pieces: vec![piece(0, 4000, 200), piece(1, 4096, 4096), piece(0, 0, 10)],
        }
    }

    #[test]
    fn a_page_counts_once() {
        let files = [PathBuf::from("a"), PathBuf::from("b")];
        assert_eq!(replay(&files).page_bytes(), 3 * 4096);
    }

    #[test]
    fn the_log_has_all_reads_in_order() {
        let files = [PathBuf::from("/a"), PathBuf::from("/b")];
        let log = replay(&files).log().unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[..3], ["fio version 2 iolog", "/a add", "/b add"]);
        assert_eq!(
            lines[5..],
            ["/a read 4000 200", "/b read 4096 4096", "/a read 0 10"]
        );
    }
}
