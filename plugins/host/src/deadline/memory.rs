//! Memories of guests, each with the page that their code looks at, and the hand that takes the page away.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::polls::PAGE;

/// Bytes that are taken away: the largest page of any machine.
const PAGE_BYTES: usize = 64 << 10;

/// Stops what runs in one store when its time is over.
#[derive(Debug, Default)]
pub(crate) struct Brake(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Addresses of the pages of all memories of the store.
    pages: Vec<usize>,
    deadline: Option<Instant>,
    pulled: bool,
}

impl State {
    /// Lets the pages be read or not, as `pulled` says.
    fn protect(&self) -> std::io::Result<()> {
        let access = if self.pulled { libc::PROT_NONE } else { libc::PROT_READ };
        for page in &self.pages {
            // SAFETY: a page is in the list for as long as its mapping is there, and nothing but the looks of compiled code
            // reads it: those may fault.
            if unsafe { libc::mprotect(*page as *mut libc::c_void, PAGE_BYTES, access) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

impl Brake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets code run for so long from now on.
    pub(crate) fn arm(&self, time: Duration) {
        let mut state = self.state();
        state.deadline = Instant::now().checked_add(time);
        if std::mem::take(&mut state.pulled) {
            // A page that stays away stops the call at once.
            let _ = state.protect();
        }
    }

    /// Ends the time; whether it was over before.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.state();
        state.deadline = None;
        state.pulled
    }

    fn pull_after(&self, now: Instant) {
        let mut state = self.state();
        if !state.pulled && state.deadline.is_some_and(|deadline| now >= deadline) {
            state.pulled = true;
            // If the system refuses, the next tick tries again.
            state.pulled = state.protect().is_ok();
        }
    }

    /// Does `work`, in which all memories made on this thread are of the store that this brake stops.
    pub(crate) fn hold<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        let before = HELD.replace(Some(Arc::clone(self)));
        let result = work();
        HELD.set(before);
        result
    }
}

thread_local! {
    static HELD: RefCell<Option<Arc<Brake>>> = const { RefCell::new(None) };
}

/// The brakes of an engine.
#[derive(Debug, Default)]
pub(crate) struct Brakes(Mutex<Vec<Weak<Brake>>>);

impl Brakes {
    pub(crate) fn add(&self) -> Arc<Brake> {
        let brake = Arc::new(Brake::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&brake));
        brake
    }

    /// Pulls those whose time is over.
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        let mut brakes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        brakes.retain(|brake| brake.upgrade().inspect(|brake| brake.pull_after(now)).is_some());
    }
}

/// Address space that is given back when this is dropped.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its address space, as a box owns its memory.
unsafe impl Send for Mapping {}
// SAFETY: nothing can be reached through a shared reference but the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Of no access.
    fn new(length: usize) -> std::io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping where the system likes it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn open(&self, from: usize, to: usize) -> std::io::Result<()> {
        if from >= to {
            return Ok(());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: callers stay inside of the mapping, which lives as long as this.
        match unsafe { libc::mprotect(self.start.as_ptr().add(from).cast(), to - from, access) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and owned.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A memory that ends before the page.
struct GuestMemory {
    brake: Arc<Brake>,
    map: Mapping,
    size: usize,
}

impl GuestMemory {
    fn new(brake: Arc<Brake>, size: usize, reserved: usize, guard: usize) -> Result<Self, String> {
        let page = PAGE as usize;
        if size > page || reserved < page + PAGE_BYTES {
            return Err(format!("a memory of {size} bytes in {reserved} has no room for the page at {page}"));
        }
        let map = Mapping::new(reserved + guard).map_err(|error| error.to_string())?;
        map.open(0, size).map_err(|error| error.to_string())?;
        let memory = Self { brake, map, size };
        let mut state = memory.brake.state();
        state.pages.push(memory.page());
        let opened = state.protect();
        drop(state);
        opened.map_err(|error| error.to_string())?;
        Ok(memory)
    }

    fn page(&self) -> usize {
        self.map.start.as_ptr() as usize + PAGE as usize
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        let page = self.page();
        self.brake.state().pages.retain(|known| *known != page);
    }
}

// SAFETY: aligned to pages; what is past `size` cannot be accessed, but for the page of the looks, which no growth reaches:
// it holds zeros that cannot be written. The base never moves.
unsafe impl LinearMemory for GuestMemory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        PAGE as usize
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        if size > PAGE as usize {
            return Err(wasmtime::Error::msg(format!("a guest has at most {PAGE} bytes of memory")));
        }
        self.map.open(self.size, size)?;
        self.size = size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.map.start.as_ptr()
    }
}

/// Makes the memories of an engine.
pub(crate) struct GuestMemories;

// SAFETY: each memory is reserved as asked, owned by what it is returned to, and touched by nothing else.
unsafe impl MemoryCreator for GuestMemories {
    fn new_memory(
        &self,
        _kind: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let brake = HELD.with_borrow(Clone::clone).ok_or("a memory is made outside of any call")?;
        Ok(Box::new(GuestMemory::new(brake, minimum, reserved.unwrap_or_default(), guard)?))
    }
}
