"""Texts for tokenizers: prose, code, words of ten scripts, and the prompts of a chat that grows.

The first two are what lies in this Python's library folder, so they differ a little from one installation to another; in a
run every contender gets the same. The others are made from seeds.
"""

import os
import random
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from benches import workloads

DOCUMENT: Final = 8000  # characters
MOST: Final = 2_000_000  # characters of a corpus

# Scripts as (syllables, between words); words are made of them and come as often as words do.
_SCRIPTS: Final = (
    ("ka ro mi ten sul vär ö ña ção ein lich ung the ing er", " "),
    ("при вет гол вал ние ство кам мис сто руд да", " "),
    ("κα λη με ραδ τος ονδ σαλ φι δη", " "),
    ("ال سل مع كت اب در س يه", " "),
    ("שלו ם עו לם ספ ר יל דה", " "),
    ("नम स्ते भा रत हि न्दी कि ताब", " "),
    ("สวัส ดี ครับ ภา ษา ไทย", ""),
    ("안녕 하세 요 한국 어 문장 입니 다", " "),
    ("日 本 語 文 章 東 京 大 学 中 国 人 民 生 活 時 間 問 題", ""),
    ("ひら がな カタ カナ です ます した", ""),
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of one kind: `seen` make a tokenizer warm, `fresh` and `others` are more of the same kind."""

    name: str
    seen: list[str]
    fresh: list[str]
    others: list[str]


def megabytes(texts: list[str]) -> float:
    """Of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def corpora(quick: bool) -> list[Corpus]:  # noqa: FBT001 - the settings' own word
    """All three; of three documents one is seen."""
    kinds = {"prose": prose(), "code": code(), "multilingual": multilingual()}
    end = 6 if quick else None
    return [Corpus(name, texts[:end:3], texts[1:end:3], texts[2:end:3]) for name, texts in kinds.items()]


def prose() -> list[str]:
    """Documentation of Python and of the packages there."""
    from pydoc_data.topics import topics

    folder = Path(os.__file__).parent
    files = sorted([*folder.rglob("*.txt"), *folder.rglob("*.rst")])
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files]
    return _documents("\n".join([*(topics[name] for name in sorted(topics)), *texts]))


def code() -> list[str]:
    """Python's standard library."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return _documents("".join(file.read_text(encoding="utf-8", errors="ignore") for file in files))


def multilingual() -> list[str]:
    """Words of ten scripts, some frequent and most rare, in documents of one script each."""
    choose = random.Random(8)
    documents = []
    for syllables, between in _SCRIPTS:
        words = ["".join(choose.choices(syllables.split(), k=choose.randrange(1, 5))) for _ in range(4000)]
        weights = [1 / rank for rank in range(1, 4001)]
        ends = choose.choices([between, ", ", ". ", "\n"], weights=[12, 1, 1, 0.3], k=60_000)
        text = "".join(word + end for word, end in zip(choose.choices(words, weights, k=60_000), ends, strict=True))
        documents += _documents(text[: MOST // len(_SCRIPTS)])
    choose.shuffle(documents)
    return documents


def growing_chat(mark: str, prompts: int, *, english: bool = False) -> tuple[list[str], list[str]]:
    """The prompts of a chat on its way to 32 kB, and then what follows from there: `prompts` different next turns.

    `mark` is a special token of the vocabulary; a chat begins each turn with one.
    """
    turns = [f"{mark}user\n{turn}" for turn in workloads.chat_messages(200 + prompts, seed=2, english=english)]
    before = list(accumulate(turns[prompts:]))
    seen = [prompt for prompt in before if len(prompt.encode()) <= workloads.DOCUMENT_BYTES - 300]
    return seen[::-10][::-1], [seen[-1] + turn for turn in turns[:prompts]]


def _documents(text: str) -> list[str]:
    text = text[:MOST]
    return [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
