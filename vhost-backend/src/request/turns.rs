//! Reads that go on where those before them are still waiting.
//!
//! A file that is read in order is read ahead by the kernel, into pages that get larger and larger; such pages are made
//! and copied at a fraction of the cost of small ones. It takes notice of order where it is asked, though, and reads that
//! are looked for and fetched beside each other have none. So they wait for their turn: while one is waiting, what it
//! waits for brings what the next one needs.
//!
//! A disk that is late has to be asked for much at a time, whatever that costs; there, nobody waits for a turn.

use std::collections::VecDeque;

use image::Image;

/// The reads of a row, in order.
#[derive(Debug)]
pub(super) struct Turns<T> {
    held: VecDeque<T>,
    /// How many of the row wait for the disk.
    waiting: usize,
    /// Layers whose files the kernel was told to be read in order.
    told: Vec<usize>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            waiting: 0,
            told: Vec::new(),
        }
    }
}

impl<T> Turns<T> {
    /// Whether the next read of the row has to wait for its turn.
    pub(super) fn are_others_first(&self) -> bool {
        self.waiting > 0 || !self.held.is_empty()
    }

    /// Has a read wait for its turn.
    pub(super) fn hold(&mut self, read: T) {
        self.held.push_back(read);
    }

    /// A read of the row waits for bytes of these layers.
    pub(super) fn waits(&mut self, image: &Image, layers: impl Iterator<Item = usize>) {
        self.waiting += 1;
        for layer in layers {
            // Every time: the row of another queue may have ended there meanwhile.
            image.expect_order(layer, true);
            if !self.told.contains(&layer) {
                self.told.push(layer);
            }
        }
    }

    /// A read of the row waits no longer.
    pub(super) fn has_come(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// What comes next is read in any order.
    pub(super) fn end_row(&mut self, image: &Image) {
        for layer in self.told.drain(..) {
            image.expect_order(layer, false);
        }
    }

    /// The read whose turn it is, if there is one. With a disk that `is_late` it is everybody's.
    pub(super) fn next(&mut self, is_late: bool) -> Option<T> {
        if self.waiting > 0 && !is_late {
            return None;
        }
        self.held.pop_front()
    }

    /// How many wait for their turn.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes out the first one for which `is_it` is true.
    pub(super) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let position = self.held.iter().position(is_it)?;
        self.held.remove(position)
    }
}
