//! Configuration files: what is refused, and how that is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::Path;

use reeve_drivers::cloud::openstack::{Credential, Interface, Login};
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
fn a_rule_that_cannot_be_is_refused_with_its_line() {
    let rule = |on: &str, then: &str| format!("\n[[rule]]\nname = \"r\"\non = {{ {on} }}\nthen = [{{ {then} }}]\n");
    let failed = "types = [\"backup.failed\"]";
    let config = parse(&rule(failed, "command = \"backup.run\"")).unwrap();
    assert_eq!((config.rule.len(), config.rule[0].at_most.times), (1, 5));
    for (text, expected) in [
        (
            rule("types = [\"backup.fail\"]", "alert = \"a\""),
            "reeve.toml:4: rule[0].on.types[0]: no event has the type",
        ),
        (rule(failed, "command = \"backup.make\""), "reeve.toml:5: rule[0].then[0].command: property type"),
        (
            rule("types = [\"alert.raised\"]", "alert = \"a\""),
            "reeve.toml:5: rule[0].then[0]: brings about alert.raised",
        ),
        (
            rule(&format!("{failed}, cloud = \"lab\""), "alert = \"a\""),
            "reeve.toml:4: rule[0].on.cloud: no cloud is called",
        ),
        (
            rule(&format!("{failed}, type = \"x\""), "alert = \"a\""),
            "reeve.toml:4: rule[0].on.type: unknown field `type`",
        ),
        (rule(failed, "shell = \"true\""), "reeve.toml:5: rule[0].then[0]"),
        (rule(failed, "alert = \"a\"") + "often = 1\n", "reeve.toml:6: rule[0].often: unknown field `often`"),
    ] {
        let message = refused(&text);
        assert!(message.starts_with(expected), "{expected}\n{message}");
    }
}

#[test]
fn what_a_later_version_has_is_refused_by_name() {
    for section in ["otlp", "auth", "notify.sms", "notify.amqp"] {
        let message = refused(&format!("\n[{section}]\n"));
        let expected = format!("reeve.toml:2: {section}: section [{section}] is not supported by this version");
        assert!(message.starts_with(&expected), "{message}");
    }
    let message = refused("[[cloud]]\nname = \"a\"\ndriver = \"qemu\"\n");
    assert!(message.starts_with("reeve.toml:3: cloud[0].driver: driver \"qemu\" is not supported"), "{message}");
    assert!(refused("[[cloud]]\nname = \"a\"\ndriver = \"aws\"\n").contains("no driver is called \"aws\""));
    assert!(refused("[vault]\nurl = \"gs://bucket\"\n").contains("reeve.toml:2: vault.url: gs:// is not supported"));
}

#[test]
fn a_vault_in_a_bucket_is_understood_and_its_secrets_are_not_shown() {
    let config = parse(
        "[vault]\nurl = \"s3://backups/lab\"\nendpoint = \"https://s3.example\"\naccess_key_id = \"reeve\"\n\
         secret_access_key = \"s3cr3t\"\nkeys = [{ id = \"new\", key = \"s3cr3t\" }, { id = \"old\", key = { credential = \"k\" } }]\n",
    )
    .unwrap();
    assert_eq!(config.vault.keys[1].id, "old");
    let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
    assert!(!shown.contains("s3cr3t") && shown.contains("https://s3.example"), "{shown}");
}

