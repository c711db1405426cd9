//! The CUDA device of the engine: kernels as PTX that the driver finishes compiling, through a driver that is looked for
//! at run time. Nothing of NVIDIA's is needed to build this crate or to start a program that contains it.
//!
//! Kernels are in `kernels/*.cu`; `cargo run -p luthier-cuda --example ptx` compiles them to `ptx/`. Tests run them on a
//! driver that a C++ compiler makes of the same sources (`emulator/`). No figure of speed follows from that.

mod arguments;
mod costs;
mod cublas;
mod device;
mod driver;
mod graph;
mod memory;
mod modules;
pub mod ops;
mod transfers;

pub use costs::CudaCosts;
pub use cublas::cublas_version;
pub use device::{CudaDevice, CudaOptions, Precision};
pub use driver::{Properties, list};

pub(crate) use arguments::Arguments;
