//! What the Rust benches work on: rows of logits, texts, vocabularies and streams. Made by seed, so that every run and every
//! machine measures the same. They look like those of benches/workloads.py and benches/corpora.py.
#![allow(dead_code, reason = "each bench takes what it needs")]

use std::collections::HashSet;
use std::sync::Arc;

use ecocore::rng::{Purpose, random_bits};
use ecocore::text_stream::TextStreams;
use ecocore::vocab::Vocab;
use serde_json::{Value, json};

/// A generator that is the same everywhere.
pub struct Dice {
    seed: u64,
    position: u32,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.position += 1;
        (random_bits(self.seed, self.position, 0, Purpose::Draw) >> 33) as usize % bound
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// A number below `bound`, small ones more often: as words come in text.
    fn rank(&mut self, bound: usize) -> usize {
        let limit = 1 + self.below(bound);
        self.below(limit)
    }

    /// Standard normal, nearly.
    fn normal(&mut self) -> f32 {
        let sum: usize = (0..12).map(|_| self.below(1 << 20)).sum();
        sum as f32 / (1 << 20) as f32 - 6.0
    }
}

// --- logits ----------------------------------------------------------------------------------------------

/// N(0, 1): a nucleus of 0.9 holds tens of thousands of tokens.
pub fn flat(vocab: usize) -> Vec<f32> {
    let mut dice = Dice::new(1);
    (0..vocab).map(|_| dice.normal()).collect()
}

/// Like a language model's: N(0, 2.2) with sixty tokens at +7 to +14.
pub fn peaked(vocab: usize) -> Vec<f32> {
    let mut row: Vec<f32> = flat(vocab).into_iter().map(|logit| 2.2 * logit).collect();
    for index in 0..60 {
        row[(index * (vocab / 61) + index) % vocab] = 7.0 + 7.0 * (index as f32 / 59.0);
    }
    row
}

// --- texts -----------------------------------------------------------------------------------------------

const SYLLABLES: &[&str] = &[
    "ka", "ro", "mi", "ten", "sul", "con", "pre", "ly", "ment", "tion", "ing", "the", "er", "a", "in", "st",
    "al", "per", "for", "um",
];
const SCRIPTS: [(&[&str], &str); 6] = [
    (&["при", "вет", "гол", "вал", "ние", "ство", "кам", "мис", "сто", "да"], " "),
    (&["κα", "λη", "με", "ραδ", "τος", "ονδ", "σαλ", "φι"], " "),
    (&["ال", "سل", "مع", "كت", "اب", "در", "يه"], " "),
    (&["नम", "स्ते", "भा", "रत", "हि", "न्दी", "कि", "ताब"], " "),
    (&["안녕", "하세", "요", "한국", "어", "문장", "입니", "다"], " "),
    (&["日", "本", "語", "文", "章", "東", "京", "大", "学", "中", "国", "人"], ""),
];
/// Different words of one language.
const WORDS: usize = 20_000;

/// Word number `rank` of a language: the same each time.
fn word(syllables: &[&str], rank: usize) -> String {
    let mut dice = Dice::new(1 << 32 | rank as u64);
    (0..1 + dice.below(4)).map(|_| dice.of(syllables)).collect()
}

/// The most frequent words, as they stand after a space.
pub fn frequent_words(count: usize) -> impl Iterator<Item = String> {
    let others = SCRIPTS.iter().flat_map(move |(syllables, between)| {
        (0..count / 4).map(move |rank| format!("{between}{}", word(syllables, rank)))
    });
    (0..count).map(|rank| format!(" {}", word(SYLLABLES, rank))).chain(others)
}

/// A text of about so many bytes, another one for each seed.
pub type MakeText = fn(usize, u64) -> String;

/// Sentences of about `size` bytes.
pub fn prose(size: usize, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut text = String::with_capacity(size + 32);
    let mut starts = true;
    while text.len() < size {
        let rank = dice.rank(WORDS);
        let mut next = word(SYLLABLES, rank);
        if std::mem::replace(&mut starts, false) {
            next[..1].make_ascii_uppercase();
        }
        text.push_str(&next);
        match dice.below(40) {
            0 | 1 => text.push_str(", "),
            2 => {
                text.push_str(". ");
                starts = true;
            }
            3 => {
                text.push_str(".\n\n");
                starts = true;
            }
            4 => text.push_str(&format!(" {} ", dice.below(3000))),
            5 => text.push_str("'s "),
            _ => text.push(' '),
        }
    }
    text
}

/// Lines of a program, about `size` bytes.
pub fn code(size: usize, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut text = String::with_capacity(size + 128);
    while text.len() < size {
        let name = |dice: &mut Dice| {
            let (left, right) = (word(SYLLABLES, dice.rank(WORDS)), word(SYLLABLES, dice.rank(200)));
            format!("{left}{}{right}", dice.of(&["_", "_", "."]))
        };
        let (left, right, number) = (name(&mut dice), name(&mut dice), dice.below(1000));
        let indent = "    ".repeat(dice.below(4));
        text.push_str(&indent);
        match dice.below(6) {
            0 => text.push_str(&format!("if {left} == {number}:\n")),
            1 => text.push_str(&format!("def {left}(self, {right}: int = {number}) -> None:\n")),
            2 => text.push_str(&format!("return {left}[{number}]({right})\n\n")),
            3 => text.push_str(&format!("# {}\n", prose(40, dice.below(1 << 20) as u64))),
            4 => text.push_str(&format!("{left}({right}, \"{}\")\n", word(SYLLABLES, number))),
            _ => text.push_str(&format!("{left} = {right} + {number}.5\n")),
        }
    }
    text
}

