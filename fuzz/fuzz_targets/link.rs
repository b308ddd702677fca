//! Tokens of links, as anybody may show them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reeve_protocol::Timestamp;
use reeve_protocol::link::LinkKey;

fuzz_target!(|token: &str| {
    let key = LinkKey::new(&[7; 32]).expect("a key of 32 bytes");
    // Only who has the key makes one that is good.
    if let Ok(link) = key.open(token, Timestamp::MIN) {
        assert_eq!(key.token(&link), token);
    }
});
