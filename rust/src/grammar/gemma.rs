//! Gemma's call syntax out of JSON schemas: takes checked schemas, gives rules. llguidance compiles schemas
//! to JSON only; here strings stand between two quote tokens without escapes, and keys are bare.
//!
//! Every schema becomes one rule, found by its address, so references and recursion need nothing more.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::lark::{self, SpecialTokens};
use super::numbers;
use super::schema;
use super::tool_calls::Callable;
use crate::tool_syntax::gemma::{CLOSE, OPEN, OPEN_CALL, QUOTE};

/// A string may not spell the quote that ends it.
const NO_QUOTE: &str = r#"~/(?s:.*)<\|"\|>(?s:.*)/"#;
/// What schemas do not name: keys that need no quotes.
const KEY: &str = "/[A-Za-z0-9_.\\-]+/";

/// The rule `called`: what follows the opening token. Fails with a sentence for the client.
pub(super) fn calls(tools: &[Callable], special: &SpecialTokens) -> Result<String, String> {
    let tags = [OPEN, CLOSE, QUOTE].map(|tag| special.get(tag));
    let [Some(_), Some(close), Some(quote)] = tags else {
        return Err("cannot be called in this model's syntax: its vocabulary lacks the tokens for it".into());
    };
    let mut rules = Rules { quote: lark::tokens(&[quote]), ..Rules::default() };
    let mut called = Vec::new();
    for tool in tools {
        let root = rules.tool(tool)?;
        called.push(format!("{} {root}", lark::text(&format!("{}{}", &OPEN_CALL[OPEN.len()..], tool.name))));
    }
    let quote = &rules.quote;
    Ok(format!(
        "called: ({}) {}\n{}\
         any: ANY_JSON | any_string | any_array | any_object\nANY_JSON: /null|true|false|{}/\n\
         any_string: {quote} ANY_TEXT? {quote}\nANY_TEXT: /(?s:.+)/ & {NO_QUOTE}\n\
         any_array: \"[\" (any (\",\" any)*)? \"]\"\nany_object: \"{{\" (any_pair (\",\" any_pair)*)? \"}}\"\n\
         any_pair: KEY \":\" any\nKEY: {KEY}\n",
        called.join(" | "),
        lark::tokens(&[close]),
        rules.text,
        numbers::NUMBER,
    ))
}

#[derive(Default)]
struct Rules {
    quote: String,
    text: String,
    count: usize,
}

/// The schemas of one tool that have a rule, and those whose rule is still to be written.
struct Open<'a> {
    root: &'a Value,
    names: FxHashMap<usize, String>,
    waiting: VecDeque<(&'a Value, String)>,
}

impl Rules {
    /// Writes the rules of a tool's parameters and gives the name of the first.
    fn tool(&mut self, tool: &Callable) -> Result<String, String> {
        let mut open = Open { root: &tool.parameters, names: FxHashMap::default(), waiting: VecDeque::new() };
        let first = self.name(&tool.parameters, &mut open);
        while let Some((value, name)) = open.waiting.pop_front() {
            let body = self.body(value, &mut open)?;
            self.text += &format!("{name}: {body}\n");
        }
        Ok(first)
    }

