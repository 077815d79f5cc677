//! The arguments of Gemma's calls as JSON: takes what follows the opening brace, gives JSON text as it comes.
//!
//! Whatever the model writes, the JSON of a call that was closed is valid: what is missing is filled in, what has no
//! place is left out, and a bare word that is no number, `true`, `false` or `null` is a string.

use super::{Sink, is_space, json};
use crate::tool_syntax::gemma;

const CLOSE: &[u8] = gemma::CLOSE.as_bytes();
/// Around strings, in which nothing else has a meaning.
const QUOTE: &[u8] = gemma::QUOTE.as_bytes();

/// A bare value longer than this is taken for a string, so that little is held.
const LONGEST_BARE: usize = 64;

/// What one byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    /// The arguments ended with this byte.
    Over,
    /// They ended with the tag that closes the call.
    Closed,
}

/// What the bytes spell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Byte(u8),
    Quote,
    Close,
}

#[derive(Debug, Clone)]
pub(super) struct Arguments {
    /// The tag that may be under way, and how much of it.
    tag: &'static [u8],
    matched: usize,
    /// Of each open container whether it is an object; the arguments themselves are the first.
    objects: Vec<bool>,
    /// Whether the innermost container has an element already.
    comma: bool,
    state: State,
    /// A bare value that may still grow.
    bare: Vec<u8>,
    /// JSON to be given with this byte.
    out: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a key or the end of the object.
    KeyStart,
    /// In a key, which is bare or a string.
    Key {
        quoted: bool,
    },
    /// After a key that is a string: the colon.
    Colon,
    /// Before a value.
    ValueStart,
    Bare,
    /// In a bare value that is too long to be anything but a string.
    LongBare,
    Text,
    /// After a value: a comma or the end of the container.
    After,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            tag: QUOTE,
            matched: 0,
            objects: vec![true],
            comma: false,
            state: State::KeyStart,
            bare: Vec::new(),
            out: Vec::new(),
        }
    }
}

impl Arguments {
    pub(super) fn push(&mut self, byte: u8, sink: &mut dyn Sink) -> Progress {
        sink.syntax(1);
        let progress = self.spell(byte);
        if !self.out.is_empty() {
            sink.arguments(&self.out);
            self.out.clear();
        }
        if progress != Progress::More {
            sink.end_call();
        }
        progress
    }

    /// Ends an answer in the middle of a call: a tag that was not completed is what it looks like.
    pub(super) fn finish(&mut self, sink: &mut dyn Sink) {
        if self.state == State::Text {
            let (tag, matched) = (self.tag, std::mem::take(&mut self.matched));
            tag[..matched].iter().for_each(|&byte| self.escape(byte));
            if !self.out.is_empty() {
                sink.arguments(&self.out);
            }
        }
    }

    /// Puts symbols together. Both tags begin alike and differ in the second byte.
    fn spell(&mut self, byte: u8) -> Progress {
        if self.matched == 1 {
            self.tag = if byte == CLOSE[1] { CLOSE } else { QUOTE };
        }
        if self.matched > 0 && byte != self.tag[self.matched] {
            let (tag, matched) = (self.tag, std::mem::take(&mut self.matched));
            for &byte in &tag[..matched] {
                let progress = self.read(Symbol::Byte(byte));
                debug_assert_eq!(progress, Progress::More, "no bracket is part of a tag");
            }
        }
        if byte != self.tag[self.matched] {
            return self.read(Symbol::Byte(byte));
        }
        self.matched += 1;
        if self.matched < self.tag.len() {
            return Progress::More;
        }
        self.matched = 0;
        self.read(if self.tag == CLOSE { Symbol::Close } else { Symbol::Quote })
    }

