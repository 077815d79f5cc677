//! Grammars followed token by token: tables of texts that fit or do not, and whatever serde_json writes.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;

use ecocore::batch::{Batch, BatchRow};
use ecocore::error::Error;
use ecocore::grammar::{Answer, Grammar, GrammarCompiler, Guide, Mode, Syntax, Tool};
use ecocore::sampler::{Logits, SamplingParams};
use ecocore::sampler_state::{Constraints, SamplerState};
use ecocore::tokenizer::Tokenizer;
use proptest::prelude::*;

const END: u32 = 256;
const VOCAB: usize = 300;

fn compiler() -> GrammarCompiler {
    GrammarCompiler::new(Tokenizer::bytes_only().vocab(), VOCAB, &[END]).unwrap()
}

fn allows(mask: &[u32], id: u32) -> bool {
    mask[id as usize / 32] >> (id % 32) & 1 == 1
}

fn allowed(mask: &[u32]) -> Vec<u32> {
    (0..VOCAB as u32).filter(|&id| allows(mask, id)).collect()
}

/// Whether the grammar allows every byte of `text` and then the end.
fn follows(grammar: &Arc<Grammar>, text: &str) -> bool {
    let mut guide = Guide::new(Arc::clone(grammar));
    for token in text.bytes().map(u32::from).chain([END]) {
        guide.settle().unwrap();
        if !allows(guide.mask().unwrap(), token) {
            return false;
        }
        guide.advance(token);
    }
    true
}

#[track_caller]
fn check(grammar: &Arc<Grammar>, right: &[&str], wrong: &[&str]) {
    for text in right {
        assert!(follows(grammar, text), "{text} is refused");
    }
    for text in wrong {
        assert!(!follows(grammar, text), "{text} is taken");
    }
}

