//! The driver: found at run time, called through cudarc's bindings.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use luthier_kernels::device::Queue;

/// Names under which the driver's library is found, as cudarc looks for it.
const LIBRARIES: [&str; 3] = ["libcuda.so", "libcuda.so.1", "nvcuda.dll"];
/// The driver of CUDA 12.0, which the PTX is for.
const LEAST_VERSION: i32 = 12_000;
/// Dynamic shared memory that a kernel has without asking.
const SHARED_UNASKED: usize = 48 << 10;

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    pub name: String,
    pub capability: (i32, i32),
    pub multiprocessors: usize,
    pub memory: usize,
}

/// A device's primary context and two streams of it: one on which all operations run in order, and one for copies beside
/// them.
pub struct Driver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Whether the stream ends with this.
    owns_stream: bool,
    copies: sys::CUstream,
    /// Whether anything was queued on `copies` since somebody waited for it.
    copying: AtomicBool,
    modules: Mutex<Vec<sys::CUmodule>>,
    pub properties: Properties,
}

// SAFETY: handles of the driver may be used from any thread in which their context is current.
unsafe impl Send for Driver {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Driver {}

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy)]
pub struct Function(sys::CUfunction);

// SAFETY: as of `Driver`.
unsafe impl Send for Function {}
// SAFETY: as of `Driver`.
unsafe impl Sync for Function {}

/// A point in a stream.
pub struct Event {
    driver: Arc<Driver>,
    event: sys::CUevent,
}

// SAFETY: as of `Driver`.
unsafe impl Send for Event {}
// SAFETY: as of `Driver`.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: nobody else has it; the driver keeps what it needs of an event that is waited for.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// A graph that is ready to run.
#[derive(Debug, Clone, Copy)]
pub struct Executable(sys::CUgraphExec);

// SAFETY: as of `Driver`.
unsafe impl Send for Executable {}
// SAFETY: as of `Driver`.
unsafe impl Sync for Executable {}

/// A launch's shape.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub grid: [usize; 3],
    pub threads: usize,
    pub shared: usize,
}

/// What the driver says of an error.
pub fn explain(error: DriverError) -> String {
    let text =
        |text: Result<&CStr, DriverError>| text.map_or_else(|_| String::new(), |text| text.to_string_lossy().into());
    let (name, meaning): (String, String) = (text(error.error_name()), text(error.error_string()));
    match (name.is_empty(), meaning.is_empty()) {
        (true, _) => format!("error {}", error.0 as u32),
        (false, true) => name,
        (false, false) => format!("{meaning} ({name})"),
    }
}

/// Starts the driver; the number of its devices and the version of CUDA that it is for.
fn start_driver() -> Result<(i32, i32), String> {
    // cudarc panics where there is no library.
    // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does.
    let found = LIBRARIES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    if !found {
        return Err("no NVIDIA driver was found (libcuda)".to_owned());
    }
    result::init().map_err(|error| format!("the NVIDIA driver does not start: {}", explain(error)))?;
    let mut version = 0;
    // SAFETY: `version` is writable.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(explain)?;
    if version < LEAST_VERSION {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(format!("the NVIDIA driver is for CUDA {major}.{minor}, expected 12.0 or later"));
    }
    Ok((result::device::get_count().map_err(explain)?, version))
}

/// A device and what it is, without a context on it.
///
/// # Errors
/// No driver, one that is too old, no such device or one that is too old.
pub fn find(ordinal: u8) -> Result<(sys::CUdevice, Properties), String> {
    let (count, _) = start_driver()?;
    if i32::from(ordinal) >= count {
        return Err(format!("there is no device {ordinal}: the driver has {count}"));
    }
    let device = result::device::get(i32::from(ordinal)).map_err(explain)?;
    let properties = properties(device).map_err(explain)?;
    if properties.capability < (7, 5) {
        let (major, minor) = properties.capability;
        return Err(format!("`{}` has compute capability {major}.{minor}, expected 7.5 or later", properties.name));
    }
    Ok((device, properties))
}

/// All devices of the driver, with the version of CUDA that it is for, such as 12080.
///
/// # Errors
/// No driver, or one that is too old.
pub fn list() -> Result<(Vec<Properties>, i32), String> {
    let (count, version) = start_driver()?;
    let devices = (0..count).map(|ordinal| result::device::get(ordinal).and_then(properties));
    Ok((devices.collect::<Result<_, _>>().map_err(explain)?, version))
}

impl Driver {
    /// # Errors
    /// Those of [`find`], or no context: what to do about it.
    pub fn open(ordinal: u8) -> Result<Self, String> {
        Self::take(ordinal, None)
    }

