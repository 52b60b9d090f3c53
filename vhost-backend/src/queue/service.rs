//! The thread of one started queue, from the inside: kick, take, parse, fetch, deliver, give back.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vhost_user_backend::VringT;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::killpoint::{self, Point};
use crate::queue::shelf::Shelf;
use crate::queue::worker::{QueueSetup, Stop, Stopped};
use crate::queue::{Chain, RingError, SplitRing};
use crate::request::{
    Delivery, ExecuteError, Fetcher, Outcome, Parsed, Plan, Verdict, parse, plan,
};

/// What can wake the thread.
pub(crate) const KICK: u64 = 0;
pub(crate) const STOP: u64 = 1;

/// Why the thread ends.
#[derive(Debug)]
enum End {
    /// The session asked for it.
    Stopped,
    /// The ring was taken away while the disk kept the thread waiting.
    Abandoned,
    /// The ring cannot be served any more.
    Broken(RingError),
}

impl From<RingError> for End {
    fn from(error: RingError) -> Self {
        Self::Broken(error)
    }
}

/// The thread's side of a worker.
pub(crate) struct Service {
    setup: Setup,
    /// Gone once the session has taken it away.
    ring: Option<Box<SplitRing>>,
    epoll: Epoll,
    stop: Arc<Stop>,
    shelf: Arc<Shelf>,
    fetcher: Fetcher,
    chain: Chain,
}

/// [`QueueSetup`] without the ring.
struct Setup {
    index: u16,
    indirect: bool,
    device: Arc<crate::device::Device>,
    stats: Arc<crate::stats::QueueStats>,
    log: Arc<crate::rate_limit::RateLimit>,
    error_notifier: Option<Arc<std::fs::File>>,
}

impl Service {
    pub(crate) fn new(setup: QueueSetup, epoll: Epoll, stop: Arc<Stop>, shelf: Arc<Shelf>) -> Self {
        let fetcher = Fetcher::new(setup.device.image());
        Self {
            ring: Some(Box::new(setup.ring)),
            setup: Setup {
                index: setup.index,
                indirect: setup.indirect,
                device: setup.device,
                stats: setup.stats,
                log: setup.log,
                error_notifier: setup.error_notifier,
            },
            epoll,
            stop,
            shelf,
            fetcher,
            chain: Chain::default(),
        }
    }

    /// Serves until the session or the driver puts an end to it; `None` when nobody waits for the answer.
    pub(crate) fn run(mut self) -> Option<Stopped> {
        let end = match self.serve_until_stopped() {
            End::Broken(error) => End::Broken(self.ring.as_ref()?.cause(error)),
            end => end,
        };
        let broken = match end {
            End::Abandoned => {
                self.setup.device.stuck_reads().remove();
                return None;
            }
            End::Stopped => false,
            End::Broken(error) => {
                self.report(&error);
                true
            }
        };
        let next_avail = self.ring.as_ref()?.position();
        Some(Stopped { next_avail, broken })
    }

    fn serve_until_stopped(&mut self) -> End {
        let begun = self.ring().and_then(|ring| Ok(ring.begin()?));
        if let Err(end) = begun {
            return end;
        }
        loop {
            // Before the first wait too: the driver may have kicked while nobody listened.
            if let Err(end) = self.serve().and_then(|()| self.wait()) {
                return end;
            }
        }
    }

    fn ring(&mut self) -> Result<&mut SplitRing, End> {
        self.ring.as_deref_mut().ok_or(End::Abandoned)
    }

