"""Text that is seen for the first time, as a server sees it: `ecocore.Tokenizer` beside Hugging Face `tokenizers`, one thread.

`python -m benches.fresh_text --vocabularies FOLDER` (see benches/vocabularies.py; without the folder, SmolLM2 alone). Every
second document is encoded to make both warm, then the others are timed: that is "fresh". "warm" is the same documents again.
Contenders take turns every 20 documents, so that a disturbance meets both and neither always finds its caches full of the
other's data. Times are CPU time of the thread, results are Python lists, and the ids are compared.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benches import vocabularies, workloads
from ecocore import Tokenizer

DOCUMENT: Final = 8000  # characters
MOST: Final = 2_000_000  # characters of a corpus
TURN: Final = 20  # documents

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", type=Path, help="a folder for the files of other models; they are fetched once")
    parser.add_argument("--share", type=float, default=1.0, help="of the texts, for a quicker look")
    arguments = parser.parse_args()
    if arguments.vocabularies is not None:
        vocabularies.fetch(arguments.vocabularies)
    corpora = {"prose": prose(), "code": code(), "multilingual": multilingual()}
    print(f"{'vocabulary':10} {'text':14} {'ecocore':>22} {'tokenizers':>22} {'ratio':>14}")
    for name, oracle in vocabularies.oracles(arguments.vocabularies):
        json = oracle.to_str().encode()
        started = time.thread_time()
        tokenizer = Tokenizer.from_json(json)
        print(f"{name:10} {'load':14} {1e3 * (time.thread_time() - started):19.0f} ms", flush=True)
        for corpus, documents in corpora.items():
            kept = documents[: max(4, int(len(documents) * arguments.share))]
            _row(name, corpus, _rates(tokenizer, oracle, kept))
        _calls(name, tokenizer, oracle)


def prose() -> list[str]:
    """Documentation of Python and of the packages here."""
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


def _documents(text: str) -> list[str]:
    text = text[:MOST]
    return [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]


Rates = tuple[float, float, float, float]


def _rates(tokenizer: Tokenizer, oracle: Any, documents: list[str]) -> Rates:
    """Megabytes per second: ours fresh and warm, theirs fresh and warm."""
    ways: list[Callable[[str], list[int]]] = [tokenizer.encode, lambda text: oracle.encode(text, add_special_tokens=False).ids]
    for text in documents[::2]:
        assert ways[0](text) == ways[1](text), "the ids differ"
    measured = documents[1::2]
    megabytes = sum(len(text.encode()) for text in measured) / 1e6
    seconds = [[0.0, 0.0], [0.0, 0.0]]
    for warm in (0, 1):
        for start in range(0, len(measured), TURN):
            turn = measured[start : start + TURN]
            results = []
            for way, encode in enumerate(ways):
                started = time.thread_time()
                results.append([encode(text) for text in turn])
                seconds[way][warm] += time.thread_time() - started
            assert results[0] == results[1], "the ids differ"
    ours, theirs = seconds
    return megabytes / ours[0], megabytes / ours[1], megabytes / theirs[0], megabytes / theirs[1]


def _row(name: str, corpus: str, rates: Rates) -> None:
    fresh, warm, their_fresh, their_warm = rates
    ours = f"{fresh:8.1f} / {warm:6.1f} MB/s"
    theirs = f"{their_fresh:8.2f} / {their_warm:6.2f} MB/s"
    print(f"{name:10} {corpus:14} {ours:>22} {theirs:>22} {fresh / their_fresh:6.0f} / {warm / their_warm:4.0f}", flush=True)


def _calls(name: str, tokenizer: Tokenizer, oracle: Any) -> None:
    """Single calls in microseconds, the best of several rounds; of the growing chat, the prompt that is new each time."""
    cases = {"30 B": [workloads.SHORT] * 300, "chat, 255 B": workloads.chat_messages(600)}
    for label, texts in cases.items():
        ours = min(_microseconds(tokenizer.encode, texts) for _ in range(5))
        theirs = min(_microseconds(lambda text: oracle.encode(text, add_special_tokens=False).ids, texts) for _ in range(3))
        print(f"{name:10} {label:14} {ours:19.2f} us {theirs:19.1f} us {theirs / ours:6.0f}", flush=True)
    prompts = list(_growing_chat(oracle))
    for prompt in prompts[:-100]:
        assert tokenizer.encode_chat(prompt).tolist() == tokenizer.encode(prompt), "the ids differ"
    ours = _microseconds(tokenizer.encode_chat, prompts[-100:])
    theirs = _microseconds(lambda text: oracle.encode(text, add_special_tokens=False), prompts[-3:])
    print(f"{name:10} {'growing, 32 kB':14} {ours:19.2f} us {theirs:19.1f} us {theirs / ours:6.0f}", flush=True)


def _growing_chat(oracle: Any) -> Iterator[str]:
    """Prompts of about 32 kB, each a turn longer than the one before, the last 100 by text that was not seen."""
    mark = next(token.content for token in oracle.get_added_tokens_decoder().values() if token.special)
    turns = workloads.chat_messages(320, seed=2)
    for length in range(10, 220, 20):
        yield "".join(f"{mark}user\n{turn}" for turn in turns[:length])
    head = "".join(f"{mark}user\n{turn}" for turn in turns[20:140])
    for number in range(103):
        head += f"{mark}user\n{number} {turns[200 + number]}"
        yield head[-32_000:] if number < 3 else f"{mark}user\n" + head[-32_000:].split(f"{mark}user\n", 1)[1]


def _microseconds(encode: Callable[[str], object], texts: list[str]) -> float:
    started = time.thread_time()
    for text in texts:
        encode(text)
    return 1e6 * (time.thread_time() - started) / len(texts)


if __name__ == "__main__":
    main()
