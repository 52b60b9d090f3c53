//! A mapping of a file that somebody else may cut short at any moment.
//!
//! Touching a mapping beyond the end of its file raises SIGBUS. The handler here looks whether the address lies in
//! a [`SharedMapping`]; then it puts anonymous zero pages in the place of the whole mapping and raises the
//! [`Alarm`] of its owner. The access goes on, reads zeroes or writes into nothing, and whoever owns the alarm ends
//! the session. Any other SIGBUS goes to the handler that was there before, as if this one did not exist.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::event::EventfdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::bitmap::Bitmap;
use vm_memory::{FileOffset, MmapRegion};

/// Most shared mappings of a process at a time: a full memory table with log and in-flight region, three times
/// over, because a new table is mapped before the old one goes.
const MAX_MAPPINGS: usize = 1024;

static SLOTS: [Slot; MAX_MAPPINGS] = [const { Slot::new() }; MAX_MAPPINGS];
/// Held while slots change hands; never taken by the handler.
static CHANGES: Mutex<()> = Mutex::new(());
/// What handled SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Told when memory of its owner is gone.
#[derive(Debug)]
pub struct Alarm {
    raised: AtomicBool,
    wake: OwnedFd,
}

/// A shared mapping, and the alarm that is raised when its file turns out to be shorter than it.
///
/// Fields are dropped in order: the slot is empty before the pages go.
pub struct SharedMapping<B = ()> {
    _watch: Watch,
    region: MmapRegion<B>,
    /// How pages are prepared for being written.
    preparation: Advice,
}

/// A slot that is taken, for as long as this lives.
struct Watch {
    slot: &'static Slot,
    /// The slot points to it.
    _alarm: Arc<Alarm>,
}

/// What the handler needs to know of one mapping.
struct Slot {
    /// Odd while the slot is being changed.
    version: AtomicU32,
    start: AtomicUsize,
    /// 0 when the slot is free.
    len_bytes: AtomicUsize,
    alarm: AtomicPtr<Alarm>,
}

impl Alarm {
    /// An alarm that nothing has raised.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            raised: AtomicBool::new(false),
            wake,
        })
    }

    /// Whether memory is gone. What was read since may be zeroes that nobody wrote.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Readable once memory is gone.
    #[must_use]
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Safe in a signal handler: an atomic store and a system call that needs no lock.
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        let _woken = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
    }
}

impl<B: Bitmap> SharedMapping<B> {
    /// Watches over `region`, which belongs to this value from now on.
    ///
    /// # Errors
    ///
    /// When the process has too many shared mappings, or SIGBUS cannot be handled.
    pub fn new(region: MmapRegion<B>, alarm: Arc<Alarm>) -> io::Result<Self> {
        install()?;
        if !region.owned() {
            return Err(io::Error::other("the mapping belongs to somebody else"));
        }
        let watch = Watch::take(region.as_ptr() as usize, region.size(), alarm)?;
        let preparation = preparation(&region);
        Ok(Self {
            _watch: watch,
            region,
            preparation,
        })
    }

    /// Has the kernel map the pages of these bytes for writing, in one call instead of one fault for each. That they are
    /// outside the mapping, that their file is too short, or that the kernel is too old for it (before Linux 5.14), makes
    /// no difference: whoever writes to them has faults, as without.
    pub fn populate(&self, offset: usize, len_bytes: usize) {
        let Some(end) = offset
            .checked_add(len_bytes)
            .filter(|end| len_bytes > 0 && *end <= self.region.size())
        else {
            return;
        };
        let start = offset - offset % rustix::param::page_size();
        #[expect(unsafe_code, reason = "memory is prepared in place")]
        // SAFETY: The range lies in the mapping, which belongs to `self` and begins at a page. The call changes no byte of
        // it and keeps nothing: it makes the faults happen that reading or writing would. Where the file is too short it
        // fails and raises no signal.
        let _prepared = unsafe {
            rustix::mm::madvise(
                self.region.as_ptr().wrapping_add(start).cast(),
                end - start,
                self.preparation,
            )
        };
    }

