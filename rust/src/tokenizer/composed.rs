//! Text in NFC, as the `tokenizers` crate composes it: takes text, gives the same text or a composed one.

use std::borrow::Cow;

use unicode_normalization_alignments::UnicodeNormalization;

use super::classes::{Classes, INERT};

/// The first byte of the first character that composition may touch, U+0300.
const FIRST: u8 = 0xcc;

/// `text` in NFC. Only stretches with characters that composition may touch are composed, each from the inert
/// character before it, with which it may join, up to the next one.
pub(super) fn composed(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let classes = Classes::shared();
    let is_inert = |at: usize| {
        let (class, size) = classes.at(bytes, at);
        (class & INERT != 0, size)
    };
    let (mut at, mut before, mut copied) = (0, 0, 0);
    let mut out = String::new();
    while at < bytes.len() {
        if bytes[at] < FIRST {
            // A quick look at what most text is.
            let plain = first_from(&bytes[at..]);
            if plain > 0 {
                at += plain;
                before = at - 1;
                while !text.is_char_boundary(before) {
                    before -= 1;
                }
                continue;
            }
        }
        let (inert, size) = is_inert(at);
        if inert {
            before = at;
            at += size;
            continue;
        }
        at += size;
        while at < bytes.len() {
            let (inert, size) = is_inert(at);
            if inert {
                break;
            }
            at += size;
        }
        let stretch = &text[before..at];
        let mut length = 0;
        let same = stretch.nfc().all(|(character, _)| {
            let from = before + length;
            length += character.len_utf8();
            text[from..at].starts_with(character)
        });
        if !same || length != stretch.len() {
            out.push_str(&text[copied..before]);
            out.extend(stretch.nfc().map(|(character, _)| character));
            copied = at;
        }
        // The stretch goes on if it is not inert at its end, so nothing before `at` is looked at again.
        before = at;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// How many bytes come before the first that may begin a character to look at.
fn first_from(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<32>();
    let plain =
        blocks.iter().take_while(|block| block.iter().fold(0, |most, &byte| most.max(byte)) < FIRST).count();
    let rest = &bytes[32 * plain..];
    32 * plain + rest.iter().position(|&byte| byte >= FIRST).unwrap_or(rest.len())
}
