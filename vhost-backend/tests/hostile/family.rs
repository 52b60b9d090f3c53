//! A family of attacks on one daemon, and what must hold after each attack and after all of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::attack::Attack;
use crate::house::{House, Usage, wait_until};
use crate::support::driver::Driver;
use crate::table::{Row, settle};

/// Memory that may stay with the allocator, in KiB: a thread's arena keeps what its queue has used.
const SLACK_KIB: u64 = 6 << 10;
const MAX_LINES_PER_SECOND: u64 = 10;

pub(crate) struct Family {
    id: &'static str,
    title: &'static str,
    pub(crate) house: House,
    before: Usage,
    start: Instant,
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Family {
    pub(crate) fn start(id: &'static str, title: &'static str) -> Self {
        let house = House::new();
        // Warm: what the first session allocates is not growth.
        for _ in 0..5 {
            let mut attack = Attack::new(&house, u64::MAX, 128);
            let (status, _, _) = attack.driver.request(0, 0, 0, 4099 * 512, 2);
            assert_eq!(status, 0);
            attack.demand_neighbour();
        }
        house.honest_session();
        wait_until("the first sessions to end", || house.usage().threads <= 2);
        let before = settled(&house);
        Self {
            id,
            title,
            house,
            before,
            start: Instant::now(),
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// An attack by a guest, on ring 0 of 128 entries with every feature.
    pub(crate) fn guest(
        &mut self,
        case: impl Into<String>,
        attack: impl FnOnce(&mut Attack<'_>) -> String,
    ) {
        self.guest_with(case, u64::MAX, 128, attack);
    }

    /// An attack by a guest with these features, on ring 0 of this size.
    pub(crate) fn guest_with(
        &mut self,
        case: impl Into<String>,
        features: u64,
        size: u16,
        attack: impl FnOnce(&mut Attack<'_>) -> String,
    ) {
        self.case(case.into(), |house| {
            let (lines, _) = house.log_lines();
            let start = Instant::now();
            let mut session = Attack::new(house, features, size);
            let outcome = attack(&mut session);
            // Refusing may mean to end the connection; the row says so.
            if !outcome.starts_with("connection ended") {
                session.demand_neighbour();
            }
            let rings = session.driver.rings.len() as u64;
            drop(session);
            house.honest_session();
            // Each ring is a source of its own; the honest session has one more.
            let allowed = MAX_LINES_PER_SECOND * (rings + 1) * (start.elapsed().as_secs() + 2);
            let written = (house.log_lines().0 - lines) as u64;
            assert!(
                written <= allowed,
                "{written} lines in the log, {allowed} allowed"
            );
            outcome
        });
    }

    /// An attack by a front-end, which does what it likes with the house's socket.
    pub(crate) fn front_end(
        &mut self,
        case: impl Into<String>,
        attack: impl FnOnce(&House) -> String,
    ) {
        self.case(case.into(), |house| {
            let outcome = attack(house);
            house.honest_session();
            outcome
        });
    }

    /// An attack by a guest that its session does not outlive.
    pub(crate) fn session(
        &mut self,
        case: impl Into<String>,
        attack: impl FnOnce(&mut Attack<'_>) -> String,
    ) {
        self.case(case.into(), |house| {
            let outcome = attack(&mut Attack::new(house, u64::MAX, 128));
            house.honest_session();
            outcome
        });
    }

    fn case(&mut self, case: String, run: impl FnOnce(&House) -> String) {
        let house = &self.house;
        match catch_unwind(AssertUnwindSafe(|| run(house))) {
            Ok(outcome) => self.rows.push(Row { case, outcome }),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let failure = format!("{case}: {}", text.unwrap_or_default());
                println!("FAILED {failure}");
                self.failures.push(failure);
            }
        }
        self.house.demand_life();
    }

    /// What must hold when all attacks are over.
    pub(crate) fn finish(mut self) {
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        wait_until("descriptors and threads to be given back", || {
            let now = self.house.usage();
            now.files <= self.before.files && now.threads <= self.before.threads
        });
        self.house.demand_idle(Duration::from_millis(200));
        let grown = settled(&self.house)
            .resident_kib
            .saturating_sub(self.before.resident_kib);
        assert!(grown <= SLACK_KIB, "grown by {grown} KiB");
        let seconds = self.start.elapsed().as_secs() + 2;
        let (_, lines) = self.house.log_lines();
        assert!(
            lines as u64 <= MAX_LINES_PER_SECOND * seconds,
            "{lines} lines about front-ends in {seconds} s"
        );
        self.house.demand_life();
        println!(
            "{}: {} cases in {:?}",
            self.id,
            self.rows.len(),
            self.start.elapsed()
        );
        settle(self.id, self.title, &self.rows);
    }
}

/// The usage when no session is left.
fn settled(house: &House) -> Usage {
    drop(Driver::start(house.connect(), 0));
    wait_until("the session to end", || house.usage().threads <= 2);
    house.usage()
}
