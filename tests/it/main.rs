//! Whole-program tests: the binary on real pipelines, its words on bad input, and the shape of the house.

mod disk;
mod editors;
mod executors;
mod house;
mod plugins;
mod processes;
mod program;
mod remote;
mod sweep;
mod tiny;
mod watching;
