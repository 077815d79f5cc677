//! What an answer may be: takes a JSON schema or tools, gives an immutable grammar, and follows running
//! sequences through it. Which token is drawn among the allowed ones is the sampler's.
//!
//! Parsing is llguidance's. Here is what surrounds it: the vocabulary, what a schema may ask for, the
//! syntaxes of tool calls, bounds on time and size, and masks that are computed beside the model.

mod compile;
mod gemma;
mod guide;
mod lark;
mod numbers;
mod schema;
mod tool_calls;
mod trie;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob};
use llguidance::{Matcher, ParserFactory, panic_utils};
use serde_json::{Value, json};

use crate::error::Error;
pub use crate::tool_syntax::Syntax;
use crate::vocab::Vocab;
pub use guide::{Guide, Lost};
use lark::SpecialTokens;
pub use tool_calls::{Answer, Mode};
use tool_calls::{Callable, Otherwise, Shape};

/// Where schemas for answers come from, as errors name it.
const RESPONSE_FORMAT: &str = "response_format";
/// Where schemas for calls come from.
const TOOLS: &str = "tools";
/// The schema of a tool that takes nothing.
const NO_ARGUMENTS: &str = r#"{"type": "object", "properties": {}}"#;
/// How many tools an answer may choose from.
const MAX_TOOLS: usize = 128;
/// Bytes of all their schemas.
const MAX_TOOLS_BYTES: usize = 256 << 10;
/// The longest name of a tool.
const MAX_NAME_BYTES: usize = 256;

/// What one grammar and one mask may cost; `guide` bounds a whole sequence. Lexer fuel comes at about 10,000
/// in a millisecond, and 28,000 is the most that a mask of an honest schema was seen to take: letters of any
/// language, a thousand of them counted. Objects of a thousand optional properties need three items for each
/// property and row, 8,000 for a mask. A string of 10,000 characters has a lexer state for each, and up to
/// three more where they are not ASCII.
fn limits() -> ParserLimits {
    ParserLimits {
        step_lexer_fuel: 100_000,
        max_lexer_states: 50_000,
        max_items_in_row: 10_000,
        step_max_items: 20_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Makes grammars for one model.
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    special: SpecialTokens,
}

/// A tool that an answer may call.
#[derive(Debug, Clone, Copy)]
pub struct Tool<'a> {
    /// What calls name it.
    pub name: &'a str,
    /// The JSON schema of its arguments, which describes an object. Empty: no arguments.
    pub parameters: &'a str,
    /// Whether every object is closed, as OpenAI has it.
    pub strict: bool,
}

impl GrammarCompiler {
    /// Takes a moment: it builds a trie of the vocabulary. `vocab_size`: columns of the logits. `end_ids`:
    /// the tokens that end an answer, at least one; they alone are allowed once a grammar is complete.
    pub fn new(vocab: &Vocab, vocab_size: usize, end_ids: &[u32]) -> Result<Self, Error> {
        let environment = trie::token_environment(vocab, vocab_size, end_ids)?;
        let factory = ParserFactory::new(
            &environment,
            InferenceCapabilities::default(),
            &llguidance::earley::SlicedBiasComputer::json_slices(),
        );
        let mut factory = factory.map_err(|error| Error::Internal(format!("no token trie: {error}")))?;
        *factory.limits_mut() = limits();
        factory.quiet();
        let special = SpecialTokens::of(vocab, vocab_size, end_ids);
        Ok(Self { factory: Arc::new(factory), special })
    }

    /// Any JSON object, on one line with at most one space after each comma and colon.
    pub fn json_object(&self) -> Result<Arc<Grammar>, Error> {
        self.compile_schema(json!({"type": "object"}), 0)
    }

    /// JSON that fits `schema`, with its keys in the schema's order. docs/structured-output.md tells what a
    /// schema may hold; what it may not is an `InvalidSchema`. `strict`: objects are closed, as OpenAI has it.
    pub fn json_schema(&self, schema: &str, strict: bool) -> Result<Arc<Grammar>, Error> {
        let value = schema::read(schema, strict, schema::Root::Any)
            .map_err(|message| Error::schema(RESPONSE_FORMAT, message))?;
        let place = schema::only_place(&value, "oneOf");
        self.compile_schema(value, schema.len()).map_err(|error| placed(error, place))
    }

