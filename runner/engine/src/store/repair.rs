//! After a verification: which results rot has reached, and clearing it away so that they can be made or brought anew.

use std::collections::BTreeMap;

use luthier_core::{Digest, StageId};

use super::verify::filed_digest;
use super::{Health, Store, StoreError, VerifyReport};

impl Store {
    /// The results that are not whole: key and the stage that made them, sorted by stage. Call it after
    /// [`Store::verify`], which finds out about bytes that changed under an unchanged size and time.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn broken_results(&self) -> Result<Vec<(StageId, Digest)>, StoreError> {
        let mut broken = Vec::new();
        for name in self.files("records")? {
            let Some(record) = filed_digest(&name).map(|key| self.record(&key)).transpose()?.flatten() else {
                continue;
            };
            for artifact in record.outputs.values() {
                if self.examine(artifact)? != Health::Good {
                    broken.push((record.stage.clone(), record.key));
                    break;
                }
            }
        }
        broken.sort();
        Ok(broken)
    }

    /// Removes what a verification found damaged. A tree's manifest stays if it is right, since it says which files to
    /// bring. What was removed counts as missing from then on.
    ///
    /// # Errors
    /// The store cannot be written, or is busy for long.
    pub fn discard(&self, report: &VerifyReport) -> Result<(), StoreError> {
        if report.damaged.is_empty() {
            return Ok(());
        }
        let _alone = self.exclusive(std::time::Duration::from_secs(30))?;
        let fail = |error| self.error("what is damaged cannot be removed", error);
        let mut sound: BTreeMap<Digest, bool> = BTreeMap::new();
        for damage in &report.damaged {
            self.memo().forget(&damage.path);
            if damage.path.is_dir() || damage.path == self.tree_path(&damage.digest) {
                let known = match sound.get(&damage.digest) {
                    Some(known) => *known,
                    None => self.tree_entries(&damage.digest)?.is_some(),
                };
                sound.insert(damage.digest, known);
                if !known {
                    self.disk().remove_file(&self.manifest_path(&damage.digest)).map_err(fail)?;
                }
                self.disk().remove_tree(&damage.path).map_err(fail)?;
            } else {
                self.disk().remove_file(&damage.path).map_err(fail)?;
            }
        }
        self.memo().save();
        Ok(())
    }
}
