//! Guests of `luthier:filter@0.3.0`.

use wasmtime::Store;
use wasmtime::component::ResourceAny;

use super::{Declined, raw_manifest};
use crate::batch::{TextBatch, TextColumn};
use crate::bindings::v0_3::exports::luthier::filter::filter::{Column, OpenError, Verdicts};
use crate::bindings::v0_3::luthier::filter::types::ScoreKind;
use crate::bindings::v0_3::{Plugin, PluginPre};
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
        Err(OpenError::Config(issues)) => {
            Err(Declined::Config(issues.into_iter().map(|issue| (issue.path, issue.message)).collect()))
        }
        Err(OpenError::Other(why)) => Err(Declined::Other(why)),
    })
}

fn packed(numbers: &[u32]) -> Vec<u8> {
    // Four bytes at a time become one copy of all, which a byte at a time does not.
    numbers.iter().map(|number| number.to_le_bytes()).collect::<Vec<_>>().into_flattened()
}

fn column<'a>(offsets: &'a [u8], column: &'a TextColumn<'_>) -> Column<'a> {
    Column { offsets, data: column.data().as_bytes() }
}

/// The numbers that a guest packed into `bytes`; `what` they are is for the message.
fn unpacked<T>(bytes: &[u8], what: &str, number: fn([u8; 4]) -> T) -> Result<Vec<T>, Fault> {
    match bytes.as_chunks::<4>() {
        (chunks, []) => Ok(chunks.iter().map(|chunk| number(*chunk)).collect()),
        _ => Err(Fault::Lie(format!("it returned {} bytes of {what}, which are four each", bytes.len()))),
    }
}

impl Live {
    pub(super) fn process(
        &self,
        store: &mut Store<HostState>,
        rows: u32,
        batch: &TextBatch<'_>,
    ) -> wasmtime::Result<Result<RawVerdicts, Fault>> {
        let packed_reads: Vec<Vec<u8>> = batch.reads.iter().map(|column| packed(column.offsets())).collect();
        let reads: Vec<Column<'_>> =
            packed_reads.iter().zip(&batch.reads).map(|(offsets, of)| column(offsets, of)).collect();
        let offsets = packed(batch.texts.offsets());
        let filter = self.plugin.luthier_filter_filter();
        let answer =
            filter.session().call_process(store, self.session, rows, column(&offsets, &batch.texts), &reads)?;
        Ok(answer.map_err(|why| Fault::Other(tame(&why))).and_then(raw))
    }
}

fn raw(verdicts: Verdicts) -> Result<RawVerdicts, Fault> {
    let edits = match verdicts.edits {
        None => None,
        Some(edits) => Some((
            unpacked(&edits.rows, "rows of edits", u32::from_le_bytes)?,
            unpacked(&edits.offsets, "offsets of edits", u32::from_le_bytes)?,
            edits.data,
        )),
    };
    Ok(RawVerdicts {
        drop: verdicts.drop,
        scores: unpacked(&verdicts.scores, "scores", f32::from_le_bytes)?,
        edits,
        refusals: verdicts.refusals.into_iter().map(|refusal| (refusal.row, refusal.why)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_their_bytes() {
        let numbers = [0, 1, 0x0102_0304, u32::MAX];
        assert_eq!(unpacked(&packed(&numbers), "numbers", u32::from_le_bytes), Ok(numbers.to_vec()));
        let lie = unpacked(&[0; 7], "scores", f32::from_le_bytes).unwrap_err();
        assert_eq!(lie.to_string(), "returned nonsense: it returned 7 bytes of scores, which are four each");
    }
}
