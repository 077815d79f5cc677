//! Added tokens in text: takes text, gives the first of them from a place on, and of those that begin there the longest.

const NONE: u32 = u32::MAX;

/// A tree of the tokens by their bytes.
pub(super) struct AddedTokens {
    root: Node,
    firsts: Firsts,
    /// Bytes of the longest token.
    longest: usize,
}

struct Node {
    /// The bytes that lead here from the node before, so that most of a token is one comparison.
    label: Vec<u8>,
    /// The token that ends here, or `NONE`.
    id: u32,
    next: Vec<Node>,
}

impl Node {
    /// Adds what is left of a token behind this node.
    fn insert(&mut self, rest: &[u8], id: u32) {
        let Some(&first) = rest.first() else {
            self.id = id;
            return;
        };
        let Some(node) = self.next.iter_mut().find(|node| node.label[0] == first) else {
            self.next.push(Self { label: rest.to_vec(), id, next: Vec::new() });
            return;
        };
        let shared = node.label.iter().zip(rest).take_while(|(left, right)| left == right).count();
        if shared < node.label.len() {
            // The node's label forks here.
            let label = node.label.split_off(shared);
            let next = std::mem::take(&mut node.next);
            node.next.push(Self { label, id: std::mem::replace(&mut node.id, NONE), next });
        }
        node.insert(&rest[shared..], id);
    }

    /// Whether tokens behind this node begin with the whole of `text` and are longer.
    fn goes_on_behind(&self, text: &[u8]) -> bool {
        self.next.iter().any(|next| match text.strip_prefix(&*next.label) {
            Some([]) => !next.next.is_empty(),
            Some(rest) => next.goes_on_behind(rest),
            None => next.label.starts_with(text),
        })
    }
}

/// The bytes that tokens begin with.
enum Firsts {
    None,
    One(u8),
    Two(u8, u8),
    Three(u8, u8, u8),
    Many(Box<[bool; 256]>),
}

impl Firsts {
    fn new(bytes: &[u8]) -> Self {
        match *bytes {
            [] => Self::None,
            [one] => Self::One(one),
            [one, two] => Self::Two(one, two),
            [one, two, three] => Self::Three(one, two, three),
            _ => {
                let mut many = Box::new([false; 256]);
                bytes.iter().for_each(|&byte| many[usize::from(byte)] = true);
                Self::Many(many)
            }
        }
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        match self {
            Self::None => None,
            Self::One(one) => memchr::memchr(*one, text),
            Self::Two(one, two) => memchr::memchr2(*one, *two, text),
            Self::Three(one, two, three) => memchr::memchr3(*one, *two, *three, text),
            Self::Many(many) => text.iter().position(|&byte| many[usize::from(byte)]),
        }
    }
}

/// A token found in a text.
pub(super) struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

impl AddedTokens {
    /// None of `tokens` is empty or comes twice.
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut root = Node { label: Vec::new(), id: NONE, next: Vec::new() };
        let mut longest = 0;
        tokens.for_each(|(token, id)| {
            root.insert(token.as_bytes(), id);
            longest = longest.max(token.len());
        });
        let firsts: Vec<u8> = root.next.iter().map(|node| node.label[0]).collect();
        Self { root, firsts: Firsts::new(&firsts), longest }
    }

    /// The next token from `from` on.
    pub(super) fn find(&self, text: &[u8], mut from: usize) -> Option<Found> {
        loop {
            from += self.firsts.find(&text[from..])?;
            if let Some((end, id)) = self.longest(text, from) {
                return Some(Found { start: from, end, id });
            }
            from += 1;
        }
    }

    /// Whether a token that begins in `text` may end behind it.
    pub(super) fn may_end_in_one(&self, text: &[u8]) -> bool {
        let first = (text.len() + 1).saturating_sub(self.longest);
        (first..text.len()).any(|start| self.root.goes_on_behind(&text[start..]))
    }

    fn longest(&self, text: &[u8], start: usize) -> Option<(usize, u32)> {
        let (mut node, mut end, mut longest) = (&self.root, start, None);
        while let Some(next) = node.next.iter().find(|next| text[end..].starts_with(&next.label)) {
            node = next;
            end += node.label.len();
            if node.id != NONE {
                longest = Some((end, node.id));
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[&str], text: &str, expected: &[(usize, &str)]) {
        let added = AddedTokens::new(tokens.iter().copied().zip(0..));
        let (mut found, mut from) = (vec![], 0);
        while let Some(token) = added.find(text.as_bytes(), from) {
            assert_eq!(&text[token.start..token.end], tokens[token.id as usize]);
            found.push((token.start, tokens[token.id as usize]));
            from = token.end;
        }
        assert_eq!(found, expected, "{tokens:?} in {text:?}");
    }

    #[test]
    fn a_text_may_end_within_a_token() {
        let open = |tokens: &[&str], text: &str| {
            AddedTokens::new(tokens.iter().copied().zip(0..)).may_end_in_one(text.as_bytes())
        };
        let tokens = ["<a>", "<ab>", "<a>bc", "bb", "cab"];
        for text in ["<", "x<", "<a", "<ab", "x<a>", "<a>b", "<a>bb", "xc", "x<ab>ca", "bbb"] {
            assert!(open(&tokens, text), "{text:?}");
        }
        for text in ["", "x", "<ab>", "<a>x", "cab>", "<a>bc>", "ca>"] {
            assert!(!open(&tokens, text), "{text:?}");
        }
        assert!(!open(&[], "<"));
        assert!(!open(&["a"], "a"));
    }

    #[test]
    fn the_first_is_found_and_of_those_the_longest() {
        check(&[], "<a>", &[]);
        check(&["<a>", "<ab>", "<a>b", "<"], "x<a>b<ab><ax", &[(1, "<a>b"), (5, "<ab>"), (9, "<")]);
        check(&["<a>b", "<a>", "<ab>"], "<a><a>c", &[(0, "<a>"), (3, "<a>")]);
        check(&["aab", "b"], "aaab", &[(1, "aab")]);
        check(&["a", "b", "c", "dd"], "xddcab", &[(1, "dd"), (3, "c"), (4, "a"), (5, "b")]);
        check(&["\u{e9}t\u{e9}", "\u{e9}"], "\u{e9}t\u{e9}\u{e9}t", &[(0, "\u{e9}t\u{e9}"), (5, "\u{e9}")]);
    }
}
