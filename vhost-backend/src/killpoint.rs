//! Named points at which a test can have the process killed, to see what survives.
//!
//! Only with the feature `kill-points`; without it [`reached`] is nothing. `VBD_KILL_AT=after-status:17` kills the
//! process when it comes to that point for the 17th time.

/// Where a request stands, in the order it comes to these points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Taken from the available ring; nobody else knows.
    AfterPop,
    /// Entered in the map of requests in flight.
    AfterMark,
    /// Its data, or a piece of them, is in guest memory.
    AfterData,
    /// Its status is in guest memory.
    AfterStatus,
    /// Its used element is in guest memory; the used index has not moved.
    AfterUsedElement,
    /// The used index has moved.
    AfterUsedIndex,
    /// It is no longer in the map of requests in flight; the driver has not been told.
    AfterClear,
}

impl Point {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::AfterPop,
        Self::AfterMark,
        Self::AfterData,
        Self::AfterStatus,
        Self::AfterUsedElement,
        Self::AfterUsedIndex,
        Self::AfterClear,
    ];

    /// Its name in `VBD_KILL_AT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterPop => "after-pop",
            Self::AfterMark => "after-mark",
            Self::AfterData => "after-data",
            Self::AfterStatus => "after-status",
            Self::AfterUsedElement => "after-used-element",
            Self::AfterUsedIndex => "after-used-index",
            Self::AfterClear => "after-clear",
        }
    }
}

/// Kills the process if it is to die here.
#[inline]
pub fn reached(point: Point) {
    if is_due(point) {
        die();
    }
}

#[cfg(not(feature = "kill-points"))]
#[inline]
pub(crate) fn is_due(_point: Point) -> bool {
    false
}

#[cfg(not(feature = "kill-points"))]
pub(crate) fn die() {}

#[cfg(feature = "kill-points")]
pub(crate) use armed::{die, is_due};

#[cfg(feature = "kill-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Point;

    static PLAN: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();

    fn plan() -> Option<(String, AtomicU64)> {
        let plan = std::env::var("VBD_KILL_AT").ok()?;
        let (name, count) = plan.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(count.parse().ok()?)))
    }

    /// Whether this is the time. Counts every call for the point of the plan.
    pub(crate) fn is_due(point: Point) -> bool {
        let Some((name, left)) = PLAN.get_or_init(plan) else {
            return false;
        };
        name == point.name() && left.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Ends the process as `kill -9` does: nothing is flushed, nothing is told.
    pub(crate) fn die() {
        let own = rustix::process::getpid();
        let _dead = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    }
}
