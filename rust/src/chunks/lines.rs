//! Server-sent events from bytes: takes the pieces of a stream, gives the data of each event once it is whole.

use crate::error::Error;

use super::{MAX_EVENT, fault};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What of the stream has no end yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// The lines of data of this event, each with its line feed.
    data: Vec<u8>,
    /// A carriage return ended the line: a line feed behind it belongs to it.
    after_return: bool,
    /// The first line is over.
    begun: bool,
}

impl Lines {
    /// Calls `each` with the data of every event that ends in this piece. Fails as `each` does, or for an event that is too long.
    pub(super) fn push(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            if self.after_return && !piece.is_empty() {
                self.after_return = false;
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let line = &piece[..end.unwrap_or(piece.len())];
            if self.line.len() + self.data.len() + line.len() > MAX_EVENT {
                return Err(fault("an event is too long"));
            }
            let Some(end) = end else {
                self.line.extend_from_slice(line);
                return Ok(());
            };
            if self.line.is_empty() {
                self.take(line, &mut each)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.take(&whole, &mut each)?;
                whole.clear();
                self.line = whole;
            }
            self.after_return = piece[end] == b'\r';
            piece = &piece[end + 1..];
        }
    }

    fn take(
        &mut self,
        mut line: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.begun {
            self.begun = true;
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            let mut data = std::mem::take(&mut self.data);
            // The last line feed is the event's own end.
            if let Some((_, data)) = data.split_last() {
                each(data)?;
            }
            data.clear();
            self.data = data;
        } else if let Some(value) = line.strip_prefix(b"data") {
            // A field without a colon is one without a value; "database" is a field of another name. Comments begin with a colon.
            match value.strip_prefix(b":") {
                Some(value) => self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value)),
                None if value.is_empty() => {}
                None => return Ok(()),
            }
            self.data.push(b'\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &str) -> Vec<String> {
        let mut told = Vec::new();
        let mut lines = Lines::default();
        lines
            .push(stream.as_bytes(), |data| {
                told.push(String::from_utf8(data.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
        told
    }

    #[test]
    fn data_is_read_as_the_standard_says() {
        for (stream, expected) in [
            ("data: a\n\n", vec!["a"]),
            ("data:a\n\ndata:  b\r\n\r\ndata: c\r\r", vec!["a", " b", "c"]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", vec!["a"]),
            (": ping\n\n:\n\nevent: x\nid: 1\nretry: 5\ndatabase: y\ndata: a\n\n", vec!["a"]),
            ("data: a\ndata: b\n\ndata\n\ndata\ndata\n\n", vec!["a\nb", "", "\n"]),
            ("data: a\n", vec![]),
            ("event: x\n\n\n\n\r\n", vec![]),
        ] {
            assert_eq!(events(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused_before_it_fills_the_memory() {
        for line in ["data: aaaaaaaaaaaaaaaaaaa", ": aaaaaaaaaaaaaaaaaaaa", "data: aaaaaaaaaaaaaaaaaaa\n"] {
            let mut lines = Lines::default();
            let piece = line.repeat(64 * 1024);
            let pushed = (0..8).find(|_| lines.push(piece.as_bytes(), |_| Ok(())).is_err());
            assert!(pushed.is_some(), "{line}");
            assert!(lines.line.capacity() + lines.data.capacity() <= 4 * MAX_EVENT);
        }
    }
}
