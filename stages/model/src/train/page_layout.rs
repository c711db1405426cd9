//! How moments are cut into pages that come to the device one after the other.
//!
//! A page holds parts of one or several groups, behind each other, each cut where a block of 8-bit moments ends:
//!
//! ```text
//! page      │ part of group 3        │ group 4   │ part of group 5 │ page …
//! of f32    │ m …   │ v …
//! of 8 bits │ codes of m │ codes of v │ scales of m │ scales of v
//! ```

use std::ops::Range;

use luthier_kernels::optimizer_8bit::STATE_BLOCK;

use super::state_layout::{Group, Layout, Place};

/// Pages that are on the device at a time.
pub(super) const LANES: usize = 2;
/// Bytes of a page where there are many: a copy of a third of a millisecond over PCIe 4.0 ×16, so that what goes on before
/// the first page and after the last is short, and long enough that starting it does not count.
const LARGEST: usize = 8 << 20;
/// Pages that moments are cut into where they are few, so that paging keeps most of them off the device then too.
const FEWEST: usize = 16;
/// Where parts begin: what the widest access of a warp wants.
const ALIGNMENT: usize = 64;

/// Both moments, or the codes of both, then the scales of both, which moments in `f32` have none of.
pub(super) type Fields = [Range<usize>; 4];

/// A part of a group in a page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Among the layout's.
    pub group: usize,
    /// Of the group's parameters.
    pub elements: Range<usize>,
    /// Of the page's bytes.
    pub fields: Fields,
}

/// What is on the device together.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Page {
    /// Where it begins in the host's memory.
    pub start: usize,
    pub bytes: usize,
    pub parts: Vec<Part>,
}

impl Page {
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }
}

/// All pages.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct PageLayout {
    pub pages: Vec<Page>,
}

impl PageLayout {
    pub fn new(layout: &Layout) -> Self {
        let all = layout.groups.iter().map(|group| bytes(&group.state, group.params.len())).sum::<usize>();
        let least = bytes(&Place::Full(0..0), STATE_BLOCK);
        let room = all.div_ceil(FEWEST).clamp(least, LARGEST).next_multiple_of(ALIGNMENT);
        let (mut pages, mut page) = (Vec::new(), Page::default());
        for (index, group) in layout.groups.iter().enumerate() {
            let mut start = 0;
            while start < group.params.len() {
                let blocks = (room - page.bytes) / bytes(&group.state, STATE_BLOCK);
                if blocks == 0 {
                    let next = page.start + page.bytes;
                    pages.push(std::mem::replace(&mut page, Page { start: next, ..Page::default() }));
                    continue;
                }
                let end = group.params.len().min(start + blocks * STATE_BLOCK);
                let fields = fields(&group.state, end - start, page.bytes);
                page.bytes = fields[3].end.next_multiple_of(ALIGNMENT);
                page.parts.push(Part { group: index, elements: start..end, fields });
                start = end;
            }
        }
        if page.bytes > 0 {
            pages.push(page);
        }
        Self { pages }
    }

    /// Of the host's memory.
    pub fn host_bytes(&self) -> usize {
        self.pages.last().map_or(0, |page| page.range().end)
    }

    /// Of each lane.
    pub fn lane_bytes(&self) -> usize {
        self.pages.iter().map(|page| page.bytes).max().unwrap_or(0)
    }

    pub fn lanes(&self) -> usize {
        self.pages.len().min(LANES)
    }
}

/// Bytes of so many elements, aligned.
fn bytes(place: &Place, elements: usize) -> usize {
    fields(place, elements, 0)[3].end.next_multiple_of(ALIGNMENT)
}

/// Where what is kept for so many elements lies behind `start`.
fn fields(place: &Place, elements: usize, start: usize) -> Fields {
    let scales = 4 * elements.div_ceil(STATE_BLOCK);
    let lengths = match place {
        Place::Full(_) => [4 * elements, 4 * elements, 0, 0],
        Place::Blocks { .. } => [elements, elements, scales, scales],
    };
    let mut end = start;
    lengths.map(|bytes| {
        let from = end.next_multiple_of(size_of::<f32>());
        end = from + bytes;
        from..end
    })
}

