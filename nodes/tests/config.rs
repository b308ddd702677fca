//! Configuration files: what is refused, and how that is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::Path;

use reeve_nodes::config::{self, Config, ConfigError};
use support::{printed, project, reeve, run, said, status};

fn parse(text: &str) -> Result<Config, ConfigError> {
    config::parse("reeve.toml", text, std::iter::empty())
}

fn refused(text: &str) -> String {
    parse(text).expect_err("the text is refused").to_string()
}

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    config::parse("reeve.toml", text, variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.rpc.socket, Path::new("/var/lib/reeve/reeve.sock"));
    assert_eq!(config.vault.url, "file:///var/lib/reeve/vault");
    assert!(config.policy.contains_key("default"));
    assert_eq!(config.runtime.to_config().reconcile_every, reeve_protocol::Span::from_secs(300));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_was_expected() {
    let message = refused("[node]\nid = \"a\"\nzones = \"b\"\n");
    assert!(message.starts_with("reeve.toml:3: node.zones: unknown field `zones`, expected one of `id`"), "{message}");
    let message = refused("[policy.lab.lease]\nduration = \"1d\"\nlength = \"2d\"\n");
    assert!(message.starts_with("reeve.toml:3: policy.lab.lease.length: unknown field"), "{message}");
    let message =
        refused("[[cloud]]\nname = \"a\"\ndriver = \"sim\"\n[[cloud]]\nname = \"b\"\ndriver = \"sim\"\nhost = 4\n");
    assert!(message.starts_with("reeve.toml:7: cloud[1].host: unknown field `host`"), "{message}");
    let message = refused("nodes = 1\n");
    assert!(message.starts_with("reeve.toml:1: nodes: unknown field `nodes`, expected one of `node`"), "{message}");
}

#[test]
fn what_a_later_version_has_is_refused_by_name() {
    for section in ["cluster", "http", "otlp", "auth", "notify.email"] {
        let message = refused(&format!("\n[{section}]\n"));
        let root = section.split('.').next().unwrap();
        let expected = format!("reeve.toml:2: {root}: section [{root}] is not supported by this version");
        assert!(message.starts_with(&expected), "{message}");
    }
    let message = refused("[rpc]\nlisten = \"0.0.0.0:7471\"\n");
    assert!(message.starts_with("reeve.toml:2: rpc.listen: is not supported by this version"), "{message}");
    for driver in ["openstack", "qemu"] {
        let message = refused(&format!("[[cloud]]\nname = \"a\"\ndriver = \"{driver}\"\n"));
        assert!(message.contains("reeve.toml:3: cloud[0].driver: driver") && message.contains(driver), "{message}");
    }
    assert!(refused("[[cloud]]\nname = \"a\"\ndriver = \"aws\"\n").contains("no driver is called \"aws\""));
    assert!(refused("[vault]\nurl = \"s3://bucket\"\n").contains("reeve.toml:2: vault.url: s3:// is not supported"));
}

#[test]
fn a_lease_longer_than_the_cap_is_refused() {
    let message = refused("[policy.lab.lease]\nduration = \"400d\"\n");
    assert!(message.starts_with("reeve.toml:2: policy.lab.lease.duration: is 400d"), "{message}");
    assert!(message.contains("longer than the cap lease.max_total"), "{message}");
}

#[test]
fn a_bad_duration_is_named_with_an_example() {
    let message = refused("[policy.lab.lease]\ngrace = \"soon\"\n");
    assert!(message.starts_with("reeve.toml:2: policy.lab.lease.grace: \"soon\" is no duration"), "{message}");
    assert!(message.contains("expected for example 30d, 1h30m or 250ms"), "{message}");
}

