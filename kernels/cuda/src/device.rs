//! The device itself: memory, launches, and the operations of the engine's interface.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::DriverError;
use luthier_kernels::device::{
    Allocation, AttentionSaved, AttentionShape, Component, Costs, Device, DeviceError, DeviceExt, DeviceResult,
    DoraRows, Draw, Dropout, FloatType, Head, KeyValues, Ledger, Linear, LinearBackward, LinearScratch, LowRank,
    Moments8, Noise, Operand, Operation, Recording, Rotary, Segments, Slice, SliceMut, Space, Transfers, Values,
    ValuesMut,
};
use luthier_kernels::rope::Table;

use crate::costs::CudaCosts;
use crate::cublas::{self, Call, Products};
use crate::driver::{self, Driver, Extent, Function, explain};
use crate::graph::Capture;
use crate::memory::{DeviceMemory, Region, Staging, Taken};
use crate::modules::Module;
use crate::{Arguments, modules, ops};

/// What products and attention are computed in. Sums are `f32` in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    F32,
    /// Factors rounded to bfloat16 (to half where there is none), on the tensor cores.
    #[default]
    Bf16,
}

/// Which device, and how it computes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaOptions {
    pub ordinal: u8,
    pub precision: Precision,
    /// Whether cuBLAS computes large products of bf16 factors if it is found.
    pub cublas: bool,
}

impl CudaOptions {
    /// Whether products are cuBLAS's on a device of this capability, as far as it is found.
    fn wants_cublas(self, capability: (i32, i32)) -> bool {
        self.cublas && self.precision == Precision::Bf16 && capability.0 >= 8
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
        if options.wants_cublas(device.capability()) && cublas::class().is_some() {
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
        let staging = Staging::new(&driver).map_err(|error| unavailable(explain(error)))?;
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
            ledger: Arc::default(),
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
        let library = if options.wants_cublas(properties.capability) { cublas::class() } else { None };
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
        Precision::Bf16 => "bf16",
    };
    format!("cuda-{major}.{minor}-{precision}")
}

fn word<T>(address: NonNull<T>) -> u64 {
    address.as_ptr().addr() as u64
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        format!("cuda:{}", self.options.ordinal)
    }

