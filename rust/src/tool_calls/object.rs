//! One call written as a JSON object: takes its bytes, decides whether it is a call, gives name and arguments.
//! Where the object stands in the answer is `hermes`' and `llama`'s.

use std::ops::Range;

use super::json::{Json, State};
use super::{Sink, begins_a_name, find_name};

/// An object that is or may be a call.
#[derive(Debug, Clone)]
pub(super) struct CallObject {
    json: Json,
    /// Whether the name alone decides. Otherwise the whole object does.
    eager: bool,
    /// What ends an object that is no JSON; empty if nothing but brackets does.
    closing: &'static [u8],
    phase: Phase,
    /// What is undecided: the tag before the object and its bytes so far.
    held: Vec<u8>,
    /// The value that is being read, or that the next colon leads to.
    member: Member,
    key: Vec<u8>,
    name: Vec<u8>,
    named: bool,
    arguments: Arguments,
}

#[derive(Debug, Clone)]
enum Phase {
    Undecided,
    /// The call has begun.
    Told,
    /// The call has begun and then broke the rules of JSON.
    Broken {
        brackets: Brackets,
        matched: usize,
    },
}

/// The members that a call may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Name,
    Arguments,
    Other,
}

/// The value of the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Arguments {
    None,
    Open(Range<usize>),
    Whole(Range<usize>),
}

/// What one byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The object goes on.
    More,
    /// It is no call. The byte is not part of what is held.
    NoCall,
    /// The call is over with this byte.
    Over,
    /// The call was over before this byte.
    OverBefore,
    /// The call is over, and so is its closing tag.
    Closed,
}

/// What one byte is to the reader of the members.
enum Seen {
    Frame,
    Name,
    Argument,
    End,
    Wrong,
}

const KEYS: [(&[u8], Member); 4] = [
    (b"name", Member::Name),
    (b"arguments", Member::Arguments),
    (b"parameters", Member::Arguments),
    (b"type", Member::Other),
];

impl CallObject {
    /// `held`: what comes before the object and shares its fate.
    pub(super) fn new(eager: bool, closing: &'static [u8], held: Vec<u8>) -> Self {
        Self {
            json: Json::new(),
            eager,
            closing,
            phase: Phase::Undecided,
            held,
            member: Member::Other,
            key: Vec::new(),
            name: Vec::new(),
            named: false,
            arguments: Arguments::None,
        }
    }

    pub(super) fn push(&mut self, byte: u8, names: &[String], sink: &mut dyn Sink) -> Step {
        match self.phase {
            Phase::Undecided => self.decide(byte, names, sink),
            Phase::Told => self.tell(byte, names, sink),
            Phase::Broken { .. } => self.pass(byte, sink),
        }
    }

    /// What is held, which is forgotten.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Ends the answer. What is still held is undecided.
    pub(super) fn finish(&mut self, sink: &mut dyn Sink) {
        match self.phase {
            Phase::Undecided => {}
            Phase::Told if matches!(self.arguments, Arguments::Whole(_)) => sink.end_call(),
            Phase::Told => {}
            Phase::Broken { matched, .. } => sink.syntax(matched),
        }
    }

    fn decide(&mut self, byte: u8, names: &[String], sink: &mut dyn Sink) -> Step {
        let seen = self.read(byte, names);
        if matches!(seen, Seen::Wrong) {
            return Step::NoCall;
        }
        self.held.push(byte);
        match seen {
            Seen::Name if self.eager => self.begin(sink),
            Seen::End if self.arguments == Arguments::None => {
                self.held.pop();
                return Step::NoCall;
            }
            Seen::End => {
                self.begin(sink);
                sink.end_call();
                return Step::Over;
            }
            _ => {}
        }
        Step::More
    }

    /// The call begins, with the arguments that were held.
    fn begin(&mut self, sink: &mut dyn Sink) {
        sink.call(&String::from_utf8_lossy(&self.name));
        sink.syntax(self.held.len());
        if let Arguments::Whole(range) = &self.arguments {
            sink.arguments(&self.held[range.clone()]);
        }
        self.held = Vec::new();
        self.phase = Phase::Told;
    }

    fn tell(&mut self, byte: u8, names: &[String], sink: &mut dyn Sink) -> Step {
        match self.read(byte, names) {
            Seen::Wrong if matches!(self.arguments, Arguments::Whole(_)) => {
                sink.end_call();
                return Step::OverBefore;
            }
            Seen::Wrong => {
                let (in_text, escaped) = self.json.in_text();
                let brackets = Brackets { depth: self.json.depth(), in_text, escaped };
                self.phase = Phase::Broken { brackets, matched: 0 };
                return self.pass(byte, sink);
            }
            Seen::Argument => sink.arguments(&[byte]),
            Seen::End => {
                if self.arguments == Arguments::None {
                    sink.arguments(b"{}");
                }
                sink.syntax(1);
                sink.end_call();
                return Step::Over;
            }
            Seen::Frame | Seen::Name => {}
        }
        sink.syntax(1);
        Step::More
    }