    /// Takes requests until the ring is empty and the driver has been told to kick for the next one.
    fn serve(&mut self) -> Result<(), End> {
        loop {
            self.heed_stop()?;
            self.ring()?.disable_notification()?;
            while let Some(head) = self.next()? {
                let outcome = self.perform(head)?;
                let ring = self.ring.as_deref_mut().ok_or(End::Abandoned)?;
                let used_len = outcome.finish(ring.memory(), &self.setup.stats, &self.setup.log);
                ring.give_back(head, used_len)?;
            }
            if !self.ring()?.enable_notification()? {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Option<u16>, End> {
        // What a predecessor had taken is under way, so it belongs to what a stop waits for: who takes over on another
        // machine has no map that speaks of it.
        if !self.ring()?.has_left_over() {
            self.heed_stop()?;
        }
        Ok(self.ring()?.take()?)
    }

    fn heed_stop(&self) -> Result<(), End> {
        if self.stop.is_requested() {
            Err(End::Stopped)
        } else {
            Ok(())
        }
    }

    fn perform(&mut self, head: u16) -> Result<Outcome, End> {
        let ring = self.ring.as_deref_mut().ok_or(End::Abandoned)?;
        let collected = self
            .chain
            .collect(ring.memory(), ring.table(), head, self.setup.indirect);
        if let Err(error) = collected {
            return Ok(Outcome::of(Verdict::BadChain(error)));
        }
        let Parsed {
            status_address,
            request,
        } = parse(ring.memory(), &mut self.chain);
        let mut delivery = Delivery::default();
        let verdict = match request {
            Err(error) => Verdict::BadRequest(error),
            Ok(request) => {
                let room_bytes = self.chain.data_len_bytes();
                let disk_len_bytes = self.setup.device.image().len_bytes();
                match plan(request, room_bytes, disk_len_bytes) {
                    Err(error) => Verdict::Failed(error),
                    Ok(plan) => self.carry_out(plan, &mut delivery)?,
                }
            }
        };
        killpoint::reached(Point::AfterData);
        Ok(Outcome {
            verdict,
            status_address,
            delivered_bytes: delivery.delivered_bytes(),
        })
    }

    fn carry_out(&mut self, plan: Plan, delivery: &mut Delivery) -> Result<Verdict, End> {
        let result = match plan {
            Plan::Nothing => Ok(()),
            Plan::TellSerial => {
                let serial = *self.setup.device.serial().as_bytes();
                self.deliver(delivery, |_| &serial)?
            }
            Plan::Read(mut span) => loop {
                let Some((offset, len)) = span.next_piece() else {
                    break Ok(());
                };
                if let Err(error) = self.fetch(offset, len)? {
                    break Err(error.into());
                }
                if let Err(error) = self.deliver(delivery, Fetcher::fetched)? {
                    break Err(error);
                }
            },
        };
        Ok(result.map_or_else(Verdict::Failed, |()| Verdict::Done))
    }

    /// Reads a piece of the disk, with the ring on the shelf for as long as that takes.
    fn fetch(&mut self, offset: u64, len: usize) -> Result<Result<(), image::ReadFailure>, End> {
        self.shelf.put(self.ring.take().ok_or(End::Abandoned)?);
        let result = self.fetcher.fetch(offset, len);
        self.ring = self.shelf.take();
        self.ring()?;
        Ok(result)
    }

    fn deliver<'a>(
        &'a mut self,
        delivery: &mut Delivery,
        bytes: impl FnOnce(&'a Fetcher) -> &'a [u8],
    ) -> Result<Result<(), ExecuteError>, End> {
        let ring = self.ring.as_deref().ok_or(End::Abandoned)?;
        let bytes = bytes(&self.fetcher);
        Ok(delivery.deliver(ring.memory(), &self.chain.writable, bytes))
    }

    /// Sleeps until the driver kicks or the session stops the queue.
    fn wait(&mut self) -> Result<(), End> {
        let mut events = [EpollEvent::default(); 2];
        let Ok(count) = self.epoll.wait(-1, &mut events) else {
            return Ok(());
        };
        for event in events.iter().take(count) {
            if event.data() == KICK {
                self.consume_kick(event.event_set())?;
            }
        }
        Ok(())
    }

    fn consume_kick(&mut self, events: EventSet) -> Result<(), End> {
        let vring = self.ring()?.vring().clone();
        let vring = vring.get_ref();
        let Some(kick) = vring.get_kick() else {
            return Ok(());
        };
        let dead = match kick.consume() {
            Ok(()) => false,
            // Somebody else was quicker, or the read was interrupted: a spurious wake-up.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                !events.contains(EventSet::IN)
            }
            Err(_) => true,
        };
        if dead {
            // A descriptor that is always ready and never delivers would keep this thread spinning.
            let _removed = self.epoll.ctl(
                ControlOperation::Delete,
                kick.as_raw_fd(),
                EpollEvent::default(),
            );
            if let Some(suppressed) = self.setup.log.admit() {
                let queue = self.setup.index;
                tracing::warn!(
                    suppressed,
                    "the kick descriptor is dead: queue {queue} sleeps until it is stopped"
                );
            }
        }
        Ok(())
    }

    fn report(&self, error: &RingError) {
        let queue = self.setup.index;
        if let Some(suppressed) = self.setup.log.admit() {
            let cause = crate::request::chain_text(error);
            match error {
                RingError::MemoryLost => {
                    tracing::warn!(suppressed, "queue {queue} ends: {cause}");
                }
                _ => tracing::error!(
                    suppressed,
                    "queue {queue}: the driver broke its ring: {cause}; it needs a reset"
                ),
            }
        }
        if let Some(notifier) = &self.setup.error_notifier {
            let _told = rustix::io::write(notifier, &1_u64.to_le_bytes());
        }
    }
}