/// Where the fields of a part are among the bytes of a checkpoint, which has each moment of all groups together.
pub(super) fn saved(layout: &Layout, group: &Group, elements: &Range<usize>) -> Fields {
    let all = [4 * layout.full, 4 * layout.full, layout.codes, layout.codes, 4 * layout.scales, 4 * layout.scales];
    let field = |which: usize, width: usize, first: usize, elements: &Range<usize>| {
        let start = all[..which].iter().sum::<usize>() + width * first;
        start + width * elements.start..start + width * elements.end
    };
    match &group.state {
        Place::Full(place) => {
            let [m, v] = [0, 1].map(|which| field(which, 4, place.start, elements));
            [m, v.clone(), v.end..v.end, v.end..v.end]
        }
        Place::Blocks { codes, scales } => {
            let blocks = elements.start / STATE_BLOCK..elements.end.div_ceil(STATE_BLOCK);
            let [m, v] = [2, 3].map(|which| field(which, 1, codes.start, elements));
            let [m_scales, v_scales] = [4, 5].map(|which| field(which, 4, scales.start, &blocks));
            [m, v, m_scales, v_scales]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of so many parameters each, every third with `f32` moments, if not all.
    fn layout(sizes: &[usize], all_full: bool) -> Layout {
        let (mut layout, mut at) = (Layout::default(), 0);
        for (index, size) in sizes.iter().enumerate() {
            if all_full || index % 3 == 0 {
                layout.push_full(at..at + size, false);
            } else {
                layout.push_blocks(at..at + size, true);
            }
            at += size;
        }
        layout
    }

    #[test]
    fn pages_hold_every_element_once_and_cut_no_block() {
        let sizes = [5000, 4097, 1, 300, 70_000, 4096, 256, 3, 1_000_003];
        for (sizes, all_full) in
            [(&sizes[..], false), (&sizes[..], true), (&sizes[1..2], true), (&sizes[7..8], true), (&[][..], true)]
        {
            let layout = layout(sizes, all_full);
            let pages = PageLayout::new(&layout);
            let mut seen: Vec<usize> = vec![0; layout.groups.len()];
            let mut kept = vec![0u8; layout.bytes()];
            let mut end = 0;
            for page in &pages.pages {
                assert_eq!(page.start, end);
                end = page.range().end;
                let mut filled = 0;
                for Part { group, elements, fields } in &page.parts {
                    assert_eq!(elements.start, seen[*group]);
                    assert!(elements.start.is_multiple_of(STATE_BLOCK) && !elements.is_empty());
                    seen[*group] = elements.end;
                    let saved = saved(&layout, &layout.groups[*group], elements);
                    for (saved, field) in saved.into_iter().zip(fields) {
                        assert_eq!(saved.len(), field.len());
                        assert!(field.start >= filled && field.end <= page.bytes);
                        filled = field.end;
                        kept[saved].iter_mut().for_each(|byte| *byte += 1);
                    }
                }
            }
            assert_eq!(seen, sizes);
            assert!(kept.iter().all(|count| *count == 1), "every byte of a checkpoint is in one page");
            assert_eq!(pages.host_bytes(), end);
            assert!(pages.lane_bytes() <= LARGEST);
            // What aligning takes is little beside moments that are worth paging.
            assert!(end <= layout.bytes() + layout.bytes() / 50 + 64 * (sizes.len() + pages.pages.len()));
        }
    }

    #[test]
    fn few_moments_are_cut_into_sixteen_and_many_into_pages_of_a_size() {
        let pages = |elements: usize| PageLayout::new(&layout(&[elements], true));
        assert_eq!((pages(1 << 16).pages.len(), pages(1 << 16).lane_bytes()), (16, 8 << 12));
        assert_eq!((pages(1 << 25).pages.len(), pages(1 << 25).lane_bytes()), (32, LARGEST));
        assert_eq!((pages(100).pages.len(), pages(100).lanes(), pages(100).host_bytes()), (1, 1, 832));
        assert_eq!((pages(0).lanes(), pages(0).lane_bytes(), pages(0).host_bytes()), (0, 0, 0));
    }
}
