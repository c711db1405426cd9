//! One table of cases for every operation. The conformance test runs it over backends and thread counts, against `f64`
//! and against finite differences; the benches time it.

mod cases;

pub use cases::cases;

use crate::Backend;

type Run = Box<dyn Fn(&[&[f32]], &mut [&mut [f32]]) + Send + Sync>;
type Exact = Box<dyn Fn(&[Vec<f64>]) -> Vec<Vec<f64>> + Send + Sync>;
type Backward = Box<dyn Fn(&[&[f32]], &[Vec<f32>]) -> Vec<Vec<f32>> + Send + Sync>;

/// What every output holds before a run; an operation that adds to its output adds to this.
pub const INITIAL: f32 = 0.25;

/// Elements before and after each output that must stay as they are.
const GUARD: usize = 80;
const SENTINEL: f32 = -1.25e30;

/// An operation at one shape.
pub struct OpCase {
    /// The operation and its parameters; a failing line is a reproduction.
    pub name: String,
    pub inputs: Vec<Vec<f32>>,
    /// Lengths of the outputs.
    pub outputs: Vec<usize>,
    /// The greatest squared error allowed, over the squared size of the exact output.
    pub nmse: f64,
    /// Multiplications and additions, for benches.
    pub flops: f64,
    pub run: Run,
    /// The definition, in `f64`, from inputs to outputs.
    pub exact: Exact,
    /// Gradients of the first inputs, as many as it returns, from inputs and output gradients.
    pub backward: Option<Backward>,
}

impl OpCase {
    /// Runs with `backend` and returns the outputs.
    ///
    /// # Panics
    /// If the operation wrote outside an output.
    #[must_use]
    pub fn outputs(&self, backend: Backend) -> Vec<Vec<f32>> {
        let inputs: Vec<&[f32]> = self.inputs.iter().map(Vec::as_slice).collect();
        let mut buffers: Vec<Vec<f32>> = self
            .outputs
            .iter()
            .map(|len| {
                let mut buffer = vec![SENTINEL; len + 2 * GUARD];
                buffer[GUARD..GUARD + len].fill(INITIAL);
                buffer
            })
            .collect();
        let mut outputs: Vec<&mut [f32]> =
            buffers.iter_mut().zip(&self.outputs).map(|(buffer, len)| &mut buffer[GUARD..GUARD + len]).collect();
        backend.with(|| (self.run)(&inputs, &mut outputs));
        buffers
            .into_iter()
            .zip(&self.outputs)
            .map(|(buffer, len)| {
                let intact = buffer[..GUARD].iter().chain(&buffer[GUARD + len..]).all(|x| *x == SENTINEL);
                assert!(intact, "{} on {backend}: wrote outside its output", self.name);
                buffer[GUARD..GUARD + len].to_vec()
            })
            .collect()
    }

    /// Squared error of each output over its exact squared size.
    #[must_use]
    pub fn errors(&self, found: &[Vec<f32>]) -> Vec<f64> {
        let exact = (self.exact)(&self.widened());
        found.iter().zip(&exact).map(|(found, exact)| nmse(found, exact)).collect()
    }

    /// Squared error of each gradient against central differences of the definition, for the output gradient
    /// `weights`.
    ///
    /// # Panics
    /// If the operation has no backward pass.
    #[must_use]
    pub fn gradient_errors(&self, backend: Backend, weights: &[Vec<f32>]) -> Vec<f64> {
        let backward = self.backward.as_ref().expect("the operation has a backward pass");
        let inputs: Vec<&[f32]> = self.inputs.iter().map(Vec::as_slice).collect();
        let gradients = backend.with(|| backward(&inputs, weights));
        let mut point = self.widened();
        let step = 1e-4;
        let value = |point: &[Vec<f64>]| -> f64 {
            let outputs = (self.exact)(point);
            outputs.iter().flatten().zip(weights.iter().flatten()).map(|(out, weight)| out * f64::from(*weight)).sum()
        };
        let mut errors = Vec::new();
        for (index, gradient) in gradients.iter().enumerate() {
            let exact: Vec<f64> = (0..gradient.len())
                .map(|element| {
                    let middle = point[index][element];
                    point[index][element] = middle + step;
                    let above = value(&point);
                    point[index][element] = middle - step;
                    let below = value(&point);
                    point[index][element] = middle;
                    (above - below) / (2.0 * step)
                })
                .collect();
            errors.push(nmse(gradient, &exact));
        }
        errors
    }

    fn widened(&self) -> Vec<Vec<f64>> {
        self.inputs.iter().map(|input| input.iter().map(|x| f64::from(*x)).collect()).collect()
    }
}

/// Squared error over the squared size of the exact values; infinite if a value is not a number where the exact one is.
#[must_use]
pub fn nmse(found: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(found.len(), exact.len(), "one value for each exact one");
    let mut error = 0.0;
    for (found, exact) in found.iter().zip(exact) {
        if !found.is_finite() && found.is_nan() != exact.is_nan() {
            return f64::INFINITY;
        }
        error += (f64::from(*found) - exact).powi(2);
    }
    error / exact.iter().map(|x| x * x).sum::<f64>().max(1e-30)
}
