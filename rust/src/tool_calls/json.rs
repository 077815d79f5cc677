//! JSON text, checked byte by byte: takes one byte, says whether the text so far begins some JSON value. What
//! the values are is `object`'s.

/// A push-down automaton for one JSON value. Its stack takes one bit per level.
#[derive(Debug, Clone)]
pub(super) struct Json {
    state: State,
    /// Of each open container, innermost last: whether it is an object.
    objects: Vec<u64>,
    depth: usize,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A value.
    Value,
    /// The first element of an array, or its end.
    ArrayStart,
    /// The first key of an object, or its end.
    ObjectStart,
    /// A key, after a comma.
    Key,
    /// The colon after a key.
    Colon,
    /// A comma or the end of the container.
    After,
    /// More of a string.
    Text { key: bool },
    /// The letter after a backslash.
    Escape { key: bool },
    /// So many hexadecimal digits.
    Hex { key: bool, left: u8 },
    /// The rest of `true`, `false` or `null`.
    Literal { rest: &'static [u8] },
    /// More of a number.
    Number(Number),
    /// White space: the value is whole.
    End,
}

/// Where a number stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn first(byte: u8) -> Option<Self> {
        match byte {
            b'-' => Some(Self::Minus),
            b'0' => Some(Self::Zero),
            b'1'..=b'9' => Some(Self::Integer),
            _ => None,
        }
    }

    fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, _) => Self::first(byte).filter(|&next| next != Self::Minus),
            (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Some(Self::ExponentDigits)
            }
            _ => None,
        }
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

/// Whether these bytes are one JSON number and nothing else.
pub(super) fn is_number(bytes: &[u8]) -> bool {
    let Some((&first, rest)) = bytes.split_first() else { return false };
    let number = rest.iter().try_fold(Number::first(first), |number, &byte| number.map(|n| n.next(byte)));
    number.flatten().is_some_and(Number::is_whole)
}

impl Json {
    /// Before the first byte of a value.
    pub(super) fn new() -> Self {
        Self { state: State::Value, objects: Vec::new(), depth: 0 }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// How many containers are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Whether the next byte stands inside a string, and whether a backslash came before it.
    pub(super) fn in_text(&self) -> (bool, bool) {
        let inside = matches!(self.state, State::Text { .. } | State::Escape { .. } | State::Hex { .. });
        (inside, matches!(self.state, State::Escape { .. }))
    }

    /// Takes one byte. False if no JSON value begins like this; the automaton then stands where it stood.
    pub(super) fn step(&mut self, byte: u8) -> bool {
        if let State::Number(number) = self.state {
            match number.next(byte) {
                Some(next) => {
                    self.state = State::Number(next);
                    return true;
                }
                None if number.is_whole() => self.state = self.after_value(),
                None => return false,
            }
        }
        match self.next(byte) {
            Some(next) => self.state = next,
            None => return false,
        }
        true
    }

    fn next(&mut self, byte: u8) -> Option<State> {
        match (self.state, byte) {
            (State::Text { key: true }, b'"') => Some(State::Colon),
            (State::Text { key: false }, b'"') => Some(self.after_value()),
            (State::Text { key }, b'\\') => Some(State::Escape { key }),
            (State::Text { .. }, 0..0x20) => None,
            (text @ State::Text { .. }, _) => Some(text),
            (State::Escape { key }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                Some(State::Text { key })
            }
            (State::Escape { key }, b'u') => Some(State::Hex { key, left: 4 }),
            (State::Hex { key, left: 1 }, byte) if byte.is_ascii_hexdigit() => Some(State::Text { key }),
            (State::Hex { key, left }, byte) if byte.is_ascii_hexdigit() => {
                Some(State::Hex { key, left: left - 1 })
            }
            (State::Literal { rest }, byte) if rest[0] == byte => {
                Some(if rest.len() == 1 { self.after_value() } else { State::Literal { rest: &rest[1..] } })
            }
            (State::Escape { .. } | State::Hex { .. } | State::Literal { .. }, _) => None,
            (state, byte) if super::is_space(byte) => Some(state),
            (State::ArrayStart, b']') => Some(self.close()),
            (State::Value | State::ArrayStart, _) => self.value(byte),
            (State::ObjectStart, b'}') => Some(self.close()),
            (State::ObjectStart | State::Key, b'"') => Some(State::Text { key: true }),
            (State::Colon, b':') => Some(State::Value),
            (State::After, b',') => Some(if self.in_object() { State::Key } else { State::Value }),
            (State::After, b'}') if self.in_object() => Some(self.close()),
            (State::After, b']') if !self.in_object() => Some(self.close()),
            _ => None,
        }
    }

    fn value(&mut self, byte: u8) -> Option<State> {
        match byte {
            b'"' => Some(State::Text { key: false }),
            b'{' => Some(self.open(true, State::ObjectStart)),
            b'[' => Some(self.open(false, State::ArrayStart)),
            b't' => Some(State::Literal { rest: b"rue" }),
            b'f' => Some(State::Literal { rest: b"alse" }),
            b'n' => Some(State::Literal { rest: b"ull" }),
            _ => Number::first(byte).map(State::Number),
        }
    }

    fn open(&mut self, object: bool, state: State) -> State {
        let (word, bit) = (self.depth / 64, self.depth % 64);
        if word == self.objects.len() {
            self.objects.push(0);
        }
        self.objects[word] = self.objects[word] & !(1 << bit) | u64::from(object) << bit;
        self.depth += 1;
        state
    }

    fn close(&mut self) -> State {
        self.depth -= 1;
        self.after_value()
    }

    fn after_value(&self) -> State {
        if self.depth == 0 { State::End } else { State::After }
    }

    /// Whether the innermost open container is an object.
    fn in_object(&self) -> bool {
        self.depth.checked_sub(1).is_some_and(|top| self.objects[top / 64] >> (top % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a JSON text ends here or may.
    fn reads(text: &str) -> bool {
        let mut json = Json::new();
        let whole = |state| match state {
            State::End => true,
            State::Number(number) => number.is_whole(),
            _ => false,
        };
        text.bytes().all(|byte| json.step(byte)) && json.depth() == 0 && whole(json.state())
    }

    #[test]
    fn every_text_is_judged_as_serde_judges_it() {
        for text in [
            "{}",
            "[]",
            "{\"a\":[1,2.5e-3,-0,true,false,null,\"\\u00e9\\n\"]}",
            " [ ] ",
            "\"é\"",
            "-1",
            "0.5",
            "1e9",
            "",
            "{",
            "}",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{,}",
            "[,]",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "--1",
            "tru",
            "nul",
            "truefalse",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "[}",
            "{]",
            "{} {}",
            "{a:1}",
            "'a'",
            "[1 2]",
            "{\"a\" 1}",
        ] {
            assert_eq!(reads(text), serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "{text:?}");
            assert_eq!(is_number(text.as_bytes()), text.parse::<serde_json::Number>().is_ok(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn random_texts_are_judged_as_serde_judges_them(text in "[\\[\\]{}\",:01e.tfn\\\\ -]{0,12}") {
            prop_assert_eq!(reads(&text), serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        }
    }

    #[test]
    fn a_level_costs_one_bit() {
        let mut json = Json::new();
        assert!((0..100_000).all(|_| json.step(b'[')));
        assert_eq!((json.depth(), json.objects.len()), (100_000, 1563));
        assert!((0..100_000).all(|_| json.step(b']')) && json.state() == State::End);
    }
}