/// Words of one script after the other, about `size` bytes.
pub fn scripts(size: usize, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut text = String::with_capacity(size + 64);
    while text.len() < size {
        let (syllables, between) = SCRIPTS[dice.below(SCRIPTS.len())];
        let end = text.len() + size / 8;
        while text.len() < end.min(size) {
            text.push_str(&word(syllables, dice.rank(WORDS)));
            text.push_str(match dice.below(15) {
                0 => ", ",
                1 => ". ",
                _ => between,
            });
        }
        text.push('\n');
    }
    text
}

/// A question and a message of about 255 bytes.
pub const QUESTION: &str = "What is the capital of France?";

pub fn message(seed: u64) -> String {
    format!("({seed}) {}", prose(250, 1000 + seed))
}

/// The prompt of a chat of about 32 kB, of which the last turn is new.
pub fn chat(new: u64) -> String {
    let turn = |number: u64| format!("<|im_start|>user\n{}<|im_end|>\n", message(number));
    (0..110).chain([200 + new]).map(turn).collect()
}

// --- vocabularies ----------------------------------------------------------------------------------------

/// How text is cut before it is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 3's pattern; known words win over merges.
    Llama3,
    /// Digits apart and GPT-2's pattern.
    SmolLm2,
    /// Whole texts of characters.
    Gemma,
}

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A `tokenizer.json` that knows the `words` most frequent words, each merged from the left.
pub fn tokenizer_json(family: Family, words: usize) -> Vec<u8> {
    let is_text = family == Family::Gemma;
    let spelled = |word: &str| -> Vec<String> {
        match is_text {
            true => word.replace(' ', "\u{2581}").chars().map(String::from).collect(),
            false => word.bytes().map(letter).collect(),
        }
    };
    let mut tokens: Vec<String> = match is_text {
        true => (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect(),
        false => (0..=255).map(letter).collect(),
    };
    if is_text {
        tokens.extend((b'!'..=b'~').chain([b'\n']).map(|byte| char::from(byte).to_string()));
        tokens.push("\u{2581}".into());
    }
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let mut merges = vec![];
    for word in frequent_words(words) {
        let letters = spelled(&word);
        for letter in &letters {
            if known.insert(letter.clone()) {
                tokens.push(letter.clone());
            }
        }
        let mut left = letters[0].clone();
        for right in &letters[1..] {
            let whole = format!("{left}{right}");
            if known.insert(whole.clone()) {
                tokens.push(whole.clone());
                merges.push(json!([left, right]));
            }
            left = whole;
        }
    }
    let added: Vec<Value> = (tokens.len()..).zip(["<|im_start|>", "<|im_end|>"]).map(|(id, content)| json!({
        "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })).collect();
    let vocab: serde_json::Map<String, Value> =
        tokens.into_iter().zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    let level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let (normalizer, pre_tokenizer) = match family {
        Family::Llama3 => (
            Value::Null,
            json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Isolated", "invert": false}, level(false)]}),
        ),
        Family::SmolLm2 => (
            Value::Null,
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, level(true)]}),
        ),
        Family::Gemma => {
            (json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}), Value::Null)
        }
    };
    let decoder = match is_text {
        true => json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}),
        false => level(true),
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": is_text, "byte_fallback": is_text, "ignore_merges": family == Family::Llama3, "vocab": vocab, "merges": merges,
        },
    })
    .to_string()
    .into_bytes()
}

/// A byte in GPT-2's alphabet.
fn letter(byte: u8) -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = match printable(byte) {
        true => u32::from(byte),
        false => 0x100 + (0..byte).filter(|&other| !printable(other)).count() as u32,
    };
    char::from_u32(code).expect("a letter").to_string()
}

// --- streams ---------------------------------------------------------------------------------------------

pub const STREAMS: usize = 256;
pub const STOPS: [&str; 4] = ["\n\nUser:", "<|im_end|>", "```\n", "###"];

/// Words as tokens have them, with a line break and the parts of a character among them.
pub const PIECES: [&[u8]; 12] = [
    b" the",
    b" quick",
    b" brown",
    b"\n",
    b" fox",
    b" \xe2\x82",
    b"\xac",
    b" jumps",
    b",",
    b" over",
    b"#",
    b" dog",
];

/// So many open streams with four stops, and the ids of a step for each.
pub fn streams() -> (TextStreams, Vec<u64>, Vec<Vec<u32>>) {
    let vocab = Arc::new(Vocab::from_entries(PIECES.iter().map(|piece| (piece.to_vec(), false)).collect()));
    let mut streams = TextStreams::new(vocab);
    let stops = STOPS.map(str::to_owned);
    let handles = (0..STREAMS).map(|_| streams.open(&stops, true).expect("stops are usable")).collect();
    let count = PIECES.len() as u32;
    let steps =
        (0..count).map(|step| (0..STREAMS as u32).map(|stream| (step + stream) % count).collect()).collect();
    (streams, handles, steps)
}
