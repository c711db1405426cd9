//! One wasmtime engine for the plugins of a stage, configured so that equal input gives equal output on every machine.

use luthier_core::{StageError, StageResult};
use wasmtime::{Config, Engine, OptLevel};

use crate::deadline::{Deadlines, TICK};

/// Wraps the engine and, while any clone of it lives, a thread that looks after deadlines.
#[derive(Clone)]
pub struct FilterEngine {
    engine: Engine,
    deadlines: Deadlines,
    fuel: bool,
}

impl FilterEngine {
    /// `fuel` makes the compiled code count instructions.
    ///
    /// # Errors
    /// The host cannot run WebAssembly.
    pub fn new(fuel: bool) -> StageResult<Self> {
        let deadlines = Deadlines::new(fuel);
        let mut config = Self::deterministic_config(fuel);
        deadlines.configure(&mut config);
        let engine = Engine::new(&config).map_err(|error| {
            StageError::new("plugin::engine", "cannot start the WebAssembly engine").caused_by(into_std(error))
        })?;
        let (weak, watched) = (engine.weak(), deadlines.clone());
        std::thread::Builder::new()
            .name("plugin-deadlines".to_owned())
            .spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    watched.tick(&engine);
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(|error| StageError::new("plugin::engine", "cannot start a thread").caused_by(error))?;
        Ok(Self { engine, deadlines, fuel })
    }

    /// NaNs are canonical, vector instructions are the exact ones, and nothing is shared between threads.
    fn deterministic_config(fuel: bool) -> Config {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .cranelift_nan_canonicalization(true)
            .wasm_simd(true)
            .wasm_relaxed_simd(false)
            .cranelift_opt_level(OptLevel::Speed)
            .consume_fuel(fuel)
            .max_wasm_stack(512 << 10)
            .wasm_backtrace_max_frames(None);
        config
    }

    pub(crate) fn inner(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    pub(crate) fn meters_fuel(&self) -> bool {
        self.fuel
    }
}

/// wasmtime's error as a standard one, its whole chain in the text.
pub(crate) fn into_std(error: wasmtime::Error) -> Box<dyn std::error::Error + Send + Sync> {
    format!("{error:#}").into()
}
