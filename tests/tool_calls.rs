//! Answers taken apart: tables for each syntax, and then any text in any pieces against the same text whole.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use ecocore::tool_calls::{AnswerParser, Sink, Syntax, ToolOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

/// What a parser found. `accounted` counts the bytes that found a place.
#[derive(Debug, Clone, Default, PartialEq)]
struct Found {
    content: String,
    reasoning: String,
    /// Name, arguments and whether the call is whole.
    calls: Vec<(String, String, bool)>,
    accounted: usize,
}

impl Sink for Found {
    fn content(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.accounted += bytes.len();
        // Latin-1 keeps the bytes apart, wherever the text is cut.
        self.content.extend(bytes.iter().map(|&byte| char::from(byte)));
    }

    fn reasoning(&mut self, bytes: &[u8]) {
        self.accounted += bytes.len();
        self.reasoning.extend(bytes.iter().map(|&byte| char::from(byte)));
    }

    fn syntax(&mut self, count: usize) {
        self.accounted += count;
    }

    fn call(&mut self, name: &str) {
        self.calls.push((name.into(), String::new(), false));
    }

    fn arguments(&mut self, json: &[u8]) {
        let (_, arguments, whole) = self.calls.last_mut().expect("arguments follow a call");
        assert!(!*whole, "nothing follows the end of a call");
        arguments.extend(json.iter().map(|&byte| char::from(byte)));
    }

    fn end_call(&mut self) {
        let whole = &mut self.calls.last_mut().expect("a call ends after it began").2;
        assert!(!std::mem::replace(whole, true), "a call ends once");
    }
}

fn options(syntax: Syntax) -> ToolOptions {
    let names = ["get_weather", "get", "now"].map(String::from).to_vec();
    ToolOptions { syntax: Some(syntax), names, ..ToolOptions::default() }
}

fn read<'a>(options: &ToolOptions, pieces: impl IntoIterator<Item = &'a [u8]>) -> Found {
    let (mut parser, mut found, mut length) = (AnswerParser::new(options), Found::default(), 0);
    for piece in pieces {
        parser.push(piece, &mut found);
        length += piece.len();
        assert!(found.accounted <= length);
    }
    parser.finish(&mut found);
    assert_eq!(found.accounted, length, "every byte has one place");
    found
}

/// What an answer says, whole and cut at every place, once and into single bytes.
#[track_caller]
fn check_with(options: &ToolOptions, answer: &str, content: &str, calls: &[(&str, &str, bool)]) -> Found {
    let answer = answer.as_bytes();
    let whole = read(options, [answer]);
    let told: Vec<_> = whole.calls.iter().map(|(name, text, whole)| (&name[..], &text[..], *whole)).collect();
    assert_eq!((&whole.content[..], &told[..]), (content, calls));
    for cut in 0..=answer.len() {
        assert_eq!(read(options, [&answer[..cut], &answer[cut..]]), whole, "cut at {cut}");
    }
    assert_eq!(read(options, answer.chunks(1)), whole, "in single bytes");
    whole
}

// --- hermes ---------------------------------------------------------------------------------------------

#[track_caller]
fn hermes(answer: &str, content: &str, calls: &[(&str, &str, bool)]) {
    check_with(&options(Syntax::Hermes), answer, content, calls);
}

#[test]
fn hermes_calls_stand_among_text() {
    hermes("Hello.\n", "Hello.\n", &[]);
    hermes(
        "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>",
        "",
        &[("get", "{\"a\": [1, \"}\"]}", true)],
    );
    hermes(
        "I look.\n<tool_call>{\"name\":\"get\",\"arguments\":{}}</tool_call>\n<tool_call>\n{\"name\":\"now\",\"arguments\":{ }}\n\
         </tool_call>\nSo.",
        "I look.So.",
        &[("get", "{}", true), ("now", "{ }", true)],
    );
}

#[test]
fn members_of_a_hermes_call_may_come_in_any_order() {
    hermes(
        "<tool_call>{\"arguments\": {\"name\": \"x\"}, \"name\": \"get\"}</tool_call>",
        "",
        &[("get", "{\"name\": \"x\"}", true)],
    );
    hermes(
        "<tool_call>{\"type\": \"function\", \"name\": \"get\", \"parameters\": {\"a\":1}, \"id\": [7]}</tool_call>",
        "",
        &[("get", "{\"a\":1}", true)],
    );
    hermes("<tool_call>{\"name\": \"now\"}</tool_call>", "", &[("now", "{}", true)]);
}

