//! Times for people and run ids. Nothing here enters a key or a lock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day ends a year; eras of 400 years have 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, day_of_month)
}

fn parts(time: SystemTime) -> (u64, u64, u64, u64, u64, u64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    (year, month, day, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60, since.subsec_millis())
}

/// RFC 3339 in UTC, to the second.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second, _) = parts(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// RFC 3339 in UTC, to the millisecond; texts of it sort by time.
#[must_use]
pub fn rfc3339_millis(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second, millis) = parts(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// A name that sorts by time: `20261124-033552-123-04d2`, the last part from the process id.
#[must_use]
pub fn run_id(time: SystemTime) -> String {
    format!("{}-{:04x}", moment(time), std::process::id() & 0xffff)
}

/// A time as run ids begin with it: `20261124-033552-123`, and what follows sorts behind every id of that moment.
#[must_use]
pub fn moment(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second, millis) = parts(time);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{millis:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
        assert!(run_id(UNIX_EPOCH + Duration::from_millis(1_795_491_352_123)).starts_with("20261124-033552-123-"));
    }
}
