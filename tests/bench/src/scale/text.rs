//! Numbers and tables as the pages have them.

/// A number as people read it: three digits that matter, and thousands apart.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        _ => return format!("{value:.1e}"),
    };
    let told = format!("{value:.digits$}");
    let (whole, rest) = told.split_once('.').unwrap_or((&told, ""));
    let rest = rest.trim_end_matches('0');
    let grouped = thousands(whole);
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

fn thousands(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut told = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

/// Bytes with the unit that fits.
pub(super) fn bytes(value: f64) -> String {
    let mut left = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if left.abs() < 1024.0 {
            return format!("{} {unit}", number(left));
        }
        left /= 1024.0;
    }
    format!("{} TiB", number(left))
}

/// A value in its unit.
pub(super) fn of_unit(value: f64, unit: &str) -> String {
    match unit {
        "B" => bytes(value),
        "" => number(value),
        unit if unit.starts_with('/') => format!("{}{unit}", number(value)),
        unit => format!("{} {unit}", number(value)),
    }
}

/// A share: in percent, or in times where it is large.
pub(super) fn share(value: f64) -> String {
    if value >= 10.0 { format!("{} times", number(value)) } else { format!("{} %", number(value * 100.0)) }
}

/// So many VMs, rounded down to two digits that matter: more would say more than is known.
pub(super) fn vms(value: Option<f64>) -> String {
    let Some(value) = value else { return "never".to_owned() };
    if value < 1.0 {
        return "always".to_owned();
    }
    let scale = 10f64.powf(value.log10().floor() - 1.0).max(1.0);
    number((value / scale).floor() * scale)
}

/// The text with its paragraphs in lines of ordinary length. Tables stay as they are.
pub(super) fn wrap(text: &str) -> String {
    const WIDTH: usize = 120;
    let mut wrapped = String::new();
    for line in text.lines() {
        if line.starts_with('|') || line.len() <= WIDTH {
            wrapped.push_str(line);
        } else {
            let mut width = 0;
            for word in line.split(' ') {
                if width > 0 && width + 1 + word.len() > WIDTH {
                    wrapped.push('\n');
                    width = 0;
                } else if width > 0 {
                    wrapped.push(' ');
                    width += 1;
                }
                wrapped.push_str(word);
                width += word.len();
            }
        }
        wrapped.push('\n');
    }
    wrapped
}

/// A table in Markdown.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(header.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_thousands() {
        let told = [0.0, 0.125, 1.5, 12.34, 999.6, 1234.0, 10e6, -4321.0].map(number);
        assert_eq!(told, ["0", "0.125", "1.5", "12.3", "1,000", "1,234", "10,000,000", "-4,321"]);
    }

    #[test]
    fn sizes_shares_and_vms_are_told_in_what_fits() {
        assert_eq!((bytes(512.0), bytes(8.0 * 1073741824.0)), ("512 B".to_owned(), "8 GiB".to_owned()));
        assert_eq!((share(0.5), share(1.25), share(20.0)), ("50 %".into(), "125 %".into(), "20 times".into()));
        assert_eq!(
            (vms(Some(4_567_890.0)), vms(None), vms(Some(0.0))),
            ("4,500,000".into(), "never".into(), "always".into())
        );
    }

    #[test]
    fn paragraphs_are_wrapped_and_tables_are_not() {
        let (word, row) = ("word ".repeat(40), format!("| {} |", "cell ".repeat(40)));
        let wrapped = wrap(&format!("{}\n{row}\n", word.trim()));
        let lines: Vec<&str> = wrapped.lines().collect();
        assert_eq!((lines.len(), lines[2]), (3, row.as_str()));
        assert!(lines[..2].iter().all(|line| line.len() <= 120 && !line.ends_with(' ')), "{wrapped}");
    }

    #[test]
    fn a_cell_cannot_break_its_table() {
        assert_eq!(table(&["a"], &[vec!["b|c".into()]]), "| a |\n|---|\n| b\\|c |\n");
    }
}
