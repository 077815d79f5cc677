//! Broken model files by the million: sound headers are changed entry by entry, number by number and byte by byte. Whatever
//! comes of it, the answer is a checked file or `InvalidModelFile`, and reading it takes a small multiple of its size.
//!
//! `cargo test` makes 20,000 files of each format, `make fuzz` a million. A run is known by its number: the same
//! number makes the same file everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ecocore::error::Error;
use ecocore::gguf::Gguf;
use ecocore::safetensors_header::{self, Entry};
use ecocore::tokenizer::Tokenizer;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole process, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What a header may take for each of its bytes, and what any file may take: buffers, an error's sentence.
const MULTIPLE: usize = 12;
const ALLOWANCE: usize = 1 << 12;

#[test]
fn broken_gguf_files_are_refused_or_hold_what_they_say() {
    let seeds = gguf_seeds();
    fuzz(
        "GGUF",
        |random| broken_gguf(&seeds, random),
        |bytes| {
            let (file, memory) = measured(|| Gguf::parse(bytes.to_vec()));
            // The copy of the file is the test's own.
            (file.and_then(|file| use_gguf(&file)), memory.saturating_sub(bytes.len()))
        },
    );
}

#[test]
fn broken_safetensors_headers_are_refused_or_hold_what_they_say() {
    fuzz("safetensors", broken_safetensors, |bytes| {
        let (entries, memory) = measured(|| safetensors_header::parse("x", bytes, bytes.len() as u64));
        (entries.map(|entries| check_places(&entries, bytes.len() as u64)), memory)
    });
}

