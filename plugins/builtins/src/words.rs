//! Cutting text into words.
//!
//! The published thresholds count the tokens of spaCy's blank English pipeline, so its rules are followed: text is cut at
//! white space, punctuation is taken off both ends of each piece, contractions are split, and what is left is kept whole
//! if it looks like an address, else cut at hyphens, commas and the like between letters. Known differences: rare icons
//! and letters of historic scripts may fall into another class, addresses are recognised by their host alone, and spaCy looks
//! for its whole words once more among the tokens that it cut, so that `):` after a word and `Co.` before a bracket stay
//! whole there. Of 6,877 English documents no filter's verdict differed for more than one in a thousand.

mod address;
mod affixes;

use std::ops::Range;

use self::address::is_address;
use self::affixes::{infix, prefix, suffix};
use crate::character::{is_ascii_mark, is_letters, is_punctuation, is_terminal};
use crate::masks::Masks;
use crate::special::{self, Sieve, Split};

/// A word: its bytes, and whether all of them are ASCII letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
    pub letters: bool,
}

impl Span {
    /// As a range of bytes.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Marks that come off the end of any word of letters.
const COMES_OFF: [bool; 256] = {
    let mut off = [false; 256];
    let marks = b",;:!?)\"]}>";
    let mut at = 0;
    while at < marks.len() {
        off[marks[at] as usize] = true;
        at += 1;
    }
    off
};

/// Where the words of a text are, in order.
#[derive(Debug, Default, Clone)]
pub struct Words {
    spans: Vec<Span>,
    /// Suffixes of the piece at hand, last first.
    after: Vec<(u32, u32)>,
    memo: Memo,
    masks: Masks,
}

impl Words {
    /// Cuts `text`, at most 4 GiB of it; buffers are reused.
    #[inline(never)]
    pub fn cut(&mut self, text: &str) {
        self.spans.clear();
        let text = match text.get(..u32::MAX as usize) {
            Some(start) => start,
            None => text,
        };
        self.spans.reserve(text.len() / 5);
        let sieve = special::sieve();
        let mut masks = std::mem::take(&mut self.masks);
        masks.fill(text);
        masks.each_piece(|start, end, letters| self.token(text, start, end, letters, sieve));
        self.masks = masks;
    }

    /// A piece without white space that starts with this many letters. Nearly all are words; the others are apart, so that
    /// the loop around this keeps its registers.
    #[inline(always)]
    fn token(&mut self, text: &str, start: usize, end: usize, letters: usize, sieve: &Sieve) {
        if letters >= end - start && !sieve.has(text.as_bytes(), start, end - start) {
            self.spans.push(Span { start: start as u32, end: end as u32, letters: true });
        } else {
            self.odd_token(text, start, end, letters, sieve);
        }
    }

    /// One that is no plain word: most are a mark, or a word with one.
    #[inline(never)]
    fn odd_token(&mut self, text: &str, start: usize, end: usize, letters: usize, sieve: &Sieve) {
        let bytes = text.as_bytes();
        let length = end - start;
        if length == 1 && letters == 0 {
            self.push(start, end);
            return;
        }
        if letters > 0 && letters + 1 == length {
            let mark = bytes[end - 1];
            let comes_off = COMES_OFF[usize::from(mark)]
                || mark == b'.' && bytes[end - 2].is_ascii_lowercase() && !sieve.has(bytes, start, length);
            if comes_off && !sieve.has(bytes, start, letters) {
                self.spans.push(Span { start: start as u32, end: end as u32 - 1, letters: true });
                self.push(end - 1, end);
                return;
            }
        }
        self.remembered(text, start, end);
    }

