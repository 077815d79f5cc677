//! What a JSON schema may ask for: takes a schema as a client wrote it, gives one that a grammar can keep to
//! the letter, or says what is wrong and where.
//!
//! Nothing that constrains is ever dropped in silence: a keyword that the grammar cannot keep is an error.
//! Neither is there recursion on what a client wrote: the schema is a list of nodes.

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::numbers::{Definitions, Position};

/// Bytes of a schema.
const MAX_BYTES: usize = 256 << 10;
/// Levels of arrays and objects in a schema.
const MAX_DEPTH: usize = 64;
/// Schemas in a schema.
const MAX_NODES: usize = 5000;
/// Properties of one object: compiling takes time that grows with their square.
const MAX_PROPERTIES: usize = 1000;
/// Bytes of a pattern.
const MAX_PATTERN_BYTES: usize = 2 << 10;
/// What minLength and its kin may count to.
const MAX_COUNT: u64 = 10_000;
/// Above this, 64-bit floats leave integers out.
const MAX_INTEGER: f64 = 9_007_199_254_740_992.0;
/// How many sweeps over the nodes may pass until it is known which of them can end.
const MAX_SWEEPS: usize = 64;

/// What the whole schema has to describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    Any,
    /// An object: the arguments of a call.
    Object,
}

/// Checks a schema and makes it explicit: annotations go; objects that list their properties are closed
/// unless they say otherwise, which is a choice among the answers that fit; what has properties is an object.
///
/// `strict`: every object is closed, as OpenAI has it. Fails with a sentence for the client.
pub(super) fn read(text: &str, strict: bool, root: Root) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("schema of {} bytes is longer than {MAX_BYTES}", text.len()));
    }
    let mut schema: Value =
        serde_json::from_str(text).map_err(|error| format!("schema is not valid JSON: {error}"))?;
    check_depth(&schema)?;
    let nodes = Nodes::of(&schema)?;
    nodes.check_strict(strict)?;
    nodes.check_ends()?;
    if root == Root::Object {
        nodes.check_object()?;
    }
    let closes = strict || !nodes.iter().any(is_composed);
    let merged = merges_references(&schema);
    let explicit = Explicit { closes, strict, merged };
    if root == Root::Object && schema.as_object().is_some_and(|map| !is_constrained(map)) {
        schema = json!({"type": "object"});
    }
    explicit.rewrite(&mut schema);
    Ok(schema)
}

/// The schema with our layout: one line, at most one space after a comma or colon. llguidance reads it from
/// a keyword that clients cannot set, since `read` removes it.
pub(super) fn with_layout(schema: Value) -> Value {
    let mut map = match schema {
        Value::Object(map) => map,
        Value::Bool(true) => Map::new(),
        other => return other,
    };
    let layout = json!({
        "whitespace_flexible": false,
        "item_separator": ", ?",
        "key_separator": ": ?",
        // Else a model that begins the escape of a letter is held to that of a control character.
        "json_allow_general_unicode_escapes": true,
    });
    map.insert("x-guidance".into(), layout);
    Value::Object(map)
}

/// What stands behind a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Schema,
    SchemaOrList,
    List,
    Map,
    Value,
    /// Constrains nothing.
    Annotation,
}

fn kind(keyword: &str, value: &Value) -> Option<Kind> {
    Some(match keyword {
        "additionalProperties" | "additionalItems" => Kind::Schema,
        "items" => Kind::SchemaOrList,
        "prefixItems" | "anyOf" | "oneOf" | "allOf" => Kind::List,
        "properties" | "patternProperties" | "$defs" | "definitions" => Kind::Map,
        "type" | "enum" | "const" | "required" | "$ref" | "pattern" | "format" | "minimum" | "maximum"
        | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" | "minLength" | "maxLength" | "minItems"
        | "maxItems" | "minProperties" | "maxProperties" => Kind::Value,
        "title" | "description" | "default" | "example" | "examples" | "deprecated" | "readOnly"
        | "writeOnly" | "$comment" | "$schema" | "$id" | "id" | "$anchor" | "contentEncoding"
        | "contentMediaType" => Kind::Annotation,
        "uniqueItems" | "nullable" if *value == Value::Bool(false) => Kind::Annotation,
        _ if keyword.starts_with("x-") => Kind::Annotation,
        _ => return None,
    })
}

