//! The dynamic 8-bit data types (Dettmers, "8-bit approximations for parallelism in deep learning", 2015), as
//! bitsandbytes builds them. Signed: for each decade `10^(i-6)` the midpoints of `2^i` equal steps over `[0.1, 1]`, their
//! negatives, 0 and 1, sorted. Unsigned: the midpoints of `2^(i+1)` steps instead of the negatives.

use std::sync::OnceLock;

/// The 256 values, ascending, bit for bit those of `create_dynamic_map(signed=True)`.
#[must_use]
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| build(true))
}

/// The 256 values, ascending, bit for bit those of `create_dynamic_map(signed=False)`.
#[must_use]
pub fn unsigned_dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| build(false))
}

fn build(signed: bool) -> [f32; 256] {
    let mut values = Vec::with_capacity(256);
    let decades = [1e-6f32, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    for (i, decade) in decades.into_iter().enumerate() {
        let edges = linspace((1usize << if signed { i } else { i + 1 }) + 1);
        for pair in edges.windows(2) {
            let value = (pair[0] + pair[1]) / 2.0 * decade;
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.extend([0.0, 1.0]);
    values.sort_by(f32::total_cmp);
    let mut map = [0.0; 256];
    map.copy_from_slice(&values);
    map
}

/// `torch.linspace(0.1, 1, steps)` in `f32`: counted from the nearer end, with one rounding per value.
fn linspace(steps: usize) -> Vec<f32> {
    let (start, end) = (0.1f32, 1.0f32);
    let step = (end - start) / (steps - 1) as f32;
    (0..steps)
        .map(
            |i| {
                if i < steps / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((steps - 1 - i) as f32, end) }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascends_with_one_zero_and_ends_at_one() {
        let map = dynamic_map();
        assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((map[127], map[255]), (0.0, 1.0));
        assert_eq!(map[0], -map[254]);
        let map = unsigned_dynamic_map();
        assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((map[0], map[255]), (0.0, 1.0));
    }
}
