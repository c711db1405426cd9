//! Which implementation runs. All of them give the same bits.

use std::cell::Cell;
use std::str::FromStr;
use std::sync::OnceLock;

/// The numeric class of every backend of this crate; enters the keys of stages whose bytes depend on it. Bumped when
/// any result may change a bit.
pub const NUMERIC_CLASS: &str = "cpu-f32";

/// An implementation of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// Scalar code with `f32::mul_add`: the definition.
    Reference,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

/// `LUTHIER_BACKEND` or [`Backend::from_str`] was given something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    #[error("`{0}` is not a backend (known backends: `reference`, `avx2`, `avx512`)")]
    Unknown(String),
    #[error("this processor cannot run backend `{0}`")]
    Unsupported(&'static str),
}

thread_local! {
    static FORCED: Cell<Option<Backend>> = const { Cell::new(None) };
}

impl Backend {
    pub const ALL: [Self; 3] = [Self::Reference, Self::Avx2, Self::Avx512];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this processor can run it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        match self {
            Self::Reference => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Those that this processor can run, slowest first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|backend| backend.is_supported())
    }

    /// The fastest that this processor can run, or what `LUTHIER_BACKEND` names.
    ///
    /// # Errors
    /// The variable names no backend, or one that cannot run here. Call this at start-up; [`Backend::current`] ignores
    /// the variable then.
    pub fn from_environment() -> Result<Self, BackendError> {
        match std::env::var("LUTHIER_BACKEND") {
            Ok(name) if !name.is_empty() => {
                let backend: Self = name.parse()?;
                if backend.is_supported() { Ok(backend) } else { Err(BackendError::Unsupported(backend.name())) }
            }
            _ => Ok(Self::fastest()),
        }
    }

    fn fastest() -> Self {
        Self::supported().last().unwrap_or(Self::Reference)
    }

    /// The backend that kernels called on this thread use. Each kernel asks once, on the thread that calls it, and
    /// hands the answer to its workers.
    #[must_use]
    pub fn current() -> Self {
        static CHOSEN: OnceLock<Backend> = OnceLock::new();
        FORCED
            .get()
            .unwrap_or_else(|| *CHOSEN.get_or_init(|| Self::from_environment().unwrap_or_else(|_| Self::fastest())))
    }

    /// Runs `body` with this backend for the kernels that it calls on the current thread. For tests and benches.
    ///
    /// # Panics
    /// If the processor cannot run it.
    pub fn with<T>(self, body: impl FnOnce() -> T) -> T {
        struct Restore(Option<Backend>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        assert!(self.is_supported(), "this processor cannot run backend `{}`", self.name());
        let _restore = Restore(FORCED.replace(Some(self)));
        body()
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| BackendError::Unknown(name.to_owned()))
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_list_what_exists() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse(), Ok(backend));
        }
        let error = Backend::from_str("sse").expect_err("unknown");
        assert_eq!(error.to_string(), "`sse` is not a backend (known backends: `reference`, `avx2`, `avx512`)");
    }

    #[test]
    fn forcing_ends_with_the_body() {
        let before = Backend::current();
        assert_eq!(Backend::Reference.with(Backend::current), Backend::Reference);
        assert_eq!(Backend::current(), before);
    }
}
