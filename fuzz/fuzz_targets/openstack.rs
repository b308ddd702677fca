//! Any bytes as the body of a notification.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reeve_protocol::openstack::decode;

fuzz_target!(|body: &[u8]| {
    let _ = decode(body);
});
