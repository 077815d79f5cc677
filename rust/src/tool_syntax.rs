//! How the families of models spell tool calls: the syntaxes and their tags, for whoever writes grammars of
//! calls (`grammar`) and whoever reads calls in answers (`tool_calls`).

use crate::error::Error;

/// How a family of models writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `{"name": NAME, "parameters": ARGUMENTS}`, joined by `; `. The answer holds nothing else.
    Llama,
    /// `<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n</tool_call>`, one in a line, after any text.
    Hermes,
    /// `<|tool_call>call:NAME{KEY:VALUE,...}<tool_call|>` with strings in `<|"|>`, after any text.
    Gemma,
}

impl Syntax {
    /// The syntax of that name. `parameter`: what the error blames.
    pub fn from_name(parameter: &str, name: &str) -> Result<Self, Error> {
        match name {
            "llama" => Ok(Self::Llama),
            "hermes" => Ok(Self::Hermes),
            "gemma" => Ok(Self::Gemma),
            _ => Err(Error::parameter(parameter, "must be \"llama\", \"hermes\" or \"gemma\"")),
        }
    }
}

/// Tags of [`Syntax::Llama`].
pub(crate) mod llama {
    /// May stand before the first call.
    pub const TAG: &str = "<|python_tag|>";
}

/// Tags of [`Syntax::Hermes`].
pub(crate) mod hermes {
    pub const OPEN: &str = "<tool_call>";
    pub const CLOSE: &str = "</tool_call>";
}

/// Tags of [`Syntax::Gemma`].
pub(crate) mod gemma {
    pub const OPEN: &str = "<|tool_call>";
    /// The opening tag and the word between it and the name.
    pub const OPEN_CALL: &str = "<|tool_call>call:";
    pub const CLOSE: &str = "<tool_call|>";
    /// Around strings.
    pub const QUOTE: &str = "<|\"|>";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_is_found_by_its_name_alone() {
        let found = ["llama", "hermes", "gemma"].map(|name| Syntax::from_name("syntax", name).ok());
        assert_eq!(found, [Syntax::Llama, Syntax::Hermes, Syntax::Gemma].map(Some));
        let refused = Syntax::from_name("tool_syntax", "Llama").unwrap_err();
        assert!(refused.to_string().starts_with("tool_syntax "), "{refused}");
    }
}
