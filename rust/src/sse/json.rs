//! The JSON that answers are made of, written straight into a byte buffer.

use std::io::Write as _;

use crate::event::{TokenLogprob, Usage};

/// Stands for minus infinity, which JSON cannot spell.
const LEAST_LOGPROB: f64 = -9999.0;

/// What a byte needs inside a string: 0 nothing, `u` the long escape, else the letter after the backslash.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        escapes[control] = b'u';
        control += 1;
    }
    escapes[0x08] = b'b';
    escapes[b'\t' as usize] = b't';
    escapes[b'\n' as usize] = b'n';
    escapes[0x0c] = b'f';
    escapes[b'\r' as usize] = b'r';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    escapes
};

/// Appends what stands between the quotes of a string. Characters beyond ASCII stay as they are.
pub(super) fn escape(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape != 0 {
            out.extend_from_slice(&bytes[copied..index]);
            copied = index + 1;
            out.extend_from_slice(&[b'\\', escape]);
            if escape == b'u' {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                out.extend_from_slice(&[b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Appends a string with its quotes.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, out);
    out.push(b'"');
}

/// Appends a whole number.
pub(super) fn integer(number: impl Into<i64>, out: &mut Vec<u8>) {
    write!(out, "{}", number.into()).expect("a Vec takes every byte");
}

/// Appends the items of a list with commas between them.
fn list<T>(items: impl IntoIterator<Item = T>, out: &mut Vec<u8>, mut item: impl FnMut(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, value) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        item(value, out);
    }
    out.push(b']');
}

/// Appends log-probabilities, shortest digits that read back as the same number; always finite.
pub(super) fn logprob(value: f64, out: &mut Vec<u8>) {
    let value = if value.is_finite() { value.max(LEAST_LOGPROB) } else { LEAST_LOGPROB };
    write!(out, "{value:?}").expect("a Vec takes every byte");
}

/// Appends the part that the token and its alternatives share; the object stays open.
fn token(bytes: &[u8], value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"token\":");
    string(&String::from_utf8_lossy(bytes), out);
    out.extend_from_slice(b",\"logprob\":");
    logprob(value, out);
    out.extend_from_slice(b",\"bytes\":");
    if bytes.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        list(bytes, out, |&byte, out| integer(byte, out));
    }
}

/// Appends entries of a `logprobs.content` list, with commas between them.
pub(super) fn logprob_entries(entries: &[TokenLogprob], out: &mut Vec<u8>) {
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        token(&entry.bytes, entry.logprob, out);
        out.extend_from_slice(b",\"top_logprobs\":");
        list(&entry.top, out, |(_, bytes, value), out| {
            token(bytes, *value, out);
            out.push(b'}');
        });
        out.push(b'}');
    }
}

/// Appends a usage object.
pub(super) fn usage(usage: Usage, out: &mut Vec<u8>) {
    let Usage { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens } = usage;
    let total_tokens = u64::from(prompt_tokens) + u64::from(completion_tokens);
    write!(
        out,
        "{{\"prompt_tokens\":{prompt_tokens},\"completion_tokens\":{completion_tokens},\
         \"total_tokens\":{total_tokens},\"prompt_tokens_details\":{{\"cached_tokens\":{cached_tokens}}},\
         \"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning_tokens}}}}}"
    )
    .expect("a Vec takes every byte");
}

/// Appends a usage object in the words of the responses endpoint.
pub(super) fn response_usage(usage: Usage, out: &mut Vec<u8>) {
    let Usage { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens } = usage;
    let total_tokens = u64::from(prompt_tokens) + u64::from(completion_tokens);
    write!(
        out,
        "{{\"input_tokens\":{prompt_tokens},\"input_tokens_details\":{{\"cached_tokens\":{cached_tokens}}},\
         \"output_tokens\":{completion_tokens},\
         \"output_tokens_details\":{{\"reasoning_tokens\":{reasoning_tokens}}},\"total_tokens\":{total_tokens}}}"
    )
    .expect("a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_character_below_the_surrogates_reads_back() {
        let text: String = ('\0'..='\u{d7ff}').collect();
        let json = written(|out| string(&text, out));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        assert!(json.bytes().all(|byte| byte >= 0x20));
    }

    #[test]
    fn strings_are_escaped_no_more_than_needed() {
        let json = written(|out| string("a\"b\\c\n\u{1}\u{1f}\u{7f}é\u{2028}😀</", out));
        assert_eq!(json, "\"a\\\"b\\\\c\\n\\u0001\\u001f\u{7f}é\u{2028}😀</\"");
    }

    #[test]
    fn log_probabilities_are_exact_and_finite() {
        let spelled = |value| written(|out| logprob(value, out));
        for value in [0.0, -0.1, -1.5e-300, -f64::MIN_POSITIVE, -9998.999999999998, -1.0 / 3.0] {
            assert_eq!(spelled(value).parse::<f64>().unwrap(), value);
            assert!(serde_json::from_str::<serde_json::Value>(&spelled(value)).unwrap().is_number());
        }
        for value in [f64::NEG_INFINITY, f64::NAN, f64::INFINITY, -1e9] {
            assert_eq!(spelled(value), "-9999.0");
        }
    }

    #[test]
    fn an_entry_names_its_token_its_bytes_and_the_likeliest() {
        let top = vec![(1, b"\xe2\x82".to_vec(), -0.5), (2, vec![], f64::NEG_INFINITY)];
        let entry = TokenLogprob { token_id: 7, bytes: b"a\"".to_vec(), logprob: -1.25, top };
        let json = written(|out| logprob_entries(&[entry], out));
        let expected = "{\"token\":\"a\\\"\",\"logprob\":-1.25,\"bytes\":[97,34],\"top_logprobs\":[\
             {\"token\":\"\u{fffd}\",\"logprob\":-0.5,\"bytes\":[226,130]},\
             {\"token\":\"\",\"logprob\":-9999.0,\"bytes\":null}]}";
        assert_eq!(json, expected);
    }
}
