//! Guests on one half of the processors, backends on the other: less like life, and more the same each time.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The two halves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pin {
    guests: CpuSet,
    backends: CpuSet,
}

impl Pin {
    /// Moves this thread, and those it starts from now on, to the processors of guests.
    pub(crate) fn new() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let (mut guests, mut backends) = (CpuSet::new(), CpuSet::new());
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| all.is_set(*cpu))
            .collect();
        let (first, second) = allowed
            .split_at_checked(allowed.len() / 2)
            .filter(|(first, _)| !first.is_empty())
            .context("--pin needs two processors")?;
        first.iter().for_each(|cpu| backends.set(*cpu));
        second.iter().for_each(|cpu| guests.set(*cpu));
        sched_setaffinity(None, &guests)?;
        Ok(Self { guests, backends })
    }

    /// Starts something that stays on the processors of backends.
    pub(crate) fn as_backend<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(None, &self.backends)?;
        let started = start();
        sched_setaffinity(None, &self.guests)?;
        started
    }
}