    /// The mapping itself.
    #[must_use]
    pub fn region(&self) -> &MmapRegion<B> {
        &self.region
    }
}

/// Of a file in memory, what may be read may be written too, and the kernel maps up to 16 pages that are there with one
/// fault if they are only to be read. Other file systems want to know of the first write to a page.
fn preparation<B: Bitmap>(region: &MmapRegion<B>) -> Advice {
    let file = region.file_offset().map(FileOffset::file);
    if file.is_some_and(blob::is_in_memory) {
        Advice::LinuxPopulateRead
    } else {
        Advice::LinuxPopulateWrite
    }
}

impl<B> fmt::Debug for SharedMapping<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMapping").finish_non_exhaustive()
    }
}

impl Watch {
    fn take(start: usize, len_bytes: usize, alarm: Arc<Alarm>) -> io::Result<Self> {
        let _changing = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = SLOTS
            .iter()
            .find(|slot| slot.len_bytes.load(Ordering::Relaxed) == 0)
            .ok_or_else(|| io::Error::other("too many shared mappings"))?;
        slot.set(start, len_bytes, Arc::as_ptr(&alarm).cast_mut());
        Ok(Self {
            slot,
            _alarm: alarm,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _changing = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.set(0, 0, ptr::null_mut());
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            len_bytes: AtomicUsize::new(0),
            alarm: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// One change at a time: callers hold [`CHANGES`].
    fn set(&self, start: usize, len_bytes: usize, alarm: *mut Alarm) {
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len_bytes.store(len_bytes, Ordering::Relaxed);
        self.alarm.store(alarm, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Start, length and alarm of the mapping that `address` lies in, if this is its slot.
    ///
    /// A slot that changes meanwhile is passed over: the mapping that is being touched does not change hands.
    fn holding(&self, address: usize) -> Option<(usize, usize, *const Alarm)> {
        let version = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len_bytes = self.len_bytes.load(Ordering::Relaxed);
        let alarm = self.alarm.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        let inside = address.wrapping_sub(start) < len_bytes;
        (whole && inside).then_some((start, len_bytes, alarm.cast_const()))
    }
}

/// Puts the handler in its place, once in the life of the process.
fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "only C knows how to ask for a signal handler")]
    // SAFETY: A zeroed `sigaction` is a valid one: no handler, an empty mask, no flags.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut previous = action;
    #[expect(unsafe_code, reason = "only C knows how to ask for a signal handler")]
    // SAFETY: Both pointers are to whole structures on this stack. The handler has the signature that SA_SIGINFO
    // asks for, does only what is allowed in a handler, and leaves every signal that is not its own to `previous`.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let _set = PREVIOUS.set(previous);
    *installed = true;
    Ok(())
}

/// The handler. Everything it calls is safe where it is called: atomic loads, and `rustix`, whose system calls
/// take no lock, allocate nothing and leave `errno` as it is.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    #[expect(unsafe_code, reason = "a signal tells its address through a pointer")]
    // SAFETY: With SA_SIGINFO the kernel passes a pointer to a valid structure that lives until the handler
    // returns.
    let info = unsafe { &*info };
    // Positive codes are faults; the others are signals that somebody sent, whose address means nothing.
    let contained = info.si_code > 0 && contain(fault_address(info));
    if !contained {
        hand_on(signal);
    }
}

fn fault_address(info: &libc::siginfo_t) -> usize {
    #[expect(unsafe_code, reason = "the address is a member of a union")]
    // SAFETY: The signal is SIGBUS, for which the kernel fills in the address.
    let address = unsafe { info.si_addr() };
    address as usize
}

/// Replaces the mapping that `address` lies in by zero pages and raises its alarm; `false` if there is none.
fn contain(address: usize) -> bool {
    let Some((start, len_bytes, alarm)) = SLOTS.iter().find_map(|slot| slot.holding(address))
    else {
        return false;
    };
    #[expect(unsafe_code, reason = "a mapping is replaced in place")]
    // SAFETY: The range is exactly a mapping that a `SharedMapping` owns: it entered the slot with it and leaves
    // the slot before it is unmapped. That mapping is alive, for the access that was interrupted borrows it. It is
    // memory that another process changes at will and that is only accessed by volatile copies and atomics, so
    // zeroes in it are one more content it may have.
    let replaced = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::without_provenance_mut(start),
            len_bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
        )
    };
    if replaced.is_err() {
        return false;
    }
    #[expect(unsafe_code, reason = "the alarm is behind the slot's pointer")]
    // SAFETY: The watch that put the pointer into the slot owns the alarm and is alive, as above.
    let alarm = unsafe { &*alarm };
    alarm.raise();
    true
}

