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

#[cfg(test)]
mod tests {
    use super::*;
    use blob::MemoryBlob;

    fn image() -> Image {
        let options = lsmt::WriterOptions {
            virtual_size_bytes: 4096,
            ..Default::default()
        };
        let writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
        let blob: image::Bytes = Box::new(MemoryBlob::new(writer.finish().unwrap()));
        Image::from_blobs(vec![("memory".into(), blob)]).unwrap()
    }

    #[test]
    fn each_waits_until_those_before_it_have_come() {
        let image = image();
        let mut turns = Turns::default();
        assert!(!turns.are_others_first());
        assert_eq!(turns.next(false), None);
        turns.waits(&image, [0, 0].into_iter());
        assert!(turns.are_others_first());
        (1..=4).for_each(|read| turns.hold(read));
        assert_eq!((turns.next(false), turns.held()), (None, 4));
        turns.has_come();
        assert_eq!(turns.next(false), Some(1));
        assert!(turns.are_others_first(), "2 is first");
        // It is not all there, so the next one waits.
        turns.waits(&image, [0].into_iter());
        assert_eq!(turns.next(false), None);
        assert_eq!(turns.take(|read| *read == 3), Some(3));
        assert_eq!(turns.take(|read| *read == 3), None);
        // The disk takes too long: nobody waits for anybody.
        assert_eq!((turns.next(true), turns.next(true)), (Some(2), Some(4)));
        assert_eq!((turns.next(true), turns.held()), (None, 0));
        assert!(turns.are_others_first());
        turns.has_come();
        assert!(!turns.are_others_first());
    }

    #[test]
    fn layers_are_told_of_the_end_once() {
        let image = image();
        let mut turns = Turns::<()>::default();
        // One of them does not exist, which is nothing to it.
        for layers in [vec![0], vec![7, 0]] {
            turns.waits(&image, layers.into_iter());
        }
        assert_eq!(turns.told, [0, 7]);
        turns.end_row(&image);
        assert!(turns.told.is_empty());
    }
}