#[test]
fn any_object_is_on_one_line() {
    let right = ["{}", r#"{"a": [1, -2.5e3, true, null, {"b":"\n\u0001é"}]}"#, r#"{"":{"":""}}"#];
    let wrong = [
        "[]",
        "1",
        "{ }",
        "{\"a\" : 1}",
        "{\"a\":  1}",
        "{\"a\":1}\n",
        "{\"a\":1,}",
        "{\"a\":01}",
        "{'a':1}",
    ];
    check(&compiler().json_object().unwrap(), &right, &wrong);
}

#[test]
fn numbers_stay_within_what_every_reader_holds() {
    let (long, longer) = ("1".repeat(40), "1".repeat(41));
    let object = compiler().json_object().unwrap();
    let right = ["0", "-1.5", "6.02e23", "1E-05", "1e+99", &long, &format!("-0.{long}e9")];
    let wrong = ["1e567", "1e-100", "01", "1e", &longer, &format!("0.{longer}")];
    let within = |number: &str| format!(r#"{{"a":[{number}]}}"#);
    for number in right {
        assert!(follows(&object, &within(number)), "{number} is refused");
    }
    for number in wrong {
        assert!(!follows(&object, &within(number)), "{number} is taken");
    }
    for schema in [
        r#"{"type": "number"}"#,
        r#"{"type": ["null", "number"]}"#,
        r#"{"anyOf": [{"type": "null"}, {"type": "number"}]}"#,
        r#"{"type": ["integer", "number", "string"], "$defs": {"number": {}}}"#,
        "{}",
    ] {
        check(&compiler().json_schema(schema, true).unwrap(), &right, &wrong);
    }
    let integers = ["0", "-17", &long];
    check(
        &compiler().json_schema(r#"{"type": "integer"}"#, true).unwrap(),
        &integers,
        &["1.5", "1e5", &longer],
    );
    // Where schemas are merged, numbers are bounded by value and written without exponents.
    let merged = compiler().json_schema(r#"{"allOf": [{"type": "number"}, {"minimum": 0}]}"#, false).unwrap();
    check(&merged, &["0", "8999999999999999999", "0.5"], &["-1", "1e5", &long]);
}

#[test]
fn numbers_in_calls_are_those_of_answers() {
    let schema =
        r#"{"type": "object", "properties": {"x": {"type": "number"}, "y": {}}, "required": ["x", "y"]}"#;
    let tools = [Tool { name: "f", parameters: schema, strict: false }];
    for (syntax, before, after) in [
        (Syntax::Llama, r#"{"name": "f", "parameters": "#, "}"),
        (Syntax::Hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": ", "}\n</tool_call>"),
    ] {
        let grammar = compiler().tool_calls(syntax, &tools, Mode::Required, 1).unwrap();
        let call = |x: &str, y: &str| format!(r#"{before}{{"x": {x}, "y": {y}}}{after}"#);
        check(&grammar, &[&call("1e9", "1.5e-7")], &[&call("1e567", "1"), &call("1", "1e567")]);
    }
}

#[test]
fn a_schema_fixes_keys_their_order_and_their_values() {
    let schema = r#"{"properties": {"b": {"enum": [1, "x"]}, "a": {"type": "boolean"}}, "required": ["b"]}"#;
    let right = [r#"{"b":1}"#, r#"{"b": "x", "a": true}"#];
    let wrong = ["{}", r#"{"a":true,"b":1}"#, r#"{"b":2}"#, r#"{"b":1,"c":1}"#, r#"{"b":1,"a":null}"#, "1"];
    check(&compiler().json_schema(schema, false).unwrap(), &right, &wrong);
}

#[test]
fn only_the_end_is_allowed_when_the_grammar_is_complete() {
    let grammar = compiler().json_object().unwrap();
    let mut guide = Guide::new(grammar);
    for token in b"{}" {
        guide.settle().unwrap();
        assert!(!allows(guide.mask().unwrap(), END));
        guide.advance(u32::from(*token));
    }
    guide.settle().unwrap();
    assert_eq!((allowed(guide.mask().unwrap()), guide.drawn()), (vec![END], 2));
}

#[test]
fn calls_are_spelled_as_each_family_does() {
    let schema = r#"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#;
    let tools = [
        Tool { name: "weather", parameters: schema, strict: false },
        Tool { name: "ping", parameters: "", strict: true },
    ];
    let grammar = |syntax, mode, most| compiler().tool_calls(syntax, &tools, mode, most).unwrap();
    let weather = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    let ping = "<tool_call>\n{\"name\": \"ping\", \"arguments\": {}}\n</tool_call>";
    let (both, text) = (format!("{weather}\n{ping}"), format!("Let me see. {weather} Done."));
    check(&grammar(Syntax::Hermes, Mode::Required, 2), &[weather, ping, &both], &["", "Hello", &text]);
    check(&grammar(Syntax::Hermes, Mode::Required, 1), &[weather, ping], &[&both]);
    let broken = "<tool_call>\n{\"name\": \"pong\", \"arguments\": {}}\n</tool_call>";
    check(
        &grammar(Syntax::Hermes, Mode::Auto, 2),
        &["", "a < b", "<tool_cal", &text, &both],
        &[broken, "<tool_call>"],
    );
    check(&grammar(Syntax::Hermes, Mode::Auto, 1), &[&text], &[&both]);

    let weather = r#"{"name": "weather", "parameters": {"city": "Oslo"}}"#;
    let ping = r#"{"name": "ping", "parameters": {}}"#;
    let both = format!("{weather}; {ping}");
    check(
        &grammar(Syntax::Llama, Mode::Required, 2),
        &[weather, &both],
        &["", "Hi", &format!("{weather}{ping}")],
    );
    let free = ["", "Hi", r#"{"name": "pong"}"#, r#"{"city": "Oslo"}"#, r#"{"name": "p"#];
    check(
        &grammar(Syntax::Llama, Mode::Auto, 2),
        &free,
        &[r#"{"name": "ping"}"#, r#"{"name": "ping", "x": 1}"#],
    );
    let answer = Answer { schema: r#"{"enum": ["none"]}"#, strict: false };
    check(&grammar(Syntax::Llama, Mode::CallsOr(answer), 1), &[ping, "\"none\""], &["none", "", &both]);
}

#[test]
fn what_cannot_be_kept_is_an_invalid_schema() {
    let refused = compiler().json_schema(r#"{"properties": {"a": {"not": {}}}}"#, false).unwrap_err();
    let Error::InvalidSchema { name, message } = refused else { panic!("{refused}") };
    assert_eq!(
        (&*name, &*message),
        ("response_format", "schema uses the keyword `not` at properties.a, which is not supported")
    );
    let tools = [Tool { name: "f", parameters: r#"{"type": "array"}"#, strict: false }];
    let refused = compiler().tool_calls(Syntax::Hermes, &tools, Mode::Auto, 1).unwrap_err();
    assert_eq!(refused.to_string(), "tools parameters of `f`: schema must describe an object");
}

/// One step of two sequences whose likeliest token is `likeliest`.
fn step(state: &mut SamplerState, rows: &[(u64, u32)], likeliest: u32) -> (Vec<u32>, Vec<u64>) {
    let row = |&(sequence_id, output_index): &(u64, u32)| BatchRow {
        sequence_id,
        start: 0,
        length: 1,
        prompt_length: 1,
        samples: true,
        output_index,
        cached_tokens: 0,
    };
    let batch = Batch { rows: rows.iter().map(row).collect(), ..Batch::default() };
    let mut logits = [0.0; VOCAB];
    logits[likeliest as usize] = 9.0;
    let inputs = state.prepare(&batch);
    let tokens = state.sample(&vec![Logits::F32(&logits); rows.len()], &inputs).unwrap();
    (tokens.token_ids, tokens.failed.into_iter().map(|(sequence_id, _)| sequence_id).collect())
}

#[test]
fn a_draw_out_of_turn_fails_its_sequence_alone() {
    let grammar = compiler().json_object().unwrap();
    let greedy = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    let mut state = SamplerState::new(VOCAB).unwrap();
    for sequence in [1, 2] {
        let constraints = Constraints { grammar: Some(Arc::clone(&grammar)), ..Constraints::default() };
        state.open(sequence, Arc::clone(&greedy), 0, 0, &[], constraints).unwrap();
    }
    let brace = u32::from(b'}');
    assert_eq!(step(&mut state, &[(1, 0), (2, 0)], brace), (vec![u32::from(b'{'); 2], vec![]));
    assert_eq!(step(&mut state, &[(1, 1), (2, 5)], brace), (vec![brace, 0], vec![2]));
    assert_eq!(step(&mut state, &[(1, 2)], brace), (vec![END], vec![]));
    let other = SamplerState::new(VOCAB + 1).unwrap().open(
        1,
        greedy,
        0,
        0,
        &[],
        Constraints { grammar: Some(grammar), ..Constraints::default() },
    );
    assert!(other.unwrap_err().to_string().starts_with("grammar "));
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~é\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let items = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
        let pairs = prop::collection::btree_map("[a-z\"]{0,3}", inner, 0..4);
        prop_oneof![items, pairs.prop_map(|pairs| pairs.into_iter().collect())]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What serde_json writes on one line is JSON by our grammar, and so is a constant by its own schema.
    #[test]
    fn every_json_text_is_followed(value in values()) {
        let compiler = compiler();
        let object = serde_json::json!({ "it": value });
        prop_assert!(follows(&compiler.json_object().unwrap(), &object.to_string()));
        let constant = serde_json::json!({ "const": object });
        prop_assert!(follows(&compiler.json_schema(&constant.to_string(), false).unwrap(), &object.to_string()));
    }

    /// Text of any kind neither panics nor compiles into anything but a grammar or a schema's error.
    #[test]
    fn no_schema_breaks_the_compiler(text in r#"[{}\[\]":,a-z0-9$#/ ]{0,60}"#, keyword in "type|pattern|enum|items|\\$ref|minItems|anyOf", value in values()) {
        let compiler = compiler();
        let schema = serde_json::json!({ keyword: value }).to_string();
        for text in [text, schema] {
            let refused = compiler.json_schema(&text, false).err();
            let as_expected = refused.is_none_or(|error| matches!(error, Error::InvalidSchema { .. }));
            prop_assert!(as_expected, "{text}");
        }
    }
}
