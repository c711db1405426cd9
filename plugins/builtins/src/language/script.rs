//! Scripts, as far as a language can be told by them.

/// A script, or what its letters are called by: kana are Japanese.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    Latin,
    Cyrillic,
    Arabic,
    Devanagari,
    Greek,
    Hebrew,
    Hangul,
    Thai,
    Georgian,
    Armenian,
    Bengali,
    Tamil,
    Telugu,
    Kannada,
    Malayalam,
    Gujarati,
    Gurmukhi,
    Sinhala,
    Japanese,
    Han,
}

pub const COUNT: usize = 20;

/// Of each script in order, the one language that it stands for, if it does.
pub const ALONE: [Option<&str>; COUNT] = [
    None,
    None,
    None,
    None,
    Some("el"),
    Some("he"),
    Some("ko"),
    Some("th"),
    Some("ka"),
    Some("hy"),
    Some("bn"),
    Some("ta"),
    Some("te"),
    Some("kn"),
    Some("ml"),
    Some("gu"),
    Some("pa"),
    Some("si"),
    Some("ja"),
    Some("zh"),
];

/// Names of the scripts that languages share, in order.
pub const SHARED: [&str; 4] = ["latin", "cyrillic", "arabic", "devanagari"];

impl Script {
    /// The script of a letter.
    pub fn of(c: char) -> Option<Self> {
        if c.is_ascii_alphabetic() {
            return Some(Self::Latin);
        }
        Some(match u32::from(c) {
            0x00aa..=0x024f | 0x1e00..=0x1eff => Self::Latin,
            0x0370..=0x03ff | 0x1f00..=0x1fff => Self::Greek,
            0x0400..=0x052f => Self::Cyrillic,
            0x0531..=0x058f => Self::Armenian,
            0x0590..=0x05ff => Self::Hebrew,
            0x0600..=0x06ff | 0x0750..=0x077f | 0xfb50..=0xfdff | 0xfe70..=0xfeff => Self::Arabic,
            0x0900..=0x097f => Self::Devanagari,
            0x0980..=0x09ff => Self::Bengali,
            0x0a00..=0x0a7f => Self::Gurmukhi,
            0x0a80..=0x0aff => Self::Gujarati,
            0x0b80..=0x0bff => Self::Tamil,
            0x0c00..=0x0c7f => Self::Telugu,
            0x0c80..=0x0cff => Self::Kannada,
            0x0d00..=0x0d7f => Self::Malayalam,
            0x0d80..=0x0dff => Self::Sinhala,
            0x0e00..=0x0e7f => Self::Thai,
            0x10a0..=0x10ff | 0x1c90..=0x1cbf => Self::Georgian,
            0x1100..=0x11ff | 0x3130..=0x318f | 0xac00..=0xd7af => Self::Hangul,
            0x3040..=0x30ff | 0xff66..=0xff9f => Self::Japanese,
            0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x323af => Self::Han,
            _ => return None,
        })
    }
}
