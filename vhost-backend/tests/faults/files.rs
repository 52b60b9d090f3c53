//! Layer files that change while they are served (F-05, F-06).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::process::{Signal, kill_process};

use crate::house::{House, wait_until};
use crate::support::driver::Driver;
use crate::trace::{boot, run};

#[test]
fn layer_cut_at_every_page_costs_what_lies_behind() {
    let house = House::new();
    let mut driver = Driver::start(house.connect(), 1);
    for ordinal in 0..3 {
        let whole = fs::read(house.layer(ordinal)).unwrap();
        let file = OpenOptions::new()
            .write(true)
            .open(house.layer(ordinal))
            .unwrap();
        let mut failed_before = usize::MAX;
        for len in (0..whole.len()).step_by(if ordinal == 0 { 65_536 } else { 8192 }) {
            for len in [len, len + 1, len + 511] {
                // Whole first: what a file grows by is zero, and a layer without checksums then holds zeroes.
                file.write_all_at(&whole, 0).unwrap();
                file.set_len(len.min(whole.len()) as u64).unwrap();
                let tally = run(&mut driver, &house.disk, &boot());
                assert!(
                    tally.failed <= failed_before,
                    "layer {ordinal}: longer, and less can be read"
                );
                failed_before = tally.failed;
            }
            file.write_all_at(&whole, 0).unwrap();
        }
        assert_eq!(run(&mut driver, &house.disk, &boot()).failed, 0);
    }
}

#[test]
fn layer_written_over_is_an_error_or_right_and_one_replaced_goes_on() {
    // What was decoded before stays right for as long as it is kept.
    let house = House::after("set -- \"$@\" --cache-size 0");
    let mut driver = Driver::start(house.connect(), 1);
    // With checksums: what stands there now is not what was opened.
    for ordinal in [1, 2] {
        let path = house.layer(ordinal);
        let whole = fs::read(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, byte) in [(0, 0), (512, 0xff), (1024, 1), (whole.len() / 2, 0)] {
            file.write_all_at(&vec![byte; 4096.min(whole.len() - at)], at as u64)
                .unwrap();
            run(&mut driver, &house.disk, &boot());
            file.write_all_at(&whole, 0).unwrap();
        }
        file.write_all_at(&vec![0; whole.len()], 0).unwrap();
        assert!(run(&mut driver, &house.disk, &boot()).failed > 0);
        file.write_all_at(&whole, 0).unwrap();
        assert_eq!(run(&mut driver, &house.disk, &boot()).failed, 0);
    }
    // The open file is served, whatever its name now leads to.
    for ordinal in 0..3 {
        let path = house.layer(ordinal);
        let other = path.with_extension("other");
        fs::write(&other, "something else").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(run(&mut driver, &house.disk, &boot()).failed, 0);
        fs::remove_file(&path).unwrap();
        assert_eq!(run(&mut driver, &house.disk, &boot()).failed, 0);
    }
}

#[test]
fn stopped_process_goes_on_where_it_was() {
    let house = House::new();
    let mut driver = Driver::start(house.connect(), 1);
    for _ in 0..3 {
        kill_process(house.process(), Signal::STOP).unwrap();
        driver.header(crate::support::guest::BUFFERS, 0, 0);
        let stat = format!("/proc/{}/stat", house.process().as_raw_pid());
        wait_until("the process to stop", || {
            fs::read_to_string(&stat).unwrap().contains(") T ")
        });
        kill_process(house.process(), Signal::CONT).unwrap();
        assert_eq!(run(&mut driver, &house.disk, &boot()).failed, 0);
    }
}
