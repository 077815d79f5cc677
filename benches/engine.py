"""What a step costs beside the model and the draws: `python -m benches.engine`.

Every call of the loop on the mock engine, timed one by one on one thread: medians of a thousand steps in which all sequences
draw, each with two stop strings, and all are streamed. The goal is 100 us for 256 sequences.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ecocore._core import OutputStreams, Scheduler, SseWriter, Tokenizer
from ecocore.model.mock import MockModel
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import BatchSampler

SEQUENCES: Final = (1, 64, 256, 1024)
GOAL_MICROSECONDS: Final = 100
GOAL_SEQUENCES: Final = 256
# Of these the model's and the sampler's own work are no part.
APART: Final = ("forward", "draws")


class Steps:
    """Runs the loop's calls in their order and remembers what each took."""

    def __init__(self, count: int, tokens: int) -> None:
        """`count` sequences of up to `tokens` tokens each."""
        tokenizer = Tokenizer.bytes_only()
        self._scheduler = Scheduler(
            num_blocks=count * (tokens // 64 + 2), max_sequences=count, max_waiting=count, max_batch_tokens=64 * count
        )
        self._model = MockModel(tokenizer.vocab_size, max_sequences=count)
        self._sampler = BatchSampler(tokenizer.vocab_size)
        self._outputs = OutputStreams(tokenizer)
        self._writer = SseWriter()
        self.taken: dict[str, list[float]] = {}
        for number in range(count):
            prompt = np.frombuffer(f"user: tell me story {number}\nassistant: ".encode(), np.uint8).astype(np.uint32)
            stop = ["\n\n\n", "user:"]
            self._outputs.open(number, request_id=number, choice=0, prompt_tokens=len(prompt), max_tokens=tokens, stop=stop)
            self._sampler.open(number, SamplingParams(top_p=0.9), number, 0, prompt)
            self._scheduler.submit(number, prompt, tokens, b"", key=number % 8)
            self._writer.open(
                number, completion_id=f"chatcmpl-{number}", created=1, model="mock", system_fingerprint="fp", stream=True
            )

    def step(self) -> None:
        """One step of the loop, and what the server does with its events."""
        batch = self._timed("schedule", self._scheduler.schedule)
        logits = self._timed("forward", self._model.forward, batch)
        inputs = self._timed("sampler parameters", self._sampler.prepare, batch)
        tokens = self._timed("draws", self._sampler.sample, logits, inputs)
        ended = self._timed("ends", self._outputs.ended, tokens)
        self._timed("commit", self._scheduler.commit, batch, tokens, ended)
        events = self._timed("text, stops, events", self._outputs.push, batch, tokens)
        self._timed("finish", self._scheduler.finish, events)
        requests = self._timed("SSE", self._writer.push, events)
        self._timed("bytes to connections", self._take, requests)

    def _take(self, requests: list[int]) -> None:
        for request_id in requests:
            self._writer.take(request_id)

    def _timed(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        begun = time.perf_counter()
        result = call(*args)
        self.taken.setdefault(name, []).append(1e6 * (time.perf_counter() - begun))
        return result


def costs(count: int, steps: int) -> dict[str, float]:
    """Median microseconds of each call with so many sequences. The first steps read prompts and fill caches."""
    run = Steps(count, steps + 64)
    for _ in range(steps + 32):
        run.step()
    return {name: statistics.median(taken[32:]) for name, taken in run.taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.engine", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="how many are timed (default 1000)")
    options = parser.parse_args()
    columns = {count: costs(count, options.steps) for count in SEQUENCES}
    names = [name for name in columns[SEQUENCES[0]] if name not in APART]
    told = ["| us in each step | " + " | ".join(f"{count}" for count in SEQUENCES) + " |", "|---|" + "--:|" * len(SEQUENCES)]
    rows = [(name, [columns[count][name] for count in SEQUENCES]) for name in names]
    rows.append(("**all**", [sum(values) for values in zip(*(values for _, values in rows), strict=True)]))
    rows += [(f"{name} (apart)", [columns[count][name] for count in SEQUENCES]) for name in APART]
    told += [f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |" for name, values in rows]
    told += ["", f"goal: at most {GOAL_MICROSECONDS} us at {GOAL_SEQUENCES} sequences", ""]
    sys.stdout.write("\n".join(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
