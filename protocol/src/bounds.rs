//! Bounds on foreign JSON, checked on the bytes before anything is parsed.

/// The deepest nesting of arrays and objects that is parsed. Nova's deepest (a request specification) has 14 levels.
pub const MAX_DEPTH: usize = 64;

/// Which bound was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// Too many bytes.
    #[error("{found} bytes, at most {most} are read")]
    Size {
        /// How many there are.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// Arrays and objects nested too deep.
    #[error("nested deeper than {MAX_DEPTH} at byte {at}")]
    Depth {
        /// Where the limit was passed.
        at: usize,
    },
}

/// Checks size, UTF-8 and nesting of a JSON text in one pass, without allocating.
///
/// # Errors
/// [`BoundsError`] names the bound and where it was passed.
pub fn check_bounds(body: &[u8], most: usize) -> Result<&str, BoundsError> {
    if body.len() > most {
        return Err(BoundsError::Size { found: body.len(), most });
    }
    let text = std::str::from_utf8(body).map_err(|error| BoundsError::NotUtf8 { at: error.valid_up_to() })?;
    match too_deep_at(text) {
        None => Ok(text),
        Some(at) => Err(BoundsError::Depth { at }),
    }
}

/// Where a JSON text opens more than [`MAX_DEPTH`] levels, if it does. Counts brackets outside strings; whether they
/// match is the parser's business.
#[must_use]
pub fn too_deep_at(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some(at);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let quoted = format!("\"{}\\\"[\"", "[".repeat(1000));
        assert!(check_bounds(quoted.as_bytes(), 4096).is_ok());
        assert_eq!(check_bounds("[".repeat(65).as_bytes(), 4096), Err(BoundsError::Depth { at: 64 }));
        assert_eq!(check_bounds(b"ab\xff", 4096), Err(BoundsError::NotUtf8 { at: 2 }));
        assert_eq!(check_bounds(b"abc", 2), Err(BoundsError::Size { found: 3, most: 2 }));
    }
}