#[test]
fn what_is_no_hermes_call_is_text() {
    for text in [
        "a < b <tool> <tool_cal",
        "<tool_call>",
        "<tool_call>\n{\"na",
        "<tool_call>call me</tool_call>",
        "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"ge\"}</tool_call>",
        "<tool_call>{\"name\": 5}</tool_call>",
        "<tool_call>[{\"name\": \"get\"}]</tool_call>",
        "<tool_call>{\"arguments\": \"x\", \"name\": \"get\"}</tool_call>",
        "<tool_call>{\"other\": 1, \"name\": \"get\"}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}, \"arguments\": {}, \"name\": \"get\"}</tool_call>",
        "</tool_call>",
        "  \n",
    ] {
        hermes(text, text, &[]);
    }
}

#[test]
fn a_tag_after_a_false_one_opens_a_call() {
    hermes(
        "<tool_call><tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>",
        "<tool_call>",
        &[("now", "{}", true)],
    );
    hermes("<<tool_call>{\"name\":\"now\",\"arguments\":{}}", "<", &[("now", "{}", true)]);
    hermes(
        "<tool_call>{\"na<tool_call>{\"name\":\"now\",\"arguments\":{}}",
        "<tool_call>{\"na",
        &[("now", "{}", true)],
    );
}

#[test]
fn a_missing_closing_tag_ends_no_call() {
    let two = "<tool_call>{\"name\":\"now\",\"arguments\":{}}<tool_call>{\"name\":\"get\",\"arguments\":{}}</tool_c";
    hermes(two, "", &[("now", "{}", true), ("get", "{}", true)]);
    hermes("<tool_call>{\"name\":\"now\",\"arguments\":{}} Well.", "Well.", &[("now", "{}", true)]);
    hermes("<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_ca!", "</tool_ca!", &[("now", "{}", true)]);
}

#[test]
fn a_cut_hermes_call_is_not_whole() {
    hermes("<tool_call>{\"name\":\"now\"", "", &[("now", "", false)]);
    hermes("<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":\"b", "", &[("now", "{\"a\":\"b", false)]);
    hermes("<tool_call>{\"name\":\"now\",\"arguments\":{}", "", &[("now", "{}", true)]);
}

#[test]
fn malformed_arguments_are_passed_as_they_are_written() {
    let call = |arguments: &str| {
        format!("<tool_call>{{\"name\": \"get\", \"arguments\": {arguments}}}</tool_call>!")
    };
    for arguments in
        ["{\"a\": tru}", "{a: 1}", "{'a': 'b'}", "{\"a\": [1}}", "\"{}\"", "null", "{\"a\":\"b\nc\"}"]
    {
        hermes(&call(arguments), "!", &[("get", arguments, true)]);
    }
    hermes("<tool_call>{\"name\": \"get\" oops}</tool_call>.", ".", &[("get", "oops", true)]);
    // A string that never ends: the closing tag ends it, but in a valid string it is text.
    hermes(&call("{\"a\":\"b\n}"), "!", &[("get", "{\"a\":\"b\n}}", true)]);
    hermes(&call("{\"a\":\"</tool_call>\"}"), "!", &[("get", "{\"a\":\"</tool_call>\"}", true)]);
    hermes(&call("{\"a\":\"\n</tool_\"}"), "!", &[("get", "{\"a\":\"\n</tool_\"}", true)]);
    // A missing brace.
    hermes(
        "<tool_call>{\"name\":\"get\",\"arguments\":{\"a\":1}\n</tool_call>.",
        ".",
        &[("get", "{\"a\":1}", true)],
    );
    hermes("<tool_call>{\"name\":\"get\",\"arguments\":{1</tool_c", "", &[("get", "{1", false)]);
}

// --- llama ----------------------------------------------------------------------------------------------

#[track_caller]
fn llama(answer: &str, content: &str, calls: &[(&str, &str, bool)]) {
    check_with(&options(Syntax::Llama), answer, content, calls);
}

#[test]
fn llama_calls_are_the_whole_answer() {
    llama("{\"name\": \"get\", \"parameters\": {\"a\": \"b\"}}", "", &[("get", "{\"a\": \"b\"}", true)]);
    llama("\n<|python_tag|>{\"name\":\"get\",\"arguments\":{}}\n", "", &[("get", "{}", true)]);
    llama(
        "{\"name\":\"get\",\"parameters\":{}}; {\"type\":\"function\",\"parameters\":{\"x\":{}},\"name\":\"now\"}",
        "",
        &[("get", "{}", true), ("now", "{\"x\":{}}", true)],
    );
}

