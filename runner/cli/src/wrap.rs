//! Breaking long lines at the columns of a terminal, so that paths and commands stay whole where they fit on a line.

/// Columns that a continued line has at least, whatever its indent.
const NARROWEST: usize = 20;

/// Breaks each line that is longer than `columns` between its words and indents what follows: below the text after a label
/// such as `hint:`, else by two columns more than the line. A text in backticks counts as one word unless it is longer than
/// a line; a word that is longer than a line, such as a path, is left for the terminal to break.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> String {
    text.split('\n').map(|line| wrap_line(line, columns)).collect::<Vec<_>>().join("\n")
}

fn wrap_line(line: &str, columns: usize) -> String {
    if width(line) <= columns {
        return line.to_owned();
    }
    let body = line.trim_start_matches(' ');
    let margin = line.len() - body.len();
    let hanging = (margin + label(body).unwrap_or(2)).min(columns.saturating_sub(NARROWEST));
    let mut out = " ".repeat(margin);
    let (mut at, mut begun) = (margin, false);
    for word in words(body, columns - hanging) {
        let length = width(word);
        if begun && at + 1 + length > columns {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.push_str(&" ".repeat(hanging));
            at = hanging;
        } else if begun {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += length;
        begun = true;
    }
    out
}

/// Columns of a label at the start, the space after it included.
fn label(body: &str) -> Option<usize> {
    ["error:", "warning:", "hint:", "caused by:"].iter().find_map(|label| {
        let at = body.find(label)?;
        let columns = width(body.get(..at + label.len())?);
        (columns == label.len()).then_some(columns + 1)
    })
}

/// Parts between single spaces; a text in backticks is one part if it is at most `longest` columns.
fn words(body: &str, longest: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let mut end = rest.find(' ').unwrap_or(rest.len());
        // From an opening backtick to the space after the closing one.
        if rest[..end].matches('`').count() % 2 == 1
            && let Some(close) = rest[end..].find('`')
        {
            let close = end + close;
            let until = rest[close..].find(' ').map_or(rest.len(), |space| close + space);
            if width(&rest[..until]) <= longest {
                end = until;
            }
        }
        words.push(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or("");
    }
    words
}

/// Columns that a text takes, colour left out.
fn width(text: &str) -> usize {
    let (mut columns, mut escape) = (0, false);
    for character in text.chars() {
        match (escape, character) {
            (false, '\u{1b}') => escape = true,
            (true, end) => escape = !end.is_ascii_alphabetic(),
            (false, _) => columns += 1,
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_hang_and_commands_stay_whole() {
        let text = "error: the store `/a/b` cannot be written, because its file system is full\n  caused by: failed to open \
                    file `/a/b/c d/e`: Read-only file system (os error 30)\n\nhint: check the mode, or run \
                    `luthier gc --dry-run --keep 3` to see what the store can give back";
        insta::assert_snapshot!(wrap(text, 44), @r"
        error: the store `/a/b` cannot be written,
               because its file system is full
          caused by: failed to open file
                     `/a/b/c d/e`: Read-only file
                     system (os error 30)

        hint: check the mode, or run
              `luthier gc --dry-run --keep 3` to see
              what the store can give back
        ");
        assert_eq!(wrap(text, 200), text);
    }

    #[test]
    fn colour_takes_no_columns_and_long_words_are_not_broken() {
        let coloured = "\u{1b}[1;36mhint:\u{1b}[0m read the file";
        assert_eq!(wrap(coloured, 19), coloured);
        // Too narrow for a hanging indent.
        assert_eq!(wrap(coloured, 18), "\u{1b}[1;36mhint:\u{1b}[0m read the\nfile");
        let path = format!("it is at /{}", "x".repeat(60));
        assert_eq!(wrap(&path, 40), format!("it is at\n  /{}", "x".repeat(60)));
        let command = format!("`run {} now`", "x".repeat(60));
        assert_eq!(wrap(&command, 40), format!("`run\n  {}\n  now`", "x".repeat(60)));
    }

    #[test]
    fn nothing_but_spaces_and_breaks_is_changed() {
        let text =
            "  warning: adapter: `a  b` — two  spaces, a `lone backtick, and a path /x/y/z (hint: `luthier run`)";
        for columns in 22..110 {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let wrapped = wrap(text, columns);
            assert_eq!(squeezed(&wrapped), squeezed(text), "{columns}");
            assert!(wrapped.lines().all(|line| width(line) <= columns), "{columns}\n{wrapped}");
        }
    }
}
