//! cuBLAS, where it is found: products of large matrices in sixteen bits, which it may compute with instructions newer than those of
//! our own kernels.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::{Library, Symbol};
use luthier_kernels::device::{Buffer, Component, Device, DeviceError, DeviceResult, FloatType};

use crate::CudaDevice;
use crate::driver::explain;

/// Names of the library, newest first.
const LIBRARIES: [&str; 5] =
    ["libcublas.so.13", "libcublas.so.12", "libcublas.so", "cublas64_13.dll", "cublas64_12.dll"];

/// Values of `cublas_api.h` and `library_types.h`.
const SUCCESS: c_int = 0;
const NORMAL: c_int = 0;
const TRANSPOSED: c_int = 1;
const REAL_32: c_int = 0;
const HALF_16: c_int = 2;
const BRAIN_16: c_int = 14;
const COMPUTE_32: c_int = 68;
const DEFAULT_ALGORITHM: c_int = -1;

/// Bytes that it may work in; a workspace of our own keeps it from allocating, and its results from changing with what
/// else is in memory.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;

type Handle = *mut c_void;
type Gemm = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// `c[m, n] = scale · a[m, k] · b (+ c)`; `b` is `[n, k]` if `transposed`, else `[k, n]`. Rows are `lda`, `ldb` and `ldc`
/// elements apart; `a` and `b` are `kind`, bf16 or f16, `c` is `f32` unless it is `narrow`.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub kind: FloatType,
    /// `c` is of that type.
    pub narrow: bool,
    pub transposed: bool,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub lda: usize,
    pub ldb: usize,
    pub ldc: usize,
    pub scale: f32,
    pub accumulate: bool,
}

/// The library, once it was found: it stays loaded, as loading it takes long.
struct Found {
    library: Library,
    /// Such as 120904 of 12.9.4.
    version: c_int,
}

static FOUND: OnceLock<Found> = OnceLock::new();

fn found() -> Result<&'static Found, String> {
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    // SAFETY: loading cuBLAS runs its initialisers, which is what every program with it does.
    let library = LIBRARIES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    let library = library.ok_or("cuBLAS was not found (libcublas)")?;
    let mut parts: [c_int; 3] = [0; 3];
    for (property, part) in (0..).zip(&mut parts) {
        // SAFETY: the signature is that of cublas_api.h, and `part` is writable.
        let code = unsafe {
            let get: Symbol<'_, unsafe extern "C" fn(c_int, *mut c_int) -> c_int> =
                library.get(b"cublasGetProperty").map_err(|error| format!("cuBLAS is incomplete: {error}"))?;
            get(property, part)
        };
        if code != SUCCESS {
            return Err(format!("cuBLAS does not tell its version (status {code})"));
        }
    }
    let [major, minor, patch] = parts;
    Ok(FOUND.get_or_init(|| Found { library, version: 10_000 * major + 100 * minor + patch }))
}

