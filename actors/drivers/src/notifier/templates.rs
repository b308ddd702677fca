//! The words of notices: one template for each kind, built in, each of which an operator may replace by a file.
//!
//! A template is rendered to `Subject: …`, an empty line, and the text. It can loop and branch over what the notice says, and
//! reach nothing else: no file, no other template, and not more than so many steps. The syntax is that of Jinja
//! (<https://docs.rs/minijinja>).
//!
//! | variable | in | is |
//! |---|---|---|
//! | `vm.id`, `vm.name` | all | the VM |
//! | `to` | all | `owner` or `operators` |
//! | `ends_at` | `lease-created`, `lease-expiring`, `lease-extended` | when the lease ends |
//! | `grace_until` | `lease-expired` | until when an answer is awaited, or none |
//! | `offer.by`, `offer.left` | `lease-expiring`, `lease-expired` | the extension that is possible; `offer` is none if there is none |
//! | `why` | the same | why there is none, or none |
//! | `link` | the same | the link that extends, or none |
//! | `new_vm` | `revived`, `delivered` | the new VM |
//! | `addresses`, `key` | `delivered` | its addresses, a public one first; the key pair that lets its owner in, or none |
//! | `reason` | `provision-failed` | why there is no VM |
//! | `alert`, `message` | `alert` | for what a human is needed, in one word and in words |
//!
//! Every template is tried with everything that a notice may say before a node uses it: a variable that is not there is an
//! error, with file and line.

use std::fmt;
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

use super::samples::samples;

/// The most bytes that a template may have, and that may come of it.
const MAX_BYTES: usize = 64 * 1024;
/// The most steps that rendering one may take.
const MAX_STEPS: u64 = 20_000;
/// The most files of a folder that are looked at.
const MAX_FILES: usize = 256;
/// The longest subject, in characters.
const MAX_SUBJECT: usize = 200;
/// What a template's first line begins with.
const SUBJECT: &str = "Subject:";
/// What the file of a template ends with.
const EXTENSION: &str = "txt";

/// Each kind of notice with its built-in template.
const BUILT_IN: [(&str, &str); 9] = [
    ("lease-created", include_str!("templates/lease-created.txt")),
    ("lease-expiring", include_str!("templates/lease-expiring.txt")),
    ("lease-expired", include_str!("templates/lease-expired.txt")),
    ("lease-extended", include_str!("templates/lease-extended.txt")),
    ("lease-ended", include_str!("templates/lease-ended.txt")),
    ("revived", include_str!("templates/revived.txt")),
    ("alert", include_str!("templates/alert.txt")),
    ("delivered", include_str!("templates/delivered.txt")),
    ("provision-failed", include_str!("templates/provision-failed.txt")),
];

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TemplateError {
    /// Its file, or the folder of all.
    pub file: PathBuf,
    /// The line, where there is one.
    pub line: Option<usize>,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.why),
            None => write!(f, "{}: {}", self.file.display(), self.why),
        }
    }
}

/// What came of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) subject: String,
    pub(super) text: String,
}

/// Why nothing came of it.
struct Wrong {
    line: Option<usize>,
    why: String,
}

/// The templates in use.
pub struct Templates {
    replaced: Environment<'static>,
    built_in: Environment<'static>,
}

impl Templates {
    /// Those that are built in.
    #[must_use]
    pub fn built_in() -> Self {
        let mut built_in = environment();
        for (name, source) in BUILT_IN {
            built_in.add_template(name, source).expect("a built-in template is well-formed; a test reads them all");
        }
        Self { replaced: environment(), built_in }
    }

    /// Those of a folder, and the built-in ones where it has none: `NAME.txt` for the notices of that name.
    ///
    /// # Errors
    /// Everything that is wrong with each file: see [`TemplateError`].
    pub fn read(folder: &Path) -> Result<Self, Vec<TemplateError>> {
        let mut templates = Self::built_in();
        let mut wrong = Vec::new();
        for file in files(folder).map_err(|error| vec![error])? {
            if let Err(Wrong { line, why }) = templates.replace(&file) {
                wrong.push(TemplateError { file, line, why });
            }
        }
        if wrong.is_empty() { Ok(templates) } else { Err(wrong) }
    }

    fn replace(&mut self, file: &Path) -> Result<(), Wrong> {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((name, _)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            let known = BUILT_IN.map(|(name, _)| name).join(", ");
            return Err(Wrong { line: None, why: format!("there is no notice {name:?}, expected one of {known}") });
        };
        let source = read(file).map_err(|why| Wrong { line: None, why })?;
        self.replaced.add_template_owned(*name, source).map_err(|error| wrong(&error))?;
        for sample in samples(name) {
            render(&self.replaced, name, &sample)?;
        }
        Ok(())
    }

