//! One live instance of a plugin, with its configured session. Dropped and made anew after any trap.

use wasmtime::component::ResourceAny;
use wasmtime::{Store, Trap};

use crate::batch::TextBatch;
use crate::bindings::exports::luthier::filter::filter::{Column, FilterError, Manifest as RawManifest};
use crate::bindings::luthier::filter::host::{Host, Level};
use crate::bindings::{Plugin, PluginPre};
use crate::component::OpenError;
use crate::engine::{FilterEngine, TICK};
use crate::fault::Fault;
use crate::limits::{Limits, MemoryLimiter};
use crate::verdict::RawVerdicts;

/// Lines a guest may log in one call; more are dropped.
const MOST_LINES: usize = 100;
const LONGEST_LINE: usize = 4_096;

/// What the host functions see.
pub(crate) struct HostState {
    limiter: MemoryLimiter,
    lines: Vec<String>,
    /// Place and message.
    panic: Option<(String, String)>,
}

impl HostState {
    fn new(limits: &Limits) -> Self {
        Self { limiter: MemoryLimiter::new(limits), lines: Vec::new(), panic: None }
    }
}

impl Host for HostState {
    fn log(&mut self, level: Level, message: String) {
        let mut message = message;
        if message.len() > LONGEST_LINE {
            let mut end = LONGEST_LINE;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        let mut parts = message.split('\u{1f}');
        if let (Level::Error, Some("panic"), Some(_row), Some(place), Some(what)) =
            (level, parts.next(), parts.next(), parts.next(), parts.next())
        {
            self.panic = Some((place.to_owned(), what.to_owned()));
        } else if self.lines.len() < MOST_LINES {
            self.lines.push(message);
        }
    }
}

/// An opened plugin.
pub(crate) struct Session {
    store: Store<HostState>,
    plugin: Plugin,
    handle: ResourceAny,
    limits: Limits,
    metered: bool,
}

fn new_store(engine: &FilterEngine, limits: &Limits) -> Store<HostState> {
    let mut store = Store::new(engine.inner(), HostState::new(limits));
    store.limiter(|state| &mut state.limiter);
    store.epoch_deadline_trap();
    store
}

/// Grants one call its time and fuel.
fn arm(store: &mut Store<HostState>, limits: &Limits, metered: bool) {
    let ticks = limits.timeout_ms.div_ceil(u64::try_from(TICK.as_millis()).unwrap_or(1)).max(1);
    store.set_epoch_deadline(ticks + 1);
    if metered {
        // Set on every metered store, so it cannot fail; a guest without budget would trap at once.
        let _ = store.set_fuel(limits.fuel.unwrap_or(u64::MAX));
    }
}

/// What went wrong, from the trap and what the host saw before it.
fn fault_of(error: &wasmtime::Error, state: &HostState, limits: &Limits) -> Fault {
    if let Some((place, message)) = &state.panic {
        return Fault::Panic { place: place.clone(), message: message.clone() };
    }
    if state.limiter.refused {
        return Fault::Memory(limits.memory_mib);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Fault::Deadline(limits.timeout_ms),
        Some(Trap::OutOfFuel) => Fault::Fuel(limits.fuel.unwrap_or(u64::MAX)),
        Some(Trap::StackOverflow) => Fault::Stack,
        Some(trap) => Fault::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None => {
            let text = format!("{error:#}");
            match text.split("unknown import: `").nth(1).and_then(|rest| rest.split('`').next()) {
                Some(import) => Fault::Forbidden(import.to_owned()),
                None => Fault::Lie(text),
            }
        }
    }
}

impl Session {
    pub(crate) fn describe(
        engine: &FilterEngine,
        pre: &PluginPre<HostState>,
        limits: &Limits,
    ) -> Result<RawManifest, Fault> {
        let mut store = new_store(engine, limits);
        arm(&mut store, limits, engine.meters_fuel());
        let described =
            pre.instantiate(&mut store).and_then(|plugin| plugin.luthier_filter_filter().call_describe(&mut store));
        described.map_err(|error| fault_of(&error, store.data(), limits))
    }

    pub(crate) fn open(
        engine: &FilterEngine,
        pre: &PluginPre<HostState>,
        limits: &Limits,
        config: &str,
    ) -> Result<Self, OpenError> {
        let metered = engine.meters_fuel();
        let mut store = new_store(engine, limits);
        arm(&mut store, limits, metered);
        let opened = pre.instantiate(&mut store).and_then(|plugin| {
            let handle = plugin.luthier_filter_filter().session().call_open(&mut store, config)?;
            Ok((plugin, handle))
        });
        match opened {
            Ok((plugin, Ok(handle))) => Ok(Self { store, plugin, handle, limits: *limits, metered }),
            Ok((_, Err(FilterError::Config(issues)))) => {
                Err(OpenError::Config(issues.into_iter().map(|issue| (issue.path, issue.message)).collect()))
            }
            Ok((_, Err(FilterError::Row((_, why)) | FilterError::Other(why)))) => {
                Err(OpenError::Fault(Fault::Other(why)))
            }
            Err(error) => Err(OpenError::Fault(fault_of(&error, store.data(), limits))),
        }
    }

    /// Judges a batch. After an error other than a refusal the session must not be used again.
    pub(crate) fn process(&mut self, batch: &TextBatch<'_>) -> Result<RawVerdicts, Fault> {
        arm(&mut self.store, &self.limits, self.metered);
        self.store.data_mut().limiter.refused = false;
        let texts = Column { offsets: batch.texts.offsets(), data: batch.texts.data().as_bytes() };
        let reads: Vec<Column<'_>> = batch
            .reads
            .iter()
            .map(|column| Column { offsets: column.offsets(), data: column.data().as_bytes() })
            .collect();
        let rows = u32::try_from(batch.rows()).map_err(|_| Fault::Other("the batch is too large".to_owned()))?;
        let answer = self.plugin.luthier_filter_filter().session().call_process(
            &mut self.store,
            self.handle,
            rows,
            texts,
            &reads,
        );
        match answer {
            Ok(Ok(verdicts)) => Ok(RawVerdicts {
                drop: verdicts.drop,
                scores: verdicts.scores,
                edits: verdicts.edits.map(|edits| (edits.rows, edits.offsets, edits.data)),
            }),
            Ok(Err(FilterError::Row((_, why)))) => Err(Fault::Refused(why)),
            Ok(Err(FilterError::Other(why))) => Err(Fault::Other(why)),
            Ok(Err(FilterError::Config(issues))) => {
                let issues: Vec<String> = issues.into_iter().map(|issue| issue.message).collect();
                Err(Fault::Other(issues.join("; ")))
            }
            Err(error) => Err(fault_of(&error, self.store.data(), &self.limits)),
        }
    }

    /// What the guest logged since the last call of this.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.store.data_mut().lines)
    }
}