    /// Answers that call the tools, at most `max_calls` times. For one named tool pass that tool alone, and 1.
    pub fn tool_calls(
        &self,
        syntax: Syntax,
        tools: &[Tool<'_>],
        mode: Mode<'_>,
        max_calls: u32,
    ) -> Result<Arc<Grammar>, Error> {
        let size = tools.iter().map(|tool| tool.name.len() + tool.parameters.len()).sum();
        if !(1..=MAX_TOOLS).contains(&tools.len()) || size > MAX_TOOLS_BYTES {
            let message = format!(
                "must be 1 to {MAX_TOOLS} tools, their schemas together at most {MAX_TOOLS_BYTES} bytes"
            );
            return Err(Error::parameter(TOOLS, message));
        }
        if max_calls == 0 {
            return Err(Error::parameter("max_calls", "must be at least 1"));
        }
        let tools: Vec<Callable> = tools.iter().map(callable).collect::<Result<_, _>>()?;
        let otherwise = match mode {
            Mode::Required => Otherwise::Nothing,
            Mode::Auto => Otherwise::AnyText,
            Mode::CallsOr(Answer { schema, strict }) => Otherwise::Json(self.answer(schema, strict)?),
        };
        let shape = Shape { syntax, otherwise, max_calls };
        let compile = |tools: &[Callable]| self.compile_calls(&shape, tools, size);
        let error = match compile(&tools) {
            Err(Error::InvalidSchema { message, .. }) => message,
            result => return result,
        };
        // The error names the tool that fails alone as well, if that is soon found.
        let deadline = Instant::now() + compile::DEADLINE;
        for tool in tools.iter().take_while(|_| Instant::now() < deadline) {
            if let Err(Error::InvalidSchema { message, .. }) = compile(std::slice::from_ref(tool)) {
                let error = of_tool(&tool.name, &message);
                return Err(placed(error, schema::only_place(&tool.parameters, "oneOf")));
            }
        }
        Err(Error::schema(TOOLS, error))
    }

    fn compile_calls(&self, shape: &Shape, tools: &[Callable], size: usize) -> Result<Arc<Grammar>, Error> {
        let grammar = |syntax| {
            tool_calls::grammar(syntax, tools, shape, &self.special)
                .map(TopLevelGrammar::from_lark)
                .map_err(|message| Error::schema(TOOLS, message))
        };
        if shape.syntax == Syntax::Gemma {
            // What no grammar of JSON can keep is refused here, as for every other family.
            self.compile(TOOLS, grammar(Syntax::Hermes)?, size)?;
        }
        self.compile(TOOLS, grammar(shape.syntax)?, size)
    }

    /// The schema of an answer without calls, known to be one that a grammar can keep.
    fn answer(&self, text: &str, strict: bool) -> Result<Value, Error> {
        if text.is_empty() {
            return Ok(json!({"type": "object"}));
        }
        self.json_schema(text, strict)?;
        schema::read(text, strict, schema::Root::Any)
            .map_err(|message| Error::schema(RESPONSE_FORMAT, message))
    }

    fn compile_schema(&self, schema: Value, size: usize) -> Result<Arc<Grammar>, Error> {
        let grammar = TopLevelGrammar::from_json_schema(schema::with_layout(schema));
        self.compile(RESPONSE_FORMAT, grammar, size)
    }

    /// `name`: the parameter to blame. `size`: bytes that the grammar was made from.
    fn compile(&self, name: &str, grammar: TopLevelGrammar, size: usize) -> Result<Arc<Grammar>, Error> {
        let (factory, blamed) = (Arc::clone(&self.factory), name.to_owned());
        compile::within_deadline(name, move || {
            let refused =
                |error: &dyn std::fmt::Display| Error::schema(&blamed, reason(&format!("{error:#}")));
            let compile = AssertUnwindSafe(|| {
                let environment = Some(factory.tok_env().clone());
                GrammarInit::Serialized(grammar).to_internal(environment, factory.limits().clone())
            });
            let (grammar, mut lexemes) =
                panic_utils::catch_unwind(compile).map_err(|error| refused(&error))?;
            numbers::bound(&mut lexemes).map_err(|error| refused(&error))?;
            let parser = factory.create_parser_from_init_default(GrammarInit::Internal(grammar, lexemes));
            let parser = parser.map_err(|error| refused(&error))?;
            let lexer_bytes = parser.parser.lexer_stats().num_bytes;
            let mut start = Matcher::new(Ok(parser));
            let first = start.compute_mask().map_err(|error| refused(&error))?;
            let num_bytes = lexer_bytes + 4 * first.as_slice().len() + 32 * size;
            Ok(Arc::new(Grammar { start: Mutex::new(start), first, num_bytes }))
        })
    }
}

fn callable(tool: &Tool<'_>) -> Result<Callable, Error> {
    if tool.name.is_empty() || tool.name.len() > MAX_NAME_BYTES {
        return Err(Error::parameter(TOOLS, format!("must have names of 1 to {MAX_NAME_BYTES} bytes")));
    }
    let schema = if tool.parameters.is_empty() { NO_ARGUMENTS } else { tool.parameters };
    let parameters = schema::read(schema, tool.strict, schema::Root::Object);
    let parameters = parameters.map_err(|message| of_tool(tool.name, &message))?;
    Ok(Callable { name: tool.name.to_owned(), parameters })
}

fn of_tool(name: &str, message: &str) -> Error {
    const MAX_SHOWN: usize = 64;
    let name: String = name.chars().take(MAX_SHOWN).collect();
    Error::schema(TOOLS, format!("parameters of `{name}`: {message}"))
}

const OVERLAP: &str = "uses oneOf with options that overlap";

/// What llguidance says, in one short line for those who know their schema alone: it may quote the schema.
fn reason(error: &str) -> String {
    const MAX_CHARS: usize = 200;
    const UNSATISFIABLE: &str = "Unsatisfiable schema: ";
    let line = error.lines().next().unwrap_or_default();
    // Where in the grammar that we wrote ourselves is nobody's business.
    let line = line.rsplit("failed to compile JSON schema: ").next().unwrap_or_default();
    if line.starts_with("panic") {
        return "cannot be compiled; simplify the schema".into();
    }
    if line.contains("coerce_one_of") {
        return format!("{OVERLAP}; make them differ by type or by a required constant, or send anyOf");
    }
    if line.contains("lookarounds not supported") {
        return "has a pattern with ^ or $ elsewhere than at its ends, which is not supported".into();
    }
    let (start, line) = match line.contains(UNSATISFIABLE) {
        false => ("cannot be followed by a grammar", line.to_owned()),
        true if line.contains("Regex is empty") => (
            "has no answer that fits",
            "a pattern contradicts itself or the lengths or format beside it".into(),
        ),
        true => {
            let line = line.replace(UNSATISFIABLE, "");
            let line = line.replace("is unsatisfiable", "allows no value");
            ("has no answer that fits", line.replace("are unsatisfiable", "allow no value"))
        }
    };
    format!("{start}: {}", line.chars().take(MAX_CHARS).collect::<String>())
}

/// The error with the place of the only `oneOf`.
fn placed(error: Error, place: Option<String>) -> Error {
    match (error, place) {
        (Error::InvalidSchema { name, message }, Some(place)) => {
            let overlap = format!("{OVERLAP} at {place}");
            Error::InvalidSchema { name, message: message.replace(OVERLAP, &overlap) }
        }
        (error, _) => error,
    }
}

/// A compiled grammar, shared by all sequences that follow it.
pub struct Grammar {
    /// At the start; only ever cloned.
    start: Mutex<Matcher>,
    /// The mask of the first token.
    first: SimpleVob,
    num_bytes: usize,
}

impl Grammar {
    /// Number of tokens that it was compiled for.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.first.len()
    }

    /// About how much memory it holds.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammar({} bytes)", self.num_bytes)
    }
}
