//! Whole-program tests: the binary on real pipelines, its words on bad input, and the shape of the house.

mod disk;
mod house;
mod program;
mod remote;
mod tiny;
