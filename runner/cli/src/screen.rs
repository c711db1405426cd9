//! Standard error as the live display draws on it, correct when the terminal was resized since the last drawing.
//!
//! Each line of the display fills its row to the last column, and the next begins where the terminal wraps. To a terminal
//! that lays lines out anew when it is resized, all of them are one long line, so the rows that it takes afterwards follow
//! from its cells. All of them are cleared then; else one would stay behind.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

#[derive(Debug, Default)]
pub struct Screen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Not written yet.
    text: String,
    /// Columns when the display was last drawn.
    columns: u16,
    /// The display shows something.
    drawn: bool,
    /// Something was written since the last flush.
    drawing: bool,
}

impl Screen {
    fn state(&self) -> MutexGuard<'_, State> {
        // Text is added whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, text: &str) {
        self.state().text.push_str(text);
    }
}

impl State {
    /// To the first row of a display whose last row is `rows` below it, on a terminal of `columns` now.
    fn up(&mut self, rows: usize, columns: u16) {
        let resized = self.drawn && self.columns != columns && columns > 0;
        let rows = if resized { rows_of((rows + 1) * usize::from(self.columns), columns) - 1 } else { rows };
        if rows > 0 {
            self.text.push_str(&format!("\u{1b}[{rows}A"));
        }
        if resized {
            self.text.push_str("\r\u{1b}[J");
            self.columns = columns;
        }
    }
}

/// Rows that so many cells in a line take, at least one.
fn rows_of(cells: usize, columns: u16) -> usize {
    cells.div_ceil(usize::from(columns)).max(1)
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| width.0)
    }

    fn height(&self) -> u16 {
        terminal_size::terminal_size_of(io::stderr()).map_or(24, |(_, height)| height.0)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let columns = self.width();
        self.state().up(n, columns);
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.add(&format!("\u{1b}[{n}B"));
        }
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.add(&format!("\u{1b}[{n}C"));
        }
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.add(&format!("\u{1b}[{n}D"));
        }
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        let mut state = self.state();
        state.drawing = true;
        state.text.push_str(text);
        state.text.push('\n');
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut state = self.state();
        state.drawing |= text != "\r";
        state.text.push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\u{1b}[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let columns = self.width();
        let mut state = self.state();
        (state.drawn, state.drawing, state.columns) = (state.drawing, false, columns);
        let text = std::mem::take(&mut state.text);
        let mut out = io::stderr().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(drawn: bool, from: u16, to: u16, rows: usize) -> String {
        let mut state = State { columns: from, drawn, ..State::default() };
        state.up(rows, to);
        state.text
    }

    #[test]
    fn all_rows_of_a_resized_display_are_cleared() {
        assert_eq!(moved(true, 80, 80, 0), "");
        assert_eq!(moved(true, 80, 80, 2), "\u{1b}[2A");
        assert_eq!(moved(true, 100, 60, 0), "\u{1b}[1A\r\u{1b}[J", "one line of 100 cells takes two rows of 60");
        assert_eq!(moved(true, 80, 50, 2), "\u{1b}[4A\r\u{1b}[J", "240 cells take five");
        assert_eq!(moved(true, 60, 120, 1), "\r\u{1b}[J", "and after growth fewer than before");
        assert_eq!(moved(false, 100, 60, 0), "", "nothing is drawn");
    }

    #[test]
    fn it_is_moved_and_cleared_once_for_a_resize() {
        let mut state = State { columns: 100, drawn: true, ..State::default() };
        state.up(0, 60);
        state.up(1, 60);
        assert_eq!(state.text, "\u{1b}[1A\r\u{1b}[J\u{1b}[1A");
    }
}
