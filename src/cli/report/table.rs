//! Tables for people: aligned columns on a terminal.

use std::io::IsTerminal;

use console::measure_text_width;
use scuttleup::Printable;

/// The number of rows that set the widths of the columns. A later row with a longer cell moves its other cells to the right, so that
/// a table of any length needs little memory.
const MEASURED_ROWS: usize = 1000;
/// The space between two columns.
const GAP: &str = "  ";

/// Whether the data of a command is printed for people: `place` is a terminal, and the user has not given --json.
pub fn is_wanted(place: &impl IsTerminal, json: bool) -> bool {
    place.is_terminal() && !json
}

/// Whether a terminal shows colours, and its user wants them: see <https://no-color.org>. An empty variable counts as unset.
pub fn has_colour() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The colour of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Something that belongs to this log.
    Own,
    /// Something that is missing.
    Pruned,
    /// Something that is wrong.
    Bad,
}

impl Mark {
    fn code(self) -> &'static str {
        match self {
            Self::Own => "32",
            Self::Pruned => "33",
            Self::Bad => "31",
        }
    }
}

/// Words in the last cell of a row, some of them with a colour.
#[derive(Default)]
pub struct Marks(Vec<(String, Option<Mark>)>);

impl Marks {
    /// Adds words if `is_due`.
    pub fn add(&mut self, is_due: bool, mark: impl Into<Option<Mark>>, text: impl Into<String>) {
        if is_due {
            self.0.push((Printable(&text.into()).to_string(), mark.into()));
        }
    }
}

/// A column. If no column of a table has a name, the table has no line of names.
pub struct Column {
    name: &'static str,
    is_number: bool,
}

impl Column {
    /// A column of text.
    pub const fn text(name: &'static str) -> Self {
        Self { name, is_number: false }
    }

    /// A column of numbers.
    pub const fn number(name: &'static str) -> Self {
        Self { name, is_number: true }
    }
}

struct Row {
    cells: Vec<String>,
    marks: Marks,
}

/// A table. Its last column is that of the marks, which has no name.
pub struct Table {
    columns: &'static [Column],
    has_colour: bool,
    /// The rows before the widths are known.
    rows: Vec<Row>,
    widths: Option<Vec<usize>>,
    text: String,
}

impl Table {
    pub fn new(columns: &'static [Column]) -> Self {
        Self { columns, has_colour: has_colour(), rows: Vec::new(), widths: None, text: String::new() }
    }

    /// Adds a row: a cell for each column, and marks.
    pub fn add(&mut self, cells: impl IntoIterator<Item = String>, marks: Marks) {
        let row = Row { cells: cells.into_iter().map(|cell| Printable(&cell).to_string()).collect(), marks };
        if self.widths.is_some() {
            return self.put(&row);
        }
        self.rows.push(row);
        if self.rows.len() == MEASURED_ROWS {
            self.put_measured();
        }
    }

    /// The lines that are complete.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text).into_bytes()
    }

    /// The lines that are left. A table without rows has no lines.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.rows.is_empty() {
            self.put_measured();
        }
        self.take()
    }

    /// Measures the rows so far, and adds the names of the columns and these rows to the text.
    fn put_measured(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let mut widths: Vec<usize> = self.columns.iter().map(|column| measure_text_width(column.name)).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = measure_text_width(cell).max(*width);
            }
        }
        self.widths = Some(widths);
        let names: Vec<String> = self.columns.iter().map(|column| column.name.to_owned()).collect();
        if names.iter().any(|name| !name.is_empty()) {
            self.put(&Row { cells: names, marks: Marks::default() });
        }
        rows.iter().for_each(|row| self.put(row));
    }

    fn put(&mut self, row: &Row) {
        let Some(widths) = &self.widths else { return };
        let start = self.text.len();
        for (nth, ((cell, width), column)) in row.cells.iter().zip(widths).zip(self.columns).enumerate() {
            let space = " ".repeat(width.saturating_sub(measure_text_width(cell)));
            let (before, after) = if column.is_number { (&*space, "") } else { ("", &*space) };
            let gap = if nth == 0 { "" } else { GAP };
            self.text.extend([gap, before, cell, after]);
        }
        for (nth, (text, mark)) in row.marks.0.iter().enumerate() {
            self.text.push_str(if nth == 0 { GAP } else { ", " });
            match mark.filter(|_| self.has_colour) {
                Some(mark) => self.text.extend(["\x1b[", mark.code(), "m", text, "\x1b[0m"]),
                None => self.text.push_str(text),
            }
        }
        let end = start + self.text[start..].trim_end_matches(' ').len();
        self.text.truncate(end);
        self.text.push('\n');
    }
}

/// A number of bytes for people, such as 1.5 MiB.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10240 {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    let decimal = if tenths < 1000 { format!(".{}", tenths % 10) } else { String::new() };
    format!("{}{decimal} {}", tenths / 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_399, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    const COLUMNS: [Column; 2] = [Column::text("peer"), Column::number("seq")];

    fn lines(table: Table) -> String {
        String::from_utf8(Table { has_colour: false, ..table }.finish()).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let mut table = Table::new(&COLUMNS);
        for (peer, seq) in [("日本", 7), ("a\u{301}b", 1000), ("x\u{202e}", 2)] {
            table.add([peer.to_owned(), seq.to_string()], Marks::default());
        }
        assert_eq!(lines(table), "peer        seq\n日本          7\na\u{301}b         1000\nx\\u{202e}     2\n");
    }

    #[test]
    fn a_long_table_keeps_few_rows() {
        let mut table = Table::new(&COLUMNS);
        let mut bytes = 0;
        for n in 0..100_000 {
            table.add([format!("peer-{n}"), n.to_string()], Marks::default());
            bytes += table.take().len();
            assert!(table.rows.len() < MEASURED_ROWS);
        }
        assert!(bytes > 1_000_000);
        assert_eq!(table.finish(), b"");
    }
}