    /// One byte of a broken object: an argument, as it is written, unless it ends the object.
    fn pass(&mut self, byte: u8, sink: &mut dyn Sink) -> Step {
        let Phase::Broken { brackets, matched } = &mut self.phase else { return Step::More };
        if *matched > 0 && byte != self.closing[*matched] {
            sink.syntax(*matched);
            sink.arguments(&self.closing[..*matched]);
            brackets.escaped = false;
            *matched = 0;
        }
        if self.closing.get(*matched) == Some(&byte) {
            *matched += 1;
            if *matched < self.closing.len() {
                return Step::More;
            }
            sink.syntax(*matched);
            sink.end_call();
            return Step::Closed;
        }
        sink.syntax(1);
        brackets.step(byte);
        if brackets.depth == 0 {
            sink.end_call();
            return Step::Over;
        }
        sink.arguments(&[byte]);
        Step::More
    }

    /// One byte of an object whose members are those of a call.
    fn read(&mut self, byte: u8, names: &[String]) -> Seen {
        let (before, depth) = (self.json.state(), self.json.depth());
        let not_an_object = depth == 0 && byte != b'{' && !super::is_space(byte);
        if not_an_object || !self.fits(before, depth, byte, names) || !self.json.step(byte) {
            return Seen::Wrong;
        }
        let after = self.json.depth();
        if after == 0 {
            return match (depth, self.named) {
                (0, _) => Seen::Frame,
                (_, true) => Seen::End,
                (_, false) => Seen::Wrong,
            };
        }
        match (depth, before, byte) {
            (1, State::Text { key: false }, b'"') if self.member == Member::Name => {
                self.named = true;
                return Seen::Name;
            }
            (1, State::Text { key: true }, b'"') => {
                self.member = self.known_member().unwrap_or(Member::Other)
            }
            (1, _, b'{') if self.member == Member::Arguments && before == State::Value => {
                self.arguments = Arguments::Open(self.held.len()..self.held.len() + 1);
                return Seen::Argument;
            }
            (2.., ..) => {
                if let Arguments::Open(range) = &mut self.arguments {
                    range.end = self.held.len() + 1;
                    if after == 1 {
                        self.arguments = Arguments::Whole(range.clone());
                    }
                    return Seen::Argument;
                }
            }
            _ => {}
        }
        Seen::Frame
    }

    /// Whether the byte may stand here in a call, as far as names of members and their kinds go.
    fn fits(&mut self, before: State, depth: usize, byte: u8, names: &[String]) -> bool {
        if depth != 1 {
            return true;
        }
        match before {
            State::ObjectStart | State::Key if byte == b'"' => self.key.clear(),
            State::Text { key: true } if byte == b'"' => {
                let repeats = match self.known_member() {
                    Some(Member::Name) => self.named,
                    Some(Member::Arguments) => self.arguments != Arguments::None,
                    Some(Member::Other) => false,
                    None => !matches!(self.phase, Phase::Told),
                };
                return !repeats;
            }
            State::Text { key: true } => {
                // One byte more than the longest key is enough to know that it is another.
                if KEYS.iter().any(|(key, _)| key.len() >= self.key.len()) {
                    self.key.push(byte);
                }
                // Once the call has begun, further members are nobody's business.
                return matches!(self.phase, Phase::Told)
                    || KEYS.iter().any(|(key, _)| key.starts_with(&self.key));
            }
            State::Value if !super::is_space(byte) => {
                return match self.member {
                    Member::Name => byte == b'"',
                    Member::Arguments => byte == b'{',
                    Member::Other => matches!(self.phase, Phase::Told) || byte == b'"',
                };
            }
            State::Text { key: false } if self.member == Member::Name => {
                if byte == b'"' {
                    return find_name(names, &self.name).is_some();
                }
                self.name.push(byte);
                return begins_a_name(names, &self.name);
            }
            _ => {}
        }
        true
    }

    fn known_member(&self) -> Option<Member> {
        KEYS.iter().find(|(key, _)| *key == self.key).map(|&(_, member)| member)
    }
}

/// Brackets counted outside strings, in text that is not quite JSON.
#[derive(Debug, Clone)]
struct Brackets {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Brackets {
    fn step(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_text => self.escaped = true,
            b'"' => self.in_text = !self.in_text,
            _ if self.in_text => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
    }
}
