//! Calls and thoughts out of tokens: whatever the cuts, the events tell the same, each token has one fate, and
//! special tokens are heard by the parser alone.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::HashSet;
use std::sync::Arc;

use ecocore::batch::{Batch, BatchRow};
use ecocore::event::{EventKind, FinishReason, TokenLogprob, Usage};
use ecocore::output::{ChoiceOptions, OutputStreams};
use ecocore::sampled::{Logprobs, SampledTokens};
use ecocore::tool_calls::{Syntax, ToolOptions};
use ecocore::vocab::Vocab;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A token: its text and whether it is special.
type Token = (Vec<u8>, bool);

fn token(text: &str) -> Token {
    (text.into(), false)
}

fn special(text: &str) -> Token {
    (text.into(), true)
}

/// Everything that was told of one choice.
#[derive(Debug, Default, Clone, PartialEq)]
struct Told {
    content: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    ids: Vec<String>,
    entries: Vec<TokenLogprob>,
    reason: Option<FinishReason>,
    usage: Usage,
}

/// Draws the tokens one per step and then, unless the choice is over, the end token.
#[allow(clippy::needless_update, reason = "what a draw tells may grow")]
fn run(tokens: &[Token], options: &ChoiceOptions) -> Told {
    let end = tokens.len() as u32;
    let entries = tokens.iter().cloned().chain([special("<|end|>")]).collect();
    let mut streams = OutputStreams::new(Arc::new(Vocab::from_entries(entries)));
    streams.open(1, ChoiceOptions { end_ids: vec![end], ..options.clone() }).unwrap();
    let mut told = Told::default();
    for token_id in 0..=end {
        let row = BatchRow {
            sequence_id: 1,
            start: 0,
            length: 1,
            prompt_length: 1,
            samples: true,
            output_index: 0,
            cached_tokens: 0,
        };
        let batch = Batch { rows: vec![row], ..Batch::default() };
        let logprobs = options.logprobs.then(|| Logprobs { chosen: -1.0, top: vec![] });
        let tokens = SampledTokens {
            sequence_ids: vec![1],
            token_ids: vec![token_id],
            logprobs: vec![logprobs],
            ..SampledTokens::default()
        };
        for event in streams.push(&batch, &tokens).unwrap().events {
            assert_eq!(told.reason, None, "nothing follows the end");
            match event.kind {
                EventKind::Text { text, logprobs } => {
                    assert!(!text.is_empty() || !logprobs.is_empty());
                    told.content.push_str(&text);
                    told.entries.extend(logprobs);
                }
                EventKind::Reasoning { text } => {
                    assert!(!text.is_empty());
                    told.reasoning.push_str(&text);
                }
                EventKind::ToolCall { index, id, name } => {
                    assert_eq!(index as usize, told.calls.len());
                    told.calls.push((name, String::new()));
                    told.ids.push(id);
                }
                EventKind::ToolArguments { index, text } => {
                    assert!(!text.is_empty());
                    assert_eq!(index as usize, told.calls.len() - 1);
                    told.calls.last_mut().unwrap().1.push_str(&text);
                }
                EventKind::Finished { reason, usage } => (told.reason, told.usage) = (Some(reason), usage),
                EventKind::Prompt { .. } | EventKind::Failed { .. } => {
                    panic!("nothing fails and no prompt is scored here")
                }
            }
        }
    }
    told
}

fn options(syntax: Syntax) -> ChoiceOptions {
    let names = ["get", "now"].map(String::from).to_vec();
    let tools = ToolOptions { syntax: Some(syntax), names, ..ToolOptions::default() };
    ChoiceOptions { max_tokens: 10_000, tools, ..ChoiceOptions::default() }
}

fn bytes(text: &str) -> Vec<Token> {
    text.bytes().map(|byte| (vec![byte], false)).collect()
}

const CALL: &str = "<tool_call>{\"name\":\"get\",\"arguments\":{\"a\":\"é\"}}</tool_call>";

