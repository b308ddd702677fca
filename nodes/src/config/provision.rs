//! `[provision]`: who may ask for VMs, and for which; and the templates of their user data.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use reeve_protocol::Span;
use reeve_runtime::ProvisionRules;
use reeve_runtime::admission::check_template;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// What the file of a template ends with.
const EXTENSION: &str = "j2";
/// The most bytes of a template.
const MAX_BYTES: u64 = 64 * 1024;
/// The most files of a folder that are looked at.
const MAX_FILES: usize = 256;

/// `[provision]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProvisionSection {
    /// Roles of which a user who asks needs one; operators need none. Default none: operators alone may ask.
    pub roles: Vec<String>,
    /// The images that may be asked for, as requests name them. Default: any.
    pub images: Vec<String>,
    /// The flavors that may be asked for. Default: any.
    pub flavors: Vec<String>,
    /// The networks that may be asked for. Default: any.
    pub networks: Vec<String>,
    /// The networks that public addresses may be asked from. Default: any.
    pub public_networks: Vec<String>,
    /// The most volumes of a VM, at most 16. Default 4.
    pub max_volumes: usize,
    /// The most GiB of all volumes of a VM. Default 1024.
    pub max_volume_gib: u64,
    /// How long a VM may take until it is ready, where a request does not say; then what was made is taken back.
    /// Default `15m`.
    pub within: Span,
    /// The longest that a request may say. Default `2h`.
    pub max_within: Span,
    /// The folder of the templates of user data: `NAME.j2` for the template NAME. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<PathBuf>,
}

impl Default for ProvisionSection {
    fn default() -> Self {
        let ProvisionRules {
            roles,
            images,
            flavors,
            networks,
            public_networks,
            max_volumes,
            max_volume_gib,
            within,
            max_within,
            templates: _,
        } = ProvisionRules::default();
        Self {
            roles,
            images,
            flavors,
            networks,
            public_networks,
            max_volumes,
            max_volume_gib,
            within,
            max_within,
            templates: None,
        }
    }
}

impl ProvisionSection {
    /// As the runtime takes it.
    ///
    /// # Errors
    /// What is wrong with each template.
    pub fn to_rules(&self) -> Result<ProvisionRules, Vec<Problem>> {
        Ok(ProvisionRules {
            roles: self.roles.clone(),
            images: self.images.clone(),
            flavors: self.flavors.clone(),
            networks: self.networks.clone(),
            public_networks: self.public_networks.clone(),
            max_volumes: self.max_volumes,
            max_volume_gib: self.max_volume_gib,
            within: self.within,
            max_within: self.max_within,
            templates: self.templates.as_deref().map_or(Ok(BTreeMap::new()), read)?,
        })
    }

    /// The keys that make no sense, and what was expected.
    pub(super) fn wrong(&self) -> Vec<(&'static str, String)> {
        let most = reeve_protocol::provision::MAX_VOLUMES;
        let within = format!("is longer than provision.max_within, {}", self.max_within);
        [
            ("max_volumes", self.max_volumes > most, format!("expected at most {most}")),
            ("within", self.within.is_zero(), "expected more than 0s".to_owned()),
            ("within", self.within > self.max_within, within),
        ]
        .into_iter()
        .filter_map(|(key, wrong, expected)| wrong.then_some((key, expected)))
        .collect()
    }
}

fn problem(file: &Path, line: Option<usize>, message: String) -> Problem {
    let file = file.display();
    let place = line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"));
    Problem { place, key: "provision.templates".to_owned(), message }
}

/// The templates of a folder by name. What has another ending is left alone: editors leave copies.
fn read(folder: &Path) -> Result<BTreeMap<String, String>, Vec<Problem>> {
    let unreadable = |error: std::io::Error| vec![problem(folder, None, format!("the folder cannot be read: {error}"))];
    let (mut templates, mut wrong) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(unreadable)?.take(MAX_FILES) {
        let file = entry.map_err(unreadable)?.path();
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if name.is_empty() || name.starts_with('.') || file.extension().is_none_or(|ending| ending != EXTENSION) {
            continue;
        }
        match template(&file) {
            Ok(source) => drop(templates.insert(name.to_owned(), source)),
            Err((line, why)) => wrong.push(problem(&file, line, why)),
        }
    }
    if wrong.is_empty() { Ok(templates) } else { Err(wrong) }
}

fn template(file: &Path) -> Result<String, (Option<usize>, String)> {
    let source = text(file).map_err(|why| (None, why))?;
    check_template(&source)?;
    Ok(source)
}

fn text(file: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {} KiB", MAX_BYTES / 1024));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_templates_by_name_and_names_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("web.j2", "#cloud-config\n{{ name }}\n");
        write("web.j2~", "{% if %}");
        let section = ProvisionSection { templates: Some(folder.path().into()), ..ProvisionSection::default() };
        assert_eq!(section.to_rules().unwrap().templates.keys().collect::<Vec<_>>(), ["web"]);
        write("db.j2", "one\n{% if %}");
        let wrong = section.to_rules().unwrap_err();
        let [problem] = &wrong[..] else { panic!("{wrong:?}") };
        assert!(problem.place.ends_with("db.j2:2") && problem.message.contains("block"), "{problem}");
    }

    #[test]
    fn limits_that_make_no_sense_are_named() {
        let section = ProvisionSection { within: Span::from_hours(3), max_volumes: 17, ..ProvisionSection::default() };
        let keys: Vec<&str> = section.wrong().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["max_volumes", "within"]);
    }
}
