//! Collecting the cache of shards: what no kept run has used goes.

use std::time::Duration;

use luthier_core::ShardCache;

use super::{GcReport, Removed, Store, StoreError};
use crate::run::moment;

impl Store {
    /// Removes the shards that were last used before `oldest`, the id of the oldest run that is kept (all without one), and
    /// longer ago than `keep_for`. A stage that misses one computes it again, so running processes need not be asked.
    pub(super) fn sweep_shards(
        &self,
        oldest: Option<&str>,
        keep_for: Option<Duration>,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let fail = |error| self.error("the cache of shards cannot be cleaned", error);
        let directory = ShardCache::directory(&self.workspace().cache_dir());
        for entry in ShardCache::entries(&directory).map_err(fail)? {
            let young = keep_for.is_some_and(|most| entry.used.elapsed().unwrap_or_default() < most);
            if young || oldest.is_some_and(|oldest| moment(entry.used).as_str() >= oldest) {
                continue;
            }
            if !report.dry_run {
                self.disk().remove_file(&entry.path).map_err(fail)?;
            }
            let name = entry.path.strip_prefix(&directory).unwrap_or(&entry.path).as_str().replace('/', "");
            report.removed.push(Removed { what: "shard", name, bytes: entry.bytes });
        }
        Ok(())
    }
}
