//! Commands as producers send them: the type up to the first newline, the body after it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reeve_protocol::command::{Answer, answer_json, parse};

fuzz_target!(|input: &[u8]| {
    let (kind, body) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (std::str::from_utf8(&input[..at]).ok(), &input[at + 1..]),
        None => (None, input),
    };
    if let Err(error) = parse(kind, Some("fuzz"), body) {
        let answer: Answer = Err(error.into());
        assert!(answer_json(&answer).len() < 8192, "an error echoes too much of its input");
    }
});