#[test]
fn what_is_no_llama_call_is_text() {
    for text in [
        "Hello {\"name\": \"get\", \"parameters\": {}}",
        "{\"answer\": 42}",
        "{\"name\": \"unknown\", \"parameters\": {}}",
        "{\"name\": \"get\"}",
        "{\"name\": \"get\", \"parameters\": []}",
        "{\"name\": \"get\", \"parameters\": {\"a\": tru}}",
        "{\"name\": \"get\", \"parameters\": {\"a\": \"cut",
        "{\"name\": \"get\", \"parameters\": {}, \"more\": 1}",
        "<|python_tag|>get.call(a=\"b\")",
        "<|python_",
        " ",
        "[1]",
        "<|python_tag|>",
    ] {
        llama(text, text, &[]);
    }
    llama("{\"name\":\"get\",\"parameters\":{}} is it.", " is it.", &[("get", "{}", true)]);
    llama("{\"name\":\"get\",\"parameters\":{}}; {\"x\":1}", "; {\"x\":1}", &[("get", "{}", true)]);
    llama("{\"name\":\"get\",\"parameters\":{}};\n", "", &[("get", "{}", true)]);
}

// --- gemma ----------------------------------------------------------------------------------------------

#[track_caller]
fn gemma(answer: &str, content: &str, calls: &[(&str, &str, bool)]) {
    let found = check_with(&options(Syntax::Gemma), answer, content, calls);
    for (_, arguments, whole) in found.calls {
        assert!(!whole || serde_json::from_str::<Value>(&arguments).is_ok(), "{arguments}");
    }
}

fn gemma_arguments(spelled: &str, json: &str) {
    let call = format!("<|tool_call>call:get{{{spelled}}}<tool_call|>");
    gemma(&call, "", &[("get", json, true)]);
}

#[test]
fn gemma_calls_stand_among_text() {
    gemma("Hello <|tool_call> and {call:get}", "Hello <|tool_call> and {call:get}", &[]);
    gemma("<|tool_call>call:get{}<tool_call|>", "", &[("get", "{}", true)]);
    gemma(
        "So.\n<|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>}<tool_call|><|tool_call>call:now{}<tool_call|>",
        "So.",
        &[("get_weather", "{\"city\":\"Paris\"}", true), ("now", "{}", true)],
    );
    gemma("<|tool_call>call:getter{}<tool_call|>", "<|tool_call>call:getter{}<tool_call|>", &[]);
    gemma("<|tool_call>call:ge", "<|tool_call>call:ge", &[]);
    gemma("<|tool_call>call:get{a:<|\"|>b", "", &[("get", "{\"a\":\"b", false)]);
    gemma("<|tool_call>call:get{a:<|\"|>b<|", "", &[("get", "{\"a\":\"b<|", false)]);
    gemma("<|tool_call>call:get{}<tool_c!", "<tool_c!", &[("get", "{}", true)]);
    gemma("<|tool_call>call:get{}<|tool_call>call:now{}", "", &[("get", "{}", true), ("now", "{}", true)]);
}

#[test]
fn gemma_values_become_json() {
    gemma_arguments(
        "a:1,b:-2.5e3,c:true,d:false,e:null",
        "{\"a\":1,\"b\":-2.5e3,\"c\":true,\"d\":false,\"e\":null}",
    );
    gemma_arguments("a:[1,<|\"|>x<|\"|>,[],{}],b:{c:{}}", "{\"a\":[1,\"x\",[],{}],\"b\":{\"c\":{}}}");
    gemma_arguments("<|\"|>a:b<|\"|>:<|\"|>}],\\\"\n\t<|\"|>", "{\"a:b\":\"}],\\\\\\\"\\n\\u0009\"}");
    gemma_arguments(" a : 1 , b: [ 1 , 2 ] ", "{\"a \":1,\"b\":[1,2]}");
    gemma_arguments("a:<|\"|><|<tool_call|><|\"|>", "{\"a\":\"<|<tool_call|>\"}");
}

