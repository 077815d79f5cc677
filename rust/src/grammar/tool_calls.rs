//! Tool calls in the syntaxes of the model families: takes tools, gives the grammar of an answer that calls
//! them. How such an answer is read back is the output's.

use serde_json::Value;

use super::gemma;
use super::lark::{self, SpecialTokens};
use crate::tool_syntax::{Syntax, gemma as tags, hermes, llama};

/// Whether an answer has to call.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// Calls and nothing else, at least one.
    Required,
    /// Text, calls, or both. Where a call has begun it must fit.
    Auto,
    /// Calls and nothing else, or this.
    CallsOr(Answer<'a>),
}

/// What an answer without calls has to be.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// A JSON schema; empty: any object.
    pub schema: &'a str,
    /// Whether every object is closed.
    pub strict: bool,
}

/// What an answer looks like as a whole.
#[derive(Debug)]
pub(super) struct Shape {
    pub syntax: Syntax,
    pub otherwise: Otherwise,
    pub max_calls: u32,
}

/// What an answer may be instead of calls alone.
#[derive(Debug, PartialEq)]
pub(super) enum Otherwise {
    Nothing,
    AnyText,
    Json(Value),
}

/// One tool whose schema was checked.
#[derive(Debug, Clone)]
pub(super) struct Callable {
    pub name: String,
    pub parameters: Value,
}

const LINE_END: &str = "\"\\n\"";

/// The grammar of an answer in `syntax`. Fails with a sentence for the client.
pub(super) fn grammar(
    syntax: Syntax,
    tools: &[Callable],
    shape: &Shape,
    special: &SpecialTokens,
) -> Result<String, String> {
    match syntax {
        Syntax::Llama => Ok(llama_calls(tools, shape, special)),
        Syntax::Hermes => {
            let start = |name: &str| format!("\n{{\"name\": {}, \"arguments\": ", Value::from(name));
            let bodies = bodies(tools, |name| lark::text(&start(name)));
            let close = special.tag(hermes::CLOSE);
            let around = around(hermes::OPEN, LINE_END, shape, special);
            Ok(format!("{around}called: body \"}}\\n\" {close}\n{bodies}"))
        }
        Syntax::Gemma => {
            let called = gemma::calls(tools, special)?;
            Ok(around(tags::OPEN, "", shape, special) + &called)
        }
    }
}

/// The rule `start` and what it needs. A call is the tag `open` and then the rule `called`.
fn around(open: &str, separator: &str, shape: &Shape, special: &SpecialTokens) -> String {
    let call = format!("call: {} called\n", special.tag(open));
    if let Some(start) = without_text(separator, shape) {
        return start + &call;
    }
    // Text may hold any special token but the one that opens a call.
    let free = special.others(open).map_or_else(String::new, |other| format!("(TEXT? {other})*"));
    let start = format!("start: segment{{0,{}}} {free} TEXT?\n", shape.max_calls);
    if special.get(open).is_some() {
        return format!("{start}segment: {free} TEXT? call\n{call}TEXT: /(?s:.+)/\n");
    }
    // Lazy: the first tag ends the text before it.
    let tag = lark::text(open);
    format!(
        "{start}segment: {free} until_call called\nuntil_call[suffix={tag}]: /(?s:.*)/\n\
         TEXT: /(?s:.+)/ & ~/(?s:.*){}(?s:.*)/\n",
        escaped(open)
    )
}

/// The rule `start` of an answer that is calls or JSON; `None` if it may be any text.
fn without_text(separator: &str, shape: &Shape) -> Option<String> {
    let mut calls = lark::repeated("call", separator, shape.max_calls);
    // A model that ends its lines may end the last one too, and is not held to one more call for it.
    if separator == LINE_END {
        calls = format!("({calls}) {LINE_END}?");
    }
    match &shape.otherwise {
        Otherwise::AnyText => None,
        Otherwise::Nothing => Some(format!("start: {calls}\n")),
        Otherwise::Json(schema) => {
            Some(format!("start: {calls} | answer\nanswer: {}\n", lark::json(schema.clone())))
        }
    }
}

fn llama_calls(tools: &[Callable], shape: &Shape, special: &SpecialTokens) -> String {
    // Beside JSON a call falls into the same words as JSON does; beside text it is one word until it is sure.
    let begin = |name: &str| match shape.otherwise {
        Otherwise::Json(_) => {
            let words = ["{", "\"name\"", ": ", &Value::from(name).to_string(), ", ", "\"parameters\"", ": "];
            words.map(lark::text).join(" ")
        }
        _ => lark::text(&format!("{{\"name\": {}, \"parameters\": ", Value::from(name))),
    };
    let bodies = bodies(tools, begin);
    let call = format!("call: body \"}}\"\n{bodies}");
    if let Some(start) = without_text("\"; \"", shape) {
        return start + &call;
    }
    // A call has no tag to begin with, so an answer counts as one once it has named a tool as a call does.
    let names: Vec<String> =
        tools.iter().map(|tool| escaped(&Value::from(&*tool.name).to_string())).collect();
    let named = format!("\\{{\"name\": ({})", names.join("|"));
    let calls = lark::repeated("call", "\"; \"", shape.max_calls);
    let tag = special.get(llama::TAG).map_or_else(String::new, |id| format!("{}? ", lark::tokens(&[id])));
    let rest = special.others(llama::TAG).map_or_else(String::new, |other| format!("({other} TEXT?)*"));
    format!(
        "start: {tag}({calls} | FREE? {rest})\n{call}\
         FREE: /(?s:.+)/ & ~/{named}(?s:.*)/\nTEXT: /(?s:.+)/\n"
    )
}

/// The rule `body`: one alternative for each tool, which begins as `start` has it and ends with its arguments.
fn bodies(tools: &[Callable], start: impl Fn(&str) -> String) -> String {
    let alternatives = (0..tools.len()).map(|index| format!("body{index}"));
    let mut rules = format!("body: {}\n", alternatives.collect::<Vec<_>>().join(" | "));
    for (index, tool) in tools.iter().enumerate() {
        let arguments = lark::json(tool.parameters.clone());
        rules += &format!("body{index}: {} {arguments}\n", start(&tool.name));
    }
    rules
}

/// Text as a regex of the grammar language that matches it alone.
fn escaped(text: &str) -> String {
    let escape = |character: char| match character {
        character if character.is_alphanumeric() || "_ \"".contains(character) => character.to_string(),
        character => format!("\\x{{{:x}}}", u32::from(character)),
    };
    text.chars().map(escape).collect()
}
