//! Tool calls in the syntaxes of the model families: takes tools, gives the grammar of an answer that calls
//! them. How such an answer is read back is the output's.

use serde_json::Value;

use super::gemma;
use super::lark::{self, SpecialTokens};

/// How a family writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `{"name": NAME, "parameters": ARGUMENTS}`, joined by `; `. The answer holds nothing else.
    Llama,
    /// `<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n</tool_call>`, one in a line, after any text.
    Hermes,
    /// `<|tool_call>call:NAME{KEY:VALUE,...}<tool_call|>` with strings in `<|"|>`, after any text.
    Gemma,
}

impl Syntax {
    /// The syntax of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [("llama", Self::Llama), ("hermes", Self::Hermes), ("gemma", Self::Gemma)]
            .into_iter()
            .find_map(|(known, syntax)| (known == name).then_some(syntax))
    }
}

/// Whether an answer has to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Calls and nothing else, at least one.
    Required,
    /// Text, calls, or both. Where a call has begun it must fit.
    Auto,
}

/// One tool whose schema was checked.
#[derive(Debug, Clone)]
pub(super) struct Callable {
    pub name: String,
    pub parameters: Value,
}

const HERMES_OPEN: &str = "<tool_call>";
const HERMES_CLOSE: &str = "</tool_call>";
const LLAMA_TAG: &str = "<|python_tag|>";

/// The grammar of an answer with at most `max_calls` calls. Fails with a sentence for the client.
pub(super) fn grammar(
    syntax: Syntax,
    tools: &[Callable],
    mode: Mode,
    max_calls: u32,
    special: &SpecialTokens,
) -> Result<String, String> {
    let rules = match syntax {
        Syntax::Llama => llama(tools, mode, max_calls, special),
        Syntax::Hermes => hermes(tools, mode, max_calls, special),
        Syntax::Gemma => {
            let calls = gemma::calls(tools, special)?;
            let around = around(gemma::OPEN, "called", "", mode, max_calls, special);
            format!("{around}call: {} called\n{calls}", special.tag(gemma::OPEN))
        }
    };
    Ok(rules)
}

fn hermes(tools: &[Callable], mode: Mode, max_calls: u32, special: &SpecialTokens) -> String {
    let around = around(HERMES_OPEN, "called", "\\n", mode, max_calls, special);
    let start = |name: &str| format!("\n{{\"name\": {}, \"arguments\": ", Value::from(name));
    let bodies = bodies(tools, |name| lark::text(&start(name)));
    let (open, close) = (special.tag(HERMES_OPEN), special.tag(HERMES_CLOSE));
    format!("{around}call: {open} called\ncalled: body \"}}\\n\" {close}\n{bodies}")
}

/// The rules `start` and what it needs around `call`, which is the tag `open` and then the rule `called`.
fn around(
    open: &str,
    called: &str,
    separator: &str,
    mode: Mode,
    max_calls: u32,
    special: &SpecialTokens,
) -> String {
    let separator = if separator.is_empty() { String::new() } else { format!("\"{separator}\"") };
    if mode == Mode::Required {
        return format!("start: {}\n", lark::repeated("call", &separator, max_calls));
    }
    // Text may hold any special token but the one that opens a call.
    let other = special.others(open);
    let pieces = |text: &str| other.as_ref().map_or_else(String::new, |other| format!("({text}? {other})*"));
    let start = format!("start: segment{{0,{max_calls}}} {} TEXT?\n", pieces("TEXT"));
    if special.get(open).is_some() {
        let pieces = pieces("TEXT");
        return format!("{start}segment: {pieces} TEXT? call\nTEXT: /(?s:.+)/\n");
    }
    // Lazy: the first tag ends the text before it.
    let tag = lark::text(open);
    format!(
        "{start}segment: {} until_call {called}\nuntil_call[suffix={tag}]: /(?s:.*)/\n\
         TEXT: /(?s:.+)/ & ~/(?s:.*){open}(?s:.*)/\n",
        pieces("TEXT")
    )
}

fn llama(tools: &[Callable], mode: Mode, max_calls: u32, special: &SpecialTokens) -> String {
    let start = |name: &str| format!("{{\"name\": {}, \"parameters\": ", Value::from(name));
    let bodies = bodies(tools, |name| lark::text(&start(name)));
    let call = "call: body \"}\"\n";
    if mode == Mode::Required {
        return format!("start: {}\n{call}{bodies}", lark::repeated("call", "\"; \"", max_calls));
    }
    // A call has no tag to begin with, so an answer counts as one once it has named a tool as a call does.
    let names: Vec<String> =
        tools.iter().map(|tool| escaped(&Value::from(&*tool.name).to_string())).collect();
    let named = format!("\\{{\"name\": ({})", names.join("|"));
    let more = if max_calls > 1 { format!("(\"; \" call){{0,{}}}", max_calls - 1) } else { String::new() };
    let tag = special.get(LLAMA_TAG).map_or_else(String::new, |id| format!("{}? ", lark::tokens(&[id])));
    let rest = special.others(LLAMA_TAG).map_or_else(String::new, |other| format!("({other} TEXT?)*"));
    format!(
        "start: {tag}(call {more} | FREE? {rest})\n{call}{bodies}\
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
