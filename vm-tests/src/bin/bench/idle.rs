//! What a backend costs that does nothing, and how long it takes to be there.

use std::time::Duration;

use anyhow::Result;
use vm_tests::load::{Limit, Pattern};

use crate::args::Group;
use crate::disks::{Stack, make_cached};
use crate::measure::{Case, with_disk};
use crate::report::{Report, median};
use crate::rounds::Bench;
use crate::say;
use crate::server::{Aio, Server, Subject};
use crate::usage::{MemoryUse, Usage};

const IDLE_TIME: Duration = Duration::from_secs(3);
/// What a polling backend is given to calm down.
const SETTLE_TIME: Duration = Duration::from_millis(200);

impl Bench<'_> {
    /// Wake-ups, CPU time and memory of attached backends without a request.
    pub(crate) fn idle(&self, report: &mut Report) -> Result<()> {
        say!("latency: idle");
        let case = Case::new(Pattern::Random, 4096, 32);
        let workload = self.settings.workload(&case);
        for subject in self.subjects(Group::Latency) {
            self.go_on()?;
            let server = self.start(subject)?;
            make_cached(&server.files)?;
            let (used, memory) = with_disk(&server, &case, self.settings, |disk| {
                disk.run(&workload, Limit::seconds(0.1), None)?;
                std::thread::sleep(SETTLE_TIME);
                let before = Usage::of(server.pid())?;
                std::thread::sleep(IDLE_TIME);
                let used = Usage::of(server.pid())?.since(before);
                Ok((used, MemoryUse::of(server.pid())?))
            })?;
            let seconds = IDLE_TIME.as_secs_f64();
            let wakes = used.voluntary as f64 / seconds;
            let cpu = used.cpu.as_secs_f64() * 1e6 / seconds;
            for (what, value) in [
                ("idle: wake-ups", (wakes, "/s")),
                ("idle: CPU time", (cpu, "us/s")),
                ("idle: memory (RSS)", (mib(memory.rss_bytes), "MiB")),
            ] {
                report.fact(Group::Latency, what, subject.name(), value);
            }
        }
        Ok(())
    }

    /// From starting the program to its socket, and what it holds then.
    pub(crate) fn start_times(&self, report: &mut Report) -> Result<()> {
        say!("latency: starting");
        let stacks = [16, 255].into_iter().flat_map(|layers| {
            [Stack::raw(layers), Stack::lz4(layers)]
                .into_iter()
                .flat_map(|stack| [Subject::Vbd(stack), Subject::Base(stack)])
        });
        let subjects = stacks.chain([Subject::QemuRaw(Aio::IoUring)]);
        for subject in self.possible(subjects) {
            self.go_on()?;
            make_cached(&subject.files(self.programs, self.disks)?)?;
            let (mut times, mut memory) = (Vec::new(), Vec::new());
            for _round in 0..self.args.rounds() {
                let server: Server = self.start(subject)?;
                times.push(server.started.as_secs_f64() * 1e3);
                memory.push(mib(MemoryUse::of(server.pid())?.rss_bytes));
            }
            for (what, values, unit) in [
                ("start to socket", times, "ms"),
                ("memory (RSS) at the socket", memory, "MiB"),
            ] {
                let value = (median(values.into_iter()), unit);
                report.fact(Group::Latency, what, subject.name(), value);
            }
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