    /// A piece, from the memo if it is there.
    #[inline(never)]
    fn remembered(&mut self, text: &str, start: usize, end: usize) {
        let first = self.spans.len();
        let key = Memo::key(text.as_bytes(), start, end);
        if let Some(entry) = key.and_then(|key| self.memo.find(key, end - start)) {
            let mut from = start as u32;
            for (at, length) in entry.ends[..usize::from(entry.count)].iter().enumerate() {
                let to = start as u32 + u32::from(*length);
                self.spans.push(Span { start: from, end: to, letters: entry.letters >> at & 1 == 1 });
                from = to;
            }
            return;
        }
        self.piece(text, start, end);
        for span in &mut self.spans[first..] {
            span.letters = is_letters(&text.as_bytes()[span.range()]);
        }
        if let Some(key) = key {
            self.memo.put(key, start as u32, &self.spans[first..]);
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Forgets all words.
    pub fn clear(&mut self) {
        self.spans.clear();
    }

    /// Takes over the words of a text that was cut before.
    pub fn set(&mut self, spans: &[Span]) {
        self.spans.clear();
        self.spans.extend_from_slice(spans);
    }

    /// The words, in order.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Appends words that are known to be ones, after all words before.
    pub fn extend(&mut self, spans: impl Iterator<Item = Span>) {
        self.spans.extend(spans);
    }

    /// The words of the text that was cut.
    pub fn iter<'a>(&'a self, text: &'a str) -> impl ExactSizeIterator<Item = &'a str> + Clone {
        self.spans.iter().map(|span| &text[span.range()])
    }

    fn push(&mut self, start: usize, end: usize) {
        if start < end {
            self.spans.push(Span { start: start as u32, end: end as u32, letters: false });
        }
    }

    /// Pushes the parts of a word that has its own rule.
    fn special(&mut self, (lengths, count): Split, start: usize, end: usize) {
        let mut at = start;
        for length in &lengths[..usize::from(count)] {
            self.push(at, at + usize::from(*length));
            at += usize::from(*length);
        }
        self.push(at, end);
    }

    /// A piece without white space.
    fn piece(&mut self, text: &str, start: usize, end: usize) {
        let sieve = special::sieve();
        self.after.clear();
        let (mut start, mut end) = (start, end);
        let mut rule = sieve.split(text, start..end);
        while start < end && rule.is_none() {
            let inner = &text[start..end];
            let front = prefix(inner);
            if front > 0 && front < inner.len() {
                rule = sieve.split(text, start + front..end);
                if rule.is_some() {
                    self.push(start, start + front);
                    start += front;
                    break;
                }
            }
            let back = suffix(&inner[front..]);
            if back > 0 && back < inner.len() {
                rule = sieve.split(text, start..end - back);
                if rule.is_some() {
                    self.after.push(((end - back) as u32, end as u32));
                    end -= back;
                    break;
                }
            }
            if front == 0 && back == 0 {
                break;
            }
            self.push(start, start + front);
            if back > 0 {
                self.after.push(((end - back) as u32, end as u32));
            }
            start += front;
            end -= back;
            rule = sieve.split(text, start..end);
        }
        if let Some(rule) = rule {
            self.special(rule, start, end);
        } else if start < end {
            let inner = &text[start..end];
            if is_address(inner) { self.push(start, end) } else { self.infixes(inner, start) }
        }
        while let Some((start, end)) = self.after.pop() {
            self.push(start as usize, end as usize);
        }
    }

    fn infixes(&mut self, inner: &str, offset: usize) {
        if inner.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            self.push(offset, offset + inner.len());
            return;
        }
        let mut start = 0;
        let mut at = 0;
        let mut before = None;
        let bytes = inner.as_bytes();
        while at < bytes.len() {
            if bytes[at].is_ascii_alphanumeric() {
                before = Some(char::from(bytes[at]));
                at += 1;
                continue;
            }
            let Some(c) = inner[at..].chars().next() else { break };
            let length = infix(before, &inner[at..]);
            if length == 0 {
                before = Some(c);
                at += c.len_utf8();
                continue;
            }
            if at > start {
                self.push(offset + start, offset + at);
                self.push(offset + at, offset + at + length);
                start = at + length;
            }
            before = inner[..at + length].chars().next_back();
            at += length;
        }
        self.push(offset + start, offset + inner.len());
    }
}

/// What short pieces were cut into before: the same words and marks come again and again.
#[derive(Debug, Default, Clone)]
struct Memo {
    entries: Vec<Entry>,
}

/// The words of a piece tile it, so their ends say all.
#[derive(Debug, Default, Clone, Copy)]
struct Entry {
    key: u128,
    count: u8,
    /// A bit per word: whether it is letters.
    letters: u8,
    ends: [u8; 7],
}

impl Memo {
    const BITS: u32 = 11;