#[test]
fn everything_that_makes_no_sense_is_said_at_once() {
    let message = refused(
        "[bus]\nurl = \"amqp://u:s3cr3t@h/\"\nca = \"/ca.pem\"\nprefetch = 0\npublish_timeout = \"1h\"\n\
         [log]\nlevel = \"a=b=c\"\n[runtime.caps]\nbackups = 0\n[vault]\nurl = \"backups\"\n",
    );
    for expected in [
        "reeve.toml:3: bus.ca: ",
        "reeve.toml:4: bus.prefetch: is 0",
        "reeve.toml:5: bus.publish_timeout: is 1h, expected 100ms to 10m",
        "reeve.toml:7: log.level: ",
        "reeve.toml:9: runtime.caps.backups: is 0, expected at least 1",
        "reeve.toml:11: vault.url: is no URL, expected file:///ABSOLUTE/PATH",
    ] {
        assert!(message.lines().any(|line| line.starts_with(expected)), "{expected}\n{message}");
    }
    assert!(!message.contains("s3cr3t"));
}

#[test]
fn clouds_must_be_told_apart_and_named_plainly() {
    let two = "[[cloud]]\nname = \"a\"\ndriver = \"sim\"\n";
    assert!(refused(&format!("{two}{two}")).contains("reeve.toml:5: cloud[1].name: two clouds are called \"a\""));
    let message = refused(&format!("{two}[[cloud]]\nname = \"b\"\ndriver = \"sim\"\nseed = 1\n"));
    assert!(message.starts_with("reeve.toml:7: cloud[1].seed: two simulated clouds have seed 1"), "{message}");
    assert!(refused("[[cloud]]\nname = \"a/b\"\ndriver = \"sim\"\n").contains("other characters"));
    assert!(refused("[[cloud]]\ndriver = \"sim\"\n").contains("reeve.toml:1: cloud[0]: key name is missing"));
    assert!(refused("[[cloud]]\nname = \"a\"\n").contains("key driver is missing"));
    assert!(refused("[[cloud]]\nname = \"a\"\ndriver = \"sim\"\nhosts = 0\n").contains("hosts"));
    let notified = format!("{two}notifications = {{ exchange = \"nova\" }}\n");
    assert!(refused(&notified).contains("add [bus] url"), "{}", refused(&notified));
    parse(&format!("{notified}[bus]\nurl = \"amqps://h\"\n")).unwrap();
}

#[test]
fn a_project_belongs_to_one_policy() {
    let message = refused("[policy.a]\nprojects = [\"p\"]\n[policy.b]\nprojects = [\"p\"]\n");
    assert!(message.contains("policy.b.projects: claims project \"p\", as policy a does"), "{message}");
}

#[test]
fn what_is_no_toml_is_refused_with_its_line_and_without_its_text() {
    let message = refused("[bus]\nurl = \"amqp://u:s3cr3t@h\n");
    assert!(message.starts_with("reeve.toml:2: not TOML: "), "{message}");
    assert!(!message.contains("s3cr3t"), "{message}");
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "[log]\nlevel = \"info\"\n[[cloud]]\nname = \"a\"\ndriver = \"sim\"\n[policy.lab]\n";
    let config = with_variables(
        text,
        &[
            ("REEVE__LOG__LEVEL", "debug"),
            ("REEVE__CLOUD__0__HOSTS", "7"),
            ("REEVE__POLICY__LAB__LEASE__WARN_BEFORE", "[\"2d\"]"),
            ("REEVE__BUS__URL", "amqps://u:p@bus:5671/%2f"),
            ("REEVE_ENDPOINT", "unix:/x"),
        ],
    )
    .unwrap();
    assert_eq!(config.log.level, "debug");
    let config::Driver::Sim(sim) = &config.cloud[0].driver;
    assert_eq!(sim.hosts, 7);
    assert_eq!(config.policy["lab"].lease.warn_before, [reeve_protocol::Span::from_days(2)]);
    assert!(config.bus.is_some());
}

#[test]
fn a_wrong_override_is_named_by_its_variable() {
    let refused = |name: &str, value: &str| with_variables("", &[(name, value)]).unwrap_err().to_string();
    let message = refused("REEVE__BUS__PREFETCH", "many");
    assert!(message.starts_with("environment variable REEVE__BUS__PREFETCH: bus.prefetch: invalid type"), "{message}");
    let message = refused("REEVE__LOG__LEVLE", "info");
    assert!(message.starts_with("environment variable REEVE__LOG__LEVLE: log.levle: unknown field"), "{message}");
    assert!(refused("REEVE__LOG", "info").contains("expected REEVE__SECTION__KEY"));
    assert!(refused("REEVE__NODE__ID__X", "1").contains("node.id"), "a key is no section");
}

