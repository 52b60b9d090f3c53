//! The end by a signal: nothing unfinished is left behind.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Shells say so how a program has ended that a signal ended.
const STATUS_OF_A_SIGNAL: i32 = 128;

/// From now on, SIGINT, SIGTERM and SIGHUP end the program after removing what it has not finished. A file that is not
/// allowed to grow any more (`ulimit -f`) is an error of the write, not the end of the program.
///
/// # Errors
///
/// When the system does not let us.
#[expect(
    clippy::exit,
    reason = "a signal ends the program, whatever its threads are doing"
)]
pub fn end_on_signals() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                builder::remove_unfinished();
                process::exit(STATUS_OF_A_SIGNAL + signal);
            }
        })?;
    Ok(())
}
