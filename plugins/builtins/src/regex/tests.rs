//! The filter says what the crate `regex` alone would, of any expression and any text.

use luthier_filter::{Verdict, judge};
use regex::Regex as Expression;

use super::Regex;
use super::search::Search;

fn verdict(config: &str, text: &str) -> Verdict {
    judge::<Regex>(config, text, &[]).verdict
}

#[test]
fn keeps_drops_and_replaces() {
    let keep = r#"{"patterns": ["\\bcat\\b", "^d"], "action": "keep"}"#;
    assert_eq!(verdict(keep, "a cat"), Verdict::Keep);
    assert_eq!(verdict(keep, "concatenate"), Verdict::Drop("no_match"));
    let drop = r#"{"patterns": ["(?i)copyright \\d{4}"], "action": "drop"}"#;
    assert_eq!(verdict(drop, "Copyright 1999"), Verdict::Drop("match"));
    assert_eq!(verdict(drop, "copyright"), Verdict::Keep);
    let replace = r#"{"patterns": ["(\\w+)@(\\w+)", "x+"], "action": "replace", "replacement": "$2 at"}"#;
    assert_eq!(verdict(replace, "me@here"), Verdict::Edit("here at".to_owned()));
    assert_eq!(verdict(replace, "nobody"), Verdict::Keep);
}

