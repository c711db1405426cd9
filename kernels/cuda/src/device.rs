//! The device itself: its state, scratch memory and launches.

mod interface;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::DriverError;
use luthier_kernels::device::{Device, DeviceError, DeviceResult, Ledger};

use crate::costs::CudaCosts;
use crate::cublas::{self, Call, Products};
use crate::driver::{self, Driver, Extent, Function, explain};
use crate::graph::Capture;
use crate::memory::{Region, Staging, Taken};
use crate::modules::Module;
use crate::{Arguments, modules};

/// What activations are kept in and products computed with. Sums are `f32` in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    F32,
    /// Sixteen bits, on the tensor cores: bfloat16 from compute capability 8.0 on, f16 before.
    #[default]
    Bf16,
}

/// Which device, and how it computes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaOptions {
    pub ordinal: u8,
    pub precision: Precision,
    /// Whether cuBLAS computes large products of factors in sixteen bits if it is found.
    pub cublas: bool,
}

impl CudaOptions {
    /// Whether products are cuBLAS's, as far as it is found.
    pub(crate) fn wants_cublas(self) -> bool {
        self.cublas && self.precision == Precision::Bf16
    }
}

/// What an allocation of no bytes points to.
#[repr(align(256))]
struct Nothing;

/// The functions of one module, by name.
type Functions = BTreeMap<String, Function>;