    /// The bytes of a piece of at most 16.
    fn key(bytes: &[u8], start: usize, end: usize) -> Option<u128> {
        let length = end - start;
        if length > 16 {
            return None;
        }
        if let Some(Ok(whole)) = bytes.get(start..start + 16).map(<[u8; 16]>::try_from) {
            // In halves: WebAssembly has no shift of 128 bits.
            let ones = |bytes: usize| if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 };
            let mask = u128::from(ones(length.saturating_sub(8))) << 64 | u128::from(ones(length));
            return Some(u128::from_le_bytes(whole) & mask);
        }
        let mut whole = [0; 16];
        whole[..length].copy_from_slice(&bytes[start..end]);
        Some(u128::from_le_bytes(whole))
    }

    fn slot(key: u128) -> usize {
        let mixed =
            (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((key >> 64) as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS)) as usize
    }

    fn find(&self, key: u128, length: usize) -> Option<Entry> {
        let entry = self.entries.get(Self::slot(key))?;
        let same =
            entry.key == key && entry.count > 0 && usize::from(entry.ends[usize::from(entry.count) - 1]) == length;
        same.then_some(*entry)
    }

    fn put(&mut self, key: u128, start: u32, words: &[Span]) {
        if words.is_empty() || words.len() > 7 {
            return;
        }
        if self.entries.is_empty() {
            self.entries.resize(1 << Self::BITS, Entry::default());
        }
        let mut entry = Entry { key, count: words.len() as u8, letters: 0, ends: [0; 7] };
        for (at, word) in words.iter().enumerate() {
            entry.ends[at] = (word.end - start) as u8;
            entry.letters |= u8::from(word.letters) << at;
        }
        self.entries[Self::slot(key)] = entry;
    }
}

/// Sentences in a line: one more than there are words, other than punctuation, right after a sentence's end.
#[must_use]
pub fn sentences(text: &str, words: &[Span]) -> usize {
    let mut sentences = Sentences::default();
    words.iter().for_each(|word| sentences.add(text, word));
    sentences.after_first + usize::from(!words.is_empty())
}

/// Counts the sentences of a line word by word.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sentences {
    /// Those that follow another.
    pub after_first: usize,
    ended: bool,
}

/// What a word of a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Mark,
    /// A mark that ends a sentence.
    End,
}

impl Sentences {
    /// Takes in the next word of the line, which is one of `text`.
    #[inline(always)]
    pub fn add(&mut self, text: &str, word: &Span) {
        // Nearly all are letters, and nearly all others a mark.
        let kind = if word.letters {
            Kind::Word
        } else if word.end - word.start == 1 {
            MARKS[usize::from(text.as_bytes()[word.start as usize])]
        } else {
            kind(text, word, self.ended)
        };
        if kind == Kind::Word {
            self.after_first += usize::from(self.ended);
            self.ended = false;
        } else {
            self.ended |= kind == Kind::End;
        }
    }
}

/// What each byte is as a word.
const MARKS: [Kind; 256] = {
    let mut kinds = [Kind::Word; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        kinds[byte as usize] = match byte {
            b'!' | b'.' | b'?' => Kind::End,
            _ if is_ascii_mark(byte) => Kind::Mark,
            _ => Kind::Word,
        };
        byte += 1;
    }
    kinds
};

/// What a word of several bytes is; `ended`: the one before ended a sentence.
#[inline(never)]
fn kind(text: &str, word: &Span, ended: bool) -> Kind {
    let (ends, is_mark) = match &text.as_bytes()[word.range()] {
        [first, ..] if first.is_ascii_alphanumeric() => (false, false),
        _ => marks(&text[word.range()], ended),
    };
    match (ends, is_mark) {
        (true, _) => Kind::End,
        (false, true) => Kind::Mark,
        (false, false) => Kind::Word,
    }
}