#[test]
fn counts_the_expressions_that_match() {
    // The first are searched for one by one, the others, which begin with anything, together.
    let patterns: Vec<String> =
        (0..30).map(|at| if at < 6 { format!("{at}x") } else { format!("\\\\w{at}|x") }).collect();
    for (many, wanted) in [(1, 0.0), (3, 2.0), (6, 3.0), (30, 27.0)] {
        let config = format!(r#"{{"patterns": ["{}"], "action": "keep"}}"#, patterns[..many].join(r#"", ""#));
        let judged = judge::<Regex>(&config, "1x and 2x and 5x, not 3", &[]);
        let verdict = if wanted > 0.0 { Verdict::Keep } else { Verdict::Drop("no_match") };
        assert_eq!((judged.verdict, judged.scores[0]), (verdict, wanted), "{many}");
    }
}

#[test]
fn a_hostile_expression_stays_linear() {
    // A backtracking engine needs 2^n steps for this.
    let text = "a".repeat(20_000) + "!";
    assert_eq!(verdict(r#"{"patterns": ["^(a|a|aa)+$"], "action": "keep"}"#, &text), Verdict::Drop("no_match"));
}

/// Each place of these looks like a match until the end of the text is near.
#[test]
fn a_hostile_text_stays_linear() {
    let bytes = 2_000_000;
    for (pattern, text) in [
        ("<[^>]+>", "<".repeat(bytes)),
        ("a.*b|c", "a".repeat(bytes)),
        (r"\d+-\d+-", "1".repeat(bytes)),
        (r"(?i)ab+c\b", "ABab".repeat(bytes / 4)),
        (r"\bé+\b!", "é".repeat(bytes / 2)),
    ] {
        let search = Search::new(Expression::new(pattern).unwrap());
        // Quadratic time would be hours.
        assert!(!search.is_match(&text), "{pattern}");
        assert_eq!(search.replace(&text, ""), None, "{pattern}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const ATOMS: &[(&str, &[&str])] = &[
    ("a", &["a"]),
    ("the", &["the"]),
    ("error", &["error"]),
    ("(?i:error)", &["eRRor", "ERROR"]),
    ("(?i:skip)", &["sKip", "\u{17f}\u{212a}IP"]),
    ("(?i:é)", &["É", "é"]),
    ("foo|bar|quux|corge|grault|garply|waldo|fred|plugh", &["bar", "waldo"]),
    ("https?://", &["http://", "https://"]),
    (r"\.", &["."]),
    ("-", &["-"]),
    ("\n", &["\n"]),
    ("<[^>]+>", &["<b>", "<é\n漢>"]),
    ("[a-c]", &["b"]),
    ("[^a-z]", &["漢", "-", "\0"]),
    (r"\d", &["7", "٣"]),
    (r"\w", &["w", "é", "_"]),
    (r"\W", &[" ", "…"]),
    (r"\s", &["\t", "\u{2003}"]),
    (r"(?-u:\d)", &["5"]),
    (r"\p{Greek}", &["λ"]),
    (r"\x00", &["\0"]),
    ("漢", &["漢"]),
    (".", &["x", "😀"]),
    ("(?s:.)", &["\n", "y"]),
    ("[a&&b]", &["a"]),
    ("", &[""]),
];

const LOOKS: &[&str] =
    &["^", "$", "(?m:^)", "(?m:$)", r"\b", r"\B", r"\A", r"\z", r"\b{start}", r"\b{end-half}", r"(?-u:\b)", "(?Rm:$)"];

const REPETITIONS: &[(&str, usize)] =
    &[("*", 0), ("*?", 2), ("+", 1), ("+", 3), ("+?", 2), ("?", 0), ("{2}", 2), ("{1,3}", 2), ("{3}", 3), ("{2,}", 4)];

/// An expression and a text that it may match.
fn expression(random: &mut Random, depth: usize) -> (String, String) {
    let atom = |random: &mut Random| {
        let (pattern, samples) = ATOMS[random.below(ATOMS.len())];
        (format!("(?:{pattern})"), random.one_of(samples).to_owned())
    };
    if depth == 0 {
        return atom(random);
    }
    match random.below(10) {
        0 => atom(random),
        1 => (random.one_of(LOOKS).to_owned(), String::new()),
        2 => {
            let (a, b) = (expression(random, depth - 1), expression(random, depth - 1));
            (format!("(?:{}|{})", a.0, b.0), if random.below(2) == 0 { a.1 } else { b.1 })
        }
        3 | 4 => {
            let (pattern, sample) = expression(random, depth - 1);
            let (sign, times) = REPETITIONS[random.below(REPETITIONS.len())];
            (format!("({pattern}){sign}"), sample.repeat(times))
        }
        5 => {
            let (pattern, sample) = expression(random, depth - 1);
            (format!("(?i:{pattern})"), sample.to_uppercase())
        }
        _ => (0..2 + random.below(3)).fold((String::new(), String::new()), |(pattern, sample), _| {
            let next = expression(random, depth - 1);
            (pattern + &next.0, sample + &next.1)
        }),
    }
}

const FILLERS: &[&str] = &[
    "",
    "",
    " ",
    "a",
    "e",
    "the ",
    "err",
    "0",
    "\n",
    "é",
    "漢字",
    "<",
    "- ",
    "fo",
    "x y z, ",
    "\0",
    "😀 ",
    "Привет мир ",
    "\r\n",
];

fn text(random: &mut Random, sample: &str) -> String {
    let mut text = String::new();
    for _ in 0..random.below(6) {
        text.push_str(&random.one_of(FILLERS).repeat(random.below(70)));
        match random.below(4) {
            0 => text.push_str(sample),
            1 => text.extend(sample.chars().take(1 + random.below(6))),
            2 => text.extend(sample.chars().skip(1)),
            _ => {}
        }
    }
    text
}

#[test]
fn says_what_the_crate_says() {
    let mut random = Random(0x5eed_cafe_f00d_1234);
    let (mut patterns, mut scanned, mut matched) = (0, 0, 0);
    while patterns < 2_000 {
        let depth = random.below(4);
        let (pattern, sample) = expression(&mut random, depth);
        // Repetitions of repetitions may be too large.
        let Ok(plain) = regex::RegexBuilder::new(&pattern).size_limit(1 << 18).build() else { continue };
        let search = Search::new(plain.clone());
        patterns += 1;
        scanned += usize::from(search.scans());
        for _ in 0..12 {
            let text = text(&mut random, &sample);
            let found = plain.find_iter(&text).count();
            assert_eq!(search.is_match(&text), found > 0, "{pattern:?} in {text:?}");
            for replacement in ["", "<$0-$1>"] {
                let replaced = (found > 0).then(|| (found, plain.replace_all(&text, replacement).into_owned()));
                assert_eq!(search.replace(&text, replacement), replaced, "{pattern:?} in {text:?}");
            }
            matched += usize::from(found > 0);
        }
    }
    // Both ways were gone, and both answers given, often enough to compare.
    assert!(scanned > 500 && scanned < 1_750, "{scanned}");
    assert!(matched > 5_000 && matched < 20_000, "{matched}");
}
