//! What follows a call: white space, and once the tag that closes it; takes bytes until something else comes.

use super::{Sink, is_space};

/// What one byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// It belongs to the end of the call.
    Taken,
    /// It does not; before it these bytes are still to be read, which began as the tag does.
    Left(&'static [u8]),
}

/// Waits for the tag, of which some bytes may have matched.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    tag: &'static [u8],
    matched: usize,
    closed: bool,
}

impl Closing {
    /// `closed`: whether the tag was read already.
    pub(super) fn new(tag: &'static [u8], closed: bool) -> Self {
        Self { tag, matched: 0, closed }
    }

    pub(super) fn push(&mut self, byte: u8, sink: &mut dyn Sink) -> Closed {
        if self.matched == 0 && is_space(byte) {
            sink.syntax(1);
        } else if !self.closed && byte == self.tag[self.matched] {
            self.matched += 1;
            if self.matched == self.tag.len() {
                sink.syntax(self.tag.len());
                (self.matched, self.closed) = (0, true);
            }
        } else {
            return Closed::Left(&self.tag[..self.matched]);
        }
        Closed::Taken
    }

    /// Ends the answer: the beginning of the tag is no text.
    pub(super) fn finish(&self, sink: &mut dyn Sink) {
        sink.syntax(self.matched);
    }
}
