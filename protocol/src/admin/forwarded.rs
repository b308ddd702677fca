//! Bounds how deep requests may lie in each other.

use std::cell::Cell;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::AdminRequest;

/// A frame could hold a hundred thousand levels, and reading them would overflow the stack, which ends the process. One
/// level is used; the second is read so that it can be refused in words.
const MAX_LEVELS: u8 = 2;

thread_local! {
    static LEVELS: Cell<u8> = const { Cell::new(0) };
}

/// One level less when it is dropped.
struct Level;

impl Drop for Level {
    fn drop(&mut self) {
        LEVELS.set(LEVELS.get() - 1);
    }
}

/// Reads the request within a forwarded one, unless it lies too deep.
pub(super) fn within<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<AdminRequest>, D::Error> {
    if LEVELS.get() >= MAX_LEVELS {
        return Err(D::Error::custom("requests are forwarded within each other"));
    }
    LEVELS.set(LEVELS.get() + 1);
    let _level = Level;
    AdminRequest::deserialize(deserializer).map(Box::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{ADMIN_FORMAT, Principal};
    use crate::codec;

    fn nested(levels: usize) -> Vec<u8> {
        // By hand: dropping so deep a value would overflow the stack too.
        let node = codec::encode(ADMIN_FORMAT, &AdminRequest::Node).unwrap();
        let one = AdminRequest::Forwarded { by: Principal::local(), request: Box::new(AdminRequest::Node) };
        let one = codec::encode(ADMIN_FORMAT, &one).unwrap();
        let level = &one[1..one.len() - (node.len() - 1)];
        [&node[..1], &level.repeat(levels), &node[1..]].concat()
    }

    #[test]
    fn requests_within_each_other_are_read_to_the_second_level_and_no_deeper() {
        for levels in [1, 2] {
            codec::decode::<AdminRequest>(ADMIN_FORMAT, &nested(levels)).unwrap();
        }
        for levels in [3, 100_000] {
            assert!(codec::decode::<AdminRequest>(ADMIN_FORMAT, &nested(levels)).is_err());
        }
        codec::decode::<AdminRequest>(ADMIN_FORMAT, &nested(1)).unwrap();
    }
}
