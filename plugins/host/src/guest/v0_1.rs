//! Guests of `luthier:filter@0.1.0`.

use wasmtime::Store;
use wasmtime::component::ResourceAny;

use super::{Declined, raw_manifest};
use crate::batch::{TextBatch, TextColumn};
use crate::bindings::v0_1::exports::luthier::filter::filter::{Column, FilterError};
use crate::bindings::v0_1::luthier::filter::types::ScoreKind;
use crate::bindings::v0_1::{Plugin, PluginPre};
use crate::fault::{Fault, tame};
use crate::host_state::HostState;
use crate::manifest::RawManifest;
use crate::verdict::RawVerdicts;

pub(crate) struct Live {
    plugin: Plugin,
    session: ResourceAny,
}

pub(super) fn describe(pre: &PluginPre<HostState>, store: &mut Store<HostState>) -> wasmtime::Result<RawManifest> {
    let plugin = pre.instantiate(&mut *store)?;
    store.data_mut().start();
    Ok(raw_manifest!(plugin.luthier_filter_filter().call_describe(store)?, ScoreKind))
}

pub(super) fn open(
    pre: &PluginPre<HostState>,
    store: &mut Store<HostState>,
    config: &str,
) -> wasmtime::Result<Result<Live, Declined>> {
    let plugin = pre.instantiate(&mut *store)?;
    store.data_mut().start();
    let opened = plugin.luthier_filter_filter().session().call_open(store, config)?;
    Ok(match opened {
        Ok(session) => Ok(Live { plugin, session }),
        Err(FilterError::Config(issues)) => {
            Err(Declined::Config(issues.into_iter().map(|issue| (issue.path, issue.message)).collect()))
        }
        Err(FilterError::Row((_, why)) | FilterError::Other(why)) => Err(Declined::Other(why)),
    })
}

fn column<'a>(column: &'a TextColumn<'_>) -> Column<'a> {
    Column { offsets: column.offsets(), data: column.data().as_bytes() }
}

impl Live {
    pub(super) fn process(
        &self,
        store: &mut Store<HostState>,
        rows: u32,
        batch: &TextBatch<'_>,
    ) -> wasmtime::Result<Result<RawVerdicts, Fault>> {
        let reads: Vec<Column<'_>> = batch.reads.iter().map(column).collect();
        let filter = self.plugin.luthier_filter_filter();
        let answer = filter.session().call_process(store, self.session, rows, column(&batch.texts), &reads)?;
        Ok(match answer {
            Ok(verdicts) => Ok(RawVerdicts {
                drop: verdicts.drop,
                scores: verdicts.scores,
                edits: verdicts.edits.map(|edits| (edits.rows, edits.offsets, edits.data)),
                refusals: Vec::new(),
            }),
            // It refuses a row in place of all verdicts; which one, bisection finds and does not take its word for.
            Err(FilterError::Row((_, why))) => Err(Fault::Refused(tame(&why))),
            Err(FilterError::Other(why)) => Err(Fault::Other(tame(&why))),
            Err(FilterError::Config(issues)) => {
                let issues: Vec<String> = issues.into_iter().map(|issue| issue.message).collect();
                Err(Fault::Other(tame(&issues.join("; "))))
            }
        })
    }
}