#[test]
fn everything_that_a_vault_lacks_is_said_at_once() {
    let message = refused(
        "[vault]\nurl = \"s3://u:s3cr3t@backups\"\npart_bytes = 1000\nparts_under_way = 0\n\
         keys = [{ id = \"a b\", key = \"s3cr3t\" }, { id = \"c\", key = \"x\" }, { id = \"c\", key = \"y\" }]\n",
    );
    for expected in [
        "vault.url: names no bucket",
        "vault.part_bytes: is 1000, expected 1048576 to 67108864 bytes",
        "vault.parts_under_way: is 0, expected 1 to 16",
        "vault.keys[0].id: a key's id has",
        "vault.keys[2].id: two keys are called \"c\"",
    ] {
        assert!(message.contains(expected), "{expected}\n{message}");
    }
    assert!(!message.contains("s3cr3t"), "{message}");
    let message = refused("[vault]\nurl = \"s3://backups\"\nendpoint = \"https://u:s3cr3t@h\"\ntoken = \"s3cr3t\"\n");
    for expected in [
        "vault.endpoint: expected https://HOST:PORT without a user",
        "vault.access_key_id: is left out",
        "vault.secret_access_key: is left out",
        "vault.token: is set, but vault.url names another kind of vault",
    ] {
        assert!(message.contains(expected), "{expected}\n{message}");
    }
    assert!(!message.contains("s3cr3t"), "{message}");
    let message = refused("[vault]\nurl = \"file:///srv/vault\"\naccess_key_id = \"x\"\n");
    assert!(message.contains("vault.access_key_id: is set, but vault.url names another kind"), "{message}");
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
fn a_bus_has_one_broker_or_more_and_a_bad_one_is_named_by_its_place() {
    let bus = |url: &str| format!("[bus]\nurl = {url:?}\nca = \"/ca.pem\"\n");
    parse(&bus("amqps://u:s3cr3t@one:5671,two,[::1]:5671/reeve")).unwrap();
    let many = format!("amqps://u:s3cr3t@{}/reeve", vec!["host"; 17].join(","));
    for (url, expected) in [
        ("amqps://u:s3cr3t@one,,two/reeve", "bus.url: names no host at place 2"),
        ("amqps://u:s3cr3t@one,two:s3cr3t/reeve", "bus.url: host 2 has no valid port"),
        ("amqps://u:s3cr3t@one,t wo/reeve", "bus.url: host 2 is no name or address"),
        ("amqps://u:s3cr3t@one,u:s3cr3t@two/reeve", "bus.url: has a second @"),
        ("amqp://u:s3cr3t@one,two/reeve", "bus.ca: is set, but bus.url is amqp://"),
        (many.as_str(), "bus.url: names 17 hosts (expected at most 16)"),
    ] {
        let message = refused(&bus(url));
        assert!(message.contains(expected) && !message.contains("s3cr3t"), "{expected}\n{message}");
    }
}

#[test]
fn keys_that_cannot_be_read_are_all_said_at_once() {
    let message = refused(
        "[node]\nzones = \"b\"\nlabels = 1\nid = \"\"\n[log]\nlevl = \"info\"\nformat = \"xml\"\n[auth]\n\
         [[cloud]]\nname = \"a\"\ndriver = \"sim\"\nhost = 4\nvms = \"many\"\n[[cloud]]\nname = \"b\"\n\
         [policy.lab.lease]\ngrace = \"soon\"\nlength = 1\n[policy.keep]\nexempt = \"yes\"\n[runtime]\narbiters = 2000\n",
    );
    for expected in [
        "reeve.toml:2: node.zones: unknown field",
        "reeve.toml:3: node.labels: ",
        "reeve.toml:4: node.id: ",
        "reeve.toml:6: log.levl: unknown field",
        "reeve.toml:7: log.format: ",
        "reeve.toml:8: auth: section [auth]",
        "reeve.toml:12: cloud[0].host: unknown field",
        "reeve.toml:13: cloud[0].vms: ",
        "reeve.toml:14: cloud[1]: key driver is missing",
        "reeve.toml:17: policy.lab.lease.grace: ",
        "reeve.toml:18: policy.lab.lease.length: unknown field",
        "reeve.toml:20: policy.keep.exempt: ",
    ] {
        assert!(message.lines().any(|line| line.starts_with(expected)), "{expected}\n{message}");
    }
    // A section that can be read at all is checked as well; one that was complained of is not blamed for what is left.
    let message = refused("[bus]\nurl = 5\nprefetch = 0\n[log]\nlevl = 1\n");
    assert_eq!(message.lines().count(), 2, "{message}");
    let message = refused("[bus]\nurl = \"amqps://h\"\nprefetch = 0\n[log]\nlevl = 1\n");
    assert!(message.contains("log.levl") && message.contains("bus.prefetch: is 0"), "{message}");
    assert!(refused("nodes = 1\n[log]\nlevl = 1\n").lines().count() == 2);
}

#[test]
fn http_has_an_address_and_a_certificate_with_its_key_or_none() {
    let http = parse("[http]\nlisten = \"127.0.0.1:7470\"\n").unwrap().http.unwrap();
    assert_eq!((http.listen.port(), http.cert, http.key), (7470, None, None));
    assert!(parse("").unwrap().http.is_none());
    for (text, expected) in [
        ("[http]\n", "reeve.toml:1: http: missing field `listen`"),
        ("[http]\nlisten = \"7470\"\n", "reeve.toml:2: http.listen: "),
        ("[http]\nlisten = \"[::1]:0\"\n", "reeve.toml:2: http.listen: has port 0"),
        ("[http]\nlisten = \"[::1]:1\"\ncors = true\n", "reeve.toml:3: http.cors: unknown field"),
        ("[http]\nlisten = \"[::1]:1\"\ncert = \"/a\"\n", "http.cert: is set, but http.key is not"),
        ("[http]\nlisten = \"[::1]:1\"\nkey = \"/a\"\n", "http.key: is set, but http.cert is not"),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{expected}\n{message}");
    }
}

#[test]
fn the_certificate_of_http_is_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let (file, cert) = (folder.path().join("reeve.toml"), folder.path().join("http.pem"));
    std::fs::write(&cert, "nothing").unwrap();
    let text = format!("[http]\nlisten = \"127.0.0.1:7470\"\ncert = {cert:?}\nkey = \"/nowhere/http.key\"\n");
    std::fs::write(&file, text).unwrap();
    let message = config::inspect(&file).unwrap_err().to_string();
    assert!(message.contains(":3: http.cert: ") && message.contains("holds no certificate in PEM"), "{message}");
    assert!(message.contains(":4: http.key: cannot read /nowhere/http.key"), "{message}");
}

