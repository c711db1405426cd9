//! English words that are split, or kept whole, against the rules of punctuation.
//!
//! `don't` is two tokens and `Mr.` is one. The lists and their exclusions follow what spaCy's blank English pipeline
//! does, because the published thresholds were tuned on its tokens.

use std::ops::Range;
use std::sync::LazyLock;

use crate::hash::{FACTOR, eight};

/// Byte lengths of the first parts; the last part is what remains. Whole words have none.
pub type Split = ([u8; 2], u8);

const WHOLE: Split = ([0, 0], 0);

fn one(first: usize) -> Option<Split> {
    Some(([u8::try_from(first).ok()?, 0], 1))
}

fn two(first: usize, second: usize) -> Option<Split> {
    Some(([u8::try_from(first).ok()?, u8::try_from(second).ok()?], 2))
}

/// Verbs before `n't` and `n't've`.
const NOT: &[&str] = &[
    "ca", "could", "did", "does", "do", "had", "may", "might", "must", "need", "ought", "sha", "should", "wo", "would",
];
/// Verbs before `n't` alone.
const NOT_WITHOUT_HAVE: &[&str] = &["ai", "are", "dare", "has", "have", "is", "was", "were"];
/// Verbs before `'ve`.
const HAVE: &[&str] = &["could", "might", "must", "not", "should", "would"];
const PRONOUNS: &[&str] = &["i", "you", "he", "she", "it", "we", "they"];
const QUESTIONS: &[&str] = &["who", "what", "when", "where", "why", "how", "there", "that", "this", "these", "those"];

/// Spelled like a contraction without its apostrophe, but words of their own.
const WORDS: &[&str] = &["ill", "its", "hell", "shell", "shed", "were", "well", "whore"];

/// Kept whole, sorted by bytes.
#[rustfmt::skip]
const SINGLE: &[&str] = &[
    "'", "''", "'Cause", "'Cos", "'Coz", "'Cuz", "'S", "'bout", "'cause", "'cos", "'coz", "'cuz", "'d", "'em",
    "'ll", "'nuff", "'re", "'s", "(*_*)", "(-8", "(-:", "(-;", "(-_-)", "(._.)", "(:", "(;", "(=", "(>_<)",
    "(^_^)", "(o:", "(¬_¬)", "(ಠ_ಠ)", "(╯°□°）╯︵┻━┻", ")-:", "):", "-_-", "-__-", "._.", "0.0", "0.o", "0_0",
    "0_o", "8)", "8-)", "8-D", "8D", ":'(", ":')", ":'-(", ":'-)", ":(", ":((", ":(((", ":()", ":)", ":))",
    ":)))", ":*", ":-(", ":-((", ":-(((", ":-)", ":-))", ":-)))", ":-*", ":-/", ":-0", ":-3", ":->", ":-D", ":-O",
    ":-P", ":-X", ":-]", ":-o", ":-p", ":-x", ":-|", ":-}", ":/", ":0", ":1", ":3", ":>", ":D", ":O", ":P", ":X",
    ":]", ":o", ":o)", ":p", ":x", ":|", ":}", ":’(", ":’)", ":’-(", ":’-)", ";)", ";-)", ";-D", ";D", ";_;",
    "<.<", "</3", "<3", "<33", "<333", "<space>", "=(", "=)", "=/", "=3", "=D", "=[", "=]", "=|", ">.<", ">.>",
    ">:(", ">:o", "><(((*>", "@_@", "Adm.", "Ak.", "Ala.", "Apr.", "Ariz.", "Ark.", "Aug.", "Bros.", "C++",
    "Calif.", "Co.", "Colo.", "Conn.", "Corp.", "D.C.", "Dec.", "Del.", "Doin", "Doin'", "Doin’", "Dr.", "E.G.",
    "E.g.", "Feb.", "Fla.", "Ga.", "Gen.", "Goin", "Goin'", "Goin’", "Gov.", "Havin", "Havin'", "Havin’", "I.E.",
    "I.e.", "Ia.", "Id.", "Ill.", "Inc.", "Ind.", "Jan.", "Jr.", "Jul.", "Jun.", "Kan.", "Kans.", "Ky.", "La.",
    "Lovin", "Lovin'", "Lovin’", "Ltd.", "Ma'am", "Mar.", "Mass.", "Ma’am", "Md.", "Messrs.", "Mich.", "Minn.",
    "Miss.", "Mo.", "Mont.", "Mr.", "Mrs.", "Ms.", "Mt.", "N.C.", "N.D.", "N.H.", "N.J.", "N.M.", "N.Y.", "Neb.",
    "Nebr.", "Nev.", "Nothin", "Nothin'", "Nothin’", "Nov.", "Nuthin", "Nuthin'", "Nuthin’", "O'clock", "O.O",
    "O.o", "O_O", "O_o", "Oct.", "Okla.", "Ol", "Ol'", "Ol’", "Ore.", "O’clock", "Pa.", "Ph.D.", "Prof.", "Rep.",
    "Rev.", "S.C.", "Sen.", "Sep.", "Sept.", "Somethin", "Somethin'", "Somethin’", "St.", "Tenn.", "V.V", "V_V",
    "Va.", "Wash.", "Wis.", "XD", "XDD", "[-:", "[:", "[=", "\\\")", "\\n", "\\t", "]=", "^_^", "^__^", "^___^",
    "a.", "a.m.", "and/or", "b.", "c.", "co.", "d.", "doin", "doin'", "doin’", "e.", "e.g.", "em", "f.", "g.",
    "goin", "goin'", "goin’", "h.", "havin", "havin'", "havin’", "i.", "i.e.", "j.", "k.", "l.", "ll", "lovin",
    "lovin'", "lovin’", "m.", "ma'am", "ma’am", "n.", "nothin", "nothin'", "nothin’", "nuff", "nuthin", "nuthin'",
    "nuthin’", "o'clock", "o.", "o.0", "o.O", "o.o", "o_0", "o_O", "o_o", "ol", "ol'", "ol’", "o’clock", "p.",
    "p.m.", "q.", "r.", "s.", "somethin", "somethin'", "somethin’", "t.", "u.", "v.", "v.s.", "v.v", "v_v", "vs.",
    "w.", "w/o", "x.", "xD", "xDD", "y.", "z.", "¯\\(ツ)/¯", "ä.", "ö.", "ü.", "ಠ_ಠ", "ಠ︵ಠ", "—", "‘S", "‘s", "’",
    "’Cause", "’Cos", "’Coz", "’Cuz", "’S", "’bout", "’cause", "’cos", "’coz", "’cuz", "’d", "’em", "’ll",
    "’nuff", "’re", "’s", "’’",
];

