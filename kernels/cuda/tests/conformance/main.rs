//! The operations of the CUDA device on the emulated driver, against the CPU's; and the checks of these checks.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod attention;
mod buffers;
mod generated;
mod layers;
mod mutants;
mod narrow;
mod products;
mod sampling;
mod sanitizers;
mod static_gate;
mod support;
mod turing;
