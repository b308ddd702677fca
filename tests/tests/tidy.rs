//! The rules of the house that neither the compiler nor clippy holds: who may depend on whom, how a file looks, what
//! never gets into the tree.
//!
//! Every message says where and what to do. A rule that stands in the way is changed here, with its reason, rather
//! than worked around.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

/// A room and the rooms it may depend on; ARCHITECTURE.md has the reasons.
const LAYERS: [(&str, &[&str]); 9] = [
    ("protocol", &[]),
    ("actors/lifecycle", &["reeve-protocol"]),
    ("actors/ports", &["reeve-protocol", "reeve-lifecycle"]),
    ("actors/drivers", &["reeve-protocol", "reeve-lifecycle", "reeve-ports"]),
    ("actors/runtime", &["reeve-protocol", "reeve-lifecycle", "reeve-ports"]),
    ("cluster", &["reeve-protocol", "reeve-ports"]),
    ("nodes", ALL),
    ("tests", ALL),
    ("tests/bench", EVEN_TESTS),
];

/// All but the last of [`EVEN_TESTS`].
const ALL: &[&str] = EVEN_TESTS.split_at(EVEN_TESTS.len() - 1).0;

/// The benchmarks start the same servers as the tests.
const EVEN_TESTS: &[&str] = &[
    "reeve-protocol",
    "reeve-lifecycle",
    "reeve-ports",
    "reeve-drivers",
    "reeve-runtime",
    "reeve-cluster",
    "reeve-nodes",
    "reeve-tests",
];

/// The rooms that are pure functions: time, ids and randomness reach them as arguments.
const PURE: [&str; 2] = ["protocol", "actors/lifecycle"];

/// First part of the name of each crate that would bring a runtime, randomness or a clock into a pure room.
const IMPURE_CRATES: [&str; 13] = [
    "actix",
    "async-std",
    "chrono",
    "etcd-client",
    "fastrand",
    "getrandom",
    "lapin",
    "quanta",
    "ractor",
    "rand",
    "smol",
    "time",
    "tokio",
];

/// Clocks and randomness inside crates that a pure room needs for formats and types.
const IMPURE_CALLS: [&str; 4] = ["Timestamp::now", "Zoned::now", "new_v4", "now_v7"];

const MAX_LINES: usize = 600;

/// Files that may be longer than [`MAX_LINES`], with the reason why they have one reason to change. Best left empty.
const LONG_FILES: [(&str, &str); 0] = [];

/// Files named `clock.rs` or `*_clock.rs` may read the clock; other files that must, with the reason.
const CLOCK_FILES: [(&str, &str); 0] = [];

/// The one module that names bincode, so that another codec can take its place.
const CODEC: &str = "protocol/src/codec.rs";

/// How secrets begin, and how many characters of body make one: the beginning alone may stand in code that removes
/// them. Each is split so that this file does not trip over itself.
const SECRETS: [(&str, usize); 6] = [
    // Keystone's Fernet tokens: at least 73 bytes (version, time, vector, one block, digest) in base64
    (concat!("gAA", "AAA"), 94),
    (concat!("PRIVATE", " KEY-----"), 0),
    (concat!("AK", "IA"), 16),
    (concat!("gh", "p_"), 30),
    (concat!("github", "_pat_"), 20),
    (concat!("xox", "b-"), 20),
];

/// Paths that exist on one machine alone.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/tmp/re", "search"), concat!("/ro", "ot/")];

#[test]
fn each_room_depends_only_on_the_rooms_below_it() {
    let mut found = Vec::new();
    for member in members() {
        let Some((_, allowed)) = LAYERS.iter().find(|(room, _)| *room == member) else {
            found.push(format!("{member}: not in the layer table; give it a row in LAYERS"));
            continue;
        };
        for dependency in dependencies(&member).iter().filter(|name| name.starts_with("reeve-")) {
            if !allowed.contains(&dependency.as_str()) {
                found.push(format!("{member}/Cargo.toml: must not depend on {dependency}"));
            }
        }
    }
    report(
        "a room reaches past the layer table (development dependencies count: such a test belongs in tests/)",
        found,
    );
}