const NOTIFY: &str = "[notify.link]\nurl = \"https://reeve.example/extend\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
     [notify.email]\nhost = \"mail.example\"\nfrom = \"Reeve <reeve@example.org>\"\nuser = \"reeve\"\n\
     password = \"s3cr3t-mail\"\noperators = [\"ops@example.org\"]\n\
     [notify.webhook]\nurl = \"https://hooks.example/s3cr3t-path\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

#[test]
fn channels_are_understood_and_none_of_their_secrets_is_shown() {
    let config = parse(NOTIFY).unwrap();
    let email = config.notify.as_ref().unwrap().email.as_ref().unwrap();
    assert_eq!(email.to_config(None).port, 587);
    let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
    for secret in ["s3cr3t", "0123456789abcdef", "MfKQ9r8"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_channel_that_makes_no_sense_is_named_by_its_key() {
    for (right, wrong, expected) in [
        ("https://reeve.example/extend", "http://reeve.example/s3cr3t", "reeve.toml:2: notify.link.url: is http://"),
        ("https://reeve.example/extend", "https://reeve.example/?a=b", "reeve.toml:2: notify.link.url: has a ? or #"),
        (
            "0123456789abcdef0123456789abcdef",
            "s3cr3t",
            "reeve.toml:3: notify.link.secret: has 6 bytes, expected at least 32",
        ),
        ("\"mail.example\"", "\"a b\"", "reeve.toml:5: notify.email.host: expected the name"),
        ("Reeve <reeve@example.org>", "Reeve", "reeve.toml:6: notify.email.from: \"Reeve\" is no address"),
        ("user = \"reeve\"", "", "notify.email.password: is set, but notify.email.user is not"),
        ("user = \"reeve\"", "user = \"reeve\"\ntls = \"none\"", "notify.email.tls: is \"none\""),
        ("user = \"reeve\"", "user = \"reeve\"\ntls = \"ssl\"", "notify.email.tls: unknown variant `ssl`"),
        ("ops@example.org", "ops", "notify.email.operators[0]: \"ops\" is no address"),
        ("https://hooks.example/s3cr3t-path", "http://hooks.example/s3cr3t", "notify.webhook.url: is http://"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_s3cr3t~", "notify.webhook.secret: begins with whsec_"),
        ("[notify.webhook]", "[notify.webhook]\ntimeout = \"1h\"", "notify.webhook.timeout: expected 100ms to 1m"),
        ("[notify.webhook]", "[notify.webhook]\nretries = 3", "notify.webhook.retries: unknown field"),
    ] {
        let message = refused(&NOTIFY.replace(right, wrong));
        assert!(message.contains(expected) && !message.contains("s3cr3t"), "{expected}\n{message}");
    }
}

#[test]
fn a_wrong_template_is_named_by_its_own_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let templates = folder.path().join("templates");
    std::fs::create_dir(&templates).unwrap();
    let file = folder.path().join("reeve.toml");
    std::fs::write(&file, format!("[notify]\ntemplates = {templates:?}\n")).unwrap();
    std::fs::write(templates.join("revived.txt"), "Subject: back\n\nAs {{ new_vm }}.\n").unwrap();
    config::load(&file).unwrap();
    std::fs::write(templates.join("alert.txt"), "Subject: {{ alert }}\n\nOh:\n{{ massage }}\n").unwrap();
    let expected = format!("{}:4: notify.templates: undefined value", templates.join("alert.txt").display());
    for message in [config::load(&file).unwrap_err().to_string(), config::inspect(&file).unwrap_err().to_string()] {
        assert!(message.starts_with(&expected), "{message}");
    }
}

const CLUSTER: &str = "[node]\nid = \"n1\"\n\
     [cluster]\nname = \"lab\"\netcd = [\"https://e1:2379\", \"https://10.0.0.2:2379\"]\netcd_ca = \"/ca.pem\"\n\
     [bus]\nurl = \"amqps://h\"\n\
     [rpc]\nlisten = \"10.0.0.1:7471\"\ncert = \"/n.pem\"\nkey = { credential = \"rpc-key\" }\nca = \"/ca.pem\"\n\
     [vault]\nurl = \"file:///srv/vault\"\n";

#[test]
fn a_node_of_a_cluster_is_understood() {
    let config = parse(CLUSTER).unwrap();
    assert_eq!(config.cluster_name(), "lab");
    let cluster = config.cluster.as_ref().unwrap();
    assert_eq!((cluster.shards, cluster.weight), (64, 1.0));
    assert_eq!(cluster.lease_ttl, reeve_protocol::Span::from_secs(5));
    assert_eq!(config.rpc.advertise.as_deref(), Some("10.0.0.1:7471"));
    // Nobody acts on what a predecessor left before its last call must have ended.
    let runtime = config.runtime.to_config();
    assert_eq!(runtime.quarantine, runtime.timeouts.call + std::time::Duration::from_secs(5));
    assert_eq!(parse("").unwrap().runtime.to_config().quarantine, std::time::Duration::ZERO);
    let everywhere = parse(&CLUSTER.replace("10.0.0.1:7471", "0.0.0.0:7471")).unwrap();
    let advertised = everywhere.rpc.advertise.unwrap();
    assert!(advertised.ends_with(":7471") && !advertised.starts_with("0.0.0.0"), "{advertised}");
}

#[test]
fn what_a_cluster_needs_is_named() {
    let broken = |from: &str, to: &str| {
        assert!(CLUSTER.contains(from), "{from}");
        refused(&CLUSTER.replace(from, to))
    };
    for (from, to, expected) in [
        ("name = \"lab\"", "name = \"a/b\"", "reeve.toml:4: cluster.name: is \"a/b\""),
        ("name = \"lab\"\n", "", "reeve.toml:3: cluster: missing field `name`"),
        ("https://e1:2379", "e1:2379", "cluster.etcd[0]: expected https://HOST:PORT"),
        ("https://e1:2379", "http://e1:2379", "cluster.etcd: has https:// and http://"),
        ("etcd_ca = \"/ca.pem\"\n", "", "cluster.etcd_ca: is left out"),
        (
            "etcd_ca = \"/ca.pem\"\n",
            "etcd_ca = \"/ca.pem\"\netcd_cert = \"/c\"\n",
            "cluster.etcd_cert: is set, but cluster.etcd_key is not",
        ),
        (
            "etcd_ca = \"/ca.pem\"\n",
            "etcd_ca = \"/ca.pem\"\netcd_password = \"s3cr3t\"\n",
            "cluster.etcd_password: is set, but cluster.etcd_user is not",
        ),
        ("[bus]\nurl = \"amqps://h\"\n", "", "reeve.toml:3: cluster: needs [bus]"),
        ("listen = \"10.0.0.1:7471\"\n", "", "cluster: needs rpc.listen"),
        ("listen = \"10.0.0.1:7471\"\n", "", "rpc.cert: is set, but rpc.listen is not"),
        ("cert = \"/n.pem\"\n", "", "rpc.listen: needs rpc.cert"),
        ("[vault]\nurl = \"file:///srv/vault\"\n", "", "vault.url: is left out, but the nodes of [cluster]"),
        ("id = \"n1\"", "id = \"n/1\"", "reeve.toml:2: node.id: is \"n/1\""),
        ("[bus]", "shards = 0\n[bus]", "cluster.shards: is 0, expected 1 to 1024"),
        ("[bus]", "lease_ttl = \"1s\"\n[bus]", "cluster.lease_ttl: is 1s, expected 2s to 1m"),
        ("[bus]", "lease_ttl = \"2500ms\"\n[bus]", "in whole seconds"),
        ("[bus]", "max_clock_skew = \"0s\"\n[bus]", "cluster.max_clock_skew: is 0s, expected 100ms to 1h"),
        ("[bus]", "weight = nan\n[bus]", "cluster.weight: is NaN, expected 0.1 to 100"),
        ("[vault]", "[runtime]\nquarantine = \"10s\"\n[vault]", "runtime.quarantine: is 10s, expected at least"),
        ("[vault]", "[[cloud]]\nname = \"a\"\ndriver = \"sim\"\n[vault]", "cloud[0].driver: is \"sim\", but each node"),
        ("key = { credential = \"rpc-key\" }", "key = { credential = \"../x\" }", "rpc.key: "),
        ("listen = \"10.0.0.1:7471\"", "listen = \"10.0.0.1:7471\"\nadvertise = \"n1\"", "rpc.advertise: is \"n1\""),
    ] {
        let message = broken(from, to);
        assert!(message.contains(expected), "{expected}\n{message}");
        assert!(!message.contains("s3cr3t"), "{message}");
    }
}

const OPENSTACK: &str = "[[cloud]]\nname = \"prod\"\ndriver = \"openstack\"\n\
     auth = { auth_url = \"https://k:5000/v3\", username = \"reeve\", password = \"s3cr3t\", project_name = \"service\" }\n";

#[test]
fn an_openstack_is_understood_and_its_password_never_shown() {
    let config = parse(&format!("{CLUSTER}{OPENSTACK}region_name = \"R\"\n")).unwrap();
    let config::Driver::OpenStack(section) = &config.cloud[0].driver else { panic!("{config:?}") };
    let driver = section.resolve().unwrap();
    let Login::Password { password, .. } = &driver.auth.login else { panic!("{driver:?}") };
    assert_eq!((password.as_str(), driver.region_name.as_deref()), ("s3cr3t", Some("R")));
    let shown = toml::to_string(&config).unwrap();
    assert!(shown.contains("driver = \"openstack\"") && !shown.contains("s3cr3t"), "{shown}");
    assert!(!format!("{config:?}").contains("s3cr3t"));
    let message = refused(&format!("{OPENSTACK}max_concurrent = 0\nregion = \"R\"\n"));
    assert!(message.contains("cloud[0].region: unknown field"), "{message}");
    let message = refused(&format!("{OPENSTACK}max_concurrent = 0\n"));
    assert!(message.starts_with("reeve.toml:5: cloud[0].max_concurrent: expected 1 to 1000"), "{message}");
    let message = refused(&OPENSTACK.replace("https://k:5000/v3", "keystone"));
    assert!(message.contains("cloud[0].auth.auth_url: expected an http"), "{message}");
}

#[test]
fn an_openstack_of_a_clouds_yaml_is_read_with_its_secret_and_what_is_said_here_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clouds.yaml");
    let clouds = "clouds: {prod: {region_name: A, interface: internal, auth: {auth_url: 'https://k:5000/v3', \
        application_credential_id: '1'}}}";
    std::fs::write(&path, clouds).unwrap();
    let secure = folder.path().join("secure.yaml");
    std::fs::write(&secure, "clouds: {prod: {auth: {application_credential_secret: s3cr3t}}}").unwrap();
    let cloud =
        format!("[[cloud]]\nname = \"prod\"\ndriver = \"openstack\"\nclouds_yaml = {path:?}\ncloud = \"prod\"\n");
    let text = format!("{CLUSTER}{cloud}region_name = \"B\"\n");
    let section = |text: &str| {
        let config::Driver::OpenStack(section) = parse(text).unwrap().cloud[0].driver.clone() else { panic!("{text}") };
        section
    };
    let driver = section(&text).resolve().unwrap();
    let (credential, secret) = (Credential::Id("1".to_owned()), "s3cr3t".to_owned());
    assert_eq!(driver.auth.login, Login::ApplicationCredential { credential, secret });
    assert_eq!((driver.region_name.as_deref(), driver.interface), (Some("B"), Interface::Internal));
    assert!(!toml::to_string(&parse(&text).unwrap()).unwrap().contains("s3cr3t"), "it is not read before it is needed");
    let error = section(&text.replace("cloud = \"prod\"", "cloud = \"staging\"")).resolve().unwrap_err().to_string();
    assert!(error.contains("clouds.yaml and ") && error.ends_with("no cloud of this name, only prod"), "{error}");
    std::fs::remove_file(&secure).unwrap();
    let error = section(&text).resolve().unwrap_err().to_string();
    let said =
        format!("clouds_yaml: {}: clouds.prod.auth.application_credential_secret: expected a secret", path.display());
    assert_eq!(error, said);
    for (more, told) in [
        ("auth = { auth_url = \"http://k\" }\n", "cloud[0].auth: expected either auth or clouds_yaml, not both"),
        ("page = 0\n", "cloud[0].page: expected 1 to 1000"),
    ] {
        let message = refused(&format!("{cloud}{more}"));
        assert!(message.contains(told), "{message}");
    }
    let message = refused(&cloud.replace("cloud = \"prod\"\n", ""));
    assert!(message.contains("cloud[0].cloud: expected the name of a cloud of clouds_yaml"), "{message}");
}

#[test]
fn check_looks_into_the_files_that_are_named() {
    use reeve_nodes::cert::{Authority, Existing, Request, save};
    use reeve_protocol::{Span, Timestamp};

    let folder = tempfile::tempdir().unwrap();
    let now: Timestamp = reeve_ports::Clock::now(&reeve_ports::SystemClock);
    let day = Span::from_days(1);
    let pki = folder.path();
    Authority::init(pki, "lab", day, now).unwrap();
    let issue = |role: &str, name: &str| {
        let authority = Authority::open(pki, now).unwrap();
        let request = Request { bearer: role.parse().unwrap(), name: name.into(), hosts: Vec::new(), valid: day };
        save(&authority.issue(&request, now).unwrap(), pki, name, Existing::Replace).unwrap();
    };
    issue("node", "n1");
    issue("admin", "me");
    std::fs::write(pki.join("url"), "amqps://reeve:s3cr3t@bus\n").unwrap();
    let file = pki.join("reeve.toml");
    let text = format!("{CLUSTER}{OPENSTACK}")
        .replace("/ca.pem", pki.join("ca.pem").to_str().unwrap())
        .replace("/n.pem", pki.join("n1.pem").to_str().unwrap())
        .replace("{ credential = \"rpc-key\" }", &format!("{:?}", pki.join("n1.key")))
        .replace("\"amqps://h\"", &format!("{{ file = {:?} }}", pki.join("url")));
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = run(&["config", "check", file.to_str().unwrap()]);
        (status(&output), said(&output))
    };
    assert_eq!(check(&text), (0, format!("{}: sound\n", file.display())));
    let (code, message) = check(&text.replace("n1.pem", "none.pem").replace("/url", "/nowhere"));
    assert_eq!(code, 1);
    assert!(message.contains("rpc.cert: ") && message.contains("none.pem"), "{message}");
    assert!(message.contains("bus.url: cannot read the secret"), "all at once: {message}");
    let (_, message) = check(&text.replace("n1.key", "me.key"));
    assert!(message.contains("rpc.key: the key"), "{message}");
    let (_, message) = check(&text.replace("n1.pem", "me.pem").replace("n1.key", "me.key"));
    assert!(message.contains("rpc.cert: ") && message.contains("reeve://lab/admin/me"), "{message}");
    let (_, message) = check(&text.replace("id = \"n1\"", "id = \"n2\""));
    assert!(message.contains("rpc.cert: is of reeve://lab/node/n1, and this node is n2"), "{message}");
    std::fs::write(pki.join("ca.pem"), "nothing").unwrap();
    let (_, message) = check(&text);
    assert!(message.contains("cluster.etcd_ca: ") && message.contains("rpc.ca: "), "{message}");
    std::fs::write(pki.join("url"), "amqps://reeve:s3cr3t@bus,,other").unwrap();
    let (_, message) = check(&text);
    assert!(message.contains("bus.url: names no host at place 2") && !message.contains("s3cr3t"), "{message}");
    // What only the service can see is not held against the file.
    let (code, message) = check("[bus]\nurl = { credential = \"bus-url\" }\n");
    assert!(code == 0 && message.starts_with("not looked at, because only the service has its credentials: bus.url"));
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
    assert!(matches!(&config.cloud[0].driver, config::Driver::Sim(sim) if sim.hosts == 7));
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
fn the_example_names_every_key_with_its_default() {
    let text = std::fs::read_to_string(project("deploy/reeve.toml")).unwrap();
    let example = config::parse("reeve.toml", &text, std::iter::empty()).unwrap();
    let defaults = parse("").unwrap();
    let runtime = config::RuntimeSection { quarantine: defaults.runtime.quarantine, ..example.runtime.clone() };
    assert_eq!(runtime, defaults.runtime, "but for what a cluster waits after a takeover");
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
