//! Machine code of components, kept between runs.
//!
//! wasmtime's deserialisation trusts its input as it would trust a program, so an entry is used only if it lies in a
//! directory that nobody else can write to and carries the BLAKE3 of its code. The name of an entry covers the
//! component and everything about the engine that the code depends on: version, settings, CPU features.

use std::hash::{Hash, Hasher};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, StageError, StageResult};
use wasmtime::component::Component;

use crate::engine::{FilterEngine, into_std};
use crate::manifest::Manifest;

const MAGIC: &[u8; 16] = b"luthier cwasm 1\n";

/// A directory of compiled components.
#[derive(Debug, Clone)]
pub struct CompiledCache {
    directory: Option<Utf8PathBuf>,
}

/// Feeds what std hashes into BLAKE3.
struct Blake(blake3::Hasher);

impl Hasher for Blake {
    fn finish(&self) -> u64 {
        let bytes = self.0.finalize();
        u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default())
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl CompiledCache {
    /// A cache below `cache`, the directory shared between runs.
    #[must_use]
    pub fn new(cache: &Utf8Path) -> Self {
        Self { directory: Some(cache.join("plugins/compiled-v1")) }
    }

    /// Compiles every time.
    #[must_use]
    pub fn disabled() -> Self {
        Self { directory: None }
    }

    /// The compiled form of `wasm`. A cache that cannot be read or written is not an error.
    ///
    /// # Errors
    /// `wasm` is not a valid component; `name` is for the message.
    pub fn compile(&self, engine: &FilterEngine, name: &str, wasm: &[u8]) -> StageResult<Component> {
        let entry = self.entry(engine, wasm);
        if let Some(component) = entry.as_deref().and_then(|path| load(engine, path)) {
            return Ok(component);
        }
        let prepared = engine.deadlines().prepare(wasm);
        let compiled = prepared.and_then(|wasm| Component::from_binary(engine.inner(), &wasm).map_err(into_std));
        let component = compiled.map_err(|error| {
            let what = if wasm.starts_with(b"\0asm") && wasm.get(4) == Some(&1) {
                "is a core module, not a component"
            } else {
                "is not a WebAssembly component"
            };
            StageError::input("plugin::not_a_component", format!("plugin `{name}` {what}"))
                .hint("build it for the target `wasm32-wasip2`, whose linker makes components")
                .caused_by(error)
        })?;
        if let (Some(path), Ok(code)) = (entry, component.serialize()) {
            let mut bytes = Vec::with_capacity(code.len() + 48);
            bytes.extend_from_slice(MAGIC);
            bytes.extend_from_slice(blake3::hash(&code).as_bytes());
            bytes.extend_from_slice(&code);
            if let Err(error) = luthier_core::fs::write_atomic(&path, &bytes) {
                tracing::debug!(%path, %error, "cannot keep the compiled plugin");
            }
        }
        Ok(component)
    }

    /// What the component of this digest said about itself when it was last loaded.
    #[must_use]
    pub fn known_manifest(&self, component: &Digest) -> Option<Manifest> {
        let text = fs_err::read_to_string(self.manifest_path(component)?).ok()?;
        let manifest: Manifest = serde_json::from_str(&text).ok()?;
        manifest.check().ok()?;
        Some(manifest)
    }

    pub(crate) fn keep_manifest(&self, component: &Digest, manifest: &Manifest) {
        if self.known_manifest(component).as_ref() == Some(manifest) {
            return;
        }
        if let (Some(path), Ok(text)) = (self.manifest_path(component), serde_json::to_string(manifest))
            && let Err(error) = luthier_core::fs::write_atomic(&path, text.as_bytes())
        {
            tracing::debug!(%path, %error, "cannot keep the manifest");
        }
    }

    fn manifest_path(&self, component: &Digest) -> Option<Utf8PathBuf> {
        let directory = self.directory.as_ref()?.with_file_name("manifests-v1");
        Some(directory.join(format!("{}.json", component.hex())))
    }

    fn entry(&self, engine: &FilterEngine, wasm: &[u8]) -> Option<Utf8PathBuf> {
        let directory = self.directory.as_ref()?;
        make_private(directory).ok()?;
        let mut hasher = Blake(blake3::Hasher::new_derive_key("luthier 2026-11 compiled plugin v1"));
        engine.inner().precompile_compatibility_hash().hash(&mut hasher);
        hasher.0.update(blake3::hash(wasm).as_bytes());
        hasher.0.update(engine.deadlines().version());
        Some(directory.join(format!("{}.cwasm", hasher.0.finalize().to_hex())))
    }
}

/// Makes the directory for this user only; fails if it belongs to or is open to others.
fn make_private(directory: &Utf8Path) -> std::io::Result<()> {
    fs_err::create_dir_all(directory)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let meta = fs_err::metadata(directory)?;
        if meta.permissions().mode() & 0o077 != 0 {
            // Fails unless the directory is ours.
            fs_err::set_permissions(directory, PermissionsExt::from_mode(0o700))?;
        }
        let owner = meta.uid();
        let probe = tempfile::tempfile_in(directory)?.metadata()?.uid();
        if owner != probe {
            return Err(std::io::Error::new(
                std::io::ErrorKind::PermissionDenied,
                format!("`{directory}` belongs to another user"),
            ));
        }
    }
    Ok(())
}

fn load(engine: &FilterEngine, path: &Utf8Path) -> Option<Component> {
    let bytes = fs_err::read(path).ok()?;
    let (digest, code) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if blake3::hash(code).as_bytes() != digest {
        tracing::warn!(%path, "a compiled plugin is damaged and will be compiled again");
        return None;
    }
    // SAFETY: `make_private` holds the directory to this user alone, and the digest shows that the code is what
    // `compile` wrote; wasmtime itself refuses code of another version, configuration or CPU.
    unsafe { Component::deserialize(engine.inner(), code) }.ok()
}