/// Of contractions, before and after the mark that may be there.
const ENDINGS: [(&str, &str); 7] = [("n", "t"), ("", "ll"), ("", "d"), ("", "ve"), ("", "re"), ("", "s"), ("", "m")];

/// The longest contraction, in bytes.
const LONGEST: usize = 24;

/// The longest word of [`SINGLE`], in bytes.
const LONGEST_SINGLE: usize = 31;

/// Bits by hash of all special words. One in thirty others has one too.
#[derive(Debug)]
pub struct Sieve([u64; Self::BITS / 64]);

impl Sieve {
    const BITS: usize = 1 << 15;

    fn load() -> Self {
        let mut sieve = Self([0; Self::BITS / 64]);
        for word in candidates().iter().filter(|word| look_up(word).is_some()) {
            let bit = Self::bit(word.as_bytes(), 0, word.len());
            sieve.0[bit / 64] |= 1 << (bit % 64);
        }
        sieve
    }

    fn bit(bytes: &[u8], start: usize, length: usize) -> usize {
        let word = eight(bytes, start, length);
        let mixed = (word ^ (length as u64) << 56).wrapping_mul(FACTOR);
        (mixed >> (64 - Self::BITS.trailing_zeros())) as usize
    }

    /// Whether the `length` bytes from `start` on may be special.
    #[must_use]
    pub fn has(&self, bytes: &[u8], start: usize, length: usize) -> bool {
        let bit = Self::bit(bytes, start, length);
        self.0[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// How these bytes of `text` are special, if they are.
    #[must_use]
    pub fn split(&self, text: &str, word: Range<usize>) -> Option<Split> {
        let may_be = self.has(text.as_bytes(), word.start, word.len());
        if may_be { look_up(&text[word]) } else { None }
    }
}

/// All words that may be special, and more.
fn candidates() -> Vec<String> {
    const MARKS: [&str; 3] = ["", "'", "’"];
    let mut words: Vec<String> = SINGLE.iter().map(|word| (*word).to_owned()).collect();
    for hour in 1..=12 {
        words.extend(["am", "pm", "a.m.", "p.m."].map(|half| format!("{hour}{half}")));
    }
    let mut split: Vec<String> = [
        "cannot",
        "gonna",
        "gotta",
        "c'mon",
        "c’mon",
        "let's",
        "let’s",
        "y'all",
        "yall",
        "y’all",
        "how'd'y",
        "how’d’y",
    ]
    .map(str::to_owned)
    .to_vec();
    split.extend(["i'ma", "ima", "i’ma"].map(str::to_owned));
    for base in [NOT, NOT_WITHOUT_HAVE, HAVE, PRONOUNS, QUESTIONS].into_iter().flatten() {
        let ends = MARKS.into_iter().flat_map(|mark| ENDINGS.map(|(before, after)| format!("{before}{mark}{after}")));
        for end in ends {
            split.push(format!("{base}{end}"));
            split.extend(MARKS.map(|mark| format!("{base}{end}{mark}ve")));
        }
    }
    for word in split {
        words.push(format!("{}{}", word[..1].to_ascii_uppercase(), &word[1..]));
        words.push(word);
    }
    words
}

/// The one sieve.
#[must_use]
pub fn sieve() -> &'static Sieve {
    static SIEVE: LazyLock<Sieve> = LazyLock::new(Sieve::load);
    &SIEVE
}

/// How `word` is special, if it is: by the lists.
fn look_up(word: &str) -> Option<Split> {
    let bytes = word.as_bytes();
    if bytes.len() > LONGEST_SINGLE {
        return None;
    }
    if SINGLE.binary_search(&word).is_ok() {
        return Some(WHOLE);
    }
    if bytes.len() > LONGEST {
        return None;
    }
    if bytes.first().is_some_and(u8::is_ascii_digit) {
        return time(bytes);
    }
    contraction(word)
}

/// `5pm`, `12a.m.`.
fn time(word: &[u8]) -> Option<Split> {
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = match &word[..digits] {
        [digit @ b'1'..=b'9'] => usize::from(*digit - b'0'),
        [b'1', digit @ b'0'..=b'2'] => 10 + usize::from(*digit - b'0'),
        _ => return None,
    };
    let known = matches!(&word[digits..], b"am" | b"pm" | b"a.m." | b"p.m.");
    if known && number > 0 { one(digits) } else { None }
}

fn contraction(word: &str) -> Option<Split> {
    let mut chars = word.chars();
    let first = chars.next().filter(char::is_ascii_alphabetic)?;
    // Only the first letter may be a capital.
    if chars.as_str().bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut buffer = [0u8; LONGEST];
    let lower = buffer.get_mut(..word.len())?;
    lower.copy_from_slice(word.as_bytes());
    lower[0].make_ascii_lowercase();
    let lower = std::str::from_utf8(lower).ok()?;
    match lower {
        "cannot" | "gonna" | "gotta" => return one(3),
        "c'mon" => return one(3),
        "c’mon" => return one(5),
        "let's" | "let’s" => return one(3),
        "y'all" | "yall" | "y’all" if first == 'y' => return one(1),
        "how'd'y" => return two(3, 2),
        "how’d’y" => return two(3, 4),
        "i'ma" | "ima" => return two(1, lower.len() - 2),
        "i’ma" => return two(1, 4),
        _ => {}
    }
    if WORDS.contains(&lower) {
        return None;
    }
    // `…'ve` after another contraction is a part of its own.
    let have = strip(lower, "ve");
    if let Some((base, _)) = have
        && let Some(at) = simple(base, true)
    {
        return two(at, base.len() - at);
    }
    simple(lower, false).and_then(one)
}

/// `base` and the mark before `ending`: `'`, `’` or none.
fn strip<'a>(word: &'a str, ending: &str) -> Option<(&'a str, &'a str)> {
    let rest = word.strip_suffix(ending)?;
    for mark in ["'", "’"] {
        if let Some(base) = rest.strip_suffix(mark) {
            return Some((base, mark));
        }
    }
    Some((rest, ""))
}