#[track_caller]
fn check(
    tokens: &[Token],
    options: &ChoiceOptions,
    content: &str,
    calls: &[(&str, &str)],
    reason: FinishReason,
) -> Told {
    let told = run(tokens, options);
    let told_calls: Vec<_> = told.calls.iter().map(|(name, text)| (&name[..], &text[..])).collect();
    assert_eq!((&told.content[..], &told_calls[..], told.reason), (content, calls, Some(reason)));
    told
}

#[test]
fn an_answer_with_a_whole_call_ends_for_its_calls() {
    let hermes = options(Syntax::Hermes);
    let get = ("get", "{\"a\":\"é\"}");
    check(&bytes(CALL), &hermes, "", &[get], FinishReason::ToolCalls);
    check(&bytes("Hi."), &hermes, "Hi.", &[], FinishReason::Stop);
    check(&bytes(&CALL[..CALL.len() - 14]), &hermes, "", &[("get", "{\"a\":\"é\"")], FinishReason::Stop);
    let stop = ChoiceOptions { stop: vec!["END".into()], ..hermes };
    check(&bytes(&format!("{CALL}So END {CALL}")), &stop, "So ", &[get], FinishReason::ToolCalls);
}

#[test]
fn a_call_that_the_limit_cuts_ends_by_length() {
    let cut = |max_tokens| ChoiceOptions { max_tokens, ..options(Syntax::Hermes) };
    let in_a_character = CALL.find('é').unwrap() as u32 + 1;
    check(&bytes(CALL), &cut(in_a_character), "", &[("get", "{\"a\":\"\u{fffd}")], FinishReason::Length);
    check(&bytes(CALL), &cut(20), "<tool_call>{\"name\":\"", &[], FinishReason::Length);
    check(&bytes(CALL), &cut(CALL.len() as u32), "", &[("get", "{\"a\":\"é\"}")], FinishReason::Length);
}

#[test]
fn a_call_too_many_ends_the_answer() {
    let mut hermes = options(Syntax::Hermes);
    hermes.tools.max_calls = Some(1);
    let told = check(
        &bytes(&format!("{CALL} and {CALL} and text")),
        &hermes,
        "and",
        &[("get", "{\"a\":\"é\"}")],
        FinishReason::ToolCalls,
    );
    let name_ends = CALL.len() + 5 + "<tool_call>{\"name\":\"get\"".len();
    assert_eq!(told.usage.completion_tokens as usize, name_ends);
    hermes.tools.max_calls = Some(0);
    let vocab = Arc::new(Vocab::from_entries(vec![]));
    assert!(OutputStreams::new(vocab).open(1, hermes).is_err());
}

#[test]
fn stop_strings_see_text_and_no_calls() {
    let stop = ChoiceOptions { stop: vec!["get".into(), "}".into()], ..options(Syntax::Hermes) };
    check(&bytes(CALL), &stop, "", &[("get", "{\"a\":\"é\"}")], FinishReason::ToolCalls);
    check(&bytes("I get it"), &stop, "I ", &[], FinishReason::Stop);
    // Text that was held as a possible call is text for a stop too, and a stop may stand around a call.
    check(&bytes("<tool_call>{}"), &stop, "<tool_call>{", &[], FinishReason::Stop);
    check(
        &bytes(&format!("a ge{CALL}t b")),
        &stop,
        "a ",
        &[("get", "{\"a\":\"é\"}")],
        FinishReason::ToolCalls,
    );
}

#[test]
fn the_first_tokens_take_no_part_in_a_stop() {
    let least = |min_tokens| ChoiceOptions { stop: vec!["b".into()], min_tokens, ..options(Syntax::Hermes) };
    for (min_tokens, content) in [(0, "a"), (1, "a"), (2, "aba"), (3, "aba"), (4, "ababa"), (9, "ababab")] {
        check(&bytes("ababab"), &least(min_tokens), content, &[], FinishReason::Stop);
        let plain = ChoiceOptions { tools: ToolOptions::default(), ..least(min_tokens) };
        check(&bytes("ababab"), &plain, content, &[], FinishReason::Stop);
    }
}