/// The version of cuBLAS, such as 12.9.4, if it is where the system looks for libraries.
///
/// # Errors
/// Why there is none.
pub fn cublas_version() -> Result<String, String> {
    let version = found()?.version;
    Ok(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// What cuBLAS adds to the numeric class of a device that uses it; nothing where it is not found.
pub(crate) fn class() -> Option<String> {
    found().ok().map(|found| format!("-cublas{}", found.version))
}

/// A handle of the library, on one stream.
struct Cublas {
    library: &'static Library,
    handle: Handle,
}

// SAFETY: a handle may be used by any thread, by one at a time; it is kept in a mutex.
unsafe impl Send for Cublas {}

impl Cublas {
    /// In the context that is current, on `stream`, with `WORKSPACE_BYTES` at `workspace`, a multiple of 256.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn open(stream: *mut c_void, workspace: u64) -> Result<Self, String> {
        let library = &found()?.library;
        let mut handle: Handle = ptr::null_mut();
        let failed = |error: libloading::Error| format!("cuBLAS is incomplete: {error}");
        // SAFETY: the signatures are those of cublas_api.h; the out-parameters are writable.
        let code = unsafe {
            let create: Symbol<'_, unsafe extern "C" fn(*mut Handle) -> c_int> =
                library.get(b"cublasCreate_v2").map_err(failed)?;
            create(&raw mut handle)
        };
        if code != SUCCESS {
            return Err(format!("cuBLAS does not start (status {code})"));
        }
        let this = Self { library, handle };
        // SAFETY: as above; the handle was just made.
        let codes = unsafe {
            let set_stream: Symbol<'_, unsafe extern "C" fn(Handle, *mut c_void) -> c_int> =
                this.library.get(b"cublasSetStream_v2").map_err(failed)?;
            let set_workspace: Symbol<'_, unsafe extern "C" fn(Handle, u64, usize) -> c_int> =
                this.library.get(b"cublasSetWorkspace_v2").map_err(failed)?;
            let _: Symbol<'_, Gemm> = this.library.get(b"cublasGemmEx").map_err(failed)?;
            // The stream first: setting it takes the workspace away.
            [set_stream(this.handle, stream), set_workspace(this.handle, workspace, WORKSPACE_BYTES)]
        };
        match codes.iter().find(|code| **code != SUCCESS) {
            Some(code) => Err(format!("cuBLAS refuses a stream and workspace (status {code})")),
            None => Ok(this),
        }
    }

    /// Queues a product.
    ///
    /// # Safety
    /// The addresses are of matrices of the shapes of `call`, in the context of the handle.
    ///
    /// # Errors
    /// cuBLAS's status.
    unsafe fn multiply(&self, call: &Call) -> Result<(), String> {
        let Call { a, b, c, kind, narrow, transposed, m, n, k, lda, ldb, ldc, scale, accumulate } = *call;
        let sixteen = if kind == FloatType::F16 { HALF_16 } else { BRAIN_16 };
        let beta = if accumulate { 1f32 } else { 0.0 };
        let int = |value: usize| c_int::try_from(value).map_err(|_| format!("{value} is beyond cuBLAS's 32 bits"));
        let (m, n, k, lda, ldb, ldc) = (int(m)?, int(n)?, int(k)?, int(lda)?, int(ldb)?, int(ldc)?);
        // Row-major matrices are the transposed ones of column-major storage: cᵀ = bᵀ · aᵀ.
        let first = if transposed { TRANSPOSED } else { NORMAL };
        // SAFETY: the signature is that of cublas_api.h; the scalars live through the call, and the caller vouches for the
        // addresses.
        let code = unsafe {
            let gemm: Symbol<'_, Gemm> =
                self.library.get(b"cublasGemmEx").map_err(|error| format!("cuBLAS is incomplete: {error}"))?;
            gemm(
                self.handle,
                first,
                NORMAL,
                n,
                m,
                k,
                &raw const scale,
                b,
                sixteen,
                ldb,
                a,
                sixteen,
                lda,
                &raw const beta,
                c,
                if narrow { sixteen } else { REAL_32 },
                ldc,
                COMPUTE_32,
                DEFAULT_ALGORITHM,
            )
        };
        if code == SUCCESS { Ok(()) } else { Err(format!("cuBLAS failed (status {code}) on {call:?}")) }
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle was made by this library and is not used again.
        unsafe {
            if let Ok(destroy) = self.library.get::<unsafe extern "C" fn(Handle) -> c_int>(b"cublasDestroy_v2") {
                destroy(self.handle);
            }
        }
    }
}

/// cuBLAS as a device keeps it.
pub(crate) struct Products {
    cublas: Mutex<Cublas>,
    /// What the handle works in, freed after it.
    _workspace: Buffer<u8>,
}

impl CudaDevice {
    /// Has cuBLAS compute large products with frozen matrices from now on. Which algorithm it chooses, and with it the last
    /// bits of a row, may depend on the number of rows; the numeric class names the library's version.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`]: no library, or one that does not start; [`DeviceError::OutOfMemory`].
    pub fn use_cublas(&mut self) -> DeviceResult<()> {
        let unavailable = |why| DeviceError::Unavailable { device: self.name(), why };
        let workspace = self.allocate(Component::Scratch, WORKSPACE_BYTES)?;
        let buffer = Buffer::<u8>::new(workspace, WORKSPACE_BYTES);
        let address = buffer.all().address().as_ptr().addr() as u64;
        let opened = self.driver().on_stream(|stream| Cublas::open(stream, address)).map_err(explain);
        let cublas = opened.and_then(|opened| opened).map_err(unavailable)?;
        self.set_products(Products { cublas: Mutex::new(cublas), _workspace: buffer });
        Ok(())
    }
}

impl Products {
    /// Queues a product.
    ///
    /// # Errors
    /// What cuBLAS says.
    pub fn multiply(&self, device: &CudaDevice, call: &Call) -> Result<(), String> {
        let cublas = self.cublas.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the operations give matrices of the shapes of their call.
        let queued = device.driver().on_stream(|_| unsafe { cublas.multiply(call) }).map_err(explain);
        queued.and_then(|queued| queued)
    }
}
