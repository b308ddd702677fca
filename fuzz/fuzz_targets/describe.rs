//! Any bytes as the input of `reeve decode`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reeve_protocol::openstack::{describe, documents};

fuzz_target!(|input: &[u8]| {
    for document in documents(input) {
        let _ = describe("fuzz", document);
    }
});
