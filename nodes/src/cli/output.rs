//! What commands print, and how: a table for people, JSON or YAML for programs.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::fail::{Code, Failure};
use super::table::Color;

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    Table,
    /// The API's own objects; lists are arrays.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Talk {
    /// Everything.
    Normal,
    /// Ids in lists, nothing from commands that only do something.
    Quiet,
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// How they look.
    pub(super) format: Format,
    /// How much is said.
    pub(super) talk: Talk,
    /// Whether in colour.
    pub(super) color: Color,
}

/// How one result is shown in each form.
pub(super) struct View<'a, T> {
    /// The object or list itself.
    pub(super) value: &'a T,
    /// For people.
    pub(super) table: &'a dyn Fn(Color) -> String,
    /// With `--quiet`, one a line.
    pub(super) ids: Vec<String>,
}

impl Output {
    /// Prints a result.
    pub(super) fn show<T: Serialize>(&self, view: &View<'_, T>) -> Result<(), Failure> {
        match (self.talk, self.format) {
            (Talk::Quiet, Format::Table) => self.text(&view.ids.iter().map(|id| format!("{id}\n")).collect::<String>()),
            (Talk::Normal, Format::Table) => self.text(&(view.table)(self.color)),
            (Talk::Normal | Talk::Quiet, Format::Json | Format::Yaml) => self.value(view.value),
        }
    }

    /// Prints a value for programs: YAML if asked for, else JSON.
    pub(super) fn value<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let unwritable =
            |error: &dyn std::fmt::Display| Failure::new(Code::Failed, "cannot write the result").because(error);
        match self.format {
            Format::Yaml => self.text(&serde_norway::to_string(value).map_err(|error| unwritable(&error))?),
            Format::Table | Format::Json => {
                let text = serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?;
                self.text(&format!("{text}\n"))
            }
        }
    }

    /// Prints text as it is, whole.
    pub(super) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// Says something to people beside the result, on standard error.
    pub(super) fn note(&self, text: &str) {
        if self.talk == Talk::Normal {
            self.warn(text);
        }
    }

    /// Says what a program that reads the result must not miss, on standard error, quiet or not.
    pub(super) fn warn(&self, text: &str) {
        // Nobody can be told that nobody listens.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Reports why the command failed, on standard error.
    pub(super) fn failure(&self, failure: &Failure) {
        let text = match self.format {
            Format::Json => failure.json().to_string(),
            Format::Table | Format::Yaml => format!("error: {}", super::table::clean_lines(&failure.to_string())),
        };
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// Colour only where a person sees it, and wants it (<https://no-color.org>).
#[must_use]
pub(super) fn color(no_color: bool) -> Color {
    let unwanted = no_color
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if !unwanted && io::stdout().is_terminal() { Color::On } else { Color::Off }
}

/// Whether a person sits at the other end of both input and messages.
#[must_use]
pub(super) fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