#[test]
fn special_tokens_reach_the_parser_and_never_the_text() {
    let (open, close) = (special("<tool_call>"), special("</tool_call>"));
    let hermes = options(Syntax::Hermes);
    let call =
        [token("So"), open.clone(), token("{\"name\":\"now\",\"arguments\":{}}"), close, special("<s>")];
    check(&call, &hermes, "So", &[("now", "{}")], FinishReason::ToolCalls);
    check(&[open, token("{\"name\":1"), special("<s>")], &hermes, "{\"name\":1", &[], FinishReason::Stop);

    let quote = || special("<|\"|>");
    let gemma = [
        special("<|tool_call>"),
        token("call:get{a:"),
        quote(),
        token("b,c:"),
        special("<turn|>"),
        token("}"),
        quote(),
        token("}"),
        special("<tool_call|>"),
    ];
    check(&gemma, &options(Syntax::Gemma), "", &[("get", "{\"a\":\"b,c:}\"}")], FinishReason::ToolCalls);
    let text = [special("<|tool_call>"), token("call"), quote(), token("!")];
    check(&text, &options(Syntax::Gemma), "call!", &[], FinishReason::Stop);
    let llama =
        [special("<|python_tag|>"), token("{\"name\":\"now\",\"parameters\":{}}"), special("<|eom|>")];
    check(&llama, &options(Syntax::Llama), "", &[("now", "{}")], FinishReason::ToolCalls);
    check(
        &[special("<|python_tag|>"), token("print()")],
        &options(Syntax::Llama),
        "print()",
        &[],
        FinishReason::Stop,
    );
}

#[test]
fn reasoning_is_counted_by_the_tokens_that_became_it() {
    let mut options = options(Syntax::Gemma);
    options.tools.reasoning = true;
    options.logprobs = true;
    let tokens = [
        special("<|channel>"),
        token("thought"),
        token("\nLet"),
        token(" me"),
        special("<channel|>"),
        token("\nYes"),
        token("."),
    ];
    let told = check(&tokens, &options, "Yes.", &[], FinishReason::Stop);
    assert_eq!((&told.reasoning[..], told.usage.reasoning_tokens), ("Let me", 2));
    let entries: Vec<&[u8]> = told.entries.iter().map(|entry| &entry.bytes[..]).collect();
    assert_eq!(entries, [&b"Yes"[..], b"."]);
    options.max_tokens = 3;
    assert_eq!(check(&tokens, &options, "", &[], FinishReason::Length).usage.reasoning_tokens, 1);
}

#[test]
fn only_tokens_of_the_text_have_entries() {
    let options = ChoiceOptions { logprobs: true, stop: vec!["!".into()], ..options(Syntax::Hermes) };
    let tokens = [
        token("Hi "),
        token("you<tool_call>"),
        token("{\"name\":\"now\",\"arguments\":{}}"),
        token("</tool_call>so"),
        token("it!x"),
    ];
    let told = check(&tokens, &options, "Hi yousoit", &[("now", "{}")], FinishReason::ToolCalls);
    let entries: Vec<(u32, &[u8])> =
        told.entries.iter().map(|entry| (entry.token_id, &entry.bytes[..])).collect();
    assert_eq!(entries, [(0, &b"Hi "[..]), (1, b"you"), (3, b"so"), (4, b"it")]);
}

