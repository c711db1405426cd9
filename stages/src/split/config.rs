//! `with` of a split.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::one_or_many::OneOrMany;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// The parts by name, each an output: a number of rows, a fraction between 0 and 1 of what the numbers leave, or `rest`.
    /// When rows are added, none leaves a fraction or the `rest` of fractions; out of a number of rows they push others.
    pub parts: BTreeMap<String, Size>,
    /// Another seed splits otherwise.
    #[serde(default)]
    pub seed: u64,
    /// Column or columns whose equal values stay together in one part; by default equal rows do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OneOrMany>,
}

/// How large a part is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    Rows(u64),
    Fraction(f64),
    Rest,
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rows(rows) => serializer.serialize_u64(*rows),
            Self::Fraction(fraction) => serializer.serialize_f64(*fraction),
            Self::Rest => serializer.serialize_str("rest"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of rows, a fraction between 0 and 1, or `rest`")
            }

            fn visit_u64<E: Error>(self, rows: u64) -> Result<Size, E> {
                if rows == 0 { Err(E::custom("a part of 0 rows is no part")) } else { Ok(Size::Rows(rows)) }
            }

            fn visit_i64<E: Error>(self, rows: i64) -> Result<Size, E> {
                u64::try_from(rows)
                    .map_err(|_| E::custom(format!("{rows} is negative")))
                    .and_then(|rows| self.visit_u64(rows))
            }

            fn visit_f64<E: Error>(self, fraction: f64) -> Result<Size, E> {
                if fraction > 0.0 && fraction < 1.0 {
                    Ok(Size::Fraction(fraction))
                } else {
                    Err(E::custom(format!(
                        "{fraction} is not between 0 and 1; a number of rows is written without a point"
                    )))
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                if text == "rest" { Ok(Size::Rest) } else { Err(E::custom(format!("`{text}` is not `rest`"))) }
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "number"}, {"type": "string", "const": "rest"}]})
    }
}