#[test]
fn pure_rooms_have_no_runtime_no_clock_and_no_randomness() {
    let mut found = Vec::new();
    for room in PURE {
        for dependency in dependencies(room) {
            if IMPURE_CRATES.iter().any(|name| dependency == *name || dependency.starts_with(&format!("{name}-"))) {
                found.push(format!("{room}/Cargo.toml: {dependency}"));
            }
        }
        let sources = rust_files().filter(|file| file.path.starts_with(&format!("{room}/src/"))).collect::<Vec<_>>();
        found.extend(sources.iter().flat_map(|file| file.lines_with(&IMPURE_CALLS)));
    }
    report("a pure room takes time, ids and randomness as arguments", found);
}

#[test]
fn bincode_is_named_by_one_module() {
    let mut found: Vec<String> = rust_files()
        .filter(|file| file.path != CODEC && !file.is_tidy())
        .flat_map(|file| file.lines_with(&["bincode"]))
        .collect();
    let users = members().into_iter().filter(|member| member != "protocol");
    found.extend(users.filter(|member| dependencies(member).contains("bincode")).map(|m| format!("{m}/Cargo.toml")));
    report("only protocol/src/codec.rs names bincode: use its functions", found);
}

#[test]
fn actix_stays_behind_one_module() {
    let mut found = Vec::new();
    let mut modules = BTreeSet::new();
    for file in rust_files().filter(|file| file.path.contains("/src/") && !file.path.starts_with("tests/")) {
        let named = file.lines_with(&["actix::", "actix_rt::", "use actix;", "use actix_rt;"]);
        match file.path.strip_prefix("actors/runtime/src/").and_then(|path| path.split_once('/')) {
            Some((module, _)) if !named.is_empty() => drop(modules.insert(module.to_owned())),
            None if file.path != "nodes/src/main.rs" => found.extend(named),
            Some(_) | None => {}
        }
    }
    if modules.len() > 1 {
        found.push(format!("actors/runtime/src: named by {modules:?}, one folder is enough"));
    }
    let users = members().into_iter().filter(|m| !["actors/runtime", "nodes", "tests"].contains(&m.as_str()));
    let users = users.filter(|member| dependencies(member).iter().any(|name| name == "actix" || name == "actix-rt"));
    found.extend(users.map(|member| format!("{member}/Cargo.toml")));
    report("actix is named in one module folder of actors/runtime and in nodes/src/main.rs", found);
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = rust_files().filter(|file| file.text.lines().count() > MAX_LINES);
    let long = long.filter(|file| !LONG_FILES.iter().any(|(path, _)| *path == file.path));
    let found = long.map(|file| format!("{}: {} lines", file.path, file.text.lines().count())).collect();
    report("past 600 lines a file has a second reason to change: split it there", found);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = rust_files().filter(|file| !file.text.starts_with("//!"));
    report("a .rs file begins with its `//!` documentation", silent.map(|file| file.path).collect());
}

#[test]
fn a_library_root_is_a_table_of_contents() {
    const ALLOWED: [&str; 6] = ["mod ", "pub mod ", "pub(crate) mod ", "use ", "pub use ", "pub(crate) use "];
    let mut found = Vec::new();
    for file in rust_files().filter(|file| file.path.ends_with("src/lib.rs")) {
        for item in items(&file.text) {
            let is_use = item.contains("use ");
            if !ALLOWED.iter().any(|start| item.starts_with(start)) || (item.contains('{') && !is_use) {
                found.push(format!("{}: {}", file.path, item.lines().next().unwrap_or_default()));
            }
        }
    }
    report("lib.rs holds documentation, modules and re-exports; anything else goes into a module", found);
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut found = Vec::new();
    for file in tree().into_iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root().join(&file.path).parent().expect("a file is in a folder").to_owned();
        for (number, target) in links(&file.text) {
            let path = target.split('#').next().unwrap_or_default();
            let foreign = target.contains("://") || target.starts_with("mailto:");
            if !foreign && !path.is_empty() && !folder.join(path).exists() {
                found.push(format!("{}:{number}: {target}", file.path));
            }
        }
    }
    report("a relative link leads nowhere", found);
}

