//! Names in a remote, and the form of a record there.
//!
//! ```text
//! v1/objects/ab/cdef…        the bytes of one file, named by their BLAKE3 digest
//! v1/trees/ab/cdef….json     the manifest of a tree, as in a store
//! v1/records/ab/KEY          "luthier record 1", the BLAKE3 of the rest, then a StageRecord as JSON; written last
//! ```
//!
//! Nothing is ever changed under its name except a record or an object found damaged, so remotes need no locks and may
//! be copied by any tool.

use luthier_core::Digest;
use luthier_engine::fingerprint;
use luthier_engine::store::StageRecord;

const HEADER: &str = "luthier record 1";

pub(crate) const ROOT: &str = "v1";

pub(crate) fn object(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{ROOT}/objects/{}/{}", &hex[..2], &hex[2..])
}

pub(crate) fn tree(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{ROOT}/trees/{}/{}.json", &hex[..2], &hex[2..])
}

pub(crate) fn record(key: &Digest) -> String {
    let hex = key.hex();
    format!("{ROOT}/records/{}/{hex}", &hex[..2])
}

pub(crate) fn render(record: &StageRecord) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(record)?;
    let mut text = format!("{HEADER}\n{}\n", Digest::of(&body)).into_bytes();
    text.extend_from_slice(&body);
    Ok(text)
}

/// Reads a record back; says what is wrong with it otherwise. `None` if another version of luthier wrote it.
pub(crate) fn parse(bytes: &[u8], key: &Digest) -> Result<Option<StageRecord>, String> {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let (header, sum, body) = (parts.next(), parts.next(), parts.next());
    if header != Some(HEADER.as_bytes()) {
        return Err("it does not begin like a record".to_owned());
    }
    let body = body.unwrap_or_default();
    let found = Digest::of(body);
    if sum != Some(found.hex().as_bytes()) {
        return Err(format!("its bytes hash to {}", found.short()));
    }
    let record: StageRecord = serde_json::from_slice(body).map_err(|error| format!("it does not parse: {error}"))?;
    if record.key != *key {
        return Err(format!("it is the record of key {}", record.key.short()));
    }
    if record.version != StageRecord::FORMAT {
        return Ok(None);
    }
    // A key that an older way of hashing made cannot be made again.
    if record.fingerprint.version == fingerprint::FORMAT && record.fingerprint.digest() != *key {
        return Err("its fingerprint does not hash to its key".to_owned());
    }
    Ok(Some(record))
}
