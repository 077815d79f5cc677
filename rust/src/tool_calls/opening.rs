//! The tag that opens a call, found in text: takes bytes, lets go of those that are certainly text.

use super::is_space;

/// Looks for a tag whose first byte occurs in it once, so that a failed match can only start over.
///
/// White space before the tag belongs to the tag; so it is held too, as long as a tag may follow it.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    tag: &'static [u8],
    matched: usize,
    /// White space, then the part of the tag that has matched.
    held: Vec<u8>,
}

impl Opening {
    pub(super) fn new(tag: &'static [u8]) -> Self {
        Self { tag, matched: 0, held: Vec::new() }
    }

    /// Takes bytes up to the end of the tag and says how many, or takes all of them.
    pub(super) fn push(&mut self, bytes: &[u8], sink: &mut dyn super::Sink) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.held.is_empty() {
                let open = |&byte: &u8| byte == self.tag[0] || is_space(byte);
                let plain = bytes[at..].iter().position(open).unwrap_or(bytes.len() - at);
                super::text(&bytes[at..at + plain], sink);
                at += plain;
                if at == bytes.len() {
                    break;
                }
            }
            let byte = bytes[at];
            if byte == self.tag[self.matched] {
                self.matched += 1;
            } else if self.matched > 0 || !is_space(byte) {
                // The byte is looked at once more, with nothing held.
                self.matched = 0;
                sink.content(&self.held);
                self.held.clear();
                continue;
            }
            self.held.push(byte);
            at += 1;
            if self.matched == self.tag.len() {
                return Some(at);
            }
        }
        None
    }

    /// What is held, which is forgotten: the white space and the tag, or its beginning.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.matched = 0;
        std::mem::take(&mut self.held)
    }
}
