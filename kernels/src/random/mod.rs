//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! A [`Stream`] is a pure function of a seed, a name and a position. Tensors are seeded by their names, so no draw
//! depends on the order in which tensors are made, and any part of a stream can be made anywhere.

use crate::simd::math::{ln, sin_cos};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32.
#[must_use]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let low = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let high = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A named sequence of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    name: [u32; 2],
}

impl Stream {
    /// The stream `name` of `seed`. The name enters through 64-bit FNV-1a.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self { key: [seed as u32, (seed >> 32) as u32], name: [hash as u32, (hash >> 32) as u32] }
    }

    /// The key and the hashed name, for devices that draw themselves.
    #[must_use]
    pub fn state(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.name[0], self.name[1]]
    }

    /// Block `index` of the stream: four independent words.
    #[must_use]
    pub fn block(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.name[0], self.name[1]], self.key)
    }

    /// Word `position`.
    #[must_use]
    pub fn word(&self, position: u64) -> u32 {
        self.block(position / 4)[(position % 4) as usize]
    }

    /// Uniform in `[0, 1)` with 24 bits, at `position`.
    #[must_use]
    pub fn uniform(&self, position: u64) -> f32 {
        unit(self.word(position))
    }

    /// An integer below `bound`, at `position`; 0 if `bound` is 0. Bias below `bound / 2^64`.
    #[must_use]
    pub fn below(&self, position: u64, bound: u64) -> u64 {
        let block = self.block(position);
        let wide = u64::from(block[0]) << 32 | u64::from(block[1]);
        ((u128::from(wide) * u128::from(bound)) >> 64) as u64
    }

    /// Fills `out` with uniforms in `[low, high)` of positions `offset..`.
    pub fn fill_uniform(&self, offset: u64, low: f32, high: f32, out: &mut [f32]) {
        for (index, out) in out.iter_mut().enumerate() {
            *out = (high - low).mul_add(self.uniform(offset + index as u64), low);
        }
    }

    /// Fills `out` with normals of positions `offset..` (Box and Muller, 1958: two of them from each pair of words).
    pub fn fill_normal(&self, offset: u64, mean: f32, deviation: f32, out: &mut [f32]) {
        for (index, out) in out.iter_mut().enumerate() {
            let position = offset + index as u64;
            let pair = position & !1;
            let first = (f64::from(self.word(pair)) + 0.5) / 4_294_967_296.0;
            let second = (f64::from(self.word(pair + 1)) + 0.5) / 4_294_967_296.0;
            let radius = (-2.0 * ln(first)).sqrt();
            let (sine, cosine) = sin_cos(std::f64::consts::TAU * second);
            let value = radius * if position & 1 == 0 { cosine } else { sine };
            *out = deviation.mul_add(value as f32, mean);
        }
    }
}

fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn parts_equal_the_whole() {
        let stream = Stream::new(7, "layers.0.q_proj.lora_A");
        let (mut whole, mut part) = ([0.0; 33], [0.0; 12]);
        stream.fill_normal(0, 0.0, 1.0, &mut whole);
        stream.fill_normal(21, 0.0, 1.0, &mut part);
        assert_eq!(whole[21..], part);
        assert_ne!(stream.word(0), Stream::new(7, "layers.0.q_proj.lora_B").word(0));
        assert_ne!(stream.word(0), Stream::new(8, "layers.0.q_proj.lora_A").word(0));
    }

    #[test]
    fn moments() {
        let stream = Stream::new(1, "moments");
        let mut normal = vec![0.0; 100_000];
        stream.fill_normal(0, 0.0, 1.0, &mut normal);
        let mean = normal.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
        let variance = normal.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let mut uniform = vec![0.0; 100_000];
        stream.fill_uniform(0, -1.0, 1.0, &mut uniform);
        assert!(uniform.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!((0..1000).all(|i| stream.below(i, 10) < 10));
    }
}