    /// On a stream of somebody else.
    ///
    /// # Safety
    /// The stream is one of the device's primary context, and outlives this.
    ///
    /// # Errors
    /// Those of [`Driver::open`].
    pub unsafe fn join(ordinal: u8, stream: *mut c_void) -> Result<Self, String> {
        Self::take(ordinal, Some(stream.cast()))
    }

    fn take(ordinal: u8, foreign: Option<sys::CUstream>) -> Result<Self, String> {
        let (device, properties) = find(ordinal)?;
        // SAFETY: the device is the driver's; the context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(explain)?;
        match Self::start(context, foreign) {
            Ok([stream, copies]) => {
                let (copying, modules) = (AtomicBool::new(false), Mutex::default());
                let owns_stream = foreign.is_none();
                Ok(Self { device, context, stream, owns_stream, copies, copying, modules, properties })
            }
            Err(error) => {
                // SAFETY: retained above.
                let _ = unsafe { result::primary_ctx::release(device) };
                Err(explain(error))
            }
        }
    }

    fn start(context: sys::CUcontext, foreign: Option<sys::CUstream>) -> Result<[sys::CUstream; 2], DriverError> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(context) }?;
        let create = || result::stream::create(result::stream::StreamKind::NonBlocking);
        let first = foreign.map_or_else(create, Ok)?;
        match create() {
            Ok(second) => Ok([first, second]),
            Err(error) if foreign.is_some() => Err(error),
            Err(error) => {
                // SAFETY: created above, and nothing was queued on it.
                let _ = unsafe { result::stream::destroy(first) };
                Err(error)
            }
        }
    }

    fn of(&self, queue: Queue) -> sys::CUstream {
        match queue {
            Queue::Operations => self.stream,
            Queue::Copies => self.copies,
        }
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }
    }

    /// Zeroed memory.
    pub fn allocate(&self, bytes: usize) -> Result<u64, DriverError> {
        self.enter()?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_sync(bytes) }?;
        // SAFETY: `address` has `bytes` bytes.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }?;
        Ok(address)
    }

    /// Frees what [`Driver::allocate`] gave, once everything that was queued before has run.
    pub fn free(&self, address: u64) {
        let freed = self.enter().and_then(|()| {
            self.finish_streams()?;
            // SAFETY: allocated by `allocate`, and nobody uses it any more.
            unsafe { result::free_sync(address) }
        });
        // A context that a failed kernel has spoilt frees nothing; the process gives the memory back.
        let _ = freed;
    }

    pub fn write(&self, address: u64, source: &[u8]) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: the caller owns `source.len()` bytes at `address`; the driver stages it before this
        // returns, unless it is pinned: then the caller leaves it alone until it has waited.
        unsafe { result::memcpy_htod_async(address, source, self.stream) }
    }

    pub fn read(&self, address: u64, target: &mut [u8]) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: there are `target.len()` bytes at `address`; `target` outlives the wait below.
        unsafe { result::memcpy_dtoh_async(target, address, self.stream) }?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
    }

    /// Waits for both streams.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        self.enter()?;
        self.finish_streams()
    }

    /// Whether copies were queued beside the operations since somebody waited for them.
    pub fn is_copying(&self) -> bool {
        self.copying.load(Ordering::Acquire)
    }

    fn finish_streams(&self) -> Result<(), DriverError> {
        // SAFETY: the streams live as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }?;
        if self.copying.swap(false, Ordering::AcqRel) {
            // SAFETY: as above.
            unsafe { result::stream::synchronize(self.copies) }?;
        }
        Ok(())
    }

    /// Page-locked host memory.
    pub fn pin(&self, bytes: usize) -> Result<NonNull<u8>, DriverError> {
        self.enter()?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_host(bytes, 0) }?;
        NonNull::new(address.cast()).ok_or(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY))
    }

    /// Frees what [`Driver::pin`] gave, once no copy uses it any more.
    pub fn unpin(&self, address: NonNull<u8>) {
        let freed = self.synchronize().and_then(|()| {
            // SAFETY: allocated by `pin`.
            unsafe { result::free_host(address.as_ptr().cast()) }
        });
        // As of `free`.
        let _ = freed;
    }

    /// Queues a copy of page-locked memory beside the operations.
    ///
    /// # Safety
    /// `bytes` bytes at `host` stay as they are, and those at `address` are nobody else's, until the copy has run.
    pub unsafe fn copy_in(&self, address: u64, host: NonNull<u8>, bytes: usize) -> Result<(), DriverError> {
        self.enter()?;
        self.copying.store(true, Ordering::Release);
        // SAFETY: the caller vouches for both sides.
        unsafe { sys::cuMemcpyHtoDAsync_v2(address, host.as_ptr().cast(), bytes, self.copies) }.result()
    }

    /// Queues a copy to page-locked memory beside the operations.
    ///
    /// # Safety
    /// As of [`Driver::copy_in`], with the sides changed.
    pub unsafe fn copy_out(&self, host: NonNull<u8>, address: u64, bytes: usize) -> Result<(), DriverError> {
        self.enter()?;
        self.copying.store(true, Ordering::Release);
        // SAFETY: the caller vouches for both sides.
        unsafe { sys::cuMemcpyDtoHAsync_v2(host.as_ptr().cast(), address, bytes, self.copies) }.result()
    }

    /// The end of what is queued now.
    pub fn record(self: &Arc<Self>, queue: Queue) -> Result<Event, DriverError> {
        self.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        let event = Event { driver: Arc::clone(self), event };
        // SAFETY: event and stream live as long as the driver.
        unsafe { result::event::record(event.event, self.of(queue)) }?;
        Ok(event)
    }

    /// What is queued from now on runs after the event.
    pub fn wait(&self, queue: Queue, event: &Event) -> Result<(), DriverError> {
        self.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        unsafe { result::stream::wait_event(self.of(queue), event.event, flags) }
    }

    /// Waits on the host.
    pub fn finish(&self, event: &Event) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: as above.
        unsafe { result::event::synchronize(event.event) }
    }

    /// Loads PTX and finds `names` in it.
    pub fn load(&self, ptx: &str, names: &[&str]) -> Result<Vec<Function>, DriverError> {
        self.enter()?;
        let Ok(image) = CString::new(ptx) else { return Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_PTX)) };
        // SAFETY: the image ends with a zero byte.
        let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) }?;
        if let Ok(mut modules) = self.modules.lock() {
            modules.push(module);
        }
        names
            .iter()
            .map(|name| {
                let Ok(name) = CString::new(*name) else {
                    return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND));
                };
                // SAFETY: the module stays loaded until `self` is dropped.
                unsafe { result::module::get_function(module, name) }.map(Function)
            })
            .collect()
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `parameters` point to values of the kernel's types, and the addresses among them to enough of the device's memory.
    pub unsafe fn launch(
        &self,
        function: Function,
        extent: Extent,
        parameters: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        self.enter()?;
        if extent.shared > SHARED_UNASKED {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function's module is loaded.
            unsafe { result::function::set_function_attribute(function.0, attribute, extent.shared as i32) }?;
        }
        let grid = extent.grid.map(|size| size as u32);
        let (grid, block) = ((grid[0], grid[1], grid[2]), (extent.threads as u32, 1, 1));
        // SAFETY: the caller vouches for the parameters.
        unsafe { result::launch_kernel(function.0, grid, block, extent.shared as u32, self.stream, parameters) }
    }

    /// What is queued from now on is kept instead of run.
    pub fn begin_capture(&self) -> Result<(), DriverError> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream, mode) }
    }

    /// What was queued since [`Driver::begin_capture`], ready to run; nothing if it is given up.
    pub fn end_capture(&self, give_up: bool) -> Result<Option<Executable>, DriverError> {
        self.enter()?;
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) }?;
        if graph.is_null() {
            return Ok(None);
        }
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph is fresh, and nobody else has it.
        let ready = if give_up { None } else { Some(unsafe { result::graph::instantiate(graph, flags) }) };
        // SAFETY: as above; what is ready to run is a copy.
        unsafe { result::graph::destroy(graph) }?;
        ready.transpose().map(|ready| ready.map(Executable))
    }

    /// Queues a graph.
    ///
    /// # Safety
    /// The memory of its kernels is there.
    pub unsafe fn run_graph(&self, executable: Executable) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: made by `end_capture` and not destroyed; the caller vouches for the memory.
        unsafe { result::graph::launch(executable.0, self.stream) }
    }

    /// Frees a graph, once it has run.
    pub fn destroy(&self, executable: Executable) {
        // SAFETY: made by `end_capture`, and nobody uses it any more.
        let destroyed = self.enter().and_then(|()| unsafe { result::graph::exec_destroy(executable.0) });
        // As of `free`.
        let _ = destroyed;
    }

    /// Calls a library that works on the stream, in the context.
    pub fn on_stream<T>(&self, call: impl FnOnce(*mut c_void) -> T) -> Result<T, DriverError> {
        self.enter()?;
        Ok(call(self.stream.cast()))
    }

    /// Bytes free and in all.
    pub fn memory(&self) -> Result<(usize, usize), DriverError> {
        self.enter()?;
        result::mem_get_info()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // SAFETY: nobody else has the modules, this hold on the context, or a stream of its own.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::synchronize(self.copies);
            if let Ok(modules) = self.modules.lock() {
                for module in modules.iter() {
                    let _ = result::module::unload(*module);
                }
            }
            if self.owns_stream {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::stream::destroy(self.copies);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

fn properties(device: sys::CUdevice) -> Result<Properties, DriverError> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    };
    // SAFETY: the device is the driver's.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    Ok(Properties {
        name: result::device::get_name(device)?,
        capability: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }?,
    })
}