/// Keywords about objects.
const OBJECT: [&str; 6] =
    ["properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"];
/// Keywords that bring in another schema for the same value.
const IN_PLACE: [&str; 4] = ["$ref", "allOf", "anyOf", "oneOf"];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

fn is_constrained(map: &Map<String, Value>) -> bool {
    map.iter().any(|(keyword, value)| kind(keyword, value) != Some(Kind::Annotation))
}

/// Whether one value is described in several places, of which none may be closed on its own.
fn is_composed(map: &Map<String, Value>) -> bool {
    map.contains_key("allOf") || (has_any(map, &IN_PLACE) && has_any(map, &OBJECT))
}

/// Whether the grammar of one value is made from several schemas at once.
fn is_merged(map: &Map<String, Value>) -> bool {
    let matters = |(name, value): &(&String, &Value)| {
        !matches!(name.as_str(), "$defs" | "definitions") && kind(name, value) != Some(Kind::Annotation)
    };
    let alone = map.iter().filter(matters).count() == 1;
    map.contains_key("oneOf")
        || map.get("allOf").and_then(Value::as_array).is_some_and(|parts| parts.len() > 1)
        || (!alone && has_any(map, &IN_PLACE))
        || (map.contains_key("properties") && map.contains_key("patternProperties"))
}

/// Whether what is referred to may be merged with something.
fn merges_references(schema: &Value) -> bool {
    let mut open = vec![(schema, false)];
    while let Some((value, merged)) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, merged))),
            Value::Object(map) => {
                let merged = merged || is_merged(map);
                if merged && map.contains_key("$ref") {
                    return true;
                }
                open.extend(map.values().map(|item| (item, merged)));
            }
            _ => {}
        }
    }
    false
}

fn has_any(map: &Map<String, Value>, keywords: &[&str]) -> bool {
    keywords.iter().any(|&keyword| map.contains_key(keyword))
}

/// The types a schema names; a schema with properties and no type describes an object.
pub(super) fn types(map: &Map<String, Value>) -> Vec<&str> {
    match map.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ if is_implied_object(map) => vec!["object"],
        _ => Vec::new(),
    }
}

fn is_implied_object(map: &Map<String, Value>) -> bool {
    !map.contains_key("type") && (map.contains_key("properties") || map.contains_key("required"))
}

