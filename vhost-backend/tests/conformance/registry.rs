//! Checks with a number and a name, and how a line of them is run.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// One check.
pub(crate) struct Check {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

/// A line of the specifications.
pub(crate) struct Line {
    pub(crate) id: &'static str,
    pub(crate) checks: &'static [Check],
}

/// A line, its checks, and the test that runs them.
macro_rules! line {
    ($line:ident = $name:literal, $test:ident: $($id:literal $what:literal => $run:expr),+ $(,)?) => {
        pub(crate) const $line: $crate::registry::Line = $crate::registry::Line {
            id: $name,
            checks: &[$($crate::registry::Check { id: $id, name: $what, run: $run }),+],
        };

        #[test]
        fn $test() {
            $line.run();
        }
    };
}
pub(crate) use line;

/// All lines there are.
pub(crate) const LINES: &[&Line] = &[
    &crate::c01_ring_states::C01,
    &crate::c02_stopping::C02,
    &crate::c02_stopping::C03,
    &crate::c04_restarting::C04,
    &crate::c04_restarting::C05,
    &crate::c06_memory_table::C06,
    &crate::c07_memory_regions::C07,
    &crate::c08_dirty_log::C08,
    &crate::c09_inflight::C09,
    &crate::c10_offers::C10,
    &crate::c10_offers::C14,
    &crate::c10_offers::C15,
    &crate::c11_config::C11,
    &crate::c12_acknowledgements::C12,
    &crate::c12_acknowledgements::C13,
    &crate::c16_errors::C16,
    &crate::c16_errors::C17,
    &crate::c18_sessions::C18,
    &crate::c18_sessions::C19,
    &crate::c20_program::C20,
    &crate::c21_termination::C21,
    &crate::c22_requests::C22,
    &crate::c23_features::C23,
];

impl Line {
    /// Runs all checks, also those behind one that fails, and fails with the names of all that did.
    pub(crate) fn run(&self) {
        let failed: Vec<String> = self
            .checks
            .iter()
            .filter(|check| catch_unwind(AssertUnwindSafe(check.run)).is_err())
            .map(|check| format!("{} {}", check.id, check.name))
            .collect();
        println!("{}: {} checks", self.id, self.checks.len());
        assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    }
}

/// A number from the environment, for runs that are longer than usual.
pub(crate) fn number_or(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}
