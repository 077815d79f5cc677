"""Tokenizers of several packages behind the same two doors, and what is said to a process that has one of them.

Imported under the interpreter that has the package, which may lack everything else.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from array import array

Door = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Encoder:
    """`text` gives ids as a list; `array` as near to Rust as the package can, and so does what `chat` makes for a chat."""

    text: Door
    array: Door
    chat: Callable[[], Door]


def _ecocore(path: str) -> Encoder:
    from ecocore import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    return Encoder(tokenizer.encode, tokenizer.encode_array, lambda: tokenizer.encode_chat)


def _tokenizers(path: str) -> Encoder:
    """Of either version; what is no list stays in the `Encoding`, which nobody reads."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(path).encode

    def unread(text: str) -> Any:
        return encode(text, add_special_tokens=False)

    return Encoder(lambda text: unread(text).ids, unread, lambda: unread)


def _gigatoken(path: str) -> Encoder:
    """Its only door for one text gives an array, which is less work than the list of the others."""
    from gigatoken import Tokenizer

    encode = Tokenizer.from_json(Path(path).read_bytes()).encode
    return Encoder(encode, encode, lambda: encode)


def _fastokens(path: str) -> Encoder:
    """Its cache of segments is for chats, and switched on for them alone."""
    from fastokens._native import Tokenizer

    def chat() -> Door:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.enable_segment_cache(16 << 20)
        encode: Door = tokenizer.encode
        return encode

    encode = Tokenizer.from_file(path).encode
    return Encoder(lambda text: encode(text).ids, encode, chat)


def _splintr(path: str) -> Encoder:
    import splintr

    tokenizer = splintr.from_json(path)
    return Encoder(tokenizer.encode, tokenizer.encode_flat, lambda: tokenizer.encode_flat)


def _tiktoken(path: str) -> Encoder:
    """Knows ranks and one regular expression: what a pipeline has beyond these, it cannot do.

    Special tokens are looked for in chats alone, since asking for them costs more than a short text.
    """
    import tiktoken

    pipeline = json.loads(Path(path).read_text("utf-8"))
    cutters = (pipeline["pre_tokenizer"] or {}).get("pretokenizers", [])
    if pipeline["normalizer"] is not None or [cutter["type"] for cutter in cutters] != ["Split", "ByteLevel"]:
        raise ValueError("the pipeline is more than one regular expression over bytes")
    added = {token["content"]: token["id"] for token in pipeline["added_tokens"]}
    letters = {letter: byte for byte, letter in enumerate(_byte_letters())}
    vocabulary = {token: rank for token, rank in pipeline["model"]["vocab"].items() if token not in added}
    ranks = {bytes(letters[letter] for letter in token): rank for token, rank in vocabulary.items()}
    encoding = tiktoken.Encoding(
        "vocabulary", pat_str=cutters[0]["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens=added
    )
    special = set(added)
    return Encoder(
        encoding.encode_ordinary,
        lambda text: encoding.encode_to_numpy(text, disallowed_special=()),
        lambda: lambda text: encoding.encode(text, allowed_special=special, disallowed_special=()),
    )


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


ENCODERS: Final[dict[str, Callable[[str], Encoder]]] = {
    "ecocore": _ecocore,
    "tokenizers": _tokenizers,
    "gigatoken": _gigatoken,
    "fastokens": _fastokens,
    "splintr": _splintr,
    "tiktoken": _tiktoken,
}


@dataclass(frozen=True, slots=True)
class Turn:
    """Texts to encode through a door: to take the time, or to have the ids."""

    door: Literal["text", "array", "chat"]
    texts: list[str]
    ids: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of a turn, or its ids as 32-bit numbers, one array for each text."""

    wall: float
    cpu: float
    ids: "list[array[int]] | None" = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The package is not there or does not take the vocabulary."""

    reason: str
