//! Pieces of llguidance's grammar language: takes text, tokens and repetitions, gives their spelling.

use std::collections::BTreeMap;

use crate::vocab::Vocab;

use super::trie::is_special;

/// A literal.
pub(super) fn text(literal: &str) -> String {
    // The language takes JSON's strings, but not DEL as it is.
    serde_json::Value::from(literal).to_string().replace('\x7f', "\\u007f")
}

/// A rule that stands for JSON that fits `schema`.
pub(super) fn json(schema: serde_json::Value) -> String {
    format!("%json {}", super::schema::with_layout(schema))
}

/// Any of the ids, which are sorted.
pub(super) fn tokens(ids: &[u32]) -> String {
    let runs = ids.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[u32]| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(u32::to_string).collect(),
    };
    format!("<[{}]>", runs.map(run).collect::<Vec<_>>().join(","))
}

/// `item` from 1 to `most` times, with `separator` between (empty: none).
pub(super) fn repeated(item: &str, separator: &str, most: u32) -> String {
    match most {
        0 | 1 => item.to_owned(),
        _ => format!("{item} ({separator} {item}){{0,{}}}", most - 1),
    }
}

/// `item` as often as that (`None`: without end).
pub(super) fn times(item: &str, least: u64, most: Option<u64>) -> String {
    match most {
        Some(0) => String::new(),
        most => format!("{item}{{{least},{}}}", most.map_or_else(String::new, |most| most.to_string())),
    }
}

/// `item` as often as that, with commas between.
pub(super) fn sequence(item: &str, least: u64, most: Option<u64>) -> String {
    if most == Some(0) {
        return String::new();
    }
    let more = times(&format!("(\",\" {item})"), least.saturating_sub(1), most.map(|most| most - 1));
    if least == 0 { format!("({item} {more})?") } else { format!("{item} {more}") }
}

/// The special tokens of a vocabulary that an answer may hold: a grammar names them by id.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    by_text: BTreeMap<Vec<u8>, u32>,
}

impl SpecialTokens {
    pub fn of(vocab: &Vocab, vocab_size: usize, end_ids: &[u32]) -> Self {
        let ids = (0..vocab.len().min(vocab_size) as u32).rev();
        let ids = ids.filter(|id| is_special(vocab, *id) && !end_ids.contains(id));
        Self { by_text: ids.map(|id| (vocab.bytes(id).unwrap_or_default().to_vec(), id)).collect() }
    }

    /// The token that stands for exactly this text.
    pub fn get(&self, text: &str) -> Option<u32> {
        self.by_text.get(text.as_bytes()).copied()
    }

    /// This text as the vocabulary spells it: one special token if there is one, else plain text.
    pub fn tag(&self, tag: &str) -> String {
        self.get(tag).map_or_else(|| text(tag), |id| tokens(&[id]))
    }

    /// Any special token but `excluded`; `None` if there is none.
    pub fn others(&self, excluded: &str) -> Option<String> {
        let excluded = self.get(excluded);
        let mut ids: Vec<u32> = self.by_text.values().copied().filter(|&id| Some(id) != excluded).collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| tokens(&ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_spelled_as_runs() {
        assert_eq!(tokens(&[3]), "<[3]>");
        assert_eq!(tokens(&[0, 1, 2, 7, 9, 10]), "<[0-2,7,9-10]>");
    }

    #[test]
    fn text_is_escaped_and_tags_are_tokens_where_they_can_be() {
        assert_eq!(text("a\"\n\x7f"), r#""a\"\n\u007f""#);
        let entries = [(&b"a"[..], false), (b"<tag>", true), (b"<end>", true), (b"<other>", true)];
        let vocab = Vocab::from_entries(entries.map(|(bytes, special)| (bytes.to_vec(), special)).into());
        let special = SpecialTokens::of(&vocab, 4, &[2]);
        assert_eq!((special.tag("<tag>"), special.tag("a")), ("<[1]>".into(), "\"a\"".into()));
        assert_eq!(special.others("<tag>").as_deref(), Some("<[3]>"));
        assert_eq!(SpecialTokens::of(&vocab, 1, &[]).others(""), None);
    }
}
