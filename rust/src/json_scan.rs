//! The shape of a JSON text: how deep it nests and how much it holds, before a parser recurses or allocates.
//!
//! Takes any bytes, in one pass that needs neither stack nor heap; whether they are JSON is the parser's matter.

/// What a parser of the text would meet. Exact for JSON; for other bytes at least what a parser meets before it fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonShape {
    /// How many arrays and objects are open at once, at most.
    pub depth: usize,
    /// Arrays and objects.
    pub containers: usize,
    /// Commas between values or members.
    pub commas: usize,
}

/// The shape of `text`. Brackets and commas in strings do not count.
pub fn json_shape(text: &[u8]) -> JsonShape {
    let mut shape = JsonShape::default();
    let mut open: usize = 0;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                open += 1;
                shape.containers += 1;
                shape.depth = shape.depth.max(open);
            }
            // One too many is where every parser fails.
            b']' | b'}' => open = open.saturating_sub(1),
            b',' => shape.commas += 1,
            _ => {}
        }
    }
    shape
}

/// Goes on behind the quote that ends a string, or to the end of the text.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, depth: usize, containers: usize, commas: usize) {
        assert_eq!(json_shape(text.as_bytes()), JsonShape { depth, containers, commas }, "{text}");
    }

    #[test]
    fn the_shape_of_json() {
        check("", 0, 0, 0);
        check("3", 0, 0, 0);
        check("[]", 1, 1, 0);
        check("{\"a\": [1, 2, {}], \"b\": []}", 3, 4, 3);
        check("[[], [], [[]]]", 3, 5, 2);
    }

    #[test]
    fn what_stands_in_strings_does_not_count() {
        check("[\"[{,\"]", 1, 1, 0);
        check(r#"["\"[", "\\", [","]]"#, 2, 2, 2);
        check(r#"{"\\\"{": "é,😀["}"#, 1, 1, 0);
    }

    #[test]
    fn what_is_no_json_has_a_shape_too() {
        check("]]][", 1, 1, 0);
        check("[}[}", 1, 2, 0);
        check("[\"[[[", 1, 1, 0);
        check("[\"\\", 1, 1, 0);
        check(r"\[", 1, 1, 0);
        assert_eq!(json_shape(b"\xff[\xfe,").commas, 1);
    }

    #[test]
    fn depth_needs_no_stack() {
        assert_eq!(json_shape(&vec![b'['; 1 << 20]).depth, 1 << 20);
    }
}
