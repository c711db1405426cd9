//! Whole-program tests: the binary on real pipelines, its words on bad input, and the shape of the house.

mod house;
mod program;
mod tiny;