/// serde_json stops at 128 levels, so dropping and reading are safe; this is our own limit.
fn check_depth(schema: &Value) -> Result<(), String> {
    let mut open = vec![(schema, 1)];
    while let Some((value, depth)) = open.pop() {
        let nested = matches!(value, Value::Array(_) | Value::Object(_));
        if nested && depth > MAX_DEPTH {
            return Err(format!("schema is nested deeper than {MAX_DEPTH} levels"));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => open.extend(map.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

/// Every schema in a schema, outer ones first.
struct Nodes<'a> {
    list: Vec<Node<'a>>,
    /// From the address of a node to its place in the list.
    places: FxHashMap<usize, usize>,
    /// From a node with `$ref` to what it names.
    targets: FxHashMap<usize, usize>,
}

struct Node<'a> {
    value: &'a Value,
    /// Where it is, for errors; shortened.
    path: String,
}

impl<'a> Nodes<'a> {
    fn of(root: &'a Value) -> Result<Self, String> {
        let mut nodes =
            Self { list: Vec::new(), places: FxHashMap::default(), targets: FxHashMap::default() };
        nodes.push(root, String::new())?;
        let mut next = 0;
        while next < nodes.list.len() {
            let Node { value, path } = &nodes.list[next];
            let (value, path) = (*value, path.clone());
            match value {
                Value::Bool(_) => {}
                Value::Object(map) => {
                    for (keyword, value) in map {
                        nodes.take_in(keyword, value, map, &path)?;
                    }
                }
                _ => return Err(format!("schema{} must be an object or a boolean", at(&path))),
            }
            next += 1;
        }
        nodes.resolve(root)?;
        Ok(nodes)
    }

    fn push(&mut self, value: &'a Value, path: String) -> Result<(), String> {
        if self.list.len() == MAX_NODES {
            return Err(format!("schema holds more than {MAX_NODES} schemas"));
        }
        self.places.insert(address(value), self.list.len());
        self.list.push(Node { value, path });
        Ok(())
    }

    fn take_in(
        &mut self,
        keyword: &str,
        value: &'a Value,
        map: &Map<String, Value>,
        path: &str,
    ) -> Result<(), String> {
        let here = step(path, keyword);
        let Some(kind) = kind(keyword, value) else {
            return Err(format!(
                "schema uses the keyword {}{}, which is not supported",
                quoted(keyword),
                at(path)
            ));
        };
        match (kind, value) {
            (Kind::Annotation, _) => {}
            (Kind::Value, _) => {
                check_value(keyword, value, map).map_err(|wrong| format!("schema{} {wrong}", at(&here)))?;
            }
            (Kind::Schema | Kind::SchemaOrList, Value::Object(_) | Value::Bool(_)) => {
                self.push(value, here)?
            }
            (Kind::List | Kind::SchemaOrList, Value::Array(items)) => {
                if items.is_empty() && keyword != "prefixItems" && keyword != "items" {
                    return Err(format!("schema{} must not be empty", at(&here)));
                }
                for (index, item) in items.iter().enumerate() {
                    self.push(item, step(&here, &index.to_string()))?;
                }
            }
            (Kind::Map, Value::Object(items)) => {
                if keyword == "properties" && items.len() > MAX_PROPERTIES {
                    return Err(format!("schema{} has more than {MAX_PROPERTIES} names", at(&here)));
                }
                for (name, item) in items {
                    if keyword == "patternProperties" && name.len() > MAX_PATTERN_BYTES {
                        return Err(format!(
                            "schema{} has a pattern longer than {MAX_PATTERN_BYTES} bytes",
                            at(&here)
                        ));
                    }
                    let here = step(&here, name);
                    if keyword == "patternProperties" {
                        check_pattern(name).map_err(|wrong| format!("schema{} {wrong}", at(&here)))?;
                    }
                    self.push(item, here)?;
                }
            }
            (Kind::List, _) => return Err(format!("schema{} must be an array of schemas", at(&here))),
            (Kind::Map, _) => return Err(format!("schema{} must be an object of schemas", at(&here))),
            _ => return Err(format!("schema{} must be a schema", at(&here))),
        }
        Ok(())
    }

    /// Finds what each `$ref` names; it must be one of the nodes, so nothing unchecked is brought in.
    fn resolve(&mut self, root: &'a Value) -> Result<(), String> {
        for (place, node) in self.list.iter().enumerate() {
            let Some(reference) = node.value.get("$ref").and_then(Value::as_str) else { continue };
            let target = target(root, reference).and_then(|target| self.places.get(&address(target)));
            let Some(&target) = target else {
                let (name, path) = (quoted(reference), at(&node.path));
                return Err(format!("schema{path} refers to {name}, which is no schema of this document"));
            };
            self.targets.insert(place, target);
        }
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.list.iter().filter_map(|node| node.value.as_object())
    }

    fn check_strict(&self, strict: bool) -> Result<(), String> {
        for node in self.list.iter().filter(|_| strict) {
            if node.value.get("additionalProperties").is_some_and(|open| *open != Value::Bool(false)) {
                let path = at(&node.path);
                return Err(format!("schema{path} has additionalProperties; under strict it must be false"));
            }
        }
        Ok(())
    }

    /// Refuses a schema whose every answer is endless, such as an object that requires itself.
    fn check_ends(&self) -> Result<(), String> {
        let mut ends = vec![false; self.list.len()];
        for sweep in 0..MAX_SWEEPS {
            let mut changed = false;
            for index in 0..ends.len() {
                let place = if sweep % 2 == 0 { ends.len() - 1 - index } else { index };
                if !ends[place] && self.can_end(place, &ends) {
                    (ends[place], changed) = (true, true);
                }
            }
            if !changed {
                break;
            }
        }
        if ends[0] {
            return Ok(());
        }
        Err("schema has no finite answer: it requires itself without end".into())
    }

    fn can_end(&self, place: usize, ends: &[bool]) -> bool {
        let Value::Object(map) = self.list[place].value else { return true };
        let ended = |schema: &Value| self.places.get(&address(schema)).is_none_or(|&place| ends[place]);
        let list = |keyword: &str| map.get(keyword).and_then(Value::as_array);
        if self.targets.get(&place).is_some_and(|&target| !ends[target]) {
            return false;
        }
        if list("allOf").is_some_and(|all| !all.iter().all(ended)) {
            return false;
        }
        if ["anyOf", "oneOf"].iter().filter_map(|any| list(any)).any(|any| !any.iter().any(ended)) {
            return false;
        }
        let types = types(map);
        types.is_empty()
            || types.iter().any(|name| match *name {
                "object" => list("required").is_none_or(|names| {
                    let property = |name: &Value| map.get("properties")?.get(name.as_str()?);
                    names.iter().filter_map(property).all(ended)
                }),
                "array" => {
                    let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
                    let first = list("prefixItems").or_else(|| list("items")).map_or(&[][..], Vec::as_slice);
                    first.iter().take(least).all(ended)
                        && (least <= first.len() || map.get("items").is_none_or(ended))
                }
                _ => true,
            })
    }

    /// Refuses what may be anything but an object.
    fn check_object(&self) -> Result<(), String> {
        let (mut open, mut seen) = (vec![0], vec![false; self.list.len()]);
        while let Some(place) = open.pop() {
            if std::mem::replace(&mut seen[place], true) {
                continue;
            }
            let Value::Object(map) = self.list[place].value else {
                return Err(format!("schema{} must describe an object", at(&self.list[place].path)));
            };
            let parts = ["anyOf", "oneOf", "allOf"].iter().find_map(|part| map.get(*part)?.as_array());
            match (types(map).as_slice(), self.targets.get(&place), parts) {
                (["object"], ..) => {}
                ([], Some(&target), _) => open.push(target),
                ([], None, Some(parts)) => {
                    open.extend(parts.iter().filter_map(|part| self.places.get(&address(part))));
                }
                ([], None, None) if place == 0 && !is_constrained(map) => {}
                _ => return Err(format!("schema{} must describe an object", at(&self.list[place].path))),
            }
        }
        Ok(())
    }
}

/// Where a schema uses `keyword`, if it does so once.
pub(super) fn only_place(schema: &Value, keyword: &str) -> Option<String> {
    let nodes = Nodes::of(schema).ok()?;
    let mut using = nodes.list.iter().filter(|node| node.value.get(keyword).is_some());
    let place = step(&using.next()?.path, keyword);
    using.next().is_none().then_some(place)
}

/// What tells a schema from every other of its document.
pub(super) fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

/// What a reference names, by llguidance's reading: a path of names and indices without escapes.
pub(super) fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    if reference == "#" {
        return Some(root);
    }
    reference.strip_prefix("#/")?.split('/').try_fold(root, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })
}

