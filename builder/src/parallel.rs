//! Work by many threads whose results are taken in order, on what the caller only lends them. (Threads of [`lanes`] outlive
//! the call, and whoever writes to a packed file cannot wait for them to end.)
//!
//! [`lanes`]: crate::lanes

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use blob::PageBuffer;

/// Threads at most, however many processors there are: more do not read faster.
const MAX_THREADS: usize = 16;
/// Pieces of work for each thread that are under way or done and not taken yet.
const DEPTH: usize = 3;

/// How many threads to use where `wanted` are asked for; 0 asks for one for each processor.
pub(crate) fn threads(wanted: usize) -> usize {
    let wanted = match wanted {
        0 => thread::available_parallelism().map_or(1, NonZeroUsize::get),
        wanted => wanted,
    };
    wanted.min(MAX_THREADS)
}

/// Does `work` for each of `tasks` on `threads` threads and hands the results to `take`, in the order of the tasks. Tasks
/// are asked for, and results taken, on this thread.
///
/// # Errors
///
/// The first error in the order of the tasks. What is under way then is done and dropped.
pub(crate) fn in_order<T: Send, R: Send, E: Send>(
    threads: usize,
    tasks: impl Iterator<Item = Result<T, E>>,
    work: impl Fn(T) -> Result<R, E> + Sync,
    mut take: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    type Answer<R, E> = SyncSender<Result<R, E>>;
    let depth = threads.max(1) * DEPTH;
    let (to_do, queue) = mpsc::sync_channel::<(T, Answer<R, E>)>(depth);
    let queue = Mutex::new(queue);
    let (queue, work) = (&queue, &work);
    thread::scope(move |scope| {
        let start = |_: &usize| {
            let worker = move || {
                while let Some((task, answer)) = next(queue) {
                    // Nobody is waiting any more once something has failed.
                    let _sent = answer.send(work(task));
                }
            };
            thread::Builder::new().spawn_scoped(scope, worker).is_ok()
        };
        if (0..threads.max(1)).take_while(start).count() == 0 {
            // The system has no threads left but this one.
            return tasks.into_iter().try_for_each(|task| take(work(task?)?));
        }
        let mut answers: VecDeque<Receiver<Result<R, E>>> = VecDeque::with_capacity(depth);
        let mut drain = |answers: &mut VecDeque<Receiver<_>>| match answers.pop_front() {
            // A thread that panics takes its answer along, and the scope panics in the end.
            Some(answer) => answer.recv().map_or(Ok(()), |result| take(result?)),
            None => Ok(()),
        };
        for task in tasks {
            if answers.len() >= depth {
                drain(&mut answers)?;
            }
            let (answer, result) = mpsc::sync_channel(1);
            if to_do.send((task?, answer)).is_err() {
                break;
            }
            answers.push_back(result);
        }
        drop(to_do);
        while !answers.is_empty() {
            drain(&mut answers)?;
        }
        Ok(())
    })
}

fn next<T>(queue: &Mutex<Receiver<T>>) -> Option<T> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}

/// Buffers that are used again: fresh memory costs as much as reading into it.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<PageBuffer>>);

impl Buffers {
    /// A buffer of `len` bytes, of any content.
    pub(crate) fn take(&self, len: usize) -> PageBuffer {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = used.unwrap_or_default();
        buffer.resized(len);
        buffer
    }

    /// Takes one back.
    pub(crate) fn give(&self, buffer: PageBuffer) {
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::in_order;

    #[test]
    fn results_come_in_order_whatever_takes_longest() {
        for threads in [1, 2, 7] {
            let mut taken = Vec::new();
            let work = |number: u32| {
                if number.is_multiple_of(5) {
                    std::thread::yield_now();
                }
                Ok::<_, ()>(number * 2)
            };
            let take = |result| {
                taken.push(result);
                Ok(())
            };
            in_order(threads, (0..1000).map(Ok), work, take).unwrap();
            assert!(taken.into_iter().eq((0..1000).map(|number| number * 2)));
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let work = |number: u32| match number {
            7 | 9 => Err(number),
            _ => Ok(number),
        };
        let mut last = None;
        let take = |number| {
            last = Some(number);
            Ok(())
        };
        assert_eq!(in_order(3, (0..1000).map(Ok), work, take), Err(7));
        assert_eq!(last, Some(6));
        let broken = (0..).map(|number| match number {
            4 => Err(number),
            _ => Ok(number),
        });
        assert_eq!(in_order(3, broken, Ok, |_| Ok(())), Err(4));
    }
}
