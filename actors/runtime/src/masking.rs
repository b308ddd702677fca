//! Bodies of foreign messages as people may see them: older clouds put live tokens into notifications.

/// The most bytes of a body that are shown.
const MAX_SHOWN: usize = 4096;
/// The most bytes of a body that are looked at: masking takes time for each secret, and a body may be megabytes.
const MAX_READ: usize = 64 * 1024;
/// What stands for a masked value.
const MASK: &str = "***";
/// A key that contains one of these holds a secret. The catalog tells the way to every service.
const SECRET: [&str; 7] = ["token", "password", "secret", "credential", "admin_pass", "adminpass", "service_catalog"];

/// How Keystone's tokens begin (Fernet: version 0x80 and the high bytes of a time, in base64).
const TOKEN: &str = "gAAAAA";

/// The start of a body as text, with the values of secret keys and whatever looks like a token masked. Works on text that is no complete JSON, and
/// inside of JSON that is itself a string, because that is what a dead letter is.
pub(crate) fn masked(body: &[u8]) -> String {
    let text = without_tokens(&String::from_utf8_lossy(&body[..body.len().min(MAX_READ)]));
    let mut out = String::with_capacity(text.len().min(MAX_SHOWN));
    let mut rest = text.as_str();
    // Masked before it is cut, so that a cut never ends a key early.
    while let Some((key_end, value_start)) = secret_key(rest) {
        let (before, after) = rest.split_at(value_start);
        out.push_str(before);
        debug_assert!(key_end <= value_start);
        let length = value_length(after);
        out.push_str(MASK);
        rest = &after[length..];
        if out.len() >= MAX_SHOWN {
            break;
        }
    }
    if out.len() < MAX_SHOWN {
        out.push_str(rest);
    }
    let mut end = out.len().min(MAX_SHOWN);
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(end);
    out
}

/// Tokens stand under any key and within sentences too: an exception of Python quotes them.
fn without_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(TOKEN) {
        out.push_str(&rest[..at]);
        out.push_str(MASK);
        let is_body = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'=');
        rest = &rest[at + skip(&rest[at..], is_body)..];
    }
    out.push_str(rest);
    out
}

/// Where the next secret key ends and where its value begins.
fn secret_key(text: &str) -> Option<(usize, usize)> {
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let found = SECRET.iter().filter_map(|word| lower[from..].find(word).map(|at| (at, word.len()))).min()?;
        let word_end = from + found.0 + found.1;
        // The rest of the key's name, then its quote, which is escaped inside of a string.
        let name = lower[word_end..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let quotes = skip(&lower[word_end + name..], |byte| byte == b'"' || byte == b'\\');
        let key_end = word_end + name + quotes;
        let spaces = skip(&lower[key_end..], |byte| byte.is_ascii_whitespace());
        if quotes > 0 && lower[key_end + spaces..].starts_with(':') {
            let colon = key_end + spaces + 1;
            return Some((key_end, colon + skip(&lower[colon..], |byte| byte.is_ascii_whitespace())));
        }
        from = word_end;
    }
}

fn skip(text: &str, is: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| is(*byte)).count()
}

/// How long the value at the start of a text is: a string to its closing quote, a list or an object to its closing
/// bracket, anything else to the next separator. A value that is not closed reaches to the end.
fn value_length(text: &str) -> usize {
    let escapes = skip(text, |byte| byte == b'\\');
    let bytes = text.as_bytes();
    match bytes.get(escapes) {
        Some(b'"') => {
            // A quote within the value has more escapes than those around it.
            let mut before = 0;
            for (at, byte) in bytes.iter().enumerate().skip(escapes + 1) {
                match byte {
                    b'\\' => before += 1,
                    b'"' if before == escapes => return at + 1,
                    _ => before = 0,
                }
            }
            text.len()
        }
        Some(b'[' | b'{') => {
            let mut depth = 0usize;
            for (at, byte) in bytes.iter().enumerate() {
                match byte {
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && at >= escapes {
                    return at + 1;
                }
            }
            text.len()
        }
        Some(_) => text.find([',', '}', ']']).unwrap_or(text.len()),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_masked_in_whole_in_cut_and_in_nested_json() {
        let plain = r#"{"_context_auth_token": "gAAAAA-live", "vm": 1}"#;
        assert_eq!(masked(plain.as_bytes()), r#"{"_context_auth_token": ***, "vm": 1}"#);
        let nested = r#"{"oslo.message": "{\"_context_auth_token\": \"gAAAAA-live\", \"x\": 1}"}"#;
        assert_eq!(masked(nested.as_bytes()), r#"{"oslo.message": "{\"_context_auth_token\": ***, \"x\": 1}"}"#);
        let cut = r#"{"auth_token": "gAAAAA-li"#;
        assert_eq!(masked(cut.as_bytes()), r#"{"auth_token": ***"#);
        let catalog = r#"{"service_catalog": [{"endpoints": [{"url": "x"}]}], "a": 2}"#;
        assert_eq!(masked(catalog.as_bytes()), r#"{"service_catalog": ***, "a": 2}"#);
    }

    #[test]
    fn a_quote_within_a_secret_does_not_end_it() {
        let plain = r#"{"password": "ab\"cd", "a": 2}"#;
        assert_eq!(masked(plain.as_bytes()), r#"{"password": ***, "a": 2}"#);
        let nested = r#"{"m": "{\"password\": \"ab\\\"cd\", \"a\": 2}"}"#;
        assert_eq!(masked(nested.as_bytes()), r#"{"m": "{\"password\": ***, \"a\": 2}"}"#);
    }

    #[test]
    fn a_token_is_masked_wherever_it_stands() {
        let python = r#"{"exception": "Failed({'token': u'gAAAAABx-y_z=='},)"}"#;
        assert_eq!(masked(python.as_bytes()), r#"{"exception": "Failed({'token': u'***'},)"}"#);
        assert_eq!(masked(b"gAAAAAB"), MASK);
    }

    #[test]
    fn what_is_no_secret_is_shown_and_the_length_is_bounded() {
        assert_eq!(masked(br#"{"a": "a token in a sentence"}"#), r#"{"a": "a token in a sentence"}"#);
        assert!(masked(&[0xff; 10_000]).len() <= MAX_SHOWN);
        assert!(masked("é".repeat(5000).as_bytes()).len() <= MAX_SHOWN);
    }
}
