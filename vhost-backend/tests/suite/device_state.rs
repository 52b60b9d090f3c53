//! Promise: what a migration carries says which disk it is; a destination with another disk refuses to take over, one
//! with the same disk agrees, and nothing is transferred while a ring runs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vhost_backend::device::Device;

use crate::support::client::{CHECK_DEVICE_STATE, Client, SET_DEVICE_STATE_FD, pair};
use crate::support::driver::Driver;
use crate::support::image::{device, device_of, layers};
use crate::support::serve;

const SAVE: u32 = 0;
const LOAD: u32 = 1;

/// Begins a transfer; whether the backend agrees.
fn begin(client: &mut Client, direction: u32, file: &File) -> bool {
    client.send(SET_DEVICE_STATE_FD, 1, &pair(direction, 0), &[file]);
    let reply = client.reply(SET_DEVICE_STATE_FD).unwrap();
    reply[..2] == [0, 1]
}

fn check(client: &mut Client) -> bool {
    let reply = client.ask(CHECK_DEVICE_STATE, &[]).unwrap();
    reply == [0; 8]
}

fn pipe() -> (File, File) {
    let (out, into) = rustix::pipe::pipe().unwrap();
    (out.into(), into.into())
}

fn save(device: &Arc<Device>) -> Vec<u8> {
    let (stream, _served) = serve(device);
    let mut driver = Driver::start(stream, 0);
    let (mut out, into) = pipe();
    assert!(begin(&mut driver.client, SAVE, &into));
    assert!(check(&mut driver.client));
    drop(into);
    let mut state = Vec::new();
    out.read_to_end(&mut state).unwrap();
    state
}

fn load(stream: UnixStream, state: &[u8]) -> bool {
    let mut driver = Driver::start(stream, 0);
    let (out, mut into) = pipe();
    assert!(begin(&mut driver.client, LOAD, &out));
    drop(out);
    into.write_all(state).unwrap();
    drop(into);
    let agreed = check(&mut driver.client);
    // One answer for one transfer.
    assert!(!check(&mut driver.client));
    agreed
}

#[test]
fn state_names_the_disk_and_only_the_same_disk_takes_it() {
    let (same, _disk) = device();
    let (mut blobs, _disk) = layers();
    blobs.pop();
    let other = device_of(blobs);
    let state = save(&same);
    assert!(!state.is_empty());
    let agrees = |device, state: &[u8]| {
        let (stream, _served) = serve(device);
        load(stream, state)
    };
    assert!(agrees(&same, &state));
    assert!(!agrees(&other, &state));
    assert!(agrees(&same, &[]), "a source without a state");
    assert!(!agrees(&same, &state[..state.len() - 1]), "cut short");
    assert!(!agrees(&same, &vec![b'x'; 60_000]));
}

#[test]
fn transfer_out_of_turn_is_refused_and_the_session_goes_on() {
    let (device, disk) = device();
    let (stream, _served) = serve(&device);
    let mut driver = Driver::start(stream, 1);
    assert!(!check(&mut driver.client), "there was no transfer");
    let (out, into) = pipe();
    assert!(!begin(&mut driver.client, SAVE, &into), "a ring runs");
    driver.stop_ring(0);
    // The reading end of a pipe cannot be written to.
    assert!(!begin(&mut driver.client, SAVE, &out));
    assert!(!check(&mut driver.client));
    // The front-end has not finished writing.
    assert!(begin(&mut driver.client, LOAD, &out));
    assert!(!check(&mut driver.client));
    driver.rings[0].kick = crate::support::driver::eventfd();
    driver.rings[0].next_avail = 0;
    driver.start_ring(0);
    assert!(driver.read(0, 500, 512) == disk[500 * 512..501 * 512]);
}
