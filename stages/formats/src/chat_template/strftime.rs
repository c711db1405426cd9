//! `strftime_now` without a clock: the date is part of the configuration, so that a render is reproducible.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl Default for Date {
    /// 26 July 2024, the date that Llama 3's own template falls back to.
    fn default() -> Self {
        Self { year: 2024, month: 7, day: 26 }
    }
}

impl Date {
    fn leap(year: u16) -> bool {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    }

    fn month_days(year: u16, month: u8) -> u8 {
        match month {
            2 => 28 + u8::from(Self::leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// 1 to 366.
    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| u32::from(Self::month_days(self.year, month))).sum::<u32>() + u32::from(self.day)
    }

    /// 0 for Monday.
    fn weekday(self) -> usize {
        let years = u32::from(self.year) - 1;
        // 1 January of year 1 was a Monday.
        let days = years * 365 + years / 4 - years / 100 + years / 400 + self.day_of_year() - 1;
        (days % 7) as usize
    }

    /// C's `strftime` at midnight of this day.
    #[must_use]
    pub fn format(self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut code = chars.next();
            let unpadded = code == Some('-');
            if unpadded {
                code = chars.next();
            }
            let padded = |value: u32, width: usize| {
                if unpadded { value.to_string() } else { format!("{value:0width$}") }
            };
            let (month, weekday) = (MONTHS[usize::from(self.month) - 1], DAYS[self.weekday()]);
            match code {
                Some('Y') => out.push_str(&self.year.to_string()),
                Some('y') => out.push_str(&padded(u32::from(self.year) % 100, 2)),
                Some('m') => out.push_str(&padded(self.month.into(), 2)),
                Some('d') => out.push_str(&padded(self.day.into(), 2)),
                Some('e') => out.push_str(&format!("{:2}", self.day)),
                Some('j') => out.push_str(&padded(self.day_of_year(), 3)),
                Some('B') => out.push_str(month),
                Some('b' | 'h') => out.push_str(&month[..3]),
                Some('A') => out.push_str(weekday),
                Some('a') => out.push_str(&weekday[..3]),
                Some('F') => out.push_str(&self.to_string()),
                Some('H' | 'M' | 'S') => out.push_str(&padded(0, 2)),
                Some('I') => out.push_str("12"),
                Some('p') => out.push_str("AM"),
                Some('T') => out.push_str("00:00:00"),
                Some('%') => out.push('%'),
                Some(other) => {
                    out.push('%');
                    out.push(other);
                }
                None => out.push('%'),
            }
        }
        out
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a date, expected `YEAR-MONTH-DAY` such as `2026-11-24`");
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts.as_slice() else { return Err(wrong()) };
        let date = Self {
            year: year.parse().map_err(|_| wrong())?,
            month: month.parse().map_err(|_| wrong())?,
            day: day.parse().map_err(|_| wrong())?,
        };
        let valid = (1..=9999).contains(&date.year)
            && (1..=12).contains(&date.month)
            && (1..=Self::month_days(date.year, date.month)).contains(&date.day);
        if valid { Ok(date) } else { Err(wrong()) }
    }
}

impl Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
