//! Plain scalars by the YAML 1.2 core schema (YAML 1.2.2, section 10.3.2): `no`, `on` and `0777` mean what they say.

use serde_json::Number;

use super::node::NodeValue;

/// What a plain (unquoted) scalar stands for.
///
/// # Errors
/// A number that no pipeline can use: infinite, not a number, or an integer beyond 64 bits.
pub fn resolve(text: &str) -> Result<NodeValue, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(NodeValue::Null),
        "true" | "True" | "TRUE" => return Ok(NodeValue::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(NodeValue::Bool(false)),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return Ok(NodeValue::Text(text.to_owned()));
    }
    if let Some(integer) = integer(text) {
        return integer.map(NodeValue::Number);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("`{text}` cannot be used: numbers must be finite"));
    }
    if is_float(unsigned) {
        return match text.parse::<f64>().ok().and_then(Number::from_f64) {
            Some(number) => Ok(NodeValue::Number(number)),
            None => Err(format!("`{text}` cannot be used: numbers must be finite")),
        };
    }
    Ok(NodeValue::Text(text.to_owned()))
}

fn integer(text: &str) -> Option<Result<Number, String>> {
    let (digits, radix) = match (text.strip_prefix("0o"), text.strip_prefix("0x")) {
        (Some(octal), _) => (octal, 8),
        (_, Some(hex)) => (hex, 16),
        _ => (text.strip_prefix(['-', '+']).unwrap_or(text), 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let number = if text.starts_with('-') {
        text.parse::<i64>().ok().map(Number::from)
    } else {
        u64::from_str_radix(digits, radix).ok().map(Number::from)
    };
    Some(number.ok_or_else(|| format!("`{text}` cannot be used: integers have at most 64 bits")))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    mantissa_fits
        && exponent.is_none_or(|exponent| {
            let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::node::Node;
    use crate::spec::source::Span;

    fn value(text: &str) -> serde_json::Value {
        Node::new(resolve(text).expect(text), Span::default()).to_value()
    }

    #[test]
    fn follows_the_core_schema() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("nULL", json!("nULL")),
            ("TRUE", json!(true)),
            ("tRUE", json!("tRUE")),
            ("no", json!("no")),
            ("on", json!("on")),
            ("y", json!("y")),
            ("7", json!(7)),
            ("+7", json!(7)),
            ("-7", json!(-7)),
            ("-0", json!(0)),
            ("0777", json!(777)),
            ("0o17", json!(15)),
            ("0xff", json!(255)),
            ("-0xff", json!("-0xff")),
            ("0b1", json!("0b1")),
            ("1_000", json!("1_000")),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("1.", json!(1.0)),
            (".5", json!(0.5)),
            ("1e-3", json!(0.001)),
            ("1E3", json!(1000.0)),
            ("-.5e+1", json!(-5.0)),
            ("1e", json!("1e")),
            (".", json!(".")),
            ("-", json!("-")),
            ("1.2.3", json!("1.2.3")),
            ("12:30", json!("12:30")),
            ("2026-11-24", json!("2026-11-24")),
            ("1e5x", json!("1e5x")),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_numbers_without_a_finite_value() {
        for text in [".inf", "-.INF", ".nan", "1e999", "18446744073709551616", "-9223372036854775809"] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }
}