/// Checks what llguidance would take without a word, or at great cost.
fn check_value(keyword: &str, value: &Value, map: &Map<String, Value>) -> Result<(), String> {
    match (keyword, value) {
        ("type", Value::String(name)) if TYPES.contains(&name.as_str()) => Ok(()),
        ("type", Value::Array(names)) if !names.is_empty() && names.iter().all(is_type) => Ok(()),
        ("type", _) => Err(format!("must be one or more of {}", TYPES.join(", "))),
        ("pattern", Value::String(pattern)) if pattern.len() > MAX_PATTERN_BYTES => {
            Err(format!("is longer than {MAX_PATTERN_BYTES} bytes"))
        }
        ("pattern", Value::String(pattern)) => check_pattern(pattern),
        ("format", Value::String(format)) => {
            let types = types(map);
            let matters = types.is_empty() || types.contains(&"string");
            if !matters || FORMATS.contains(&format.as_str()) {
                return Ok(());
            }
            Err(format!("is {}; supported are {}", quoted(format), FORMATS.join(", ")))
        }
        ("$ref", Value::String(_)) => Ok(()),
        ("pattern" | "format" | "$ref", _) => Err("must be a string".into()),
        ("required", Value::Array(names)) if names.iter().all(Value::is_string) => Ok(()),
        ("required", _) => Err("must be an array of names".into()),
        ("enum", Value::Array(values)) if !values.is_empty() => check_constant(value),
        ("enum", _) => Err("must be an array of at least one value".into()),
        ("const", _) => check_constant(value),
        ("exclusiveMinimum" | "exclusiveMaximum", Value::Bool(_)) => Ok(()),
        ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf", _) => {
            if !value.is_number() {
                return Err("must be a number".into());
            }
            if keyword == "multipleOf" && value.as_f64().is_none_or(|number| number <= 0.0) {
                return Err("must be above 0".into());
            }
            check_constant(value)
        }
        _ => {
            let Some(count) = value.as_u64() else { return Err("must be a whole number from 0".into()) };
            if count > MAX_COUNT {
                return Err(format!("must be at most {MAX_COUNT}"));
            }
            // Names beyond the listed ones may repeat, and then count once.
            let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
            if keyword == "minProperties" && count > 1.max(required) {
                return Err("can be kept up to 1, or to the number of required properties".into());
            }
            Ok(())
        }
    }
}

