//! AdamW and gradient norms over flat buffers.

/// Parameters of one AdamW step (Loshchilov and Hutter, 2019; as torch.optim.AdamW).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// 1 at the first step.
    pub step: u64,
}

/// Updates `params` and both moments in place.
///
/// # Panics
/// If the lengths differ or `step` is 0.
pub fn adamw(params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32], config: &AdamW) {
    assert!(config.step > 0, "the first step is 1");
    assert_eq!(params.len(), grads.len(), "grads must have the length of params");
    assert_eq!(params.len(), m.len(), "m must have the length of params");
    assert_eq!(params.len(), v.len(), "v must have the length of params");
    let correction = |beta: f32| 1.0 - power(f64::from(beta), config.step);
    let step_size = (f64::from(config.lr) / correction(config.beta1)) as f32;
    let root = correction(config.beta2).sqrt() as f32;
    let decay = (1.0 - f64::from(config.lr) * f64::from(config.weight_decay)) as f32;
    for (((p, g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
        *m = config.beta1.mul_add(*m, (1.0 - config.beta1) * g);
        *v = config.beta2.mul_add(*v, (1.0 - config.beta2) * g * g);
        *p = *p * decay - step_size * *m / (v.sqrt() / root + config.eps);
    }
}

/// `base^exponent` by squaring, in a fixed order.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// Euclidean norm, accumulated in `f64`.
#[must_use]
pub fn global_norm(grads: &[f32]) -> f64 {
    grads.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt()
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}