/// Gives the signal to whoever would have had it: a fault happens again as soon as this handler returns.
fn hand_on(signal: libc::c_int) {
    let Some(previous) = PREVIOUS.get() else {
        return;
    };
    #[expect(unsafe_code, reason = "only C knows how to give a signal back")]
    // SAFETY: The structure is the one the kernel gave us; setting it is what it is for.
    let _restored = unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
    #[expect(unsafe_code, reason = "a signal that was sent has to be sent again")]
    // SAFETY: Raising a signal has no precondition. It is blocked until this handler returns.
    let _raised = unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use vm_memory::{Bytes, VolatileMemory};

    const PAGE: usize = 4096;
    const CHILD: &str = "VBD_TEST_UNWATCHED";

    fn file(pages: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        file
    }

    fn map(file: &File, pages: usize) -> MmapRegion {
        let file = FileOffset::new(file.try_clone().unwrap(), 0);
        MmapRegion::from_file(file, pages * PAGE).unwrap()
    }

    #[test]
    fn access_beyond_a_cut_file_reads_zeroes_and_raises_the_alarm_of_its_owner_only() {
        let (cut, whole) = (file(4), file(4));
        let alarms = [(); 2].map(|()| Arc::new(Alarm::new().unwrap()));
        let [cut_mapping, whole_mapping] = [(&cut, &alarms[0]), (&whole, &alarms[1])]
            .map(|(file, alarm)| SharedMapping::new(map(file, 4), Arc::clone(alarm)).unwrap());
        for mapping in [&cut_mapping, &whole_mapping] {
            let slice = mapping.region().as_volatile_slice();
            slice.write_slice(&[7; 3 * PAGE], 100).unwrap();
        }
        cut.set_len(PAGE as u64).unwrap();
        let mut bytes = [1; 8];
        let slice = cut_mapping.region().as_volatile_slice();
        slice.read_slice(&mut bytes, 2 * PAGE).unwrap();
        assert_eq!(bytes, [0; 8]);
        slice.write_slice(&[9; PAGE], 3 * PAGE).unwrap();
        assert!(alarms[0].is_raised());
        assert!(!alarms[1].is_raised());
        let woken = rustix::event::poll(
            &mut [rustix::event::PollFd::from_borrowed_fd(
                alarms[0].wake_fd(),
                rustix::event::PollFlags::IN,
            )],
            Some(&rustix::event::Timespec::default()),
        );
        assert_eq!(woken, Ok(1));
        let slice = whole_mapping.region().as_volatile_slice();
        slice.read_slice(&mut bytes, 2 * PAGE).unwrap();
        assert_eq!(bytes, [7; 8]);
    }

    /// Minor faults of this thread so far.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The name may have blanks and brackets in it; ten fields on is the eighth after it.
        let (_name, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(7).unwrap().parse().unwrap()
    }

    /// Faults for writing one byte to each of `pages` pages, of which some are populated.
    fn write_faults(file: &File, pages: usize, populate: &[(usize, usize)]) -> u64 {
        let alarm = Arc::new(Alarm::new().unwrap());
        let mapping = SharedMapping::new(map(file, pages), alarm).unwrap();
        for (offset, len_bytes) in populate {
            mapping.populate(*offset, *len_bytes);
        }
        let slice = mapping.region().as_volatile_slice();
        let mut bytes = [0; 100];
        slice.read_slice(&mut bytes, 9000).unwrap();
        assert_eq!(bytes, [7; 100]);
        let start = faults();
        for page in 0..pages {
            slice.write_obj(1_u8, page * PAGE).unwrap();
        }
        faults() - start
    }

    /// Whether this is Linux 5.14 or newer.
    fn kernel_populates() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse().ok());
        (numbers.next().flatten(), numbers.next().flatten()) >= (Some(5), Some(14))
    }

    fn populated_pages_cost_no_fault_and_keep_their_bytes(file: &File) {
        const PAGES: usize = 256;
        let again = |populate: &[(usize, usize)]| write_faults(file, PAGES, populate);
        // To pages that nobody has touched, but for one.
        let write = |populate: &[(usize, usize)]| {
            file.set_len(0).unwrap();
            file.set_len((PAGES * PAGE) as u64).unwrap();
            let before = map(file, PAGES);
            let slice = before.as_volatile_slice();
            slice.write_slice(&[7; 100], 9000).unwrap();
            again(populate)
        };
        let none = write(&[]);
        if none < PAGES as u64 / 2 || !kernel_populates() {
            eprintln!("SKIPPED: this kernel has {none} faults for {PAGES} pages, or is too old");
            return;
        }
        let there = again(&[(0, PAGES * PAGE)]);
        assert!(there < none / 4, "{there} of {none}");
        let all = write(&[(0, PAGES * PAGE)]);
        assert!(all < none / 4, "{all} of {none}");
        // Pages are whole, wherever the bytes begin and end.
        let half = write(&[(1, PAGES / 2 * PAGE - 2)]);
        assert!((none / 4..none * 3 / 4).contains(&half), "{half} of {none}");
        // What is not there is not asked for.
        let outside = write(&[
            (0, 0),
            (PAGES * PAGE, 1),
            (PAGE, PAGES * PAGE),
            (usize::MAX, 2),
        ]);
        assert!(outside > none * 3 / 4, "{outside} of {none}");
    }

    #[test]
    fn populated_pages_of_a_file_cost_no_fault_and_keep_their_bytes() {
        populated_pages_cost_no_fault_and_keep_their_bytes(&file(0));
    }

    #[test]
    fn populated_pages_in_memory_cost_no_fault_and_keep_their_bytes() {
        let memory = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        populated_pages_cost_no_fault_and_keep_their_bytes(&File::from(memory));
    }

    #[test]
    fn populating_what_the_file_no_longer_has_raises_no_signal() {
        let file = file(4);
        let alarm = Arc::new(Alarm::new().unwrap());
        let mapping = SharedMapping::new(map(&file, 4), Arc::clone(&alarm)).unwrap();
        file.set_len(0).unwrap();
        mapping.populate(0, 4 * PAGE);
        assert!(!alarm.is_raised());
    }

    #[test]
    fn slots_are_given_back() {
        let file = file(1);
        let alarm = Arc::new(Alarm::new().unwrap());
        for _ in 0..3 * MAX_MAPPINGS {
            drop(SharedMapping::new(map(&file, 1), Arc::clone(&alarm)).unwrap());
        }
    }

    /// Any other SIGBUS ends the process as it always did.
    #[test]
    fn fault_elsewhere_is_not_swallowed() {
        if std::env::var_os(CHILD).is_some() {
            let file = file(2);
            let alarm = Arc::new(Alarm::new().unwrap());
            let _watched = SharedMapping::new(map(&file, 2), alarm).unwrap();
            let unwatched = map(&file, 2);
            file.set_len(0).unwrap();
            let _read = unwatched.as_volatile_slice().read_obj::<u8>(PAGE);
            return;
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "system::shared_mapping::tests::fault_elsewhere_is_not_swallowed",
            ])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
}
