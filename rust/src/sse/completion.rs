//! `text_completion` objects: how the older completions endpoint spells an answer, streamed or plain.

use crate::event::{FinishReason, TokenLogprob, Usage};

use super::AnswerOptions;
use super::answer::begin;
use super::json;

/// One answer. Each method appends the bytes that may be sent now.
#[derive(Debug)]
pub(super) struct Completion {
    /// Up to the bracket that opens the choices; in a stream from `data:` on.
    head: Vec<u8>,
    stream: bool,
    include_usage: bool,
    logprobs: bool,
    /// Texts of the prompts, where they are to come before the answers.
    echo: Vec<String>,
    /// Leading tokens of each prompt that are no part of its text.
    echo_hidden: u32,
    /// Nothing that was drawn is told: the client asked for no tokens.
    prompt_only: bool,
    choices: Vec<Choice>,
}

/// What is known of a choice. In a stream `text` and `lists` are empty: they were sent.
#[derive(Debug, Clone, Default)]
struct Choice {
    /// What stands between the quotes of `text`.
    text: Vec<u8>,
    lists: Lists,
    /// Tokens of the prompt told so far.
    prompt_tokens: u32,
    /// Characters that have begun in the tokens told so far.
    characters: u32,
    /// Empty until the choice ended.
    reason: &'static str,
}

/// The four lists of `logprobs`, without their brackets.
#[derive(Debug, Clone, Default)]
struct Lists {
    tokens: Vec<u8>,
    token_logprobs: Vec<u8>,
    top_logprobs: Vec<u8>,
    text_offset: Vec<u8>,
}

impl Completion {
    pub(super) fn new(options: &AnswerOptions) -> Self {
        let mut head = if options.stream { b"data: ".to_vec() } else { Vec::new() };
        begin("text_completion", options, &mut head);
        Self {
            head,
            stream: options.stream,
            include_usage: options.include_usage,
            logprobs: options.logprobs,
            echo: options.echo.clone(),
            echo_hidden: options.echo_hidden,
            prompt_only: options.prompt_only,
            choices: vec![Choice::default(); options.choices as usize],
        }
    }

    /// The first event of a choice has come: the prompt, if it is to be told.
    pub(super) fn start(&mut self, choice: u32, out: &mut Vec<u8>) {
        if self.echo.is_empty() {
            return;
        }
        let per_prompt = self.choices.len() / self.echo.len();
        let prompt = std::mem::take(&mut self.echo);
        self.tell(choice, &prompt[choice as usize / per_prompt.max(1)], &[], out);
        self.echo = prompt;
    }

    /// Prompt tokens were scored; their text was told at the start.
    pub(super) fn prompt(&mut self, choice: u32, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        let told = &mut self.choices[choice as usize].prompt_tokens;
        let hidden = self.echo_hidden.saturating_sub(*told) as usize;
        *told += entries.len() as u32;
        let (hidden, entries) = entries.split_at(hidden.min(entries.len()));
        if !hidden.is_empty() {
            self.tell(choice, "", hidden, out);
            self.choices[choice as usize].characters = 0;
        }
        if !entries.is_empty() {
            self.tell(choice, "", entries, out);
        }
    }

    /// Text became final.
    pub(super) fn text(&mut self, choice: u32, text: &str, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        if !self.prompt_only {
            self.tell(choice, text, entries, out);
        }
    }

    fn tell(&mut self, choice: u32, text: &str, entries: &[TokenLogprob], out: &mut Vec<u8>) {
        let index = choice;
        let choice = &mut self.choices[choice as usize];
        let mut lists = if self.stream { Lists::default() } else { std::mem::take(&mut choice.lists) };
        if self.logprobs {
            for entry in entries {
                lists.push(entry, &mut choice.characters);
            }
        }
        if !self.stream {
            choice.lists = lists;
            return json::escape(text, &mut choice.text);
        }
        out.reserve(self.head.len() + text.len() + 128);
        let lists = self.logprobs.then_some(&lists);
        self.chunk(index, |out| json::escape(text, out), lists, "", out);
    }

    /// The choice ended.
    pub(super) fn finish(&mut self, choice: u32, reason: FinishReason, out: &mut Vec<u8>) {
        let reason = if self.prompt_only { FinishReason::Length } else { reason };
        self.choices[choice as usize].reason = reason.as_str();
        if self.stream {
            self.chunk(choice, |_| (), None, reason.as_str(), out);
        }
    }

    /// The last choice ended.
    pub(super) fn end(&mut self, usage: Usage, out: &mut Vec<u8>) {
        let usage = if self.prompt_only { Usage { completion_tokens: 0, ..usage } } else { usage };
        if self.stream {
            if self.include_usage {
                out.extend_from_slice(&self.head);
                out.extend_from_slice(br#"],"usage":"#);
                json::usage(usage, out);
                out.extend_from_slice(b"}\n\n");
            }
            return out.extend_from_slice(b"data: [DONE]\n\n");
        }
        out.append(&mut self.head);
        for (index, choice) in self.choices.iter_mut().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let lists = self.logprobs.then_some(&choice.lists);
            let text = |out: &mut Vec<u8>| out.append(&mut choice.text);
            write_choice(index as u32, text, lists, choice.reason, out);
        }
        out.extend_from_slice(br#"],"usage":"#);
        json::usage(usage, out);
        out.push(b'}');
    }

    /// One server-sent event of one choice; `reason` is empty before the end.
    fn chunk(
        &self,
        choice: u32,
        text: impl FnOnce(&mut Vec<u8>),
        lists: Option<&Lists>,
        reason: &str,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.head);
        write_choice(choice, text, lists, reason, out);
        let end: &[u8] = if self.include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" };
        out.extend_from_slice(end);
    }
}

