//! What requests cost without a device: the same bytes from the same places, in one thread, measured in turns with the
//! backends.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blob::ReadAt;
use image::{Image, Origin, Plan};
use zfile::Scratch;

use crate::args::Group;
use crate::disks::make_cached;
use crate::groups;
use crate::measure::{Case, measure, verify};
use crate::report::{Facts, Report};
use crate::rounds::Bench;
use crate::say;
use crate::server::{Server, Subject};
use crate::usage::Usage;

/// More than the caches of processors hold.
const COPIED_BYTES: usize = 64 << 20;
/// Requests that are prepared, and begun anew when they are through: more than caches hold, of the largest as of the smallest.
const PREPARED_BYTES: usize = 512 << 20;
const PREPARED_REQUESTS: usize = 1 << 16;
/// How much is read between two looks at the clock.
const BATCH_BYTES: usize = 1 << 20;

/// Where requests find their bytes.
enum Source {
    Flat(File),
    Stack(Box<Image>),
}

/// Bytes of one layer.
#[derive(Clone, Copy)]
struct Piece {
    ordinal: u32,
    is_compressed: bool,
    len_bytes: u32,
    /// In the file, or in the content of the ZFile.
    offset: u64,
}

/// The requests of a case.
struct Bare {
    source: Source,
    pieces: Vec<Piece>,
    /// Of each request, which pieces.
    requests: Vec<Range<u32>>,
    next: usize,
    scratch: Scratch,
    /// One for each request that a guest has in flight.
    buffers: Vec<Vec<u8>>,
}

impl Bench<'_> {
    /// Measures the limits.
    pub(crate) fn limits(&self, report: &mut Report) -> Result<()> {
        self.copies(report)?;
        self.limits_of_group(Group::Limits, report)
    }

    /// What the requests of a group cost with a backend and without, for those of its backends that can do without.
    pub(crate) fn limits_of_group(&self, group: Group, report: &mut Report) -> Result<()> {
        let mut subjects = self.subjects(group);
        subjects.retain(|subject| matches!(subject, Subject::Vbd(_) | Subject::QemuRaw(_)));
        let servers = self.start_all(group, subjects, report);
        let reference = File::open(self.disks.flat()?)?;
        let (_, cases) = groups::plan(group);
        for case in &cases {
            if !self.args.wants_workload(&case.name) {
                continue;
            }
            say!("{}: {}, limits", group.name(), case.name);
            for server in &servers {
                make_cached(&server.files)?;
                verify(server, case, self.settings, &reference)?;
            }
            self.limits_of(group, case, &servers, report)?;
        }
        Ok(())
    }

    /// How fast bytes move from one place to another that no cache holds.
    fn copies(&self, report: &mut Report) -> Result<()> {
        let from = vec![1_u8; COPIED_BYTES];
        let mut to = vec![0_u8; COPIED_BYTES];
        let mut rounds = Vec::new();
        for _round in 0..self.args.rounds() {
            self.go_on()?;
            let start = Instant::now();
            to.copy_from_slice(&from);
            std::hint::black_box(&mut to);
            rounds.push(COPIED_BYTES as f64 / 1e9 / start.elapsed().as_secs_f64());
        }
        let facts = Facts {
            group: Group::Limits,
            what: "copy".into(),
            unit: "GB/s",
            rounds: vec![("memory".into(), rounds)],
        };
        report.facts(facts, None);
        Ok(())
    }

    fn limits_of(
        &self,
        group: Group,
        case: &Case,
        servers: &[Server],
        report: &mut Report,
    ) -> Result<()> {
        let time = Duration::from_secs_f64(self.settings.seconds / 2.0);
        let mut measured = Vec::new();
        for server in servers {
            measured.push((self.bare(server, case)?, Vec::new(), Vec::new()));
        }
        for _round in 0..self.args.rounds() {
            for (server, (bare, limits, devices)) in servers.iter().zip(&mut measured) {
                self.go_on()?;
                make_cached(&server.files)?;
                limits.push(bare.cpu_us(time)?);
                devices.push(measure(server, case, self.settings)?.cpu_us);
            }
        }
        for (server, (_, limits, devices)) in servers.iter().zip(measured) {
            let name = server.subject.name();
            let limit = format!("without {name}");
            let facts = Facts {
                group,
                what: format!("{}: CPU", case.name),
                unit: "us",
                rounds: vec![(name, devices), (limit.clone(), limits)],
            };
            report.facts(facts, Some(&limit));
        }
        Ok(())
    }

    fn bare(&self, server: &Server, case: &Case) -> Result<Bare> {
        let count = (PREPARED_BYTES / case.block_bytes).min(PREPARED_REQUESTS);
        let workload = self.settings.workload(case);
        let offsets = workload.offsets(self.disks.size_bytes())?.take(count);
        let mut bare = Bare {
            source: match server.subject {
                Subject::Vbd(_) => Source::Stack(Box::new(Image::open(&server.files)?)),
                _ => Source::Flat(File::open(self.disks.flat()?)?),
            },
            pieces: Vec::new(),
            requests: Vec::new(),
            next: 0,
            scratch: Scratch::default(),
            buffers: vec![vec![0; case.block_bytes]; case.depth],
        };
        let mut plan = Plan::default();
        for offset in offsets {
            bare.add(offset, case.block_bytes, &mut plan)?;
        }
        Ok(bare)
    }
}