    fn read(&mut self, symbol: Symbol) -> Progress {
        match (self.state, symbol) {
            (State::Text, Symbol::Byte(byte)) => self.escape(byte),
            (State::Text, Symbol::Close) => CLOSE.iter().for_each(|&byte| self.escape(byte)),
            (State::Text, Symbol::Quote) => self.end_value(b"\""),
            (State::Key { quoted: false }, Symbol::Byte(b':')) => self.end_key(b"\":", State::ValueStart),
            (State::Key { quoted: true }, Symbol::Byte(byte)) => self.escape(byte),
            (State::Key { quoted: true }, Symbol::Close) => CLOSE.iter().for_each(|&byte| self.escape(byte)),
            (State::Key { quoted: true }, Symbol::Quote) => self.end_key(b"\"", State::Colon),
            (_, Symbol::Close) => {
                self.settle();
                while !self.objects.is_empty() {
                    self.close();
                }
                return Progress::Closed;
            }
            (_, Symbol::Byte(b'}' | b']')) => {
                self.settle();
                self.close();
                if self.objects.is_empty() {
                    return Progress::Over;
                }
            }
            (_, Symbol::Byte(b',')) => {
                self.settle();
                self.state = if self.in_object() { State::KeyStart } else { State::ValueStart };
            }
            (State::Key { .. }, Symbol::Byte(byte)) => self.escape(byte),
            (State::KeyStart | State::Colon | State::ValueStart | State::After, Symbol::Byte(byte))
                if is_space(byte) => {}
            (State::KeyStart, symbol) => {
                self.separate();
                self.out.push(b'"');
                self.state = State::Key { quoted: symbol == Symbol::Quote };
                if let Symbol::Byte(byte) = symbol {
                    self.escape(byte);
                }
            }
            (State::Colon, Symbol::Byte(b':')) => self.end_key(b":", State::ValueStart),
            (State::ValueStart, Symbol::Byte(open @ (b'{' | b'['))) => {
                self.begin_value(&[open]);
                self.objects.push(open == b'{');
                self.comma = false;
                self.state = if open == b'{' { State::KeyStart } else { State::ValueStart };
            }
            (State::ValueStart, Symbol::Quote) => {
                self.begin_value(b"\"");
                self.state = State::Text;
            }
            (State::ValueStart, Symbol::Byte(byte)) => {
                self.bare.push(byte);
                self.state = State::Bare;
            }
            (State::Bare, Symbol::Byte(byte)) => {
                self.bare.push(byte);
                if self.bare.len() > LONGEST_BARE {
                    self.begin_value(b"\"");
                    std::mem::take(&mut self.bare).into_iter().for_each(|byte| self.escape(byte));
                    self.state = State::LongBare;
                }
            }
            (State::LongBare, Symbol::Byte(byte)) => self.escape(byte),
            // What has no place here is left out.
            (State::Key { .. } | State::Colon | State::Bare | State::LongBare | State::After, _) => {}
        }
        Progress::More
    }

    /// Ends what is under way, so that a comma or a closing bracket may follow.
    fn settle(&mut self) {
        match self.state {
            State::Key { .. } => self.end_value(b"\":null"),
            State::Colon => self.end_value(b":null"),
            State::ValueStart if self.in_object() => self.end_value(b"\"\""),
            State::LongBare => self.end_value(b"\""),
            State::Bare => {
                let bare = std::mem::take(&mut self.bare);
                let word = bare.trim_ascii_end();
                if matches!(word, b"true" | b"false") || json::is_number(word) {
                    self.begin_value(word);
                } else if matches!(word, b"null" | b"none" | b"nil") {
                    self.begin_value(b"null");
                } else {
                    self.begin_value(b"\"");
                    word.iter().for_each(|&byte| self.escape(byte));
                    self.out.push(b'"');
                }
                self.end_value(b"");
            }
            State::KeyStart | State::ValueStart | State::Text | State::After => {}
        }
    }

    /// Closes the innermost container, whatever bracket the model wrote.
    fn close(&mut self) {
        self.out.push(if self.objects.pop() == Some(true) { b'}' } else { b']' });
        self.end_value(b"");
    }

    fn end_key(&mut self, json: &[u8], state: State) {
        self.out.extend_from_slice(json);
        self.state = state;
    }

    /// A value begins; in an array it needs a comma, in an object its key had one.
    fn begin_value(&mut self, json: &[u8]) {
        if !self.in_object() {
            self.separate();
        }
        self.out.extend_from_slice(json);
    }

    fn end_value(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
        self.comma = true;
        self.state = State::After;
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.comma, true) {
            self.out.push(b',');
        }
    }

    fn in_object(&self) -> bool {
        self.objects.last() == Some(&true)
    }

    /// One byte of a string.
    fn escape(&mut self, byte: u8) {
        match byte {
            b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
            b'\n' => self.out.extend_from_slice(b"\\n"),
            0..0x20 => self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => self.out.push(byte),
        }
    }
}