    fn fresh(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}", self.count)
    }

    /// The rule of a schema, which is written later.
    fn name<'a>(&mut self, value: &'a Value, open: &mut Open<'a>) -> String {
        if let Some(name) = open.names.get(&schema::address(value)) {
            return name.clone();
        }
        let name = self.fresh("n");
        open.names.insert(schema::address(value), name.clone());
        open.waiting.push_back((value, name.clone()));
        name
    }

    fn body<'a>(&mut self, value: &'a Value, open: &mut Open<'a>) -> Result<String, String> {
        let map = match value {
            Value::Bool(true) => return Ok("any".into()),
            Value::Object(map) => map,
            _ => return Err("has a value that nothing fits".into()),
        };
        if map.keys().all(|keyword| matches!(keyword.as_str(), "$defs" | "definitions")) {
            return Ok("any".into());
        }
        if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
            alone(map, "$ref", &[])?;
            let target = schema::target(open.root, reference).ok_or("refers to what is not there")?;
            return Ok(self.name(target, open));
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let Some(parts) = map.get(keyword).and_then(Value::as_array) else { continue };
            alone(map, keyword, &[])?;
            if keyword == "allOf" && parts.len() > 1 {
                return Err(
                    "uses allOf with several schemas, which this model's call syntax cannot keep".into()
                );
            }
            return Ok(parts.iter().map(|part| self.name(part, open)).collect::<Vec<_>>().join(" | "));
        }
        let types = schema::types(map);
        for keyword in ["const", "enum"] {
            let Some(listed) = map.get(keyword) else { continue };
            alone(map, keyword, &["type"])?;
            let values = match listed {
                Value::Array(values) if keyword == "enum" => values.as_slice(),
                value => std::slice::from_ref(value),
            };
            let values =
                values.iter().filter(|value| types.is_empty() || types.iter().any(|name| is(value, name)));
            let values = values.map(|value| self.constant(value)).collect::<Result<Vec<_>, _>>()?;
            if values.is_empty() {
                return Err("lists no value of its own type".into());
            }
            return Ok(values.join(" | "));
        }
        let types = if types.is_empty() {
            vec!["null", "boolean", "number", "string", "array", "object"]
        } else {
            types
        };
        let mut alternatives = Vec::new();
        for name in types {
            let alternative = match name {
                "null" => "\"null\"".into(),
                "boolean" => "\"true\" | \"false\"".into(),
                "integer" | "number" => self.number(name, map),
                "string" => self.string(map)?,
                "array" => self.array(map, open)?,
                _ => self.object(map, open)?,
            };
            alternatives.push(alternative);
        }
        Ok(alternatives.join(" | "))
    }

    /// Numbers are those of JSON.
    fn number(&mut self, name: &str, map: &Map<String, Value>) -> String {
        const BOUNDS: [&str; 5] =
            ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
        let bounds = BOUNDS.iter().filter_map(|&bound| Some((bound.to_owned(), map.get(bound)?.clone())));
        let mut schema: Map<String, Value> = bounds.collect();
        schema.insert("type".into(), name.into());
        let rule = self.fresh("number");
        self.text += &format!("{rule}: {}\n", lark::json(Value::Object(schema)));
        rule
    }

    fn string(&mut self, map: &Map<String, Value>) -> Result<String, String> {
        let count = |keyword: &str| map.get(keyword).and_then(Value::as_u64);
        let (least, most) = (count("minLength").unwrap_or(0), count("maxLength"));
        let mut parts = Vec::new();
        if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
            parts.push(format!("/{}/", whole(pattern)?));
        }
        if map.contains_key("format") {
            return Err("uses format, which this model's call syntax cannot keep; use pattern".into());
        }
        let longest = most.map_or_else(String::new, |most| most.to_string());
        let quote = &self.quote;
        if parts.is_empty() && most == Some(0) {
            return Ok(format!("{quote} {quote}"));
        }
        // The empty string has no token of its own, so it is a matter of the rule.
        let may_be_empty = least == 0 && parts.is_empty();
        parts.push(format!("/(?s:.{{{},{longest}}})/", least.max(1)));
        parts.push(NO_QUOTE.into());
        let optional = if may_be_empty { "?" } else { "" };
        let quote = quote.clone();
        let terminal = self.fresh("S");
        self.text += &format!("{terminal}: {}\n", parts.join(" & "));
        Ok(format!("{quote} {terminal}{optional} {quote}"))
    }

    fn array<'a>(&mut self, map: &'a Map<String, Value>, open: &mut Open<'a>) -> Result<String, String> {
        let count = |keyword: &str| map.get(keyword).and_then(Value::as_u64);
        let first = map.get("prefixItems").and_then(Value::as_array);
        if map.get("items").is_some_and(Value::is_array) || map.contains_key("additionalItems") {
            return Err(
                "uses an array of items, which this model's call syntax cannot keep; use prefixItems".into(),
            );
        }
        let rest = match map.get("items") {
            None => Some("any".to_owned()),
            Some(Value::Bool(false)) => None,
            Some(items) => Some(self.name(items, open)),
        };
        let first: Vec<String> = first.into_iter().flatten().map(|item| self.name(item, open)).collect();
        let (least, most) = (count("minItems").unwrap_or(0), count("maxItems"));
        let (least, most) = (least as usize, most.map(|most| most as usize));
        let most = if rest.is_none() { Some(most.unwrap_or(first.len()).min(first.len())) } else { most };
        if most.is_some_and(|most| most < least) {
            return Err("has an array with minItems above its maxItems".into());
        }
        // From the last item to the first: each that is not required makes all after it optional as well.
        let few = least.saturating_sub(first.len()) as u64;
        let many = most.map(|most| most.saturating_sub(first.len()) as u64);
        let mut body = match rest {
            None => String::new(),
            Some(rest) if first.is_empty() => lark::sequence(&rest, few, many),
            Some(rest) => lark::times(&format!("(\",\" {rest})"), few, many),
        };
        for (index, item) in first.iter().enumerate().take(most.unwrap_or(usize::MAX)).rev() {
            let comma = if index == 0 { "" } else { "\",\" " };
            let here = format!("{comma}{item} {body}");
            let rule = self.fresh("items");
            self.text += &format!("{rule}: {here}\n");
            body = if index < least { rule } else { format!("{rule}?") };
        }
        Ok(format!("\"[\" {body} \"]\""))
    }

    fn object<'a>(&mut self, map: &'a Map<String, Value>, open: &mut Open<'a>) -> Result<String, String> {
        for keyword in ["patternProperties", "minProperties", "maxProperties"] {
            if map.contains_key(keyword) {
                return Err(format!("uses {keyword}, which this model's call syntax cannot keep"));
            }
        }
        let required: Vec<&str> = map
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let none = Map::new();
        let properties = map.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let unlisted = required.iter().filter(|name| !properties.contains_key(**name));
        let further = match map.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            None | Some(Value::Bool(true)) => Some("any".to_owned()),
            Some(schema) => Some(self.name(schema, open)),
        };
        let mut pairs: Vec<(String, bool)> = Vec::new();
        for (name, value) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if *value == Value::Bool(false) {
                continue;
            }
            let pair = format!("{} {}", self.key(name)?, self.name(value, open));
            pairs.push((pair, required.contains(&name.as_str())));
        }
        for name in unlisted {
            let Some(further) = &further else {
                return Err("requires a property that it does not allow".into());
            };
            pairs.push((format!("{} {further}", self.key(name)?), true));
        }
        // `first`: the pairs from here on if none came before, `later`: if some did.
        let (mut first, mut later) = (String::new(), String::new());
        if let Some(further) = further {
            let key = self.free_key(properties.keys().map(String::as_str).chain(required.iter().copied()));
            first = format!("({key} \":\" {further} (\",\" {key} \":\" {further})*)?");
            later = format!("(\",\" {key} \":\" {further})*");
        }
        for (pair, required) in pairs.into_iter().rev() {
            let (begin, go_on) = (self.fresh("first"), self.fresh("later"));
            let skipped = if required { String::new() } else { format!(" | {first}") };
            self.text += &format!("{begin}: {pair} {later}{skipped}\n");
            let optional = if required { format!("\",\" {pair}") } else { format!("(\",\" {pair})?") };
            self.text += &format!("{go_on}: {optional} {later}\n");
            (first, later) = (begin, go_on);
        }
        Ok(format!("\"{{\" {first} \"}}\""))
    }

    /// A key that none of `taken` is.
    fn free_key<'a>(&mut self, taken: impl Iterator<Item = &'a str>) -> String {
        let taken: Vec<String> = taken.filter(|name| is_bare(name)).map(lark::text).collect();
        if taken.is_empty() {
            return "KEY".into();
        }
        let terminal = self.fresh("K");
        self.text += &format!("{terminal}: {KEY} & ~({})\n", taken.join(" | "));
        terminal
    }

    /// A key and its colon.
    fn key(&self, name: &str) -> Result<String, String> {
        if is_bare(name) {
            return Ok(lark::text(&format!("{name}:")));
        }
        Ok(format!("{} \":\"", self.quoted(name)?))
    }

    fn quoted(&self, text: &str) -> Result<String, String> {
        if text.contains(QUOTE) {
            return Err(format!("holds the text {QUOTE}, which this model's call syntax cannot spell"));
        }
        let quote = &self.quote;
        let inner = if text.is_empty() { String::new() } else { lark::text(text) };
        Ok(format!("{quote} {inner} {quote}"))
    }

    /// One value as it is written.
    fn constant(&self, value: &Value) -> Result<String, String> {
        enum Piece<'a> {
            Value(&'a Value),
            Key(&'a str),
            Text(&'static str),
        }
        let (mut open, mut body) = (vec![Piece::Value(value)], Vec::new());
        while let Some(piece) = open.pop() {
            match piece {
                Piece::Text(text) => body.push(lark::text(text)),
                Piece::Key(name) => body.push(self.key(name)?),
                Piece::Value(Value::String(text)) => body.push(self.quoted(text)?),
                Piece::Value(Value::Array(items)) => {
                    body.push(lark::text("["));
                    open.push(Piece::Text("]"));
                    for (index, item) in items.iter().enumerate().rev() {
                        open.push(Piece::Value(item));
                        open.extend((index > 0).then_some(Piece::Text(",")));
                    }
                }
                Piece::Value(Value::Object(map)) => {
                    body.push(lark::text("{"));
                    open.push(Piece::Text("}"));
                    let pairs: Vec<_> = map.iter().collect();
                    for (index, (name, item)) in pairs.into_iter().enumerate().rev() {
                        open.extend([Piece::Value(item), Piece::Key(name)]);
                        open.extend((index > 0).then_some(Piece::Text(",")));
                    }
                }
                Piece::Value(scalar) => body.push(lark::text(&scalar.to_string())),
            }
        }
        Ok(body.join(" "))
    }
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Whether a value is of the type.
fn is(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => {
            name == "number"
                || (name == "integer" && number.as_f64().is_some_and(|number| number.fract() == 0.0))
        }
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    }
}

/// Refuses keywords beside `keyword` that would have to hold as well.
fn alone(map: &Map<String, Value>, keyword: &str, allowed: &[&str]) -> Result<(), String> {
    let harmless =
        |name: &str| name == keyword || allowed.contains(&name) || matches!(name, "$defs" | "definitions");
    match map.keys().find(|name| !harmless(name)) {
        None => Ok(()),
        Some(other) => {
            Err(format!("uses {other} beside {keyword}, which this model's call syntax cannot keep"))
        }
    }
}

/// A pattern that is found somewhere in a string, as one that matches the whole string.
fn whole(pattern: &str) -> Result<String, String> {
    let (mut depth, mut in_class, mut escaped, mut split) = (0usize, false, false, false);
    let mut anchors = Vec::new();
    for (place, character) in pattern.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                continue;
            }
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => split = true,
            '^' | '$' => anchors.push(place),
            _ => {}
        }
    }
    let starts = anchors.first() == Some(&0) && pattern.starts_with('^');
    let ends = anchors.last().is_some_and(|&place| place + 1 == pattern.len()) && pattern.ends_with('$');
    if anchors.len() != usize::from(starts) + usize::from(ends) || (split && !anchors.is_empty()) {
        return Err(
            "has a pattern with ^ or $ inside; this model's call syntax takes them at its ends only".into()
        );
    }
    let inner = &pattern[usize::from(starts)..pattern.len() - usize::from(ends)];
    let inner = llguidance::regex_to_lark(inner, "dw");
    let around = |anchored: bool| if anchored { "" } else { "(?s:.*)" };
    Ok(format!("{}(?:{inner}){}", around(starts), around(ends)))
}