impl Bare {
    fn add(&mut self, offset: u64, len_bytes: usize, plan: &mut Plan) -> Result<()> {
        let first = u32::try_from(self.pieces.len())?;
        let piece = |ordinal: usize, is_compressed, offset, len_bytes: usize| {
            Ok::<_, anyhow::Error>(Piece {
                ordinal: u32::try_from(ordinal)?,
                is_compressed,
                len_bytes: u32::try_from(len_bytes)?,
                offset,
            })
        };
        match &self.source {
            Source::Flat(_) => self.pieces.push(piece(0, false, offset, len_bytes)?),
            Source::Stack(image) => {
                image.plan(offset, len_bytes, plan)?;
                for step in plan.steps() {
                    let found = match &step.origin {
                        Origin::Zero => continue,
                        Origin::Plain { ordinal, stored } => {
                            piece(*ordinal, false, stored.start, step.len)?
                        }
                        Origin::Blocks { ordinal, run } => {
                            piece(*ordinal, true, run.content().start, step.len)?
                        }
                    };
                    self.pieces.push(found);
                }
            }
        }
        self.requests.push(first..u32::try_from(self.pieces.len())?);
        Ok(())
    }

    /// Processor time of a request.
    fn cpu_us(&mut self, time: Duration) -> Result<f64> {
        self.some()?;
        let before = Usage::of_this_thread()?;
        let start = Instant::now();
        let mut done = 0;
        while start.elapsed() < time {
            done += self.some()?;
        }
        let used = Usage::of_this_thread()?.since(before);
        Ok(used.cpu.as_secs_f64() * 1e6 / done as f64)
    }

    /// Reads for some requests, and returns for how many.
    fn some(&mut self) -> Result<usize> {
        let each = self.buffers.first().map_or(1, Vec::len);
        let count = (BATCH_BYTES / each).max(1);
        for _ in 0..count {
            let request = self.requests.get(self.next % self.requests.len().max(1));
            let request = request.context("no requests")?;
            let pieces = &self.pieces[request.start as usize..request.end as usize];
            let number = self.next % self.buffers.len();
            let mut rest = self.buffers[number].as_mut_slice();
            for piece in pieces {
                let len = piece.len_bytes as usize;
                ensure!(len <= rest.len(), "a piece longer than its request");
                let (part, behind) = rest.split_at_mut(len);
                read(&self.source, piece, &mut self.scratch, part)?;
                rest = behind;
            }
            self.next += 1;
        }
        Ok(count)
    }
}

fn read(source: &Source, piece: &Piece, scratch: &mut Scratch, part: &mut [u8]) -> Result<()> {
    let image = match source {
        Source::Flat(file) => return Ok(file.read_exact_at(part, piece.offset)?),
        Source::Stack(image) => image,
    };
    let ordinal = piece.ordinal as usize;
    if piece.is_compressed {
        let layer = image.disk().layers().get(ordinal);
        let zfile = layer.and_then(|layer| layer.source().zfile());
        let zfile = zfile.context("not a ZFile")?;
        zfile.read_exact_at_with(scratch, part, piece.offset)?;
    } else {
        let stored = image.stored(ordinal).context("no such layer")?;
        stored.read_exact_at(part, piece.offset)?;
    }
    Ok(())
}