/// Where a word with one contraction splits. `before_have`: `'ve` follows.
fn simple(word: &str, before_have: bool) -> Option<usize> {
    if let Some(rest) = word.strip_suffix('t') {
        let rest = rest.strip_suffix('\'').or_else(|| rest.strip_suffix('’')).unwrap_or(rest);
        let verb = rest.strip_suffix('n')?;
        let known = NOT.contains(&verb) || (!before_have && NOT_WITHOUT_HAVE.contains(&verb));
        return known.then_some(verb.len());
    }
    for ending in ["ll", "d"] {
        if let Some((base, _)) = strip(word, ending)
            && (PRONOUNS.contains(&base) || QUESTIONS.contains(&base))
        {
            return Some(base.len());
        }
    }
    if before_have {
        return None;
    }
    let ask = |base: &str| QUESTIONS.contains(&base);
    let rules: [(&str, &dyn Fn(&str) -> bool); 4] = [
        ("ve", &|base| {
            HAVE.contains(&base)
                || matches!(base, "i" | "you" | "we" | "they")
                || ask(base) && !matches!(base, "that" | "this")
        }),
        ("re", &|base| matches!(base, "you" | "we" | "they") || ask(base) && !matches!(base, "that" | "this")),
        ("s", &|base| matches!(base, "he" | "she" | "it") || ask(base) && !matches!(base, "these" | "those")),
        ("m", &|base| base == "i"),
    ];
    rules.iter().find_map(|(ending, fits)| {
        let (base, _) = strip(word, ending)?;
        fits(base).then_some(base.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_passes_its_sieve() {
        assert!(SINGLE.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(SINGLE.iter().all(|word| sieve().split(word, 0..word.len()) == Some(WHOLE)));
    }

    #[test]
    fn the_sieve_holds_back_no_special_word() {
        let parts: Vec<&str> =
            "do does ai i you that these could not n' n’ n t 't ’t ll 'll d 'd ’d ve 've ’ve re s 's m ma 'ma \
            can got gon na ta how y 'y 1 12 7 am p.m. a . Mr Mr. Doin O _ o :) ( - x"
                .split(' ')
                .collect();
        let mut state = 3u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let (mut special, mut passed) = (0, 0);
        for _ in 0..300_000 {
            let mut word: String = (0..=next(4)).map(|_| parts[next(parts.len())]).collect();
            if word.is_char_boundary(1) && next(2) == 0 {
                word[..1].make_ascii_uppercase();
            }
            let known = look_up(&word);
            special += usize::from(known.is_some());
            passed += usize::from(sieve().has(word.as_bytes(), 0, word.len()));
            assert_eq!(sieve().split(&word, 0..word.len()), known, "{word}");
        }
        assert!(special > 1_000 && passed < special + 30_000, "{special} {passed}");
    }

    #[test]
    fn splits_contractions_and_leaves_words() {
        let parts = |word: &str| {
            sieve().split(word, 0..word.len()).map(|(lengths, count)| {
                let mut rest = word;
                let mut parts = Vec::new();
                for length in &lengths[..usize::from(count)] {
                    let (part, after) = rest.split_at(usize::from(*length));
                    parts.push(part);
                    rest = after;
                }
                parts.push(rest);
                parts.join("|")
            })
        };
        #[rustfmt::skip]
        let cases = [
            ("don't", "do|n't"), ("Don’t", "Do|n’t"), ("dont", "do|nt"), ("couldn't've", "could|n't|'ve"),
            ("Cannot", "Can|not"), ("I'm", "I|'m"), ("ima", "i|m|a"), ("they'll", "they|'ll"), ("id", "i|d"),
            ("it's", "it|'s"), ("wed", "we|d"), ("5pm", "5|pm"), ("12a.m.", "12|a.m."), ("Mr.", "Mr."), ("e.g.", "e.g."),
            ("y'all", "y|'all"), ("you'd've", "you|'d|'ve"), ("whatll", "what|ll"), ("C'mon", "C'm|on"),
        ];
        for (word, wanted) in cases {
            assert_eq!(parts(word).as_deref(), Some(wanted), "{word}");
        }
        for word in ["its", "Were", "ill", "word", "DON'T", "13pm", "0am", "thats'", "violin's", "dog", "mustard", "x"]
        {
            assert_eq!(parts(word), None, "{word}");
        }
    }
}
