"""Text to ids: `ecocore.Tokenizer` beside the tokenizers of other packages, on the vocabularies of four models.

Every contender is a process of its own that a round starts anew, because text is fresh but once: it encodes a third of a
corpus to become warm, then another third ("fresh": what a server sees), then that again ("warm": what the caches make of it).
The documents that are left are fresh too: their ids are handed over as near to Rust as each package can. Contenders take turns.
Each takes the same `tokenizer.json`. A round before those that are timed compares every id.
"""

import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from benches import corpora, vocabularies, workloads
from benches.corpora import Corpus
from benches.encoder_process import EncoderProcess, Lost, encoder_process
from benches.encoders import Refused, Taken, Turn
from benches.harness import Absent, Bench, Measured, MeasuredPeer, Sample, Settings

OURS: Final = "ecocore"
REFERENCE: Final = "tokenizers 0.23"
NOT_INSTALLED: Final = "not installed"
# How workloads of a corpus begin.
STATES: Final = ("fresh", "warm", "array of fresh")


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table, its package, and whether that lives in the peers' environment."""

    name: str
    package: str
    elsewhere: bool = True


CONTENDERS: Final = (
    Contender(OURS, "ecocore", elsewhere=False),
    Contender(REFERENCE, "tokenizers", elsewhere=False),
    Contender("tokenizers 1.0", "tokenizers"),
    Contender("gigatoken", "gigatoken"),
    Contender("fastokens", "fastokens"),
    Contender("splintr", "splintr"),
    Contender("tiktoken", "tiktoken"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """Texts for every contender. `before` is encoded first, untimed, and `texts` are `pieces` pieces of work."""

    workload: str
    piece: str
    pieces: float
    door: Literal["text", "array", "chat"]
    before: list[str]
    texts: list[str]
    rate: tuple[float, str] | None = None


def cases(settings: Settings) -> Iterator[Measured]:
    if not workloads.has("tokenizers", "gguf"):
        return
    if settings.vocabularies is not None and not settings.quick:
        vocabularies.fetch(settings.vocabularies)
    texts = corpora.corpora(settings.quick)
    for name, oracle in vocabularies.oracles(None if settings.quick else settings.vocabularies):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tokenizer.json")
            file.write_text(oracle.to_str(), encoding="utf-8")
            contest = _Contest(name, file, _works(oracle, texts, settings), settings.peers)
            for number in range(settings.rounds + 1):
                print(f"tokenize: {name}, {f'round {number}' if number else 'comparing'}", file=sys.stderr, flush=True)
                contest.play_round(compare=number == 0)
        yield from contest.measured()


def _works(oracle: Any, texts: list[Corpus], settings: Settings) -> list[Work]:
    calls, messages, prompts = (10, 10, 5) if settings.quick else (3000, 2000, 100)
    mark = next(token.content for token in oracle.get_added_tokens_decoder().values() if token.special)
    chat = workloads.chat_messages(messages)
    works = []
    for corpus in texts:
        fresh, others = corpora.megabytes(corpus.fresh), corpora.megabytes(corpus.others)
        works += [
            Work(f"fresh {corpus.name}", "MB", fresh, "text", corpus.seen, corpus.fresh, (1, "MB/s")),
            Work(f"warm {corpus.name}", "MB", fresh, "text", [], corpus.fresh, (1, "MB/s")),
            Work(f"array of fresh {corpus.name}", "MB", others, "array", [], corpus.others, (1, "MB/s")),
        ]
    works += [
        Work("question of 30 bytes", "call", calls, "text", [], [workloads.SHORT] * calls),
        Work("chat message of 255 bytes", "call", messages, "text", chat, chat),
    ]
    for languages, english in (("English", True), ("five languages", False)):
        seen, grown = corpora.growing_chat(mark, prompts, english=english)
        works.append(Work(f"chat of 32 kB in {languages}, one new turn", "call", prompts, "chat", seen, grown))
    return works


@dataclass(slots=True)
class _Contest:
    """The contenders on one vocabulary, and what they did so far."""

    vocabulary: str
    file: Path
    works: list[Work]
    peers: Path | None
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    differing: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def play_round(self, *, compare: bool) -> None:
        """Starts every contender, and hands each work to one after the other."""
        with ExitStack() as ends:
            running: dict[str, EncoderProcess] = {}
            for contender in CONTENDERS:
                if contender.name not in self.absent:
                    process = self._start(contender, ends)
                    if process is not None:
                        running[contender.name] = process
                        self._keep(contender.name, "load", process.loaded, 1)
            for work in self.works:
                self._hand_out(work, running, compare=compare)

    def measured(self) -> Iterator[Measured]:
        """A case for loading, each work, and the geometric means over the corpora."""
        yield self._case("load", "load", None, ("load",))
        for state in STATES:
            kinds = tuple(work.workload for work in self.works if work.workload.startswith(f"{state} "))
            for kind in kinds:
                yield self._case(kind, "MB", (1, "MB/s"), (kind,))
            yield self._case(f"{state}, geometric mean", "MB", (1, "MB/s"), kinds)
        for work in self.works:
            if work.rate is None:
                yield self._case(work.workload, work.piece, None, (work.workload,))

    def _start(self, contender: Contender, ends: ExitStack) -> EncoderProcess | None:
        if contender.elsewhere and self.peers is None:
            self.absent[contender.name] = NOT_INSTALLED
            return None
        python = str(self.peers) if contender.elsewhere else sys.executable
        process = ends.enter_context(encoder_process(contender.package, self.file, python))
        if isinstance(process, Refused):
            self.absent[contender.name] = process.reason
            return None
        return process

    def _hand_out(self, work: Work, running: dict[str, EncoderProcess], *, compare: bool) -> None:
        ids: dict[str, list[Any]] = {}
        for name, process in list(running.items()):
            try:
                before = process.take(Turn(work.door, work.before, compare))
                taken = process.take(Turn(work.door, work.texts, compare))
            except Lost as lost:
                self.absent[name] = f"{work.workload}: {lost}"
                del running[name]
                continue
            if not compare:
                self._keep(name, work.workload, taken, work.pieces)
            ids[name] = [*(before.ids or []), *(taken.ids or [])]
        if compare:
            places = {text: place for place, text in enumerate([*work.before, *work.texts])}.values()
            for name, theirs in ids.items():
                wrong = sum(ids[OURS][place] != theirs[place] for place in places)
                self.differing[name, work.workload] = wrong, len(places)

    def _keep(self, name: str, workload: str, taken: Taken, pieces: float) -> None:
        self.samples.setdefault((name, workload), []).append((1e6 * taken.wall / pieces, 1e6 * taken.cpu / pieces))

    def _case(self, workload: str, piece: str, rate: tuple[float, str] | None, parts: tuple[str, ...]) -> Measured:
        peers = tuple(self._peer(contender.name, parts) for contender in CONTENDERS if contender.name != OURS)
        return Measured(f"{self.vocabulary}, {workload}", piece, self._mean(OURS, parts), peers, rate)

    def _peer(self, name: str, parts: tuple[str, ...]) -> MeasuredPeer | Absent:
        if name in self.absent:
            return Absent(name, self.absent[name])
        compared = [self.differing[name, part] for part in parts if part != "load"]
        texts = (sum(wrong for wrong, _ in compared), sum(of for _, of in compared)) if compared else None
        return MeasuredPeer(name, self._mean(name, parts), "inexact" if texts and texts[0] else "equal", texts)

    def _mean(self, name: str, parts: tuple[str, ...]) -> list[Sample]:
        """Of each round the geometric mean over the parts."""
        rounds = zip(*(self.samples[name, part] for part in parts), strict=True)
        return [(_geometric([wall for wall, _ in one]), _geometric([cpu for _, cpu in one])) for one in rounds]


def _geometric(values: list[float]) -> float:
    return math.prod(values) ** (1 / len(values))


BENCH = Bench("tokenize", threads=1, cases=cases)
