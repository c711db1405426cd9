//! Judging batches with one worker's instance, and pinning failures to rows.
//!
//! A call that fails is repeated on halves of its rows until the row that fails alone is found. The left half goes
//! first, so the row named is the lowest one, whatever the batch held.

use luthier_core::{StageError, StageResult, check_config};

use crate::batch::TextBatch;
use crate::builtin::NativeFilter;
use crate::component::{OpenError, PluginComponent};
use crate::fault::Fault;
use crate::plugin::config_error;
use crate::session::Session;
use crate::verdict::{Checked, Verdicts};

/// Rows and bytes of one call into a guest. So few bytes stay in a core's own cache between being copied and being judged:
/// a fast filter would wait for those of a larger call.
const CALL_ROWS: usize = 4_096;
const CALL_BYTES: usize = 512 << 10;

/// What to do with a row that a plugin fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTrap {
    Fail,
    /// Set the row aside, with the reason.
    Drop,
}

/// A filter in the hands of one thread.
pub struct Worker(Kind);

enum Kind {
    Guest(Box<Guest>),
    Native(Box<dyn NativeFilter>),
}

/// A component with its live instance, if the last call left one.
struct Guest {
    plugin: PluginComponent,
    /// JSON.
    config: String,
    session: Option<Session>,
    lines: Vec<String>,
}

/// A row that the plugin failed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// In the batch.
    pub row: usize,
    pub fault: Fault,
}

/// Why a batch could not be judged.
#[derive(Debug)]
pub enum JudgeError {
    Row(RowFault),
    /// The plugin could not be opened again after a failure.
    Open(StageError),
}

impl Worker {
    /// Opens the plugin with a configuration.
    ///
    /// # Errors
    /// The configuration is wrong: each issue in the message with its path; or the plugin fails while it opens.
    pub fn open(plugin: &PluginComponent, config: &serde_json::Value) -> StageResult<Self> {
        let issues = check_config(config, &plugin.manifest().config_schema);
        if !issues.is_empty() {
            let issues: Vec<(String, String)> = issues.into_iter().map(|issue| (issue.path, issue.message)).collect();
            return Err(config_error(&plugin.manifest().name, &issues, "PATH"));
        }
        let config = config.to_string();
        let session = open(plugin, &config)?;
        let guest = Guest { plugin: plugin.clone(), config, session: Some(session), lines: Vec::new() };
        Ok(Self(Kind::Guest(Box::new(guest))))
    }

    pub(crate) fn native(filter: Box<dyn NativeFilter>) -> Self {
        Self(Kind::Native(filter))
    }

    /// Judges every row of the batch.
    ///
    /// # Errors
    /// The lowest row that the plugin fails on, if `on_trap` is [`OnTrap::Fail`] or the failure depends on time.
    pub fn judge(&mut self, batch: &TextBatch<'_>, on_trap: OnTrap) -> Result<Verdicts, JudgeError> {
        match &mut self.0 {
            Kind::Guest(guest) => guest.judge(batch, on_trap),
            Kind::Native(filter) => {
                filter.judge(batch).map_err(|(row, why)| JudgeError::Row(RowFault { row, fault: Fault::Refused(why) }))
            }
        }
    }

    /// Whether a batch could be handed to the guest and back without a row of it being judged; a native filter has no
    /// boundary. The cost of doing so is that of the boundary.
    pub(crate) fn cross(&mut self, batch: &TextBatch<'_>) -> bool {
        let Kind::Guest(guest) = &mut self.0 else { return false };
        let Some(mut session) = guest.session.take() else { return false };
        let crossed =
            batch.calls(CALL_ROWS, CALL_BYTES).into_iter().all(|rows| session.cross(&batch.slice(rows)).is_ok());
        if crossed {
            guest.session = Some(session);
        }
        crossed
    }

    /// Instructions of the last call into the guest, if the engine counts them.
    pub(crate) fn spent(&self) -> Option<u64> {
        match &self.0 {
            Kind::Guest(guest) => guest.session.as_ref()?.spent(),
            Kind::Native(_) => None,
        }
    }

    /// What the plugin logged since the last call of this.
    pub fn take_lines(&mut self) -> Vec<String> {
        match &mut self.0 {
            Kind::Guest(guest) => std::mem::take(&mut guest.lines),
            Kind::Native(_) => Vec::new(),
        }
    }
}

impl Guest {
    fn judge(&mut self, batch: &TextBatch<'_>, on_trap: OnTrap) -> Result<Verdicts, JudgeError> {
        let mut verdicts = Verdicts::keep_all(batch.rows(), self.plugin.manifest().scores.len());
        for rows in batch.calls(CALL_ROWS, CALL_BYTES) {
            self.judge_rows(batch, rows, on_trap, &mut verdicts)?;
        }
        Ok(verdicts)
    }

    fn judge_rows(
        &mut self,
        batch: &TextBatch<'_>,
        rows: std::ops::Range<usize>,
        on_trap: OnTrap,
        verdicts: &mut Verdicts,
    ) -> Result<(), JudgeError> {
        let part = batch.slice(rows.clone());
        let fault = match self.call(&part)? {
            Ok(checked) => {
                verdicts.put(rows.start, checked.verdicts);
                for (row, fault) in checked.refusals {
                    let row = rows.start + row;
                    if on_trap == OnTrap::Fail {
                        return Err(JudgeError::Row(RowFault { row, fault }));
                    }
                    verdicts.faults.push((row, fault.to_string()));
                }
                return Ok(());
            }
            Err(fault) => fault,
        };
        if rows.len() > 1 {
            let middle = rows.start + rows.len() / 2;
            self.judge_rows(batch, rows.start..middle, on_trap, verdicts)?;
            return self.judge_rows(batch, middle..rows.end, on_trap, verdicts);
        }
        if on_trap == OnTrap::Fail || fault.depends_on_time() {
            return Err(JudgeError::Row(RowFault { row: rows.start, fault }));
        }
        verdicts.faults.push((rows.start, fault.to_string()));
        Ok(())
    }

    fn call(&mut self, batch: &TextBatch<'_>) -> Result<Result<Checked, Fault>, JudgeError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => open(&self.plugin, &self.config).map_err(JudgeError::Open)?,
        };
        let manifest = self.plugin.manifest();
        let input_bytes = batch.texts.data().len();
        let answer = session.process(batch);
        self.lines.append(&mut session.take_lines());
        let answer = answer.and_then(|raw| {
            raw.check(batch.rows(), manifest.scores.len(), manifest.reasons.len(), manifest.edits_text, input_bytes)
                .map_err(Fault::Lie)
        });
        if matches!(answer, Ok(_) | Err(Fault::Refused(_))) {
            self.session = Some(session);
        }
        Ok(answer)
    }
}

fn open(plugin: &PluginComponent, config: &str) -> StageResult<Session> {
    let name = &plugin.manifest().name;
    plugin.open(config).map_err(|error| match error {
        OpenError::Config(issues) => config_error(name, &issues, "PATH"),
        OpenError::Fault(fault) => StageError::new("plugin::open", format!("plugin `{name}` {fault} while it opened"))
            .hint(fault.hint(plugin.limits())),
    })
}
