//! Numbers that every reader of JSON takes as they are: takes checked schemas and compiled lexemes, gives ones
//! whose numbers stay finite. llguidance alone lets a model write 1e567, or digits without end.
//!
//! Its unbounded numbers are one lexeme, which is put right in place. Where they would melt into a lexeme with
//! other values, the schema refers to them instead, or, where schemas are merged, bounds them by value.

use llguidance::derivre::RegexAst;
use llguidance::earley::lexerspec::{LexemeClass, LexerSpec};
use serde_json::{Map, Value, json};

use super::schema;

/// What llguidance takes for an unbounded number and integer, and what we do. The largest is below 1e140.
const UNBOUNDED: [(&str, &str); 2] = [
    (r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", NUMBER),
    (r"-?(0|[1-9][0-9]*)", r"-?(0|[1-9][0-9]{0,39})"),
];
/// A number of at most 40 digits before the point, 40 after it, and 2 in the exponent.
pub(super) const NUMBER: &str = r"-?(0|[1-9][0-9]{0,39})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?";
/// The bound of numbers that have one already: it fits 64-bit integers and is exact as a float.
const MOST: f64 = 9e18;

const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Keywords with schemas behind them, which references may name.
const OUTER: [&str; 6] =
    ["items", "prefixItems", "additionalItems", "properties", "patternProperties", "additionalProperties"];

/// Bounds the lexemes of unbounded numbers in a grammar that is not yet in use.
pub(super) fn bound(lexemes: &mut LexerSpec) -> Result<(), String> {
    let current = lexemes.current_class;
    for class in (0..lexemes.skip_by_class.len()).map(LexemeClass::new) {
        lexemes.current_class = class;
        for (unbounded, bounded) in UNBOUNDED {
            let count = lexemes.lexemes.len();
            // Equal lexemes are one, so adding it finds it.
            let place = add(lexemes, unbounded)?;
            if place == count {
                lexemes.lexemes.pop();
                continue;
            }
            // A lexeme takes its number from its place, so those behind it step aside.
            let mut later = lexemes.lexemes.split_off(place);
            if add(lexemes, bounded)? != place {
                return Err("holds a number twice".into());
            }
            lexemes.lexemes.extend(later.drain(1..));
        }
    }
    lexemes.current_class = current;
    Ok(())
}

fn add(lexemes: &mut LexerSpec, regex: &str) -> Result<usize, String> {
    let regex = RegexAst::Regex(regex.to_owned());
    let added = lexemes.add_greedy_lexeme(String::new(), regex, false, None, usize::MAX);
    added.map(|index| index.as_usize()).map_err(|error| error.to_string())
}

/// Where a schema stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Its value may be described elsewhere as well.
    pub merged: bool,
    /// It is one of several alternatives.
    pub alternative: bool,
}

/// Names for the definitions of numbers in a document.
pub(super) struct Definitions {
    suffix: String,
    used: [bool; 2],
}

const TYPES: [&str; 2] = ["number", "integer"];

impl Definitions {
    /// Names that the document does not have.
    pub fn new(root: &Value) -> Self {
        let taken =
            |suffix: &str| TYPES.iter().any(|name| root.pointer(&format!("/$defs/{name}{suffix}")).is_some());
        let mut suffix = String::new();
        while taken(&suffix) {
            suffix.push('_');
        }
        Self { suffix, used: [false; 2] }
    }

    /// Bounds what numbers a schema itself names.
    pub fn rewrite(&mut self, map: &mut Map<String, Value>, position: Position) {
        let types = schema::types(map);
        let numeric: Vec<usize> = (0..2).filter(|&index| types.contains(&TYPES[index])).collect();
        let constrains = map.keys().any(|name| !matches!(&**name, "$defs" | "definitions"));
        if numeric.is_empty() && (!types.is_empty() || !constrains || is_elsewhere(map)) {
            return;
        }
        let named = map.contains_key("enum") || map.contains_key("const");
        let bounded = BOUNDS.iter().chain(&["multipleOf"]).any(|&bound| map.contains_key(bound));
        if position.merged || bounded || types.is_empty() {
            for (bound, value) in [("minimum", -MOST), ("maximum", MOST)] {
                if !named {
                    map.entry(bound).or_insert_with(|| json!(value));
                }
            }
            return;
        }
        if named || is_elsewhere(map) || (types.len() == 1 && !position.alternative) {
            return;
        }
        if types.len() > 1 && OUTER.iter().any(|&name| map.contains_key(name)) {
            map.insert("minimum".into(), json!(-MOST));
            map.insert("maximum".into(), json!(MOST));
            return;
        }
        // A number is an integer too.
        let index = numeric[0];
        self.used[index] = true;
        let reference = json!({"$ref": format!("#/$defs/{}{}", TYPES[index], self.suffix)});
        let others: Vec<Value> =
            types.iter().filter(|name| !TYPES.contains(name)).map(|&name| name.into()).collect();
        let mut rest = std::mem::take(map);
        for name in ["$defs", "definitions"] {
            map.extend(rest.remove_entry(name));
        }
        if others.is_empty() {
            map.extend(reference.as_object().cloned().unwrap_or_default());
        } else {
            rest.insert("type".into(), others.into());
            map.insert("anyOf".into(), json!([reference, rest]));
        }
    }

    /// Adds the definitions that were referred to.
    pub fn define(self, root: &mut Value) {
        let Value::Object(map) = root else { return };
        for (name, _) in TYPES.iter().zip(self.used).filter(|(_, used)| *used) {
            let definitions = map.entry("$defs").or_insert_with(|| json!({}));
            definitions[format!("{name}{}", self.suffix)] = json!({"type": name});
        }
    }
}

/// Whether the value is described by other schemas or by a list of values.
fn is_elsewhere(map: &Map<String, Value>) -> bool {
    ["$ref", "allOf", "anyOf", "oneOf", "enum", "const"].iter().any(|&name| map.contains_key(name))
}