/// Whether a word ends a sentence, and whether it is all punctuation, which matters after one that did.
// Apart, so that the loop above keeps its registers.
#[cold]
#[inline(never)]
fn marks(word: &str, ended: bool) -> (bool, bool) {
    let mut chars = word.chars();
    let ends = matches!((chars.next(), chars.next()), (Some(c), None) if is_terminal(c));
    (ends, !ended || word.chars().all(is_punctuation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::character::is_space;

    fn cut(text: &str) -> Vec<String> {
        let mut words = Words::default();
        words.cut(text);
        words.iter(text).map(str::to_owned).collect()
    }

    #[test]
    fn cuts_as_spacy_does() {
        // Left: text; right: the tokens of spaCy 3.8, blank English, joined by spaces.
        for (text, wanted) in [
            ("Hello, world!", "Hello , world !"),
            ("\"Don't,\" (he said).", "\" Do n't , \" ( he said ) ."),
            ("well-known and/or e.g. Mr. X.", "well - known and/or e.g. Mr. X."),
            ("It's 5pm; costs $3.50... or 10km.", "It 's 5 pm ; costs $ 3.50 ... or 10 km ."),
            ("see https://example.com/a-b?c=d.", "see https://example.com/a-b?c=d ."),
            ("end.Start a,b 3-4 x=y U.S.A.", "end . Start a , b 3 - 4 x = y U.S.A."),
            ("tab\u{a0}x\u{2028}y  z", "tab x y z"),
            ("", ""),
            ("'''", "' ''"),
            ("rock'n'roll's", "rock'n'roll 's"),
        ] {
            assert_eq!(cut(text).join(" "), wanted, "{text}");
        }
    }

    #[test]
    fn every_byte_alone_is_what_its_character_is() {
        for byte in 0..0x80u8 {
            let c = char::from(byte);
            let kind = MARKS[usize::from(byte)];
            assert_eq!((kind == Kind::End, kind != Kind::Word), (is_terminal(c), is_punctuation(c)), "{c:?}");
        }
    }

    #[test]
    fn counts_sentences() {
        let count = |text: &str| {
            let mut words = Words::default();
            words.cut(text);
            sentences(text, words.spans())
        };
        assert_eq!(count("One. Two! \"Three?\" four"), 4);
        assert_eq!(count("no end"), 1);
        assert_eq!(count("end."), 1);
        assert_eq!(count(""), 0);
    }

    /// Each piece between white space by the rules alone.
    fn plain(text: &str) -> Vec<Span> {
        let mut words = Words::default();
        for piece in text.split(is_space).filter(|piece| !piece.is_empty()) {
            let start = piece.as_ptr() as usize - text.as_ptr() as usize;
            words.piece(text, start, start + piece.len());
        }
        for span in &mut words.spans {
            span.letters = text[span.range()].bytes().all(|byte| byte.is_ascii_alphabetic());
        }
        words.spans
    }

    #[test]
    fn shortcuts_cut_as_the_rules_do() {
        let parts: Vec<&str> =
            "the word Don do ca n't nt 'll ve Mr B . , ; : ! ? ) ( \" ' ’ - -- … ... 's S Co co a I US $ km 5 pm \
            10 www.x.org / @ é É 漢 😀 \u{feff} internationalisations a.m. XD Doin w/o + * ^ = < > [ ] { } % # & _ ~"
                .split(' ')
                .collect();
        let spaces = [" ", "\n", "\u{a0}", "\u{3000}", "\t ", "\u{2028}", "\u{1f}", "\u{85}", ""];
        let mut state = 5u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut words = Words::default();
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..next(40) {
                for _ in 0..=next(3) {
                    text.push_str(parts[next(parts.len())]);
                }
                text.push_str(spaces[next(spaces.len())]);
            }
            words.cut(&text);
            assert_eq!(words.spans, plain(&text), "{text:?}");
        }
    }

    #[test]
    fn any_text_is_cut_without_loss() {
        let mut state = 7u64;
        let alphabet: Vec<char> = "ab.A'-’…,:/@$€5 \n\u{a0}n'tcom\"(é😀漢".chars().collect();
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..(state >> 60) + 1 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            let joined: String = cut(&text).concat();
            let wanted: String = text.chars().filter(|c| !is_space(*c)).collect();
            assert_eq!(joined, wanted, "{text:?}");
        }
    }
}
