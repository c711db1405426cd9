//! One cut into words for all filters that judge the same text.
//!
//! Whoever runs several filters over one document holds a [`Document`] meanwhile; on that thread equal slices of memory
//! are then cut once. Without one (a single filter, a component) every call cuts anew.

use std::cell::RefCell;

use crate::word_cache;
use crate::words::Words;

#[derive(Default)]
struct Slot {
    /// Address and length of the text that was cut.
    of: Option<(usize, usize)>,
    words: Words,
}

#[derive(Default)]
struct Shared {
    open: bool,
    /// The document, and what a filter made of it.
    slots: [Slot; 2],
    next: usize,
}

thread_local! {
    static SHARED: RefCell<Shared> = RefCell::default();
}

/// While it lives, no text that a filter of this thread judges may be freed or changed.
#[derive(Debug)]
pub struct Document(());

impl Document {
    #[must_use]
    pub fn begin() -> Self {
        SHARED.with_borrow_mut(|shared| shared.forget(true));
        Self(())
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        SHARED.with_borrow_mut(|shared| shared.forget(false));
    }
}

impl Shared {
    fn forget(&mut self, open: bool) {
        self.open = open;
        self.next = 0;
        self.slots.iter_mut().for_each(|slot| slot.of = None);
    }

    fn take(&mut self) -> (usize, &mut Slot) {
        let at = self.next;
        self.next = (at + 1) % self.slots.len();
        let slot = &mut self.slots[at];
        slot.of = None;
        (at, slot)
    }
}

fn place(text: &str) -> (usize, usize) {
    (text.as_ptr() as usize, text.len())
}

/// Hands the words of `text` to `use_words`.
pub fn with_words<R>(text: &str, use_words: impl FnOnce(&Words) -> R) -> R {
    let of = Some(place(text));
    // Taken out meanwhile, so that a filter may ask again while it looks at the words.
    let (at, words, open) = SHARED.with_borrow_mut(|shared| {
        if shared.open
            && let Some(at) = shared.slots.iter().position(|slot| slot.of == of)
        {
            return (at, std::mem::take(&mut shared.slots[at].words), true);
        }
        let open = shared.open;
        let (at, slot) = shared.take();
        let mut words = std::mem::take(&mut slot.words);
        word_cache::cut(text, &mut words);
        (at, words, open)
    });
    let result = use_words(&words);
    SHARED.with_borrow_mut(|shared| {
        let slot = &mut shared.slots[at];
        slot.words = words;
        slot.of = of.filter(|_| open);
    });
    result
}

/// Tells the words of a text that a filter made, where it knows them: `fill` writes them.
pub fn offer(text: &str, fill: impl FnOnce(&mut Words)) {
    SHARED.with_borrow_mut(|shared| {
        if shared.open {
            let (_, slot) = shared.take();
            slot.of = Some(place(text));
            fill(&mut slot.words);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        with_words(text, |words| words.iter(text).map(str::to_owned).collect())
    }

    #[test]
    fn a_text_is_cut_once_while_its_document_lives() {
        let text = "one two".to_owned();
        let document = Document::begin();
        offer(&text, |words| words.cut("a b c d"));
        // The offered words show that nothing was cut again.
        assert_eq!(with_words(&text, Words::len), 4);
        assert_eq!(words("three four five"), ["three", "four", "five"]);
        drop(document);
        assert_eq!(words(&text), ["one", "two"]);
        offer(&text, |words| words.cut("a"));
        assert_eq!(words(&text), ["one", "two"]);
    }

    #[test]
    fn words_may_be_asked_for_while_they_are_looked_at() {
        let _document = Document::begin();
        let both = with_words("a b", |outer| outer.len() + with_words("c d e", Words::len));
        assert_eq!(both, 5);
    }
}