    fn numeric_class(&self) -> String {
        let library = if self.products.is_some() { cublas::class() } else { None };
        class(self.capability(), self.options.precision) + &library.unwrap_or_default()
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn activation_type(&self) -> FloatType {
        self.costs.activations()
    }

    fn allocate(&self, component: Component, bytes: usize) -> DeviceResult<Allocation> {
        let failed = || DeviceError::OutOfMemory { device: self.name(), bytes, component };
        if self.capture.spoil() {
            return Err(failed());
        }
        let space = Space::Cuda(self.options.ordinal);
        if bytes == 0 {
            let ledger = Arc::clone(&self.ledger);
            // SAFETY: nothing is read or written through an address of no bytes.
            return Ok(unsafe {
                Allocation::new(NonNull::<Nothing>::dangling().cast(), 0, space, component, ledger, Box::new(()))
            });
        }
        let memory = DeviceMemory::new(&self.driver, bytes).map_err(|_| failed())?;
        let address =
            NonNull::new(std::ptr::with_exposed_provenance_mut(memory.address as usize)).ok_or_else(failed)?;
        // SAFETY: the driver gave `bytes` bytes, aligned to 256 and zeroed, that `memory` alone frees.
        Ok(unsafe { Allocation::new(address, bytes, space, component, Arc::clone(&self.ledger), Box::new(memory)) })
    }

    fn transfers(&self) -> Option<&dyn Transfers> {
        Some(self)
    }

    fn write_bytes(&self, source: &[u8], target: SliceMut<'_, u8>) {
        assert_eq!(source.len(), target.len(), "a write of another length");
        if !source.is_empty() && !self.capture.spoil() && !self.has_failed() {
            self.note(self.staging().write(word(target.address()), source));
            self.mark_queued();
        }
    }

    fn read_bytes(&self, source: Slice<'_, u8>, target: &mut [u8]) {
        assert_eq!(source.len(), target.len(), "a read of another length");
        if !target.is_empty() && !self.capture.spoil() && !self.has_failed() {
            self.queued.store(false, Ordering::Release);
            self.note(self.staging().read(word(source.address()), target));
        }
    }

    fn synchronize(&self) -> DeviceResult<()> {
        if self.capture.spoil() {
            return Ok(());
        }
        let queued = self.queued.swap(false, Ordering::AcqRel) || self.driver.is_copying();
        if queued && !self.has_failed() {
            self.note(self.staging().wait());
        }
        self.check()
    }

    fn run(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }

    fn costs(&self) -> &dyn Costs {
        &self.costs
    }

    fn reserve(&self, operations: &[Operation]) -> DeviceResult<()> {
        for (region, bytes) in [&self.scratch, &self.row_scratch].into_iter().zip(self.costs.borrowed(operations)) {
            let component = Component::Scratch;
            self.grow(region, bytes, true).map_err(|_| DeviceError::OutOfMemory {
                device: self.name(),
                bytes,
                component,
            })?;
        }
        Ok(())
    }

    fn record(&self, work: &mut dyn FnMut()) -> Option<Recording> {
        self.capture_work(work)
    }

    unsafe fn replay(&self, recording: &Recording) -> bool {
        // SAFETY: as the caller says.
        unsafe { self.replay_graph(recording) }
    }

    fn zero(&self, out: SliceMut<'_, f32>) {
        ops::elementwise::zero(self, out);
    }

    fn copy(&self, source: Values<'_>, out: ValuesMut<'_>) {
        ops::elementwise::copy(self, source, out);
    }

    fn add(&self, source: Values<'_>, out: ValuesMut<'_>) {
        ops::elementwise::add(self, source, out);
    }

    fn scale(&self, factor: f32, out: ValuesMut<'_>) {
        ops::elementwise::scale(self, factor, out);
    }

    fn add_bias(&self, bias: Slice<'_, f32>, out: ValuesMut<'_>) {
        ops::elementwise::add_bias(self, bias, out);
    }

    fn matmul_nt(
        &self,
        x: Values<'_>,
        w: Operand<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    ) {
        ops::matmul::nt(self, x, w, shape, scale, accumulate, out);
    }

    fn matmul_nn(
        &self,
        dy: Values<'_>,
        w: Operand<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    ) {
        ops::matmul::nn(self, dy, w, shape, scale, accumulate, out);
    }

    fn matmul_tn(
        &self,
        a: Values<'_>,
        b: Values<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        ops::matmul::tn(self, a, b, shape, scale, accumulate, out);
    }

    fn linear(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        linears: &mut [Linear<'_>],
        residual: Option<Slice<'_, f32>>,
        masked: &mut ValuesMut<'_>,
    ) {
        ops::linear::forward(self, x, shape, linears, residual, masked);
    }

    fn linear_reduce(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        adapters: &mut [(LowRank<'_>, ValuesMut<'_>)],
        masked: &mut ValuesMut<'_>,
    ) {
        ops::linear::reduce(self, x, shape, adapters, masked);
    }

    fn linear_backward(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        linears: &mut [LinearBackward<'_>],
        accumulate: bool,
        scratch: &mut LinearScratch<'_>,
        dx: Option<(ValuesMut<'_>, bool)>,
    ) {
        ops::linear::backward(self, x, shape, linears, accumulate, scratch, dx);
    }

    fn rms_norm(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        eps: f32,
        out: ValuesMut<'_>,
        inverse: SliceMut<'_, f32>,
    ) {
        ops::rms_norm::forward(self, x, weight, eps, out, inverse);
    }

    fn rms_norm_backward(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        inverse: Slice<'_, f32>,
        dy: Values<'_>,
        accumulate: bool,
        dx: ValuesMut<'_>,
    ) {
        ops::rms_norm::backward(self, x, weight, inverse, dy, accumulate, dx);
    }

    fn rotary(&self, table: Table) -> DeviceResult<Rotary> {
        let upload = |values: &[f32]| {
            let device: &dyn Device = self;
            let mut buffer = device.buffer(Component::Scratch, values.len())?;
            device.write(values, buffer.all_mut());
            Ok(buffer)
        };
        let (cos, sin) = (upload(table.cosines())?, upload(table.sines())?);
        Ok(Rotary::Device { cos, sin, head_dim: table.head_dim() })
    }

    fn rope(&self, positions: Slice<'_, u32>, heads: usize, rotary: &Rotary, inverse: bool, x: ValuesMut<'_>) {
        ops::rope::rotate(self, positions, heads, rotary, inverse, x);
    }

    fn swiglu(&self, gate: Values<'_>, up: Values<'_>, out: ValuesMut<'_>) {
        ops::swiglu::forward(self, gate, up, out);
    }

    fn swiglu_backward(&self, gate: ValuesMut<'_>, up: Values<'_>, dout: ValuesMut<'_>) {
        ops::swiglu::backward(self, gate, up, dout);
    }

    fn attention(
        &self,
        q: Values<'_>,
        k: Values<'_>,
        v: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        out: ValuesMut<'_>,
        lse: SliceMut<'_, f32>,
    ) {
        ops::attention::forward(self, q, k, v, segments, shape, out, lse);
    }

    fn attention_backward(
        &self,
        forward: AttentionSaved<'_>,
        dout: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        dq: ValuesMut<'_>,
        dk: ValuesMut<'_>,
        dv: ValuesMut<'_>,
    ) {
        ops::attention::backward(self, forward, dout, segments, shape, dq, dk, dv);
    }

    fn attention_decode(&self, q: Values<'_>, cache: KeyValues<'_>, shape: AttentionShape, out: ValuesMut<'_>) {
        ops::attention::decode(self, q, cache, shape, out);
    }

    fn embedding(&self, table: Operand<'_>, ids: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        ops::embedding::gather(self, table, ids, width, out);
    }

    fn gather_rows(&self, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        ops::elementwise::gather_rows(self, x, rows, width, out);
    }

    fn sum_rows(&self, x: Values<'_>, offsets: Slice<'_, u32>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        ops::elementwise::sum_rows(self, x, offsets, rows, width, out);
    }

    fn scatter_rows(&self, x: Slice<'_, f32>, rows: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        ops::elementwise::scatter_rows(self, x, rows, width, out);
    }

    fn cross_entropy(
        &self,
        hidden: Values<'_>,
        targets: Slice<'_, u32>,
        head: Head<'_>,
        scale: Slice<'_, f32>,
        dhidden: Option<SliceMut<'_, f32>>,
        scratch: SliceMut<'_, f32>,
        losses: SliceMut<'_, f32>,
    ) {
        ops::cross_entropy::forward_backward(self, hidden, targets, head, scale, dhidden, scratch, losses);
    }

    fn dropout(&self, x: Values<'_>, dropout: Dropout<'_>, accumulate: bool, out: ValuesMut<'_>) {
        ops::random::dropout(self, x, dropout, accumulate, out);
    }

    fn adamw(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        m: SliceMut<'_, f32>,
        v: SliceMut<'_, f32>,
    ) {
        ops::optimizer::adamw(self, grads, factors, params, m, v);
    }

    fn adamw_8bit(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        moments: Moments8<'_>,
    ) {
        ops::optimizer::adamw_8bit(self, grads, factors, params, moments);
    }

    fn add_noise(&self, noise: Noise<'_>, segments: Segments<'_>, width: usize, out: SliceMut<'_, f32>) {
        ops::random::add_noise(self, noise, segments, width, out);
    }

    fn row_squares(&self, w: Operand<'_>, shape: [usize; 2], out: SliceMut<'_, f32>) {
        ops::dora::row_squares(self, w, shape, out);
    }

    fn dora_gains(
        &self,
        rows: DoraRows<'_>,
        magnitude: Option<Slice<'_, f32>>,
        gains: SliceMut<'_, f32>,
        inverse: SliceMut<'_, f32>,
    ) {
        ops::dora::gains(self, rows, magnitude, gains, inverse);
    }

    fn scale_columns(&self, x: Values<'_>, factors: Slice<'_, f32>, accumulate: bool, out: ValuesMut<'_>) {
        ops::elementwise::scale_columns(self, x, factors, accumulate, out);
    }

    fn column_dots(
        &self,
        dy: Values<'_>,
        x: Values<'_>,
        factors: Slice<'_, f32>,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        ops::dora::column_dots(self, dy, x, factors, accumulate, out);
    }

    fn sum(&self, x: Slice<'_, f32>, accumulate: bool, out: SliceMut<'_, f64>) {
        ops::optimizer::sum(self, x, accumulate, out);
    }

    fn norm(&self, x: Slice<'_, f32>, out: SliceMut<'_, f64>) {
        ops::optimizer::norm(self, x, out);
    }

    fn clip(&self, norm: Slice<'_, f64>, limit: f64, out: SliceMut<'_, f32>) {
        ops::optimizer::clip(self, norm, limit, out);
    }

    fn geglu(&self, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>) {
        ops::geglu::forward(self, gate, up, out);
    }

    fn geglu_backward(
        &self,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        dout: Slice<'_, f32>,
        dgate: SliceMut<'_, f32>,
        dup: SliceMut<'_, f32>,
    ) {
        ops::geglu::backward(self, [gate, up, dout], dgate, dup);
    }

    fn choose_tokens(&self, logits: Slice<'_, f32>, vocabulary: usize, draw: Option<Draw<'_>>, ids: SliceMut<'_, u32>) {
        ops::sampling::choose(self, logits, vocabulary, draw, ids);
    }
}
