//! Values and gradients against the same functions composed of candle's plain operations, through its autograd.

use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor, Var};
use luthier_kernels::attention::AttentionShape;
use luthier_kernels::random::Stream;
use luthier_kernels::rope::{Scaling, Table};
use luthier_ops::{
    FrozenWeight, RotaryTable, attention, cross_entropy, cross_entropy_rows, geglu, linear, rms_norm, rope, swiglu,
};

fn variable(name: &str, shape: &[usize]) -> Result<Var> {
    let mut values = vec![0.0f32; shape.iter().product()];
    Stream::new(9, name).fill_normal(0, 0.0, 1.0, &mut values);
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// `‖a - b‖ / ‖b‖`.
fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    assert_eq!(a.dims(), b.dims());
    let size = b.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    Ok((a - b)?.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt() / size.max(1e-20))
}

/// Compares two functions of the same variables: values, and gradients of a weighted sum of them.
fn compare(variables: &[&Var], ours: &Tensor, theirs: &Tensor) -> Result<()> {
    assert!(distance(ours, theirs)? < 2e-6, "values differ by {}", distance(ours, theirs)?);
    let weights = variable("weights", ours.dims())?.as_detached_tensor();
    let (ours, theirs) = ((ours * &weights)?.sum_all()?.backward()?, (theirs * &weights)?.sum_all()?.backward()?);
    for (index, variable) in variables.iter().enumerate() {
        let a = ours.get(variable).unwrap_or_else(|| panic!("no gradient of ours for variable {index}"));
        let b = theirs.get(variable).unwrap_or_else(|| panic!("no gradient of theirs for variable {index}"));
        assert!(b.sqr()?.sum_all()?.to_scalar::<f32>()? > 0.0, "nothing to compare for variable {index}");
        assert!(distance(a, b)? < 5e-6, "gradient {index} differs by {}", distance(a, b)?);
    }
    Ok(())
}

#[test]
fn frozen_linear() -> Result<()> {
    let (x, w) = (variable("x", &[2, 5, 33])?, variable("w", &[17, 33])?);
    let frozen = Arc::new(FrozenWeight::f32(&w)?);
    // The function behind `tanh` shows that the gradient passes on.
    let theirs = x.as_tensor().tanh()?.broadcast_matmul(&w.as_detached_tensor().t()?)?;
    compare(&[&x], &linear(&x.tanh()?, &frozen)?, &theirs)
}

#[test]
fn quantised_linear() -> Result<()> {
    for double in [false, true] {
        let (x, w) = (variable("x", &[7, 64])?, variable("w", &[48, 64])?);
        let tensor = luthier_kernels::nf4::quantize(&w.flatten_all()?.to_vec1::<f32>()?, 48, 64, double);
        let frozen = Arc::new(FrozenWeight::nf4(&w, double)?);
        let mut dense = vec![0.0; 48 * 64];
        luthier_kernels::nf4::dequantize(&tensor.view(), 0..48, &mut dense);
        let dense = Tensor::from_vec(dense, (48, 64), &Device::Cpu)?;
        compare(&[&x], &linear(&x, &frozen)?, &x.matmul(&dense.t()?)?)?;
    }
    Ok(())
}

#[test]
fn normalisation() -> Result<()> {
    let (x, w) = (variable("x", &[3, 4, 50])?, variable("w", &[50])?);
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / 50.0)?;
    let theirs = x.broadcast_div(&(mean + 1e-5)?.sqrt()?)?.broadcast_mul(&w)?;
    compare(&[&x, &w], &rms_norm(&x, &w, 1e-5)?, &theirs)
}

#[test]
fn rotation() -> Result<()> {
    let (heads, d, t) = (3, 8, 6);
    let x = variable("x", &[t, heads * d])?;
    let positions: Arc<[u32]> = [0, 1, 2, 0, 1, 40].into();
    let table = Arc::new(RotaryTable::new(Table::new(d, 10_000.0, Scaling::None, 64)));
    let angle = |p: u32, i: usize| p as f32 * 10_000f32.powf(-2.0 * (i % (d / 2)) as f32 / d as f32);
    let grid = |f: fn(f32) -> f32| -> Result<Tensor> {
        let values: Vec<f32> = positions.iter().flat_map(|p| (0..d).map(move |i| f(angle(*p, i)))).collect();
        Tensor::from_vec(values, (t, 1, d), &Device::Cpu)
    };
    let split = x.reshape((t, heads, d))?;
    let (low, high) = (split.narrow(2, 0, d / 2)?, split.narrow(2, d / 2, d / 2)?);
    let turned = Tensor::cat(&[&high.neg()?, &low], 2)?;
    let theirs = (split.broadcast_mul(&grid(f32::cos)?)? + turned.broadcast_mul(&grid(f32::sin)?)?)?;
    compare(&[&x], &rope(&x, &positions, heads, &table)?, &theirs.reshape((t, heads * d))?)
}

#[test]
fn gated_activation() -> Result<()> {
    let (gate, up) = (variable("gate", &[5, 37])?, variable("up", &[5, 37])?);
    compare(&[&gate, &up], &swiglu(&gate, &up)?, &(gate.silu()? * up.as_tensor())?)?;
    compare(&[&gate, &up], &geglu(&gate, &up)?, &(gate.gelu()? * up.as_tensor())?)
}