#[test]
fn check_and_show_tell_the_same_story() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reeve.toml");
    std::fs::write(
        &file,
        "[bus]\nurl = \"amqps://reeve:s3cr3t@bus:5671/%2f\"\n[[cloud]]\nname = \"a\"\ndriver = \"sim\"\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let checked = run(&["config", "check", path]);
    assert_eq!((status(&checked), said(&checked)), (0, format!("{path}: sound\n")));

    let shown = run(&["config", "show", path]);
    assert_eq!(status(&shown), 0);
    let text = printed(&shown);
    assert!(text.contains("url = \"amqps://reeve:***@bus:5671/%2f\"") && !text.contains("s3cr3t"), "{text}");
    // What is shown is itself a configuration that means the same, but for the masked secret.
    let again = config::parse("shown", &text, std::iter::empty()).unwrap();
    assert_eq!(again.cloud, config::load(&file).unwrap().cloud);
    let json: serde_json::Value = serde_json::from_slice(&run(&["config", "show", path, "-o", "json"]).stdout).unwrap();
    assert_eq!(json["cloud"][0]["driver"], "sim");

    std::fs::write(&file, "[node]\nname = \"x\"\n").unwrap();
    let checked = run(&["config", "check", path]);
    assert_eq!(status(&checked), 1);
    assert!(said(&checked).starts_with(&format!("error: {path}:2: node.name: unknown field")), "{}", said(&checked));
    let checked = run(&["config", "check", path, "-o", "json"]);
    let error: serde_json::Value = serde_json::from_slice(&checked.stderr).unwrap();
    assert_eq!(error["error"]["details"][0]["key"], "node.name");

    let missing = run(&["config", "check", "/nonexistent/reeve.toml"]);
    assert_eq!(status(&missing), 1);
    assert!(said(&missing).contains("/nonexistent/reeve.toml"));
    let overridden = reeve(&["config", "check", path]).env("REEVE__NODE__NAME", "y").output().unwrap();
    assert!(said(&overridden).contains("environment variable REEVE__NODE__NAME"), "{}", said(&overridden));
}

#[test]
fn every_file_in_deploy_is_understood() {
    let mut seen = 0;
    for entry in std::fs::read_dir(project("deploy")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => {
                config::parse(name, &text, std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
                seen += 1;
            }
            Some("service") => {
                assert!(text.contains("\nType=notify\n") && text.contains("\n[Install]\n"), "{name}");
                for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                    assert!(line.starts_with('[') || line.contains('='), "{name}: {line}");
                }
                seen += 1;
            }
            Some("md") => {}
            other => panic!("{name}: nothing checks a file of kind {other:?}"),
        }
    }
    assert!(seen >= 3);
}

#[test]
fn the_example_names_every_key_with_its_default() {
    let text = std::fs::read_to_string(project("deploy/reeve.toml")).unwrap();
    let example = config::parse("reeve.toml", &text, std::iter::empty()).unwrap();
    let defaults = parse("").unwrap();
    assert_eq!(example.runtime, defaults.runtime);
    assert_eq!(example.policy["default"], defaults.policy["default"]);
    assert_eq!(example.log, defaults.log);
    let keys = |section: &toml::Table| section.keys().cloned().collect::<std::collections::BTreeSet<_>>();
    let written: toml::Table = toml::from_str(&text).unwrap();
    let complete = toml::Table::try_from(&defaults).unwrap();
    for section in ["lease", "health", "repair", "backup"] {
        let of = |table: &toml::Table| keys(table["policy"]["default"][section].as_table().unwrap());
        assert_eq!(of(&written), of(&complete), "{section}");
    }
    for section in ["timeouts", "caps", "clock"] {
        let of = |table: &toml::Table| keys(table["runtime"][section].as_table().unwrap());
        assert_eq!(of(&written), of(&complete), "{section}");
    }
}