#[test]
fn gemma_calls_that_are_closed_are_json_whatever_is_missing() {
    gemma_arguments(
        "a:word,b:1.,c:+1,d:00,e:two words ",
        "{\"a\":\"word\",\"b\":\"1.\",\"c\":\"+1\",\"d\":\"00\",\"e\":\"two words\"}",
    );
    gemma_arguments("a:none,b:,c:nil", "{\"a\":null,\"b\":\"\",\"c\":null}");
    gemma_arguments("a,b:1,,<|\"|>c<|\"|>", "{\"a\":null,\"b\":1,\"c\":null}");
    gemma_arguments("a:[1,{b:2]", "{\"a\":[1,{\"b\":2}]}");
    gemma_arguments("a:[1,,2],b:<|\"|>c<|\"|>d", "{\"a\":[1,2],\"b\":\"c\"}");
    let long = "9".repeat(100);
    gemma_arguments(&format!("a:{long},b:1"), &format!("{{\"a\":\"{long}\",\"b\":1}}"));
    // The closing tag closes what is open.
    let cut = "<|tool_call>call:get{a:[1,{b:2<tool_call|>.";
    gemma(cut, ".", &[("get", "{\"a\":[1,{\"b\":2}]}", true)]);
}

// --- forced calls and thoughts --------------------------------------------------------------------------

#[test]
fn a_forced_call_is_told_at_its_name_and_its_cut_frame_is_no_text() {
    let forced = |syntax| ToolOptions { forced: true, ..options(syntax) };
    for (syntax, cut) in [
        (Syntax::Llama, "{\"name\": \"ge"),
        (Syntax::Llama, "<|python_"),
        (Syntax::Hermes, "<tool_call>\n{\"na"),
        (Syntax::Hermes, "<tool_c"),
        (Syntax::Gemma, "<|tool_call>call:ge"),
    ] {
        check_with(&forced(syntax), cut, "", &[]);
    }
    let cut = "{\"name\": \"get\", \"parameters\": {\"a\":";
    check_with(&forced(Syntax::Llama), cut, "", &[("get", "{\"a\":", false)]);
    check_with(&forced(Syntax::Llama), "No.", "No.", &[]);
}

#[test]
fn thoughts_come_before_the_answer() {
    let thinking = |syntax| ToolOptions { syntax, reasoning: true, ..options(Syntax::Gemma) };
    let check = |syntax, answer: &str, reasoning: &str, content: &str| {
        assert_eq!(check_with(&thinking(syntax), answer, content, &[]).reasoning, reasoning);
    };
    let gemma = Some(Syntax::Gemma);
    check(gemma, "<|channel>thought\nHm <b>.<channel|>\nYes.", "Hm <b>.", "Yes.");
    check(gemma, "<|channel>thought\n<channel|>Yes.", "", "Yes.");
    check(gemma, "<|channel>thought\nHm.", "Hm.", "");
    check(gemma, "<|channel>thought\nHm.<chan", "Hm.<chan", "");
    check(gemma, "<|channel>final\nHm.", "", "<|channel>final\nHm.");
    check(gemma, " <|channel>tho", "", " <|channel>tho");
    check(gemma, "So <|channel>thought\nHm.<channel|>", "", "So <|channel>thought\nHm.<channel|>");
    check(gemma, "<think>x</think>y", "", "<think>x</think>y");
    for syntax in [None, Some(Syntax::Hermes)] {
        check(syntax, "<think>\nHm.\n</think>\n\nYes.", "Hm.\n", "Yes.");
        check(syntax, "<think>a</think> <think>b</think>c", "ab", "c");
    }
    check(None, "<|channel>thought\nHm.<channel|>Yes.", "Hm.", "Yes.");
    let check = |syntax, answer: &str, reasoning: &str, content: &str| {
        let options = ToolOptions { in_thought: true, ..thinking(syntax) };
        assert_eq!(check_with(&options, answer, content, &[]).reasoning, reasoning);
    };
    check(gemma, "\nHm.<channel|>\nYes.", "Hm.", "Yes.");
    check(gemma, "<channel|><|channel>thought\nHm.<channel|>Yes.", "Hm.", "Yes.");
    check(gemma, "Hm.<chan", "Hm.<chan", "");
    check(Some(Syntax::Hermes), "Hm.</think>Yes.", "Hm.", "Yes.");
    let call = "<think>x</think>\n<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>";
    check_with(&thinking(Some(Syntax::Hermes)), call, "", &[("now", "{}", true)]);
}

// --- any text -------------------------------------------------------------------------------------------