#[test]
fn nothing_is_left_for_later() {
    const MARKS: [&str; 5] = ["todo!(", "unimplemented!(", "#[ignore]", "#[allow(", "#![allow("];
    let files = rust_files().filter(|file| !file.is_tidy());
    report(
        "finish it, give #[ignore = \"...\"] a reason, and use #[expect(..., reason = \"...\")] for allow",
        files.flat_map(|file| file.lines_with(&MARKS)).collect(),
    );
}

#[test]
fn the_tree_knows_no_machine_and_no_secret() {
    let mut found = Vec::new();
    for file in tree() {
        found.extend(file.all_lines_with(&MACHINE_PATHS));
        if !file.is_data() {
            found.extend(file.matching(holds_secret));
        }
    }
    report("a path of one machine or a secret (samples of tokens belong in tests/data, and must be made up)", found);
}

#[test]
fn every_crate_comes_from_the_public_registry() {
    const PUBLIC: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let mut found = Vec::new();
    for package in parse("Cargo.lock")["package"].as_array().expect("Cargo.lock lists packages") {
        let source = package.get("source").and_then(toml::Value::as_str).unwrap_or(PUBLIC);
        if source != PUBLIC {
            found.push(format!("Cargo.lock: {} comes from {source}", package["name"]));
        }
    }
    let settings = tree().into_iter().filter(|file| file.path.contains(".cargo/config"));
    let hosts = ["[source", "[registries", "[registry", "replace-with", "[http"];
    found.extend(settings.flat_map(|file| file.all_lines_with(&hosts)));
    report("the tree names no registry host: such settings belong in the user's own ~/.cargo", found);
}

#[test]
fn only_the_clock_reads_the_clock() {
    let mut found = Vec::new();
    for file in rust_files().filter(|file| !file.is_tidy()) {
        let mut readings = file.lines_with(&["SystemTime::now", "Instant::now"]);
        let tokio = file.text.lines().any(|line| line.starts_with("use tokio::time::") && line.contains("Instant"));
        // Tokio's clock stands still in paused time, and clippy tells the two apart where names do not.
        readings.retain(|line| line.contains("SystemTime::now") || !(tokio || line.contains("tokio::time::Instant")));
        let stated = file.text.contains("clippy::disallowed_methods");
        if !(readings.is_empty() || (file.may_read_the_clock() && stated)) {
            found.extend(readings);
        }
    }
    report(
        "read the Clock port; a clock of its own needs a row in CLOCK_FILES and an #[expect] with the reason",
        found,
    );
}

#[test]
fn every_configuration_under_deploy_is_toml() {
    let files = tree().into_iter().filter(|file| file.path.starts_with("deploy/") && file.path.ends_with(".toml"));
    let broken = files.filter_map(|file| Some(format!("{}: {}", file.path, file.text.parse::<Table>().err()?)));
    report("an example that does not parse helps nobody", broken.collect());
}

#[test]
fn every_member_takes_the_workspace_lints() {
    let lints = |member: &String| parse(&format!("{member}/Cargo.toml")).get("lints").cloned();
    let takes = |member: &String| lints(member).and_then(|lints| lints.get("workspace")?.as_bool()) == Some(true);
    let found = members().into_iter().filter(|member| !takes(member)).map(|m| format!("{m}/Cargo.toml")).collect();
    report("add `[lints] workspace = true`", found);
}

/// Fails with one line for each place, under what to do about it.
#[track_caller]
fn report(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}\n", found.join("\n  "));
}

struct SourceFile {
    /// From the root of the repository.
    path: String,
    text: String,
}

impl SourceFile {
    /// This file, which has to spell out what it forbids.
    fn is_tidy(&self) -> bool {
        self.path == "tests/tests/tidy.rs"
    }

    /// Samples for the tests, of any member.
    fn is_data(&self) -> bool {
        format!("/{}", self.path).contains("/tests/data/")
    }

    fn may_read_the_clock(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "clock.rs" || name.ends_with("_clock.rs") || CLOCK_FILES.iter().any(|(path, _)| *path == self.path)
    }

    /// `path:line: text` of the lines of code that contain one of `needles`; comments do not count.
    fn lines_with(&self, needles: &[&str]) -> Vec<String> {
        self.matching(|line| !line.starts_with("//") && needles.iter().any(|needle| line.contains(needle)))
    }

    fn all_lines_with(&self, needles: &[&str]) -> Vec<String> {
        self.matching(|line| needles.iter().any(|needle| line.contains(needle)))
    }

