//! The bytes a key is made of: typed, length-prefixed, with sorted names, so that two different fingerprints never
//! give the same bytes and two equal ones always do.

use luthier_core::Digest;
use serde_json::{Number, Value};

use super::Fingerprint;

/// Separates keys from every other use of BLAKE3. Changing it makes every result unknown.
const DOMAIN: &str = "luthier 2026-11 stage key v1";

/// Builds the canonical bytes.
struct Encoder(Vec<u8>);

impl Encoder {
    fn length(&mut self, length: usize) {
        self.0.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        match text {
            None => self.0.push(0),
            Some(text) => {
                self.0.push(1);
                self.text(text);
            }
        }
    }

    fn digest(&mut self, digest: &Digest) {
        self.0.extend_from_slice(digest.as_bytes());
    }

    fn number(&mut self, number: &Number) {
        if let Some(value) = number.as_u64() {
            self.0.push(b'u');
            self.0.extend_from_slice(&value.to_le_bytes());
        } else if let Some(value) = number.as_i64() {
            self.0.push(b'i');
            self.0.extend_from_slice(&value.to_le_bytes());
        } else {
            self.0.push(b'f');
            self.0.extend_from_slice(&number.as_f64().unwrap_or(f64::NAN).to_bits().to_le_bytes());
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.push(b'n'),
            Value::Bool(false) => self.0.push(b'0'),
            Value::Bool(true) => self.0.push(b'1'),
            Value::Number(number) => self.number(number),
            Value::String(text) => {
                self.0.push(b's');
                self.text(text);
            }
            Value::Array(items) => {
                self.0.push(b'[');
                self.length(items.len());
                for item in items {
                    self.value(item);
                }
            }
            Value::Object(object) => {
                self.0.push(b'{');
                self.length(object.len());
                let mut names: Vec<&String> = object.keys().collect();
                names.sort();
                for name in names {
                    self.text(name);
                    self.value(&object[name]);
                }
            }
        }
    }
}

/// The canonical bytes of a fingerprint; its version is left out, see the table of [`super`].
pub(super) fn bytes(print: &Fingerprint) -> Vec<u8> {
    let mut encoder = Encoder(Vec::with_capacity(512));
    encoder.text(&print.kind);
    encoder.0.extend_from_slice(&print.recipe.to_le_bytes());
    encoder.value(&print.config);
    encoder.length(print.inputs.len());
    for (port, artifacts) in &print.inputs {
        encoder.text(port);
        encoder.length(artifacts.len());
        for artifact in artifacts {
            encoder.text(artifact.kind.as_str());
            encoder.digest(&artifact.digest);
            encoder.optional(artifact.name.as_deref());
        }
    }
    for map in [&print.sources, &print.env] {
        encoder.length(map.len());
        for (label, digest) in map {
            encoder.text(label);
            encoder.digest(digest);
        }
    }
    encoder.optional(print.numeric_class.as_deref());
    encoder.0
}

/// The key.
pub(super) fn key(print: &Fingerprint) -> Digest {
    Digest::from_bytes(blake3::derive_key(DOMAIN, &bytes(print)))
}
