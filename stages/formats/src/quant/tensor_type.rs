//! How the numbers of a tensor are stored: the ggml types, with their block sizes.
//!
//! Every type that ggml ever numbered and still defines is listed, so that a file holding one of them can be opened and
//! its sizes checked; [`TensorType::has_codec`] says which can be read and written here.

use std::fmt;

/// A ggml tensor type. The discriminant is its number in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[expect(non_camel_case_types, reason = "these are the names ggml uses, and everybody knows them")]
pub enum TensorType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
}

use TensorType::*;

/// (type, name, elements per block, bytes per block)
const TABLE: &[(TensorType, &str, usize, usize)] = &[
    (F32, "F32", 1, 4),
    (F16, "F16", 1, 2),
    (Q4_0, "Q4_0", 32, 18),
    (Q4_1, "Q4_1", 32, 20),
    (Q5_0, "Q5_0", 32, 22),
    (Q5_1, "Q5_1", 32, 24),
    (Q8_0, "Q8_0", 32, 34),
    (Q8_1, "Q8_1", 32, 36),
    (Q2_K, "Q2_K", 256, 84),
    (Q3_K, "Q3_K", 256, 110),
    (Q4_K, "Q4_K", 256, 144),
    (Q5_K, "Q5_K", 256, 176),
    (Q6_K, "Q6_K", 256, 210),
    (Q8_K, "Q8_K", 256, 292),
    (IQ2_XXS, "IQ2_XXS", 256, 66),
    (IQ2_XS, "IQ2_XS", 256, 74),
    (IQ3_XXS, "IQ3_XXS", 256, 98),
    (IQ1_S, "IQ1_S", 256, 50),
    (IQ4_NL, "IQ4_NL", 32, 18),
    (IQ3_S, "IQ3_S", 256, 110),
    (IQ2_S, "IQ2_S", 256, 82),
    (IQ4_XS, "IQ4_XS", 256, 136),
    (I8, "I8", 1, 1),
    (I16, "I16", 1, 2),
    (I32, "I32", 1, 4),
    (I64, "I64", 1, 8),
    (F64, "F64", 1, 8),
    (IQ1_M, "IQ1_M", 256, 56),
    (BF16, "BF16", 1, 2),
    (TQ1_0, "TQ1_0", 256, 54),
    (TQ2_0, "TQ2_0", 256, 66),
    (MXFP4, "MXFP4", 32, 17),
    (NVFP4, "NVFP4", 64, 36),
];

impl TensorType {
    /// The type with this number in a GGUF file.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().map(|row| row.0).find(|kind| *kind as u32 == id)
    }

    /// By name, in any case: `q4_k`, `F16`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    fn row(self) -> &'static (TensorType, &'static str, usize, usize) {
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements per block; rows must be a multiple of it.
    #[must_use]
    pub fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes per block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `columns` elements; `None` if they do not fill whole blocks, or overflow.
    #[must_use]
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (block, bytes) = (self.block_len(), self.block_bytes());
        columns.is_multiple_of(block).then(|| (columns / block).checked_mul(bytes)).flatten()
    }

    /// Whether [`crate::quant::dequantize`] and [`crate::quant::quantize`] know it.
    #[must_use]
    pub const fn has_codec(self) -> bool {
        matches!(
            self,
            F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_NL | IQ4_XS
        )
    }

    /// All types with a codec, for messages.
    pub fn with_codec() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0).filter(|kind| kind.has_codec())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_complete_and_numbered_as_ggml() {
        for (kind, name, block, bytes) in TABLE {
            assert_eq!(TensorType::from_id(kind.id()), Some(*kind));
            assert_eq!(TensorType::from_name(&name.to_lowercase()), Some(*kind));
            assert_eq!((kind.block_len(), kind.block_bytes()), (*block, *bytes));
        }
        assert_eq!(TensorType::from_id(4), None);
        assert_eq!(Q4_K.row_bytes(512), Some(288));
        assert_eq!(Q4_K.row_bytes(576), None);
        assert_eq!(F16.row_bytes(usize::MAX), None);
    }
}
