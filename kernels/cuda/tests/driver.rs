//! What the emulated driver promises to those who test with it: streams that are late, graphs, limits, counters.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[expect(dead_code, reason = "most of it is for operations")]
#[path = "conformance/support/mod.rs"]
mod support;

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult};
use libloading::{Library, Symbol};
use luthier_cuda::Precision;

fn control(name: &str, argument: usize) -> usize {
    // SAFETY: the driver is loaded; its controls take and give at most one word.
    unsafe {
        let driver = Library::new("libcuda.so").unwrap();
        let function: Symbol<'_, unsafe extern "C" fn(usize) -> usize> = driver.get(name.as_bytes()).unwrap();
        function(argument)
    }
}

fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: as in all of this file: a context is current, and places that are written to are.
    unsafe { sys::cuStreamCreate(&raw mut stream, 1) }.result().unwrap();
    stream
}

fn event(on: sys::CUstream) -> sys::CUevent {
    let mut event = null_mut();
    // SAFETY: as above.
    unsafe { sys::cuEventCreate(&raw mut event, 2).result().and_then(|()| sys::cuEventRecord(event, on).result()) }
        .unwrap();
    event
}

fn allocate(bytes: usize) -> Result<u64, CUresult> {
    let mut address = 0;
    // SAFETY: as above.
    match unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) } {
        CUresult::CUDA_SUCCESS => Ok(address),
        error => Err(error),
    }
}

fn pinned(words: usize) -> &'static [u32] {
    let mut host: *mut c_void = null_mut();
    // SAFETY: as above; it is never freed.
    unsafe {
        sys::cuMemHostAlloc(&raw mut host, words * 4, 0).result().unwrap();
        std::slice::from_raw_parts(host.cast(), words)
    }
}

fn now(words: &[u32]) -> u32 {
    // SAFETY: a reference; read anew, as the driver writes behind the compiler's back.
    unsafe { (&raw const words[0]).read_volatile() }
}

/// A call of the driver with ordinary memory.
type Attempt<'a> = dyn Fn(&mut [u32; 16]) -> CUresult + 'a;

/// One test, since what it sets is the whole process's.
#[test]
fn the_emulated_driver_keeps_its_promises() {
    let Some(device) = support::emulated(Precision::F32) else { return };
    let used = control("emulator_used", 0);
    let (address, host) = (allocate(64).unwrap(), pinned(16));
    let (first, second) = (stream(), stream());
    control("emulator_set_late_streams", 1);
    // SAFETY: `address` and `host` have 64 bytes each, for as long as anything is queued.
    unsafe {
        let fill = |value, stream| sys::cuMemsetD32Async(address, value, 16, stream).result().unwrap();
        let fetch =
            |stream| sys::cuMemcpyDtoHAsync_v2(host.as_ptr() as *mut c_void, address, 64, stream).result().unwrap();

        fill(7, first);
        fetch(first);
        assert_eq!(now(host), u32::MAX, "nobody waited yet");
        sys::cuStreamSynchronize(first).result().unwrap();
        assert_eq!(now(host), 7);

        fill(8, first);
        let filled = event(first);
        sys::cuStreamWaitEvent(second, filled, 0).result().unwrap();
        fetch(second);
        assert_eq!(sys::cuEventQuery(filled), CUresult::CUDA_ERROR_NOT_READY);
        sys::cuStreamSynchronize(second).result().unwrap();
        assert_eq!(now(host), 8, "the second stream waits for the first");

        fill(9, first);
        fetch(second);
        sys::cuStreamSynchronize(second).result().unwrap();
        assert_eq!(now(host), 8, "a wait that is missing shows");
        sys::cuStreamSynchronize(first).result().unwrap();

        let (mut graph, mut ready, mut nodes) = (null_mut(), null_mut(), 0);
        sys::cuStreamBeginCapture_v2(first, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).result().unwrap();
        fill(10, first);
        fetch(first);
        sys::cuStreamEndCapture(first, &raw mut graph).result().unwrap();
        sys::cuGraphGetNodes(graph, null_mut(), &raw mut nodes).result().unwrap();
        assert_eq!(nodes, 2);
        sys::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0).result().unwrap();
        for value in [11, 12] {
            fill(value, first);
            sys::cuGraphLaunch(ready, first).result().unwrap();
            sys::cuStreamSynchronize(first).result().unwrap();
            assert_eq!(now(host), 10);
        }
        assert_eq!(control("emulator_graph_launches", 0), 2);
        sys::cuGraphExecDestroy(ready).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
        control("emulator_set_late_streams", 0);

        let mut ordinary = [0u32; 16];
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        let before = event(first);
        let refused: [(&Attempt<'_>, CUresult); 8] = [
            (&|to| sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), address, 64, first), unsupported),
            (&|to| sys::cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), address, 64), unsupported),
            (&|_| sys::cuStreamSynchronize(first), unsupported),
            (&|_| sys::cuCtxSynchronize(), unsupported),
            (&|_| allocate(64).unwrap_err(), unsupported),
            (&|_| sys::cuMemFree_v2(address), unsupported),
            (&|_| sys::cuMemsetD32Async(address, 0, 1, null_mut()), CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
            (&|_| sys::cuStreamWaitEvent(first, before, 0), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION),
        ];
        for (index, (call, error)) in refused.into_iter().enumerate() {
            sys::cuStreamBeginCapture_v2(first, mode).result().unwrap();
            fill(10, first);
            assert_eq!(call(&mut ordinary), error, "call {index}");
            let spoilt = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            assert_eq!(sys::cuMemsetD32Async(address, 0, 1, first), spoilt, "after call {index}");
            assert_eq!(sys::cuStreamEndCapture(first, &raw mut graph), spoilt, "after call {index}");
        }
        // A second stream takes part, and must come back.
        for comes_back in [false, true] {
            sys::cuStreamBeginCapture_v2(first, mode).result().unwrap();
            fill(11, first);
            sys::cuStreamWaitEvent(second, event(first), 0).result().unwrap();
            fetch(second);
            let fetched = event(second);
            if comes_back {
                sys::cuStreamWaitEvent(first, fetched, 0).result().unwrap();
            }
            let ended = sys::cuStreamEndCapture(first, &raw mut graph);
            assert_eq!(ended == CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, !comes_back);
            assert_eq!(sys::cuStreamWaitEvent(second, fetched, 0), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        }
        sys::cuGraphDestroy(graph).result().unwrap();

        let waits = control("emulator_waits", 0);
        assert_eq!(
            sys::cuMemcpyHtoDAsync_v2(address + 4, host.as_ptr().cast(), 64, first),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(sys::cuMemcpyDtoH_v2(ordinary.as_mut_ptr().cast(), address, 64), CUresult::CUDA_SUCCESS);
        assert_eq!((control("emulator_waits", 0), ordinary[15]), (waits + 1, 10));
        sys::cuMemFree_v2(address).result().unwrap();
        assert_eq!(sys::cuMemFree_v2(address), CUresult::CUDA_ERROR_INVALID_VALUE, "freed twice");
    }
    control("emulator_set_memory", used + 1000);
    assert_eq!(allocate(1001), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    allocate(1000).unwrap();
    assert_eq!(control("emulator_used", 0), used + 1000);
    drop(device);
    assert_eq!((control("emulator_leaked", 0), control("emulator_used", 0)), (1, 0), "what was left is counted");
}