    /// The words of a notice. A replaced template that fails all the same gives way to the built-in one: whoever is to be
    /// told is told.
    pub(super) fn render(&self, name: &'static str, says: &Value) -> Rendered {
        if self.replaced.get_template(name).is_ok() {
            match render(&self.replaced, name, says) {
                Ok(rendered) => return rendered,
                Err(Wrong { why, .. }) => {
                    tracing::error!(template = name, why, "a template fails; the built-in one is used");
                }
            }
        }
        render(&self.built_in, name, says).unwrap_or_else(|Wrong { why, .. }| {
            tracing::error!(template = name, why, "a built-in template fails");
            Rendered { subject: name.to_owned(), text: says.to_string() }
        })
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment
}

/// The files of templates in a folder, in order of their names. What is no `.txt` is left alone: editors leave copies.
fn files(folder: &Path) -> Result<Vec<PathBuf>, TemplateError> {
    let unreadable = |error: std::io::Error| TemplateError {
        file: folder.to_owned(),
        line: None,
        why: format!("the folder of templates cannot be read: {error}"),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)?.take(MAX_FILES) {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, String> {
    use std::io::Read;

    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("is larger than {} KiB", MAX_BYTES / 1024));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

fn render(environment: &Environment<'_>, name: &str, says: &Value) -> Result<Rendered, Wrong> {
    let template = environment.get_template(name).map_err(|error| wrong(&error))?;
    let rendered = template.render(Serde(says)).map_err(|error| wrong(&error))?;
    if rendered.len() > MAX_BYTES {
        return Err(Wrong { line: None, why: format!("gives more than {} KiB", MAX_BYTES / 1024) });
    }
    let not_a_letter = |line, why: &str| Wrong { line: Some(line), why: why.to_owned() };
    let (first, rest) = rendered.split_once('\n').unwrap_or((&rendered, ""));
    let subject = first.strip_prefix(SUBJECT).map(str::trim).filter(|subject| !subject.is_empty());
    let subject = subject.ok_or_else(|| not_a_letter(1, "expected a first line \"Subject: …\""))?;
    let (second, text) = rest.split_once('\n').unwrap_or((rest, ""));
    if !second.trim().is_empty() {
        return Err(not_a_letter(2, "expected an empty line after the subject"));
    }
    let text = text.trim_end();
    if text.is_empty() {
        return Err(not_a_letter(3, "expected a text after the subject"));
    }
    Ok(Rendered { subject: subject.chars().take(MAX_SUBJECT).collect(), text: format!("{text}\n") })
}

fn wrong(error: &minijinja::Error) -> Wrong {
    let why = match error.kind() {
        ErrorKind::OutOfFuel => format!("takes more than {MAX_STEPS} steps"),
        kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    Wrong { line: error.line(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn refused(name: &str, text: &str) -> String {
        let folder = folder(&[(name, text)]);
        let wrong = Templates::read(folder.path()).err().expect("the template is refused");
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        wrong.join("\n").replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn every_built_in_template_says_all_that_its_notice_may_say() {
        let templates = Templates::built_in();
        for (name, _) in BUILT_IN {
            for sample in samples(name) {
                let rendered =
                    render(&templates.built_in, name, &sample).unwrap_or_else(|wrong| panic!("{name}: {}", wrong.why));
                assert!(!rendered.text.contains("none") && !rendered.text.contains("{{"), "{name}: {}", rendered.text);
                if let Some(link) = sample["link"].as_str().filter(|_| !sample["offer"].is_null()) {
                    assert!(rendered.text.contains(link), "{name}: {}", rendered.text);
                }
            }
        }
    }

    #[test]
    fn a_file_replaces_its_template_and_no_other() {
        let folder = folder(&[
            ("revived.txt", "Subject: {{ vm.name }} ist wieder da\n\nAls {{ new_vm }}.\n"),
            ("alert.txt~", "{{"),
        ]);
        let templates = Templates::read(folder.path()).unwrap();
        let sample = &samples("revived")[0];
        assert!(templates.render("revived", sample).subject.ends_with("ist wieder da"));
        assert!(templates.render("lease-ended", &samples("lease-ended")[0]).subject.ends_with("is over"));
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said_with_file_and_line() {
        for (text, expected) in [
            ("Subject: x\n\n{% if offer %}", "lease-expiring.txt:3: syntax error"),
            ("Subject: x\n\na\n{{ end_at }}\n", "lease-expiring.txt:4: undefined value"),
            ("Subject: x\n\na\n{{ vm.nam }}\n", "lease-expiring.txt:4: undefined value"),
            // Only where there is no offer.
            ("Subject: x\n\na\n{% if not offer %}\n{{ wy }}\n{% endif %}", "lease-expiring.txt:5: undefined value"),
            ("Subject: x\n\n{{ ends_at | shout }}\n", "lease-expiring.txt:3: unknown filter"),
            ("Dear owner,\n\nx\n", "lease-expiring.txt:1: expected a first line \"Subject: …\""),
            ("Subject: x\nno empty line\n", "lease-expiring.txt:2: expected an empty line"),
            ("Subject: x\n\n\n", "lease-expiring.txt:3: expected a text"),
            ("", "lease-expiring.txt:1: expected a first line"),
        ] {
            let message = refused("lease-expiring.txt", text);
            assert!(message.starts_with(expected), "{expected}\n{message}");
        }
        let message = refused("lease-expirng.txt", "x");
        assert!(message.contains("there is no notice \"lease-expirng\", expected one of lease-created"), "{message}");
        assert!(refused("alert.txt", &"x".repeat(MAX_BYTES + 1)).contains("is larger than 64 KiB"));
    }

    #[test]
    fn a_template_reaches_no_file_and_ends() {
        for text in [
            "Subject: x\n\n{% include \"/etc/hostname\" %}\n",
            "Subject: x\n\n{% extends \"alert\" %}\n",
            "Subject: x\n\n{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}\n",
        ] {
            refused("alert.txt", text);
        }
        let message = refused("alert.txt", "Subject: x\n\n{% for a in range(9999) %}xxxxxxxxxxxx{% endfor %}\n");
        assert!(message.contains("takes more than") || message.contains("gives more than"), "{message}");
    }

    #[test]
    fn a_template_that_fails_in_use_gives_way_to_the_built_in_one() {
        let mut templates = Templates::built_in();
        templates.replaced.add_template("revived", "Subject: x\n\n{{ not_there }}\n").unwrap();
        assert!(templates.render("revived", &samples("revived")[0]).subject.ends_with("lives again"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let wrong = Templates::read(Path::new("/nowhere/templates")).err().unwrap();
        assert!(wrong[0].to_string().starts_with("/nowhere/templates: the folder of templates cannot be read"));
    }
}