/// A CUDA device. Operations run in order on one stream; their results depend on the kind of device, never on what else
/// is in a batch.
pub struct CudaDevice {
    /// Before the driver, so that it ends in a living context.
    products: Option<Products>,
    driver: Arc<Driver>,
    options: CudaOptions,
    ledger: Arc<Ledger>,
    modules: Vec<Module>,
    /// Which module each kernel is in.
    places: BTreeMap<String, usize>,
    /// The modules that were needed so far.
    functions: Vec<OnceLock<Result<Functions, String>>>,
    costs: CudaCosts,
    scratch: Region,
    row_scratch: Region,
    /// How often scratch memory has moved.
    generation: AtomicUsize,
    capture: Capture,
    staging: Mutex<Staging>,
    /// Whether anything was queued since somebody waited.
    queued: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl CudaDevice {
    /// Looks for the driver and takes a device.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`]: no driver, one that is too old, no such device, a cuBLAS that does not start.
    pub fn open(options: CudaOptions) -> DeviceResult<Self> {
        let mut device = Self::on(options, Driver::open(options.ordinal))?;
        if options.wants_cublas() && cublas::class().is_some() {
            device.use_cublas()?;
        }
        Ok(device)
    }

    /// Takes a device on which somebody else already works, and queues operations on their stream.
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context, and lives as long as what is returned.
    ///
    /// # Errors
    /// Those of [`CudaDevice::open`].
    pub unsafe fn join(options: CudaOptions, stream: *mut c_void) -> DeviceResult<Self> {
        // SAFETY: the caller vouches for the stream.
        Self::on(options, unsafe { Driver::join(options.ordinal, stream) })
    }

    fn on(options: CudaOptions, driver: Result<Driver, String>) -> DeviceResult<Self> {
        let unavailable = |why| DeviceError::Unavailable { device: format!("cuda:{}", options.ordinal), why };
        let driver = driver.map_err(unavailable)?;
        let modules = modules::of(driver.properties.capability).map_err(unavailable)?;
        let driver = Arc::new(driver);
        let ledger: Arc<Ledger> = Arc::default();
        let staging = Staging::new(&driver, &ledger).map_err(|error| unavailable(explain(error)))?;
        let costs =
            CudaCosts { precision: options.precision, bf16: driver.properties.capability.0 >= 8, cublas: false };
        Ok(Self {
            products: None,
            driver,
            generation: AtomicUsize::new(0),
            capture: Capture::new(),
            staging: Mutex::new(staging),
            queued: AtomicBool::new(false),
            options,
            ledger,
            places: modules::kernels(&modules),
            functions: modules.iter().map(|_| OnceLock::new()).collect(),
            modules,
            costs,
            scratch: Region::default(),
            row_scratch: Region::default(),
            failure: Mutex::default(),
        })
    }

    /// The first failure since the last call that is known without waiting for the device.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&self) -> DeviceResult<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(why) => Err(self.failed(why)),
        }
    }

    /// The [`Device::numeric_class`] that a device would have, without opening it.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] as of [`CudaDevice::open`].
    pub fn class_of(options: CudaOptions) -> DeviceResult<String> {
        let unavailable = |why| DeviceError::Unavailable { device: format!("cuda:{}", options.ordinal), why };
        let (_, properties) = driver::find(options.ordinal).map_err(unavailable)?;
        let library = if options.wants_cublas() { cublas::class() } else { None };
        Ok(class(properties.capability, options.precision) + &library.unwrap_or_default())
    }

    /// The card's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.driver.properties.name
    }

    /// Major and minor.
    #[must_use]
    pub fn capability(&self) -> (i32, i32) {
        self.driver.properties.capability
    }

    /// Bytes free and in all.
    ///
    /// # Errors
    /// [`DeviceError::Failed`].
    pub fn memory(&self) -> DeviceResult<(usize, usize)> {
        self.driver.memory().map_err(|error| self.failed(explain(error)))
    }

    #[must_use]
    pub fn precision(&self) -> Precision {
        self.options.precision
    }

    /// Whether its tensor cores take bfloat16.
    #[must_use]
    pub fn has_bf16(&self) -> bool {
        self.capability().0 >= 8
    }

    #[must_use]
    pub fn multiprocessors(&self) -> usize {
        self.driver.properties.multiprocessors
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    pub(crate) fn shared_driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    pub(crate) fn set_products(&mut self, products: Products) {
        self.products = Some(products);
        self.costs.cublas = true;
    }

    pub(crate) fn cuda_costs(&self) -> &CudaCosts {
        &self.costs
    }

    /// Queues a product of cuBLAS's.
    pub(crate) fn multiply(&self, call: &Call) {
        if let (Some(products), false) = (&self.products, self.has_failed()) {
            if let Err(why) = products.multiply(self, call) {
                self.fail(why);
            }
            self.mark_queued();
        }
    }

    /// Memory for one operation; the next call of an operation may take the same.
    pub(crate) fn scratch(&self, bytes: usize) -> u64 {
        self.region(&self.scratch, bytes)
    }

    /// A second one, for values per row.
    pub(crate) fn row_scratch(&self, bytes: usize) -> u64 {
        self.region(&self.row_scratch, bytes)
    }

    /// Address 0 where there is no memory; the failure is kept, and no kernel runs after it.
    fn region(&self, region: &Region, bytes: usize) -> u64 {
        match region.take(bytes) {
            Taken::Here(address) => return address,
            Taken::Refused(reserved) => self.fail(format!(
                "an operation borrows {bytes} bytes of scratch memory, but the largest that was planned borrows {reserved}"
            )),
            Taken::Small => {
                if !self.capture.spoil() {
                    match self.grow(region, bytes, false) {
                        Ok(()) => return self.region(region, bytes),
                        Err(error) => self.fail(format!("{bytes} bytes of scratch memory: {}", explain(error))),
                    }
                }
            }
        }
        0
    }

    fn grow(&self, region: &Region, bytes: usize, reserved: bool) -> Result<(), DriverError> {
        let moved = region.grow(&self.driver, &self.ledger, bytes, reserved)?;
        self.generation.fetch_add(usize::from(moved), Ordering::AcqRel);
        Ok(())
    }

    pub(crate) fn launch(&self, name: &str, grid: [usize; 3], threads: usize, arguments: Arguments) {
        self.launch_with_shared(name, grid, threads, 0, arguments);
    }

    /// Queues a kernel with dynamic shared memory; nothing where the grid is empty or an operation has failed before.
    pub(crate) fn launch_with_shared(
        &self,
        name: &str,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        mut arguments: Arguments,
    ) {
        if grid.contains(&0) || self.has_failed() {
            return;
        }
        let launched = self.function(name).and_then(|function| {
            let mut pointers = arguments.pointers();
            // SAFETY: the operations of this crate match their kernels' signatures, which the tests check on the
            // emulated driver, and views are as long as they assert.
            unsafe { self.driver.launch(function, Extent { grid, threads, shared }, &mut pointers) }.map_err(explain)
        });
        self.mark_queued();
        if let Err(why) = launched {
            self.fail(format!("kernel `{name}`: {why}"));
        }
    }

    fn function(&self, name: &str) -> Result<Function, String> {
        let place = *self.places.get(name).ok_or_else(|| "this device has no such kernel".to_owned())?;
        if self.functions[place].get().is_none() && self.capture.spoil() {
            return Err("it is not loaded yet".to_owned());
        }
        let functions = self.functions[place].get_or_init(|| {
            let Module { name, ptx } = &self.modules[place];
            let names: Vec<&str> = modules::entries(ptx).collect();
            let functions =
                self.driver.load(ptx, &names).map_err(|error| format!("module `{name}`: {}", explain(error)))?;
            Ok(names.into_iter().map(str::to_owned).zip(functions).collect())
        });
        let functions = functions.as_ref().map_err(Clone::clone)?;
        functions.get(name).copied().ok_or_else(|| "the module does not have it".to_owned())
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }

    pub(crate) fn capture_mut(&mut self) -> &mut Capture {
        &mut self.capture
    }

    pub(crate) fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn mark_queued(&self) {
        self.queued.store(true, Ordering::Release);
    }

    pub(crate) fn note(&self, result: Result<(), DriverError>) {
        if let Err(error) = result {
            self.fail(explain(error));
        }
    }

    /// While a graph is captured, what fails is the capture.
    fn fail(&self, why: String) {
        if self.capture.spoil() {
            return;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    pub(crate) fn has_failed(&self) -> bool {
        if self.capture.is_spoilt() {
            return true;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn failed(&self, why: String) -> DeviceError {
        DeviceError::Failed { device: self.name(), why }
    }
}

fn class((major, minor): (i32, i32), precision: Precision) -> String {
    let precision = match precision {
        Precision::F32 => "f32",
        Precision::Bf16 if major < 8 => "f16",
        Precision::Bf16 => "bf16",
    };
    format!("cuda-{major}.{minor}-{precision}")
}
