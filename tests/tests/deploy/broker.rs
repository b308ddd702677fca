//! The permissions of RabbitMQ's definitions against what a node declares.

use std::io::Write;
use std::process::{Command, Stdio};

use reeve_protocol::{CloudName, ShardId, names};
use serde_json::Value;

fn definitions() -> Value {
    serde_json::from_str(&super::read("deploy/rabbitmq/definitions.json")).expect("JSON")
}

/// Whether RabbitMQ's regular expression matches; those in the file are also POSIX's.
fn matches(pattern: &str, name: &str) -> bool {
    let mut grep = Command::new("grep").args(["-E", "-q", "-e", pattern]).stdin(Stdio::piped()).spawn().expect("grep");
    let mut input = grep.stdin.take().expect("piped");
    writeln!(input, "{name}").expect("written");
    drop(input);
    grep.wait().expect("waited for").success()
}

fn declared() -> Vec<String> {
    let mut all: Vec<String> = [names::REQUESTS, names::RULES, names::SHARDS, names::EVENTS, names::AUDIT, names::DEAD]
        .map(str::to_owned)
        .into();
    all.extend([0, 7, 63, 1023].map(|shard| names::shard_queue(ShardId(shard))));
    all.push(names::intake_queue(&CloudName::new("north.1").expect("a name")));
    all
}

#[test]
fn a_node_may_declare_and_use_what_is_its_own() {
    let permission = &definitions()["permissions"][0];
    for name in declared() {
        for right in ["configure", "write", "read"] {
            assert!(matches(permission[right].as_str().expect("a pattern"), &name), "{right} {name}");
        }
    }
    // Answers and replayed dead letters go through the default exchange.
    assert!(matches(permission["write"].as_str().expect("a pattern"), "amq.default"));
}

#[test]
fn a_node_may_only_bind_to_the_clouds_exchange() {
    let permission = &definitions()["permissions"][0];
    let may = |right: &str, name: &str| matches(permission[right].as_str().expect("a pattern"), name);
    assert!(may("read", "nova") && !may("write", "nova") && !may("configure", "nova"));
    for stranger in ["", "notifications.info", "nova.info", "reeve", "reeve.other", "reeve.shard.x", "xreeve.requests"]
    {
        for right in ["configure", "write", "read"] {
            assert!(!may(right, stranger), "{right} {stranger}");
        }
    }
}

/// Of several policies only one applies to a queue.
#[test]
fn each_queue_has_one_policy() {
    let definitions = definitions();
    let policies = definitions["policies"].as_array().expect("a list");
    let applying = |queue: &str| {
        let of = |policy: &&Value| matches(policy["pattern"].as_str().expect("a pattern"), queue);
        policies.iter().filter(of).map(|policy| policy["name"].as_str().expect("a name")).collect::<Vec<_>>()
    };
    for (queue, policy) in [
        (names::REQUESTS, "reeve-work"),
        ("reeve.shard.12", "reeve-work"),
        ("reeve.intake.prod", "reeve-intake"),
        (names::DEAD, "reeve-dead"),
    ] {
        assert_eq!(applying(queue), [policy], "{queue}");
    }
    // Its bound and what is over it are arguments of the declaration.
    assert!(applying(names::RULES).is_empty());
    // Its retention is an argument of the declaration.
    assert!(applying(names::AUDIT).is_empty());
}

#[test]
fn the_file_holds_no_password() {
    let user = &definitions()["users"][0];
    assert_eq!((user["password_hash"].as_str(), user["tags"].as_str()), (Some("PASSWORD_HASH"), Some("")));
}
