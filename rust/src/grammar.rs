//! What an answer may be: takes a JSON schema or tools, gives an immutable grammar, and follows running
//! sequences through it. Which token is drawn among the allowed ones is the sampler's.
//!
//! Parsing is llguidance's. Here is what surrounds it: the vocabulary, what a schema may ask for, the
//! syntaxes of tool calls, bounds on time and size, and masks that are computed beside the model.

mod compile;
mod guide;
mod schema;
mod trie;

use std::sync::{Arc, Mutex};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::Error;
use crate::vocab::Vocab;
pub use guide::{Guide, Lost};

/// Where schemas for answers come from, as errors name it.
const RESPONSE_FORMAT: &str = "response_format";

/// What one grammar, one mask or one sequence may cost. llguidance's defaults but for memory: a sequence
/// keeps 1 to 2 kB for each state of its lexer.
fn limits() -> ParserLimits {
    ParserLimits { max_lexer_states: 50_000, verbose_errors: false, ..ParserLimits::default() }
}

/// Makes grammars for one model.
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
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
        Ok(Self { factory: Arc::new(factory) })
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
        self.compile_schema(value, schema.len())
    }

    fn compile_schema(&self, schema: Value, size: usize) -> Result<Arc<Grammar>, Error> {
        let grammar = TopLevelGrammar::from_json_schema(schema::with_layout(schema));
        self.compile(RESPONSE_FORMAT, grammar, size)
    }

    /// `name`: the parameter to blame. `size`: bytes that the grammar was made from.
    fn compile(&self, name: &str, grammar: TopLevelGrammar, size: usize) -> Result<Arc<Grammar>, Error> {
        let (factory, blamed) = (Arc::clone(&self.factory), name.to_owned());
        compile::within_deadline(name, move || {
            let parser = factory.create_parser(grammar);
            let parser = parser.map_err(|error| Error::schema(&blamed, reason(&error.to_string())))?;
            let lexer_bytes = parser.parser.lexer_stats().num_bytes;
            let mut start = Matcher::new(Ok(parser));
            let first =
                start.compute_mask().map_err(|error| Error::schema(&blamed, reason(&error.to_string())))?;
            let num_bytes = lexer_bytes + 4 * first.as_slice().len() + 32 * size;
            Ok(Arc::new(Grammar { start: Mutex::new(start), first, num_bytes }))
        })
    }
}

/// What llguidance says, in one short line: it may quote the schema.
fn reason(error: &str) -> String {
    const MAX_CHARS: usize = 200;
    let line = error.lines().next().unwrap_or_default();
    if line.starts_with("panic") {
        return "cannot be compiled; simplify the schema".into();
    }
    format!("cannot be followed by a grammar: {}", line.chars().take(MAX_CHARS).collect::<String>())
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
