//! Histograms in text, for 80 columns.

/// Lines of a histogram.
const LINES: usize = 10;
/// Characters of the longest bar.
const WIDTH: f64 = 40.0;
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A line for each group of neighbouring bins, given as their middles and shares of the whole: from which middle to which, a
/// bar, the share in per cent. Bars are as long as their shares, the longest 40 characters.
pub fn draw(bins: &[(f64, f64)]) -> Vec<String> {
    let each = bins.len().div_ceil(LINES).max(1);
    let groups: Vec<(f64, f64, f64)> = bins
        .chunks(each)
        .map(|bins| (bins[0].0, bins[bins.len() - 1].0, bins.iter().map(|(_, share)| share).sum()))
        .collect();
    let most = groups.iter().fold(0.0, |most: f64, (_, _, share)| most.max(*share));
    groups
        .into_iter()
        .map(|(first, last, share)| {
            let range = if first == last { number(first) } else { format!("{} … {}", number(first), number(last)) };
            format!("  {range:>19} {:<40} {:>5.1} %", bar(share, most), 100.0 * share)
        })
        .collect()
}

fn bar(share: f64, most: f64) -> String {
    let eighths = if most > 0.0 { (8.0 * WIDTH * share / most).round() as usize } else { 0 };
    // What is there shows.
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Three digits behind the point where the number is small, none where it is large.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn bars_are_as_long_as_their_shares_and_fit_80_columns() {
        let lines = draw(&[(0.5, 0.25), (1.5, 0.0), (2.5, 0.5), (3.5, 0.001)]);
        assert_eq!(
            lines,
            [
                format!("                0.500 {:<40}  25.0 %", "█".repeat(20)),
                format!("                1.500 {:<40}   0.0 %", ""),
                format!("                2.500 {}  50.0 %", "█".repeat(40)),
                format!("                3.500 {:<40}   0.1 %", "▏"),
            ]
        );
        let many: Vec<(f64, f64)> = (0..40).map(|bin| (f64::from(bin) * 1e5, 1.0 / 40.0)).collect();
        let lines = draw(&many);
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|line| line.chars().count() <= 80 && line.ends_with(" 10.0 %")), "{lines:?}");
        assert!(lines[9].starts_with("    3600000 … 3900000 "), "{}", lines[9]);
        assert!(draw(&[]).is_empty());
    }
}