#[test]
fn the_most_wasteful_headers_take_a_small_multiple_of_their_size() {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let check = |what: &str, bytes: usize, memory: usize| {
        println!("{what}: {:.1} bytes for each of the header's", memory as f64 / bytes as f64);
        assert!(memory <= MULTIPLE * bytes, "{what}: {memory} bytes for a header of {bytes}");
    };
    let count = 200_000;
    let array = |kind: u32, element: &[u8]| {
        let head = [9u32.to_le_bytes(), kind.to_le_bytes()].concat();
        [head, (count as u64).to_le_bytes().to_vec(), element.repeat(count)].concat()
    };
    let one_key =
        |value: Vec<u8>| Parts { keys: vec![Part::new().text("k").bytes(&value)], ..Parts::default() };
    let keys = (0..count).map(|i| Part::new().text(&format!("{i:x}")).number(0, 4).bytes(&[0]));
    let tensors = (0..count).map(|i| tensor(&format!("{i:x}"), &[], 24, 0));
    for (what, parts) in [
        ("an array of bytes", one_key(array(0, &[7]))),
        ("an array of flags", one_key(array(7, &[1]))),
        ("an array of empty texts", one_key(array(8, &[0; 8]))),
        ("short keys", Parts { keys: keys.collect(), ..Parts::default() }),
        ("tensors of nothing", Parts { tensors: tensors.collect(), ..Parts::default() }),
    ] {
        let bytes = parts.build();
        let (length, (_, memory)) = (bytes.len(), measured(|| Gguf::parse(bytes)));
        check(what, length, memory);
    }

    let list = |entry: &dyn Fn(usize) -> String| (0..count).map(entry).collect::<Vec<_>>().join(",");
    let empty = r#":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    for (what, header) in [
        ("empty tensors", format!("{{{}}}", list(&|i| format!(r#""{i:x}"{empty}"#)))),
        ("the same tensor", format!("{{{}}}", list(&|_| format!(r#""a"{empty}"#)))),
        (
            "dimensions",
            format!(r#"{{"a":{{"shape":[{}],"dtype":"U8","data_offsets":[0,0]}}}}"#, list(&|_| "0".into())),
        ),
        ("notes", format!(r#"{{"__metadata__":{{{}}}}}"#, list(&|i| format!(r#""{i:x}":"""#)))),
        ("the same note", format!(r#"{{"__metadata__":{{{}}}}}"#, list(&|_| r#""":"""#.into()))),
        ("unknown lists", format!(r#"{{"a":{{"b":[{}]}}}}"#, list(&|_| "[]".into()))),
        ("a long name", format!(r#"{{"{}":1}}"#, "x".repeat(count))),
        ("nesting", "[".repeat(count)),
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        let (_, memory) = measured(|| safetensors_header::parse("x", bytes.as_slice(), bytes.len() as u64));
        check(what, bytes.len(), memory);
    }
    drop(alone);
}

// --- running ---------------------------------------------------------------------------------------------

/// Reads broken files, and sees to it that they were broken in many ways.
fn fuzz(
    format: &str,
    make: impl Fn(&mut Random) -> Vec<u8>,
    read: impl Fn(&[u8]) -> (Result<(), Error>, usize),
) {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let told = std::env::var("ECOCORE_FUZZ_RUNS").ok();
    let runs: u64 = told.map_or(20_000, |runs| runs.parse().expect("ECOCORE_FUZZ_RUNS is a number"));
    let start = Instant::now();
    let (mut accepted, mut refusals, mut most) = (0, BTreeSet::new(), 0.0);
    for number in 0..runs {
        let bytes = make(&mut Random::new(number));
        let run = Run { format, number, bytes: &bytes };
        let (outcome, memory) = read(&bytes);
        match outcome {
            Ok(()) => accepted += 1,
            // Numbers and names differ from file to file; what was wrong does not.
            Err(Error::InvalidModelFile { message, .. }) => {
                let kind: String = message.chars().filter(|c| c.is_ascii_alphabetic()).take(24).collect();
                refusals.insert(kind);
            }
            Err(other) => panic!("{other:?} is not what a model file may end in"),
        }
        assert!(memory <= MULTIPLE * bytes.len() + ALLOWANCE, "{memory} bytes for a file of {}", bytes.len());
        most = f64::max(most, memory.saturating_sub(ALLOWANCE) as f64 / bytes.len() as f64);
        drop(run);
    }
    println!(
        "{format}: {runs} files in {:.1} s: {accepted} sound, refused in {} ways; at most {most:.1} bytes for each of a file's \
         beyond {ALLOWANCE}",
        start.elapsed().as_secs_f64(),
        refusals.len()
    );
    // Else the changes are too coarse to get past the first check, or too fine to break anything.
    assert!((runs / 50..runs * 9 / 10).contains(&accepted), "{accepted} of {runs} files are sound");
    assert!(refusals.len() >= 20, "refused in {} ways only: {refusals:?}", refusals.len());
    drop(alone);
}

/// The file that is being read, told if that ends in a panic.
struct Run<'a> {
    format: &'a str,
    number: u64,
    bytes: &'a [u8],
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{} run {} broke on {:?}",
                self.format,
                self.number,
                self.bytes.escape_ascii().to_string()
            );
        }
    }
}

/// What `work` gives, and the most memory that it had at a time.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let value = work();
    (value, MEMORY.peak_usage().saturating_sub(before))
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// A number where checks are often wrong, or one near `current`.
    fn edge(&mut self, current: u64) -> u64 {
        let near = current.wrapping_add(self.below(5) as u64).wrapping_sub(2);
        match self.below(4) {
            0 => near,
            1 => self.below(40) as u64,
            2 => 1u64.wrapping_shl(self.below(64) as u32).wrapping_sub(self.below(2) as u64),
            _ => u64::MAX - self.below(64) as u64,
        }
    }

    /// Changes a few bytes anywhere.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(2) {
            let (at, other) = (self.below(bytes.len()), self.below(bytes.len()));
            let end = bytes.len().min(at + 1 + self.below(12));
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                2 => bytes.insert(at, self.next() as u8),
                3 => drop(bytes.drain(at..end)),
                4 => drop(bytes.splice(other..other, bytes[at..end].to_vec())),
                5 => bytes.truncate(bytes.len() - self.below(bytes.len() / 4)),
                _ => bytes.extend(std::iter::repeat_n(self.next() as u8, self.below(40))),
            }
        }
    }
}

// --- GGUF ------------------------------------------------------------------------------------------------

/// A key or a tensor of a header, with the places of its counts, lengths, types and offsets.
#[derive(Clone, Default)]
struct Part {
    bytes: Vec<u8>,
    numbers: Vec<(usize, usize)>,
}

impl Part {
    fn new() -> Self {
        Self::default()
    }

    fn number(mut self, value: u64, width: usize) -> Self {
        self.numbers.push((self.bytes.len(), width));
        self.bytes.extend(&value.to_le_bytes()[..width]);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.number(text.len() as u64, 8).bytes(text.as_bytes())
    }

    fn texts(self, texts: &[&str]) -> Self {
        let head = self.number(9, 4).number(8, 4).number(texts.len() as u64, 8);
        texts.iter().fold(head, |part, text| part.text(text))
    }
}

fn key(name: &str) -> Part {
    Part::new().text(name)
}

/// `shape`: the fastest dimension first, as the file has it.
fn tensor(name: &str, shape: &[u64], kind: u64, offset: u64) -> Part {
    let head = Part::new().text(name).number(shape.len() as u64, 4);
    shape.iter().fold(head, |part, &size| part.number(size, 8)).number(kind, 4).number(offset, 8)
}

#[derive(Clone, Default)]
struct Parts {
    version: u32,
    keys: Vec<Part>,
    tensors: Vec<Part>,
    data: Vec<u8>,
}

impl Parts {
    fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(if self.version == 0 { 3 } else { self.version }.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        self.keys.iter().chain(&self.tensors).for_each(|part| file.extend(&part.bytes));
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

/// One file of every type of tensor, one of every kind of metadata, and one with a vocabulary.
fn gguf_seeds() -> Vec<Parts> {
    let types = [
        (0u64, 1u64, 4u64),
        (1, 1, 2),
        (2, 32, 18),
        (3, 32, 20),
        (8, 32, 34),
        (14, 256, 210),
        (24, 1, 1),
        (30, 1, 2),
    ];
    let places = (0..).map(|index| index * 224).zip(types);
    let tensors: Vec<_> = places
        .map(|(offset, (kind, block, _))| tensor(&format!("t{kind}"), &[block, 1], kind, offset))
        .collect();
    let data = (0..8 * 224).map(|i| (i % 59) as u8).collect();
    let scalars = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (10, 8), (11, 8), (12, 8)];
    let single = scalars.map(|(kind, width)| key(&format!("k{kind}")).number(kind, 4).number(7, width));
    let arrays = scalars.map(|(kind, width)| {
        let head = key(&format!("a{kind}")).number(9, 4).number(kind, 4).number(2, 8);
        head.number(1, width).number(200, width)
    });
    let flags = key("flags").number(9, 4).number(7, 4).number(3, 8).bytes(&[0, 1, 1]);
    let aligned = key("general.alignment").number(4, 4).number(64, 4);
    let text = |name: &str, value: &str| key(name).number(8, 4).text(value);
    let kinds = [1u64, 1, 1, 4, 3];
    let token_type = key("tokenizer.ggml.token_type").number(9, 4).number(5, 4).number(5, 8);
    let vocabulary = vec![
        text("general.architecture", "llama"),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "smollm"),
        key("tokenizer.ggml.tokens").texts(&["a", "b", "ab", "<u>", "<e>"]),
        kinds.iter().fold(token_type, |part, &kind| part.number(kind, 4)),
        key("tokenizer.ggml.merges").texts(&["a b"]),
        key("tokenizer.ggml.eos_token_id").number(4, 4).number(4, 4),
    ];
    vec![
        Parts { version: 3, keys: vec![text("general.architecture", "llama")], tensors, data },
        Parts {
            version: 2,
            keys: [&single[..], &arrays[..], &[flags, aligned]].concat(),
            tensors: vec![tensor("x", &[4, 2], 0, 64)],
            data: vec![1; 200],
        },
        Parts { version: 3, keys: vocabulary, ..Parts::default() },
    ]
}

fn broken_gguf(seeds: &[Parts], random: &mut Random) -> Vec<u8> {
    let mut file = seeds[random.below(seeds.len())].clone();
    let other = &seeds[random.below(seeds.len())];
    for _ in 0..=random.below(3) {
        let (parts, others) = match random.below(2) {
            0 => (&mut file.keys, &other.keys),
            _ => (&mut file.tensors, &other.tensors),
        };
        if parts.is_empty() {
            continue;
        }
        let (at, to) = (random.below(parts.len()), random.below(parts.len()));
        match random.below(8) {
            0 => parts.swap(at, to),
            1 => drop(parts.remove(at)),
            2 => parts.insert(to, parts[at].clone()),
            3 if !others.is_empty() => parts.push(others[random.below(others.len())].clone()),
            4 => random.damage(&mut parts[at].bytes),
            _ => {
                let part = &mut parts[at];
                let (start, width) = part.numbers[random.below(part.numbers.len())];
                if let Some(place) = part.bytes.get_mut(start..start + width) {
                    let mut current = [0; 8];
                    current[..width].copy_from_slice(place);
                    place.copy_from_slice(&random.edge(u64::from_le_bytes(current)).to_le_bytes()[..width]);
                }
            }
        }
    }
    let mut bytes = file.build();
    match random.below(8) {
        0 => random.damage(&mut bytes),
        // Magic, version and counts.
        1 => {
            let at = 4 * random.below(6);
            let number = random.edge(1).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&number[..4]);
        }
        _ => {}
    }
    bytes
}

/// Everything that is done with a file: its tensors are read, and its vocabulary if it has one.
fn use_gguf(file: &Gguf) -> Result<(), Error> {
    let mut places: Vec<_> =
        file.tensors().values().map(|tensor| (tensor.start, tensor.start + tensor.nbytes as u64)).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?} overlap");
    for (name, tensor) in file.tensors() {
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.len);
        assert_eq!(file.data(name)?.len(), tensor.nbytes);
        if tensor.kind.encoding.is_some() {
            file.dequantize(name, &mut vec![0.0; tensor.len])?;
        }
    }
    if file.metadata().contains_key("tokenizer.ggml.model") {
        let used = Tokenizer::from_gguf(file.metadata()).and_then(|tokenizer| {
            let ids = tokenizer.encode("ab<e>")?;
            tokenizer.decode(&ids, false)
        });
        // A tokenizer goes on checking itself on other threads, whose memory is not the next file's: the scope comes after
        // that in their queue, and then each of them comes to an end.
        rayon::scope(|_| ());
        rayon::broadcast(|_| ());
        used?;
    }
    Ok(())
}

// --- safetensors -----------------------------------------------------------------------------------------

const HEADERS: [(&str, usize); 3] = [
    (
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}"#,
        26,
    ),
    (
        r#"{"b":{"dtype":"F4","shape":[4],"data_offsets":[8,10]},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"é":{"dtype":"I8","shape":[0,7],"data_offsets":[10,10]}}   "#,
        10,
    ),
    (r#"{"x":{"data_offsets":[0,6],"shape":[3],"dtype":"F16"}}"#, 6),
];

const TOKENS: [&str; 40] = [
    "0",
    "1",
    "2",
    "3",
    "6",
    "24",
    "26",
    "-1",
    "0.5",
    "1e3",
    "1e999",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "00",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "{}",
    "[]",
    r#""a""#,
    r#""b""#,
    r#""x""#,
    r#""__metadata__""#,
    r#""dtype""#,
    r#""shape""#,
    r#""data_offsets""#,
    r#""F32""#,
    r#""U8""#,
    r#""BF16""#,
    r#""X9""#,
    r#""\ud800""#,
    r#""\u0061""#,
];

fn broken_safetensors(random: &mut Random) -> Vec<u8> {
    let (header, mut data) = HEADERS[random.below(HEADERS.len())];
    let mut tokens = tokens(header);
    for _ in 0..=random.below(3) {
        if tokens.is_empty() {
            break;
        }
        let (at, to) = (random.below(tokens.len()), random.below(tokens.len()));
        let end = tokens.len().min(at + 1 + random.below(20));
        match random.below(8) {
            0 => tokens.swap(at, to),
            1 => drop(tokens.drain(at..end)),
            2 => drop(tokens.splice(to..to, tokens[at..end].to_vec())),
            // Space between tokens changes nothing.
            3 | 4 => tokens.insert(at, random.one_of(&[" ", "\n", "\t"])),
            // A whole member, here or at the end.
            5 => {
                let name = random.one_of(&[r#""c""#, r#""a""#, r#""""#]);
                let place = random.one_of(&["[0,0]", "[26,26]", "[10,10]", "[6,6]", "[6,7]"]);
                let last = tokens.iter().rposition(|&token| token == "}").unwrap_or(0);
                let member =
                    [",", name, ":", "{", r#""dtype""#, ":", r#""U8""#, ",", r#""shape""#, ":", "[0]", ","];
                let member = member.into_iter().chain([r#""data_offsets""#, ":", place, "}"]);
                drop(tokens.splice(last..last, member));
            }
            _ => tokens[at] = random.one_of(&TOKENS),
        }
    }
    let header = tokens.concat();
    let length = if random.one_in(16) { random.edge(header.len() as u64) } else { header.len() as u64 };
    if random.one_in(16) {
        data = random.below(40);
    }
    let mut bytes = [&length.to_le_bytes(), header.as_bytes(), &vec![7; data]].concat();
    if random.one_in(8) {
        random.damage(&mut bytes);
    }
    bytes
}

/// Strings, numbers and signs of a JSON text.
fn tokens(text: &'static str) -> Vec<&'static str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => 2 + rest[1..].find('"').expect("seeds have no open strings"),
            '0'..='9' => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token);
        rest = behind;
    }
    tokens
}

/// Whatever is accepted lies in the file, fills the data without overlap, and has the size of its shape.
fn check_places(entries: &BTreeMap<String, Entry>, length: u64) {
    let mut places: Vec<_> = entries.values().map(|entry| (entry.start, entry.end)).collect();
    places.sort_unstable();
    assert!(places.iter().all(|&(start, end)| start <= end && end <= length));
    assert!(places.windows(2).all(|pair| pair[0].1 == pair[1].0));
    assert!(places.last().is_none_or(|&(_, end)| end == length));
    for entry in entries.values() {
        let bits = match entry.dtype.as_str() {
            "F64" | "I64" | "U64" | "C64" => 64,
            "F32" | "I32" | "U32" => 32,
            "F16" | "BF16" | "I16" | "U16" => 16,
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            _ => 8,
        };
        assert_eq!(
            (entry.end - entry.start) * 8,
            entry.shape.iter().product::<usize>() as u64 * bits,
            "{entry:?}"
        );
    }
}
