//! A step in the steady state asks the allocator for no buffer.

#[expect(dead_code, reason = "each test binary uses its own part")]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Family, TinyModel, lora, set, spec};
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::TokenSample;
use luthier_kernels::device::{CpuDevice, Device};
use luthier_model::adapter::Targets;
use luthier_model::train::{TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LoadOptions};

/// The smallest matrix of a step here, a gradient of `hidden` floats per token, is eight times as large.
const BUFFER: usize = 4096;

struct Counting;

static LARGE: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    LARGE.fetch_add(usize::from(bytes >= BUFFER), Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steps_after_the_first_ask_for_no_buffer() {
    let model = TinyModel::new(Family::LlamaTied);
    let files = ModelFiles::open(model.path()).unwrap();
    let samples = (0..16)
        .map(|sample| TokenSample {
            id: format!("s{sample}"),
            ids: (0..64).map(|index| (7 * sample + 5 * index) % 67).collect(),
            mask: (0..64).map(|index| index > 0).collect(),
        })
        .collect();
    let data = set(samples, 1);
    for (base, checkpointing, dropout) in
        [(BaseFormat::Stored, false, 0.0), (BaseFormat::Nf4, true, 0.1), (BaseFormat::Nf4, false, 0.0)]
    {
        // One thread: with more, which of them first needs its own scratch is a matter of chance.
        let device: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
        let decoder = Decoder::load(&device, &files, LoadOptions { base, positions: 64 }).unwrap();
        let mut spec = TrainSpec { checkpointing, ..spec(lora(Targets::AllLinear), 12, 4, 1) };
        spec.lora.dropout = dropout;
        let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
        let mut step = || {
            trainer.compute().unwrap();
            trainer.apply().unwrap();
        };
        for _ in 0..2 {
            step();
        }
        let before = (LARGE.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        for _ in 0..8 {
            step();
        }
        let large = LARGE.load(Ordering::Relaxed) - before.0;
        let bytes = (BYTES.load(Ordering::Relaxed) - before.1) / 8;
        assert_eq!(large, 0, "{base:?}, checkpointing {checkpointing}, dropout {dropout}");
        // Row losses, the step's report and its history.
        assert!(bytes < 16_384, "{bytes} bytes a step");
    }
}