#[test]
fn call_ids_are_24_letters_and_never_twice() {
    let mut seen = HashSet::new();
    for _ in 0..50 {
        for id in run(&bytes(&CALL.repeat(3)), &options(Syntax::Hermes)).ids {
            let letters = id.strip_prefix("call_").unwrap();
            assert!(letters.len() == 24 && letters.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
            assert!(seen.insert(id));
        }
    }
    assert_eq!(seen.len(), 150);
}

/// Answers made of calls, parts of calls, text and unicode.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&'static str> = vec![
        CALL,
        "<|tool_call>call:get{a:<|\"|>é<|\"|>,b:[1]}<tool_call|>",
        "{\"name\":\"now\",\"parameters\":{}}",
        "<tool_call>",
        "</tool_call>",
        "<|tool_call>",
        "call:",
        "<|\"|>",
        "{\"name\":",
        "\"now\"",
        ",\"arguments\":{",
        "}",
        "END",
        "EN",
        " ",
        "\n",
        "word",
        "é",
        "😀",
        "<think>",
        "</think>",
        "<|channel>thought\n",
        "<channel|>",
        "<|python_tag|>",
        ";",
    ];
    let noise = vec(any::<u8>(), 1..3);
    vec(prop_oneof![12 => select(fragments).prop_map(|text| text.as_bytes().to_vec()), 1 => noise], 0..10)
        .prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_tokens_of_an_answer_tell_the_same(
        answer in answers(),
        cuts in vec(any::<prop::sample::Index>(), 0..16),
        syntax in select(vec![Syntax::Llama, Syntax::Hermes, Syntax::Gemma]),
        (forced, reasoning, in_thought, logprobs) in any::<(bool, bool, bool, bool)>(),
        stop in select(vec![vec![], vec!["END".to_owned()], vec!["d\n".to_owned(), "é".to_owned()]]),
        max_calls in select(vec![None, Some(1), Some(2)]),
    ) {
        let mut options = ChoiceOptions { logprobs, stop, ..options(syntax) };
        options.tools = ToolOptions { forced, reasoning, in_thought, max_calls, ..options.tools };
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
        places.extend([0, answer.len()]);
        places.sort_unstable();
        places.dedup();
        let tokens: Vec<Token> =
            places.windows(2).map(|pair| (answer[pair[0]..pair[1]].to_vec(), false)).collect();
        let single: Vec<Token> = answer.iter().map(|&byte| (vec![byte], false)).collect();
        let (cut, bytewise) = (run(&tokens, &options), run(&single, &options));
        prop_assert_eq!(&cut.content, &bytewise.content);
        prop_assert_eq!(&cut.reasoning, &bytewise.reasoning);
        prop_assert_eq!(&cut.calls, &bytewise.calls);
        prop_assert_eq!(cut.reason, bytewise.reason);
        prop_assert!(cut.calls.len() <= max_calls.unwrap_or(u32::MAX) as usize);
        for stop in &options.stop {
            prop_assert!(!cut.content.contains(stop.as_str()));
        }
        for told in [cut, bytewise] {
            let spelled: Vec<u8> = told.entries.iter().flat_map(|entry| entry.bytes.clone()).collect();
            if logprobs {
                prop_assert_eq!(&String::from_utf8_lossy(&spelled), &told.content);
            } else {
                prop_assert!(spelled.is_empty());
            }
            prop_assert!(told.usage.reasoning_tokens <= told.usage.completion_tokens);
            prop_assert_eq!(told.usage.reasoning_tokens > 0, !told.reasoning.is_empty());
        }
    }

    #[test]
    fn looking_for_nothing_that_is_there_changes_nothing(text in "[a-z<|{ \n\"é]{0,40}", stop in "[a-z]{1,2}", limit in 1u32..50) {
        let plain = ChoiceOptions { logprobs: true, max_tokens: limit, stop: vec![stop], ..ChoiceOptions::default() };
        let expected = run(&bytes(&text), &plain);
        for syntax in [Syntax::Hermes, Syntax::Gemma, Syntax::Llama] {
            let parsed = ChoiceOptions { tools: ToolOptions { reasoning: true, ..options(syntax).tools }, ..plain.clone() };
            let told = run(&bytes(&text), &parsed);
            // A stop in text that was held is noticed when the text is let go.
            prop_assert_eq!((&told.content, &told.entries), (&expected.content, &expected.entries));
        }
    }
}
