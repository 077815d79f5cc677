//! Added tokens in text: takes text, gives the first of them from a place on, and of those that begin there the longest.

const NONE: u32 = u32::MAX;

/// A tree of the tokens by their bytes.
pub(super) struct AddedTokens {
    nodes: Vec<Node>,
    firsts: Firsts,
}

struct Node {
    /// The token that ends here, or `NONE`.
    id: u32,
    /// The next byte and its node.
    edges: Vec<(u8, u32)>,
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
        let mut nodes = vec![Node { id: NONE, edges: Vec::new() }];
        for (token, id) in tokens {
            let mut at = 0;
            for &byte in token.as_bytes() {
                at = match nodes[at].edges.iter().find(|edge| edge.0 == byte) {
                    Some(&(_, next)) => next as usize,
                    None => {
                        let next = nodes.len();
                        nodes[at].edges.push((byte, next as u32));
                        nodes.push(Node { id: NONE, edges: Vec::new() });
                        next
                    }
                };
            }
            nodes[at].id = id;
        }
        let firsts: Vec<u8> = nodes[0].edges.iter().map(|edge| edge.0).collect();
        Self { nodes, firsts: Firsts::new(&firsts) }
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

    fn longest(&self, text: &[u8], start: usize) -> Option<(usize, u32)> {
        let (mut node, mut longest) = (&self.nodes[0], None);
        for (end, &byte) in (start + 1..).zip(&text[start..]) {
            let Some(&(_, next)) = node.edges.iter().find(|edge| edge.0 == byte) else { break };
            node = &self.nodes[next as usize];
            if node.id != NONE {
                longest = Some((end, node.id));
            }
        }
        longest
    }
}