/// Appends a choice object; `text` writes what stands between the quotes.
fn write_choice(
    index: u32,
    text: impl FnOnce(&mut Vec<u8>),
    lists: Option<&Lists>,
    reason: &str,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(br#"{"index":"#);
    json::integer(index, out);
    out.extend_from_slice(br#","text":""#);
    text(out);
    out.extend_from_slice(br#"","logprobs":"#);
    match lists {
        Some(lists) => lists.write(out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","finish_reason":"#);
    if reason.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        json::string(reason, out);
    }
    out.push(b'}');
}

impl Lists {
    /// Appends one token. `characters` is how many have begun before it, and is moved on.
    fn push(&mut self, entry: &TokenLogprob, characters: &mut u32) {
        if !self.tokens.is_empty() {
            for list in
                [&mut self.tokens, &mut self.token_logprobs, &mut self.top_logprobs, &mut self.text_offset]
            {
                list.push(b',');
            }
        }
        token(&entry.bytes, &mut self.tokens);
        if entry.logprob.is_nan() {
            // The first token of a prompt follows nothing.
            self.token_logprobs.extend_from_slice(b"null");
            self.top_logprobs.extend_from_slice(b"null");
        } else {
            json::logprob(entry.logprob, &mut self.token_logprobs);
            top(entry, &mut self.top_logprobs);
        }
        // A token that goes on with a character begins where that one does.
        let inside = entry.bytes.first().is_some_and(|&byte| continues(byte));
        json::integer(characters.saturating_sub(u32::from(inside)), &mut self.text_offset);
        *characters += entry.bytes.iter().filter(|&&byte| !continues(byte)).count() as u32;
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"tokens":["#);
        out.extend_from_slice(&self.tokens);
        out.extend_from_slice(br#"],"token_logprobs":["#);
        out.extend_from_slice(&self.token_logprobs);
        out.extend_from_slice(br#"],"top_logprobs":["#);
        out.extend_from_slice(&self.top_logprobs);
        out.extend_from_slice(br#"],"text_offset":["#);
        out.extend_from_slice(&self.text_offset);
        out.extend_from_slice(b"]}");
    }
}

fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Appends a token as this endpoint spells it: its text, or `bytes:\x..` where it is no whole text.
fn token(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json::string(text, out),
        Err(_) => {
            let spelled: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            json::string(&format!("bytes:{spelled}"), out);
        }
    }
}

/// Appends the likeliest tokens by their spelling, and the drawn one if it is not among them. An object has each
/// name once: of two tokens that are spelled alike the likelier one counts.
fn top(entry: &TokenLogprob, out: &mut Vec<u8>) {
    let drawn = (entry.bytes.as_slice(), entry.logprob);
    let likeliest = entry.top.iter().map(|(_, bytes, logprob)| (bytes.as_slice(), *logprob));
    let mut told: Vec<&[u8]> = Vec::with_capacity(entry.top.len() + 1);
    out.push(b'{');
    for (bytes, logprob) in likeliest.chain([drawn]) {
        if told.contains(&bytes) {
            continue;
        }
        if !told.is_empty() {
            out.push(b',');
        }
        told.push(bytes);
        token(bytes, out);
        out.push(b':');
        json::logprob(logprob, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: &[u8], logprob: f64, top: &[(&[u8], f64)]) -> TokenLogprob {
        let top = top.iter().map(|&(bytes, logprob)| (0, bytes.to_vec(), logprob)).collect();
        TokenLogprob { token_id: 1, bytes: bytes.to_vec(), logprob, top }
    }

    fn lists(entries: &[TokenLogprob]) -> serde_json::Value {
        let (mut lists, mut characters, mut out) = (Lists::default(), 0, Vec::new());
        for entry in entries {
            lists.push(entry, &mut characters);
        }
        lists.write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn tokens_their_numbers_and_places_stand_in_parallel_lists() {
        let told = lists(&[
            entry(b"a\"", -0.5, &[(b"b", -0.25), (b"a\"", -0.5)]),
            entry("é".as_bytes(), -1.0, &[]),
            entry(b"c", f64::NEG_INFINITY, &[(b"d", -0.1)]),
        ]);
        assert_eq!(
            told,
            serde_json::json!({
                "tokens": ["a\"", "é", "c"],
                "token_logprobs": [-0.5, -1.0, -9999.0],
                "top_logprobs": [{"b": -0.25, "a\"": -0.5}, {"é": -1.0}, {"d": -0.1, "c": -9999.0}],
                "text_offset": [0, 2, 3],
            })
        );
    }

    #[test]
    fn a_part_of_a_character_is_spelled_in_bytes_and_stands_where_the_character_does() {
        let told =
            lists(&[entry(b"x\xe2", -1.0, &[]), entry(b"\x82\xac", -2.0, &[]), entry(b"y", -3.0, &[])]);
        assert_eq!(told["tokens"], serde_json::json!(["bytes:\\x78\\xe2", "bytes:\\x82\\xac", "y"]));
        assert_eq!(told["text_offset"], serde_json::json!([0, 1, 2]));
    }

    #[test]
    fn a_spelling_is_told_once() {
        let told = lists(&[entry(b"a", -3.0, &[(b"a", -0.5), (b"b", -1.0)])]);
        assert_eq!(told["top_logprobs"], serde_json::json!([{"a": -0.5, "b": -1.0}]));
    }
}