#[test]
fn segmented_attention() -> Result<()> {
    for window in [None, Some(4)] {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 12, scale: 0.3, window, soft_cap: None };
        let segments: Arc<[u32]> = [0, 5, 6, 17].into();
        let (q, k, v) = (variable("q", &[17, 48])?, variable("k", &[17, 24])?, variable("v", &[17, 24])?);
        let mask: Vec<f32> = (0..17u32)
            .flat_map(|i| {
                let start = segments.iter().rev().find(|start| **start <= i).copied().unwrap_or(0);
                (0..17u32).map(move |j| {
                    let near = window.is_none_or(|window| i < j + window as u32);
                    if j >= start && j <= i && near { 0.0 } else { f32::NEG_INFINITY }
                })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (17, 17), &Device::Cpu)?;
        let mut heads = Vec::new();
        for head in 0..4 {
            let part = |x: &Var, head: usize| x.narrow(1, head * 12, 12)?.contiguous();
            let (q, k, v) = (part(&q, head)?, part(&k, head / 2)?, part(&v, head / 2)?);
            let scores = ((q.matmul(&k.t()?)? * 0.3)? + &mask)?;
            let top = scores.max_keepdim(1)?.detach();
            let p = scores.broadcast_sub(&top)?.exp()?;
            heads.push(p.broadcast_div(&p.sum_keepdim(1)?)?.matmul(&v)?);
        }
        let theirs = Tensor::cat(&heads, 1)?;
        compare(&[&q, &k, &v], &attention(&q, &k, &v, &segments, shape)?, &theirs)?;
    }
    Ok(())
}

#[test]
fn chunked_cross_entropy() -> Result<()> {
    let (hidden, w) = (variable("hidden", &[11, 20])?, variable("w", &[301, 20])?);
    let targets: Arc<[u32]> = (0..11u32).map(|i| i * 29 % 301).collect();
    let index = Tensor::from_vec(targets.to_vec(), 11, &Device::Cpu)?;
    let theirs = candle_nn::loss::cross_entropy(&hidden.matmul(&w.as_detached_tensor().t()?)?, &index)?;
    let head = Arc::new(FrozenWeight::f32(&w)?);
    for chunk in [1, 4, 100] {
        compare(&[&hidden], &cross_entropy(&hidden, &head, &targets, chunk)?, &theirs)?;
    }
    // Each row by itself, so that its gradient has a factor of its own.
    let logits = hidden.matmul(&w.as_detached_tensor().t()?)?;
    let theirs = candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&index.unsqueeze(1)?, 1)?.neg()?.squeeze(1)?;
    compare(&[&hidden], &cross_entropy_rows(&hidden, &head, &targets, 4)?, &theirs)?;
    // Through a head whose scales are not quantised.
    let (hidden, w) = (variable("hidden", &[11, 64])?, variable("w", &[301, 64])?);
    let tensor = luthier_kernels::nf4::quantize(&w.flatten_all()?.to_vec1::<f32>()?, 301, 64, false);
    let mut dense = vec![0.0; 301 * 64];
    luthier_kernels::nf4::dequantize(&tensor.view(), 0..301, &mut dense);
    let dense = Tensor::from_vec(dense, (301, 64), &Device::Cpu)?;
    let theirs = candle_nn::loss::cross_entropy(&hidden.matmul(&dense.t()?)?, &index)?;
    compare(&[&hidden], &cross_entropy(&hidden, &Arc::new(FrozenWeight::of_nf4(tensor)), &targets, 4)?, &theirs)
}

#[test]
fn wrong_arguments_are_errors() -> Result<()> {
    let x = variable("x", &[4, 6])?;
    let frozen = Arc::new(FrozenWeight::f32(variable("w", &[3, 5])?.as_tensor())?);
    assert!(linear(&x, &frozen).unwrap_err().to_string().contains("takes rows of 5, found 6"));
    let strided = variable("y", &[5, 4])?.t()?;
    assert!(linear(&strided, &frozen).unwrap_err().to_string().contains("needs contiguous tensors"));
    let wide = x.to_dtype(candle_core::DType::F64)?;
    assert!(rms_norm(&wide, &wide, 1e-5).is_err());
    assert!(swiglu(&x, variable("z", &[4, 5])?.as_tensor()).is_err());
    let head = Arc::new(FrozenWeight::f32(variable("h", &[9, 6])?.as_tensor())?);
    assert!(cross_entropy(&x, &head, &[1, 2, 3, 9].into(), 2).unwrap_err().to_string().contains("target 9"));
    let table = Arc::new(RotaryTable::new(Table::new(6, 10_000.0, Scaling::None, 3)));
    assert!(rope(&x, &[0, 1, 2, 3].into(), 1, &table).unwrap_err().to_string().contains("position 3"));
    let shape = AttentionShape { heads: 2, kv_heads: 2, head_dim: 3, scale: 1.0, window: None, soft_cap: None };
    assert!(attention(&x, &x, &x, &[0, 5].into(), shape).is_err());
    Ok(())
}
