//! Any bytes as a stored value; what is read is written again as the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reeve_protocol::codec::{decode, encode};
use reeve_protocol::observation::VmNotification;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((format, value)) = decode::<VmNotification>(u8::MAX, bytes) {
        let written = encode(format, &value).expect("what was read can be written");
        assert_eq!(decode::<VmNotification>(format, &written), Ok((format, value)));
    }
});