    fn matching(&self, found: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.text.lines().map(str::trim).enumerate().filter(|(_, line)| found(line));
        lines.map(|(index, line)| format!("{}:{}: {line}", self.path, index + 1)).collect()
    }
}

fn rust_files() -> impl Iterator<Item = SourceFile> {
    tree().into_iter().filter(|file| file.path.ends_with(".rs") && !file.is_data())
}

/// Every text file, in order of path. The tree is walked rather than asked of git, so that a file counts before it is
/// committed and in a copy that is no repository.
fn tree() -> Vec<SourceFile> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the tree can be read") {
            let path = entry.expect("the tree can be read").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("the walk began at the root");
                files.push(SourceFile { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn root() -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&package).parent().expect("tests/ is in the repository").to_owned()
}

fn parse(path: &str) -> Table {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("cannot parse {path}: {error}"))
}

fn members() -> Vec<String> {
    let members = parse("Cargo.toml")["workspace"]["members"].clone();
    members.try_into().expect("the workspace lists its members")
}

/// The crates a member depends on, in whatever way: normal, development, build, for one platform.
fn dependencies(member: &str) -> BTreeSet<String> {
    fn collect(table: &Table, found: &mut BTreeSet<String>) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else { continue };
            for (name, dependency) in dependencies {
                let package = dependency.get("package").and_then(toml::Value::as_str);
                found.insert(package.unwrap_or(name).to_owned());
            }
        }
    }
    let manifest = parse(&format!("{member}/Cargo.toml"));
    let mut found = BTreeSet::new();
    collect(&manifest, &mut found);
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    targets.into_iter().flat_map(Table::values).filter_map(toml::Value::as_table).for_each(|t| collect(t, &mut found));
    found
}

/// The items of a library root, without documentation and attributes; good enough for a file that holds only those.
fn items(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let code = code.join("\n");
    let mut rest = code.trim_start();
    let mut items = Vec::new();
    while !rest.is_empty() {
        if rest.starts_with("#[") || rest.starts_with("#![") {
            rest = after_brackets(rest).trim_start();
            continue;
        }
        let (item, tail) = rest.split_once(';').unwrap_or((rest, ""));
        items.push(item.to_owned());
        rest = tail.trim_start();
    }
    items
}

fn after_brackets(text: &str) -> &str {
    let mut depth = 0;
    for (index, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' if depth == 1 => return &text[index + 1..],
            ']' => depth -= 1,
            _ => {}
        }
    }
    ""
}

fn holds_secret(line: &str) -> bool {
    let is_body = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    SECRETS.iter().any(|(start, least)| {
        line.match_indices(start)
            .any(|(at, _)| line.as_bytes()[at + start.len()..].iter().take_while(|b| is_body(b)).count() >= *least)
    })
}

/// Line number and target of each link in a Markdown text, code left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // Every second piece between backticks is code.
            let prose: String = line.split('`').step_by(2).collect();
            let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
            let definition = prose.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
            found.extend(inline.chain(definition).map(|target| (index + 1, target.trim().to_owned())));
        }
    }
    found
}

#[test]
fn the_checks_themselves_see_what_they_look_for() {
    let text = "//! doc\n#![cfg(a)]\n/// d\n#[cfg(b[0])] pub mod a;\npub use b::{c, d};\nfn e() { 1; }";
    assert_eq!(items(text)[..2], ["pub mod a".to_owned(), "pub use b::{c, d}".to_owned()]);
    assert!(items(text)[2].starts_with("fn e"));
    let text = "see [a](b.md#c) and `[x](y)`\n```\n[q](r)\n```\n[name]: d/e.md\n";
    assert_eq!(links(text), [(1, "b.md#c".to_owned()), (5, "d/e.md".to_owned())]);
    let file = SourceFile { path: "a.rs".into(), text: "// todo!(\n  todo!()\n".into() };
    assert_eq!(file.lines_with(&["todo!("]), ["a.rs:2: todo!()"]);
    let (start, least) = SECRETS[0];
    assert!(!holds_secret(&format!("starts with {start}B is a token")));
    assert!(holds_secret(&format!("X-Auth-Token: {start}{}", "b".repeat(least))));
}
