//! What a text stream gives, by looking at all of its bytes: slow and obvious. The second opinion of tests and fuzz targets.

/// What a text lets go, by looking at all of it: how many bytes, and whether a stop is complete.
pub fn look_at_everything(stops: &[Vec<u8>], text: &[u8]) -> (usize, bool) {
    for end in 1..=text.len() {
        let longest = stops.iter().filter(|stop| text[..end].ends_with(stop)).map(Vec::len).max();
        if let Some(length) = longest {
            return (end - length, true);
        }
    }
    let begins_a_stop = |start: usize| stops.iter().any(|stop| stop.starts_with(&text[start..]));
    let held = (0..text.len()).find(|&start| begins_a_stop(start)).unwrap_or(text.len());
    (held, false)
}

/// Trailing bytes that may still become a character.
pub fn unfinished(bytes: &[u8]) -> usize {
    let is_prefix = |tail: &[u8]| {
        std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=bytes.len().min(3)).rev().find(|&count| is_prefix(&bytes[bytes.len() - count..])).unwrap_or(0)
}
