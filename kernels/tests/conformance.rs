//! The table of operations over backends, thread counts, the definition in `f64`, and finite differences.

use luthier_kernels::Backend;
use luthier_kernels::random::Stream;
use luthier_kernels::testkit::{OpCase, cases, nmse};

fn bits(outputs: &[Vec<f32>]) -> Vec<Vec<u32>> {
    outputs.iter().map(|output| output.iter().map(|x| x.to_bits()).collect()).collect()
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads")
}

#[test]
fn outputs_are_the_definition_s() {
    for case in cases() {
        let found = case.outputs(Backend::Reference);
        for (index, error) in case.errors(&found).into_iter().enumerate() {
            assert!(error <= case.nmse, "{}: output {index} has error {error:e}, allowed {:e}", case.name, case.nmse);
        }
    }
}

#[test]
fn backends_agree_bit_for_bit() {
    let others: Vec<Backend> = Backend::supported().filter(|backend| *backend != Backend::Reference).collect();
    if others.is_empty() {
        println!("skipped: this processor runs the reference backend only");
    }
    for case in cases() {
        let expected = bits(&case.outputs(Backend::Reference));
        for backend in &others {
            assert_eq!(bits(&case.outputs(*backend)), expected, "{} on {backend}", case.name);
        }
    }
}

#[test]
fn thread_counts_do_not_matter() {
    let pools = [pool(1), pool(2), pool(3)];
    for case in cases() {
        let backend = Backend::current();
        let [one, two, three] = pools.each_ref().map(|pool| bits(&pool.install(|| case.outputs(backend))));
        assert!(one == two && two == three, "{}", case.name);
    }
}

fn weights(case: &OpCase) -> Vec<Vec<f32>> {
    case.outputs
        .iter()
        .map(|len| {
            let mut weights = vec![0.0; *len];
            Stream::new(23, "weights").fill_normal(0, 0.0, 1.0, &mut weights);
            weights
        })
        .collect()
}

#[test]
fn gradients_are_finite_differences() {
    let mut checked = 0;
    for case in cases() {
        let small = case.inputs.iter().map(Vec::len).sum::<usize>() * case.flops as usize <= 60_000_000;
        if case.backward.is_none() || !small {
            continue;
        }
        checked += 1;
        let weights = weights(&case);
        for (index, error) in case.gradient_errors(Backend::current(), &weights).into_iter().enumerate() {
            // Central differences with step 1e-4 of functions of size 1 leave about 1e-8, squared; and what the
            // operation itself is allowed.
            assert!(error <= case.nmse.max(1e-11), "{}: gradient {index} has error {error:e}", case.name);
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn not_a_number_is_never_hidden() {
    for mut case in cases() {
        let reads_all = !case.name.starts_with("gather");
        if !reads_all || case.inputs[0].is_empty() || case.outputs[0] == 0 {
            continue;
        }
        case.inputs[0][0] = f32::NAN;
        for backend in Backend::supported() {
            let outputs = case.outputs(backend);
            assert!(outputs.iter().flatten().any(|x| x.is_nan()), "{} on {backend}", case.name);
        }
    }
}

#[test]
fn the_error_measure_sees_errors() {
    assert_eq!(nmse(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
    assert!(nmse(&[1.0, 2.1], &[1.0, 2.0]) > 1e-3);
    assert_eq!(nmse(&[f32::NAN], &[1.0]), f64::INFINITY);
    assert_eq!(nmse(&[f32::INFINITY], &[1.0]), f64::INFINITY);
}
