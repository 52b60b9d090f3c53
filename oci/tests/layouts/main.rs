//! Promise: a converted image holds exactly the files that its layers make together, layer by layer, in a sound file
//! system, the same bytes every time; and whatever is wrong with a layout is said by name.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot set its stage fails, and says what it skips"
)]

mod convert;
mod disk;
mod hostile;
mod inspect;
mod model;
