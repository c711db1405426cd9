//! Every event goes to the journal and to whoever listens, in one order.

use std::sync::Arc;

use super::journal::Journal;
use super::{RunEvent, RunSummary};

/// Who listens.
pub type Sink = Arc<dyn Fn(RunEvent) + Send + Sync>;

pub(crate) struct Emitter {
    sink: Sink,
    /// None where the workspace cannot be written.
    journal: Option<Journal>,
}

impl Emitter {
    pub fn new(sink: Sink, journal: Option<Journal>) -> Self {
        Self { sink, journal }
    }

    pub fn emit(&mut self, event: RunEvent) {
        if let Some(journal) = &mut self.journal {
            journal.write(&event);
        }
        (self.sink)(event);
    }

    pub fn flush(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.flush();
        }
    }

    /// Emits the end and closes the journal.
    pub fn finish(mut self, summary: &RunSummary) -> std::io::Result<()> {
        self.emit(RunEvent::RunFinished { summary: summary.clone() });
        self.journal.take().map_or(Ok(()), |journal| journal.finish(summary))
    }
}
