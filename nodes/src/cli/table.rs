//! Aligned columns without borders, as kubectl and ls print them.

use unicode_width::UnicodeWidthStr;

/// The space between two columns.
const GAP: usize = 2;

/// How a word feels; colour on terminals, nothing elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it is.
    Plain,
    /// All is well.
    Good,
    /// Something goes on, or comes near.
    Notice,
    /// Something is wrong.
    Bad,
    /// Over, or nothing.
    Faint,
}

impl Tone {
    /// The tone of a state, by its own word.
    #[must_use]
    pub(super) fn of(word: &str) -> Self {
        match word.split('(').next().unwrap_or_default() {
            "active" | "up" | "verified" | "succeeded" | "ready" => Self::Good,
            "warned" | "grace" | "ending" | "suspect" | "repairing" | "paused" | "building" | "running"
            | "deleting" | "suspended" | "parked" | "draining" | "drained" => Self::Notice,
            "down" | "lost" | "error" | "failed" | "damaged" | "needs_operator" => Self::Bad,
            "none" | "ended" | "deleted" | "unknown" | "exempt" | "-" => Self::Faint,
            _ => Self::Plain,
        }
    }

    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Notice => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
        }
    }

    /// The text in its colour.
    #[must_use]
    pub(super) fn paint(self, text: &str, color: Color) -> String {
        match (self.code(), color) {
            (Some(code), Color::On) if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            (Some(_) | None, Color::On | Color::Off) => text.to_owned(),
        }
    }
}

/// Whether colour is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    /// On a terminal.
    On,
    /// Elsewhere, or where it is not wanted.
    Off,
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A plain cell; nothing is shown as `-`.
    #[must_use]
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref());
        Self { text: if text.is_empty() { "-".into() } else { text }, tone: Tone::Plain }
    }

    /// A cell with the tone of its own word.
    #[must_use]
    pub(super) fn state(word: impl AsRef<str>) -> Self {
        let cell = Self::new(word);
        Self { tone: Tone::of(&cell.text), ..cell }
    }
}

/// Foreign text without what would move the cursor or change colours: names come from clouds and their users.
#[must_use]
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for text of several lines.
#[must_use]
pub(super) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// Marks that reorder text, which is as misleading on a screen as an escape sequence.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Renders rows under a header; no rows give the header only. Lines end without spaces.
#[must_use]
pub(super) fn rows(header: &[&str], rows: &[Vec<Cell>], color: Color) -> String {
    let mut widths: Vec<usize> = header.iter().map(|name| name.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    let header: Vec<Cell> = header.iter().map(Cell::new).collect();
    std::iter::once(&header).chain(rows).map(|row| line(row, &widths, color)).collect()
}

/// Renders names and values, one pair a line.
#[must_use]
pub(super) fn pairs(pairs: &[(&str, Cell)], color: Color) -> String {
    let width = pairs.iter().map(|(name, _)| name.width()).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| line(&[Cell::new(name), value.clone()], &[width, 0], color)).collect()
}

fn line(row: &[Cell], widths: &[usize], color: Color) -> String {
    let mut line = String::new();
    let mut pending = 0;
    for (cell, width) in row.iter().zip(widths) {
        line.push_str(&" ".repeat(pending));
        line.push_str(&cell.tone.paint(&cell.text, color));
        pending = GAP + width.saturating_sub(cell.text.width());
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_what_is_seen() {
        let table = rows(
            &["NAME", "STATE"],
            &[vec![Cell::new("名前"), Cell::state("up")], vec![Cell::new("a-long-name"), Cell::state("down")]],
            Color::Off,
        );
        assert_eq!(table, "NAME         STATE\n名前         up\na-long-name  down\n");
        let coloured = rows(&["S", "T"], &[vec![Cell::state("up"), Cell::new("x")]], Color::On);
        assert_eq!(coloured, "S   T\n\x1b[32mup\x1b[0m  x\n");
    }

    #[test]
    fn a_name_cannot_play_with_the_terminal() {
        assert_eq!(Cell::new("a\x1b[31m\u{202e}b").text, "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(Cell::new("").text, "-");
    }
}