/// Reads a pattern as llguidance does, which tells neither what it dislikes nor where.
fn check_pattern(pattern: &str) -> Result<(), String> {
    let pattern = llguidance::regex_to_lark(pattern, "dw");
    let read = regex_syntax::Parser::new().parse(&pattern).map_err(|error| {
        let reason = match error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => "it cannot be read".to_owned(),
        };
        format!("is no pattern that can be kept: {reason}")
    })?;
    let anchors = regex_syntax::hir::LookSet::singleton(regex_syntax::hir::Look::Start)
        .insert(regex_syntax::hir::Look::End);
    if read.properties().look_set().subtract(anchors).is_empty() {
        return Ok(());
    }
    Err("is no pattern that can be kept: word boundaries and anchors of lines are not supported".into())
}

fn is_type(name: &Value) -> bool {
    name.as_str().is_some_and(|name| TYPES.contains(&name))
}

/// Numbers are kept as 64-bit floats; one that is none would silently become another.
fn check_constant(value: &Value) -> Result<(), String> {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Number(number) if number.as_f64().is_none_or(|number| number.abs() > MAX_INTEGER) => {
                return Err("holds a number beyond 2^53, which cannot be kept exactly".into());
            }
            Value::Array(items) => open.extend(items),
            Value::Object(map) => open.extend(map.values()),
            _ => {}
        }
    }
    Ok(())
}

/// How a schema is made explicit.
struct Explicit {
    closes: bool,
    strict: bool,
    /// Any of its schemas may be merged with another.
    merged: bool,
}

impl Explicit {
    fn rewrite(&self, schema: &mut Value) {
        let mut numbers = Definitions::new(schema);
        let mut open = vec![(&mut *schema, Position { merged: self.merged, alternative: false })];
        while let Some((schema, position)) = open.pop() {
            let Value::Object(map) = schema else { continue };
            map.retain(|keyword, value| kind(keyword, value) != Some(Kind::Annotation));
            if is_implied_object(map) && !has_any(map, &IN_PLACE) {
                map.insert("type".into(), "object".into());
            }
            let is_object = map.contains_key("properties") || (self.strict && types(map).contains(&"object"));
            if self.closes && is_object && !map.contains_key("patternProperties") {
                map.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            let position = Position { merged: position.merged || is_merged(map), ..position };
            let written = map.contains_key("anyOf");
            numbers.rewrite(map, position);
            for (keyword, value) in map.iter_mut() {
                // What was only now split into alternatives is done.
                if keyword == "anyOf" && !written {
                    continue;
                }
                let alternative = matches!(keyword.as_str(), "anyOf" | "oneOf" | "allOf");
                let below = |value| (value, Position { alternative, ..position });
                match (kind(keyword, value), value) {
                    (Some(Kind::Schema | Kind::SchemaOrList), value @ Value::Object(_)) => {
                        open.push(below(value));
                    }
                    (Some(Kind::List | Kind::SchemaOrList), Value::Array(items)) => {
                        open.extend(items.iter_mut().map(below));
                    }
                    (Some(Kind::Map), Value::Object(items)) => open.extend(items.values_mut().map(below)),
                    _ => {}
                }
            }
        }
        numbers.define(schema);
    }
}

/// Characters of a path or a name in an error.
const MAX_SHOWN: usize = 80;

fn step(path: &str, name: &str) -> String {
    let full = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    full.chars().take(MAX_SHOWN).collect()
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at {path}") }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.chars().take(MAX_SHOWN).collect::<String>())
}
