//! Lower-case hex.

use std::fmt::Write;

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

/// Exactly as many bytes as are wanted, in lower case.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        assert_eq!(super::decode(&super::encode(&[0, 10, 255])), Some([0, 10, 255]));
        for wrong in ["0A", "0", "000", "0g", "é"] {
            assert_eq!(super::decode::<1>(wrong), None, "{wrong}");
        }
    }
}
