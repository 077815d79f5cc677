"""Small vocabularies: the bytes, some words, and special tokens."""

import json
from collections.abc import Sequence

from ecocore import _core


def byte_level(special: Sequence[str], words: Sequence[str] = ()) -> _core.Tokenizer:
    """Ids 0 to 255 are the bytes, then come `words`, then `special`."""
    alphabet = {byte: chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))}
    for place, byte in enumerate(byte for byte in range(256) if byte not in alphabet):
        alphabet[byte] = chr(0x100 + place)
    vocab = {alphabet[byte]: byte for byte in range(256)}
    for word in words:
        vocab["".join(alphabet[byte] for byte in word.encode())] = len(vocab)
    added = [
        {"id": len(vocab) + place, "content": text, "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for place, text in enumerate(special)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "ignore_merges": True},
    }
    return _core.Tokenizer.from_json(json.dumps(document).encode())