fn pieces_of_answers() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&[u8]> = vec![
        b"<tool_call>",
        b"</tool_call>",
        b"<|tool_call>",
        b"call:",
        b"<tool_call|>",
        b"<|\"|>",
        b"<|python_tag|>",
        b"<think>",
        b"</think>",
        b"<|channel>thought\n",
        b"<channel|>",
        b"{\"name\": \"get\", \"arguments\": {",
        b"{\"name\": \"get_weather\", \"parameters\": {",
        b"\"name\":\"now\"",
        b"\"arguments\":",
        b"get{",
        b"now{",
        b"a:",
        b"\"a\":",
        b"{",
        b"}",
        b"}}",
        b"[",
        b"]",
        b",",
        b":",
        b";",
        b"\"",
        b"\\",
        b"<",
        b"\n",
        b" ",
        b"1",
        b"-2.5",
        b"true",
        b"nul",
        b"word",
        "\u{e9}".as_bytes(),
        "\u{1f600}".as_bytes(),
        b"\xff",
        b"\xe2\x82",
    ];
    let whole = select(vec![
        b"<tool_call>{\"name\":\"get\",\"arguments\":{\"a\":[1,2]}}</tool_call>".to_vec(),
        b"<|tool_call>call:get{a:<|\"|>b<|\"|>,c:[1,{}]}<tool_call|>".to_vec(),
        b"{\"name\":\"now\",\"parameters\":{\"a\":\"b\"}}".to_vec(),
    ]);
    let fragment = prop_oneof![5 => select(fragments).prop_map(<[u8]>::to_vec), 1 => whole];
    vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

fn any_options() -> impl Strategy<Value = ToolOptions> {
    let syntax = select(vec![None, Some(Syntax::Llama), Some(Syntax::Hermes), Some(Syntax::Gemma)]);
    (syntax, any::<bool>(), any::<bool>()).prop_map(|(syntax, forced, reasoning)| ToolOptions {
        syntax,
        forced,
        reasoning,
        ..options(Syntax::Llama)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_cuts_of_any_answer_tell_the_same(
        answer in pieces_of_answers(),
        options in any_options(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
        places.extend([0, answer.len()]);
        places.sort_unstable();
        let whole = read(&options, [&answer[..]]);
        prop_assert_eq!(read(&options, places.windows(2).map(|pair| &answer[pair[0]..pair[1]])), whole.clone());
        prop_assert_eq!(read(&options, answer.chunks(1)), whole.clone());
        let closed = |call: &&(String, String, bool)| options.syntax == Some(Syntax::Gemma) && call.2;
        for (_, arguments, _) in whole.calls.iter().filter(closed) {
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok(), "{}", arguments);
        }
    }

    #[test]
    fn an_answer_without_a_call_loses_nothing(answer in pieces_of_answers(), options in any_options()) {
        let found = read(&options, [&answer[..]]);
        if found.calls.is_empty() && !options.forced && !options.reasoning {
            let latin: String = answer.iter().map(|&byte| char::from(byte)).collect();
            prop_assert_eq!(found.content, latin);
        }
    }
}

#[test]
fn hostile_answers_of_a_megabyte_take_linear_time() {
    let starts = [
        "",
        "<tool_call>{\"name\":\"get\",\"arguments\":{",
        "<tool_call>{\"name\":\"get\",\"arguments\":{\"a\":\"\n",
        "<tool_call>{\"arguments\":{\"a\":\"",
        "{\"name\":\"get\",\"parameters\":{\"a\":\"",
        "{\"parameters\":{\"a\":",
        "<|tool_call>call:get{a:",
        "<|tool_call>call:get{a:<|\"|>",
        "<|channel>thought\n",
    ];
    let repeated = [
        "{",
        "[",
        "\"",
        "\\",
        "<",
        " ",
        "\n",
        "<tool_call>",
        "<tool_call>{\"",
        "</tool_call",
        "<|tool_call>call:get{",
        "<|\"|",
        "<|\"|>",
        "{\"a\":",
        "[{",
        ",",
        "1",
        "{\"name\":\"get\",\"parameters\":{}};",
        "<think>",
        "<channel|",
    ];
    let mut slowest = std::time::Duration::ZERO;
    for (start, part) in starts.iter().flat_map(|start| repeated.iter().map(move |part| (start, part))) {
        let answer = [start, &part.repeat((1 << 20) / part.len())[..]].concat();
        for syntax in [Syntax::Llama, Syntax::Hermes, Syntax::Gemma] {
            let begun = std::time::Instant::now();
            read(&ToolOptions { reasoning: true, ..options(syntax) }, answer.as_bytes().chunks(4096));
            slowest = slowest.max(begun.elapsed());
        }
    }
    // A quadratic machine takes minutes.
    assert!(slowest < std::time::Duration::from_secs(4), "{slowest:?} for a megabyte");
}
