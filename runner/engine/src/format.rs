//! Quantities for people: bytes, durations, counts, metrics. One place, so the terminal and the report agree.

use luthier_core::MetricValue;

/// `98.4 MB`; decimal units, as disks and download sizes are given.
#[must_use]
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

/// `12 ms`, `4.2 s`, `3 min 05 s`, `2 h 10 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        "?".to_owned()
    } else if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if seconds < 3599.5 {
        let whole = seconds.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// `135,000`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 stage`, `12 stages`.
#[must_use]
pub fn plural(value: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(value as u64), if value == 1 { one } else { many })
}

/// Four significant digits, without trailing zeros; thousands separated.
#[must_use]
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e15).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    if magnitude >= 1000.0 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", count(magnitude.round() as u64));
    }
    let whole_digits = if magnitude < 1.0 { 0 } else { magnitude.log10().floor() as usize + 1 };
    let text = format!("{value:.*}", 4usize.saturating_sub(whole_digits));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    if text == "-0" { "0".to_owned() } else { text }
}

/// A metric with its unit; bytes and seconds by their own rules.
#[must_use]
pub fn metric(metric: &MetricValue) -> String {
    match metric.unit.as_str() {
        "bytes" if metric.value >= 0.0 => bytes(metric.value as u64),
        "s" => duration(metric.value),
        "" => number(metric.value),
        unit => format!("{} {unit}", number(metric.value)),
    }
}

/// The bytes of `8GB`, `512 MiB` or `1.5k`; units are decimal unless they say otherwise.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (text[..split].parse::<f64>().ok()?, text[split..].trim());
    let unit = unit.strip_suffix(['b', 'B']).unwrap_or(unit);
    let scale: f64 = match unit.to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        "ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * scale;
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(duration(0.0123), "12 ms");
        assert_eq!(duration(185.0), "3 min 05 s");
        assert_eq!(duration(7_800.0), "2 h 10 min");
        assert_eq!(count(135_000), "135,000");
        assert_eq!(number(0.548_231), "0.5482");
        assert_eq!(number(12.0), "12");
        assert_eq!(number(-0.000_001), "-1.000e-6");
        assert_eq!(number(33_290.0), "33,290");
    }
}
