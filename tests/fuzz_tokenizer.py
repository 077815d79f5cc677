"""Random texts for real vocabularies, beside the `tokenizers` package: the same ids for every one of them.

`python -m tests.fuzz_tokenizer --vocabularies FOLDER` fetches those of Llama 3, Qwen2 and Gemma 4 into the folder (75 MB once);
without it there is SmolLM2's alone. `N of N strings equal` for each; exit status 1 on any difference.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benches import vocabularies

from ecocore import Tokenizer

# What tells tokenizers apart: contractions, digits, spaces, marks that compose or change places, scripts, lacking bytes.
FRAGMENTS: Final = [
    *("'s", "'S", "'ll", "'\u017f", "'re ", "don't", "I'M", "0123456789", "½²٣", "12 34", "1,234.5"),
    *(" \t\u00a0\r\n\n  \n", "\n\n\n", "   ", "\t\t", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b", "\ufeff"),
    *("e\u0301", "\u1df6\u08f9", "\u0340\u0344", "\u212b", "\u1100\u1161\u11a8", "ﬁ", "\x00\x06\x80", "\u2581", "<0x41>"),
    *("日本語の文章", "中文", "한국어", "हिन्दी", "ไทยภาษา", "العربية ", "עִבְרִית", "Ελληνικά", "русский", "𞤀", "👩‍👩‍👧‍👦", "🇩🇪"),
    *("\uff41\uff42\uff43", "\U0001d400\U0001d401", " the quick", " Hello", "world", "HTTPServer", "def f(x):\n\t\treturn"),
    *("/**\n", "https://x.y/z?q=1&b=2", "====", "-----" * 5, "a" * 20, "ab" * 40, " unbelievable", "Donaudampfschifffahrt"),
]
CHUNK: Final = 500


def texts(count: int, added: list[str], seed: int) -> Iterator[str]:
    """Fragments, added tokens, random characters, spaces, random letters and long words of one script in any order."""
    choose = random.Random(seed)
    fragments = FRAGMENTS + choose.sample(added, min(12, len(added)))

    def character() -> str:
        ranges = [(0x20, 0x7F), (0x80, 0x800), (0x300, 0x370), (0x800, 0xD800), (0xE000, 0x110000)]
        return chr(choose.randrange(*choose.choice(ranges)))

    pieces: list[Callable[[], str]] = [
        lambda: choose.choice(fragments),
        character,
        lambda: choose.choice(" \n\t\r '") * choose.randrange(1, 5),
        lambda: "".join(choose.choices("abcdefghijklmnopqrstuvwxyzABC '.,0", k=choose.randrange(1, 12))),
        lambda: "".join(choose.choices(choose.choice(FRAGMENTS), k=choose.randrange(1, 30))),
    ]
    for _ in range(count):
        yield "".join(choose.choice(pieces)() for _ in range(choose.randrange(14)))


def differences(oracle: Any, count: int, seed: int) -> Iterator[str]:
    """The texts that get other ids, alone, in a batch or as part of a chat that grows."""
    tokenizer = Tokenizer.from_json(oracle.to_str().encode())
    assert tokenizer.backend == "ecocore", tokenizer.backend
    added = [token.content for token in oracle.get_added_tokens_decoder().values()]
    every = list(texts(count, added, seed))
    chat, longest = "", 6000
    for start in range(0, count, CHUNK):
        chunk = every[start : start + CHUNK]
        expected = [encoding.ids for encoding in oracle.encode_batch_fast(chunk, add_special_tokens=False)]
        for text, ids, batched in zip(chunk, expected, tokenizer.encode_batch(chunk), strict=True):
            if not ids == batched == tokenizer.encode(text) == tokenizer.encode_chat(text).tolist():
                yield text
            # It grows by a text, now and then loses its end, and begins anew.
            chat = chat[: -len(text) // 2 or None] + text if len(chat) < longest else text
            if tokenizer.encode_chat(chat).tolist() != tokenizer.encode(chat):
                yield chat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", type=Path, help="a folder for the files of other models; they are fetched once")
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.vocabularies is not None:
        vocabularies.fetch(arguments.vocabularies)
    failed = False
    for name, oracle in vocabularies.oracles(arguments.vocabularies):
        different = list(differences(oracle, arguments.cases, arguments.seed))
        equal = arguments.cases - len(different)
        sys.stdout.write(f"{name}: {equal} of {arguments.cases} strings equal {different[:5] or ''}\n")
        sys.stdout.flush()
        failed |= bool(different)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
