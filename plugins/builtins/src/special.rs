//! English words that are split, or kept whole, against the rules of punctuation.
//!
//! `don't` is two tokens and `Mr.` is one. The lists and their exclusions follow what spaCy's blank English pipeline
//! does, because the published thresholds were tuned on its tokens.

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

/// The longest contraction, in bytes.
const LONGEST: usize = 24;

/// The longest word of [`SINGLE`], in bytes.
const LONGEST_SINGLE: usize = 31;

/// Whether a run of ASCII letters can be special at all; most words cannot.
#[must_use]
pub fn plain_suspect(word: &[u8]) -> bool {
    match word {
        [.., b't' | b'd' | b's' | b'm' | b'a'] => word.len() <= 8,
        [.., b'v' | b'l' | b'r', b'e'] | [.., b'l', b'l'] | [.., b'i', b'n'] | [.., b'f', b'f'] => word.len() <= 10,
        [b'O' | b'o', b'l'] | [b'x' | b'X', b'D', ..] => true,
        _ => false,
    }
}

/// A sieve over the first byte, the last and the length of the words of [`SINGLE`].
const SIEVE: [u64; 64] = {
    let mut sieve = [0; 64];
    let mut at = 0;
    while at < SINGLE.len() {
        let bit = sieve_bit(SINGLE[at].as_bytes());
        sieve[bit / 64] |= 1 << (bit % 64);
        at += 1;
    }
    sieve
};

const fn sieve_bit(word: &[u8]) -> usize {
    let (first, last) = (word[0] as usize, word[word.len() - 1] as usize);
    (first * 173 + last * 29 + word.len() * 911) % 4096
}

fn is_single(word: &str) -> bool {
    let bytes = word.as_bytes();
    if bytes.is_empty() || bytes.len() > LONGEST_SINGLE {
        return false;
    }
    let bit = sieve_bit(bytes);
    SIEVE[bit / 64] >> (bit % 64) & 1 == 1 && SINGLE.binary_search(&word).is_ok()
}

/// How `word` is special, if it is.
#[must_use]
pub fn split(word: &str) -> Option<Split> {
    let bytes = word.as_bytes();
    if bytes.len() > LONGEST_SINGLE {
        return None;
    }
    let plain = bytes.iter().all(u8::is_ascii_alphabetic);
    if plain && !plain_suspect(bytes) {
        return None;
    }
    if is_single(word) {
        return Some(WHOLE);
    }
    if bytes.len() > LONGEST {
        return None;
    }
    if bytes.first().is_some_and(u8::is_ascii_digit) {
        return time(bytes);
    }
    // A right single quotation mark starts with 0xE2.
    if plain || bytes.iter().any(|byte| matches!(byte, b'\'' | 0xE2)) { contraction(word) } else { None }
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
        assert!(SINGLE.iter().all(|word| is_single(word)));
        assert!(!is_single("") && !is_single("'Cusa") && !is_single("Mr"));
    }

    #[test]
    fn splits_contractions_and_leaves_words() {
        let parts = |word: &str| {
            split(word).map(|(lengths, count)| {
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
