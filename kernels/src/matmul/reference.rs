//! Plain loops, one row of the weight at a time.

use rayon::prelude::*;

use crate::Weight;

fn store(out: &mut f32, total: f32, scale: f32, accumulate: bool) {
    *out = scale.mul_add(total, if accumulate { *out } else { 0.0 });
}

#[expect(clippy::too_many_arguments, reason = "three shapes, three operands and two modes are the operation")]
pub fn nt(x: &[f32], m: usize, k: usize, w: &Weight<'_>, n: usize, out: &mut [f32], scale: f32, accumulate: bool) {
    let mut transposed = vec![0.0f32; m * n];
    transposed.par_chunks_mut(m.max(1)).enumerate().for_each_init(
        || vec![0.0f32; k],
        |row, (j, column)| {
            w.read_f32(j * k, row);
            for (i, total) in column.iter_mut().enumerate() {
                let mut lanes = [0.0f32; 16];
                for (index, (a, b)) in x[i * k..(i + 1) * k].iter().zip(&*row).enumerate() {
                    lanes[index % 16] += a * b;
                }
                *total = lanes.iter().sum();
            }
        },
    );
    for i in 0..m {
        for j in 0..n {
            store(&mut out[i * n + j], transposed[j * m + i], scale, accumulate);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "three shapes, three operands and two modes are the operation")]
pub fn nn(dy: &[f32], m: usize, n: usize, w: &Weight<'_>, k: usize, dx: &mut [f32], scale: f32, accumulate: bool) {
    let mut row = vec![0.0f32; k];
    let mut total = vec![0.0f32; m * k];
    for j in 0..n {
        w.read_f32(j * k, &mut row);
        for i in 0..m {
            let factor = dy[i * n + j];
            for (to, from) in total[i * k..(i + 1) * k].iter_mut().zip(&row) {
                *to += factor * from;
            }
        }
    }
    for (to, from) in dx.iter_mut().zip(&total) {
        store(to, *from, scale, accumulate);
    }
}

#[expect(clippy::too_many_arguments, reason = "three shapes, three operands and two modes are the operation")]
pub fn tn(a: &[f32], b: &[f32], m: usize, p: usize, q: usize, out: &mut [f32], scale: f32, accumulate: bool) {
    let mut total = vec![0.0f32; p * q];
    for i in 0..m {
        for j in 0..p {
            let factor = a[i * p + j];
            for (to, from) in total[j * q..(j + 1) * q].iter_mut().zip(&b[i * q..(i + 1) * q]) {
                *to += factor * from;
            }
        }
    }
    for (to, from) in out.iter_mut().zip(&total) {
        store(to, *from, scale, accumulate);
    }
}
