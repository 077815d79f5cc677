"""A needle in a haystack: one seeded request among random companions keeps every token and every bit of its log-probabilities.

Trials differ in all that must not matter: 1 to 64 companions of random length and parameters, some of which leave; a cold or a
warm prefix; prompts read in chunks of any size; a pool so small that sequences give way and are computed anew; one or two steps
in flight. `python -m tests.needle`; exit status 1 on any difference.
"""

import argparse
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from ecocore.budget import PromptBudget
from ecocore.completion import Completion
from ecocore.events import TokenLogprob
from ecocore.runtime import Runtime

Bits = tuple[str, tuple[TokenLogprob, ...], int]

# A pool of a few blocks: a crowd of any size has to give way in it.
SMALL_POOL_MB: Final = 24
LARGE_POOL_MB: Final = 256

TALE: Final = "The tide comes in, the tide goes out, and the harbour waits. "
NEEDLES: Final[tuple[dict[str, Any], ...]] = (
    {
        "messages": "Write one sentence about the sea.",
        "max_tokens": 16,
        "seed": 20240229,
        "top_p": 0.95,
        "frequency_penalty": 0.3,
    },
    {"messages": TALE * 12 + "What waits?", "max_tokens": 12, "seed": 7, "temperature": 1.3, "top_k": 40},
    {"messages": TALE * 30 + "What comes in?", "max_tokens": 8, "temperature": 0},
    {"messages": "Count from 1 to 20.", "max_tokens": 24, "seed": -1, "min_p": 0.05, "repetition_penalty": 1.1},
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What must not matter, drawn from a seed."""

    number: int
    needle: int
    small_pool: bool
    depth: int
    companions: int
    gap_seconds: float
    warm: bool
    priority: int

    @classmethod
    def drawn(cls, rng: random.Random, number: int, most_companions: int) -> "Trial":
        return cls(
            number=number,
            needle=rng.randrange(len(NEEDLES)),
            small_pool=rng.random() < 0.5,
            depth=rng.choice((1, 2)),
            companions=rng.randint(1, most_companions),
            # From a block for each step to whole prompts at once.
            gap_seconds=rng.choice((0.0, 0.05, 0.2, 1e9)),
            warm=rng.random() < 0.5,
            # Behind all others it is the needle that gives way.
            priority=rng.choice((0, 9)),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial showed: None if the needle was as it is alone."""

    trial: Trial
    difference: str | None
    preemptions: int
    cached_tokens: int


def bits(answer: Completion) -> Bits:
    """Everything that must not change; log-probabilities compare as bits."""
    return answer.text, answer.logprobs, answer.usage.completion_tokens


def asked(needle: dict[str, Any], salt: str) -> dict[str, Any]:
    return {**needle, "logprobs": True, "top_logprobs": 5, "cache_salt": salt}


def run_ahead(runtime: Runtime, depth: int) -> None:
    """Lets an idle engine have so many steps in flight."""
    executor = runtime._loop._executor
    executor.depth = depth  # type: ignore[misc]
    executor._drawn = deque(executor._drawn, maxlen=depth)


def companion(runtime: Runtime, rng: random.Random, most_tokens: int) -> Callable[[], None]:
    """A request that gets in the way, and may leave before its end."""
    params: dict[str, Any] = {
        "max_tokens": rng.randint(1, most_tokens),
        "seed": rng.getrandbits(60),
        "temperature": rng.choice((0.0, 0.7, 1.5)),
    }
    text = TALE * 10
    messages = f"{rng.getrandbits(32)}: {text[: rng.randint(10, 300)]}"
    leave_after = rng.choice((None, None, rng.randint(0, 8)))

    def run() -> None:
        stream = runtime.stream(messages, **params)
        for count, _ in enumerate(stream):
            if leave_after is not None and count >= leave_after:
                break
        stream.close()  # type: ignore[attr-defined]

    return run


def outcome(trial: Trial, runtime: Runtime, alone: Bits, rng: random.Random) -> Outcome:
    """One trial on an idle runtime."""
    run_ahead(runtime, trial.depth)
    runtime._loop._budget = PromptBudget(trial.gap_seconds)
    needle, salt = NEEDLES[trial.needle], f"{trial.number}"
    if trial.warm:
        runtime.chat(**asked({**needle, "max_tokens": 1}, salt))
    before = runtime.stats()["preemptions"]
    # Sequences give way where others grow beyond a block.
    most_tokens = 70 if trial.small_pool else 20
    crowd = [threading.Thread(target=companion(runtime, rng, most_tokens)) for _ in range(trial.companions)]
    # The needle comes somewhere in the middle.
    first = rng.randint(0, trial.companions)
    for thread in crowd[:first]:
        thread.start()
    answers: list[Completion] = []
    sent = {**asked(needle, salt), "priority": trial.priority}
    needle_thread = threading.Thread(target=lambda: answers.append(runtime.chat(**sent)))
    needle_thread.start()
    for thread in crowd[first:]:
        thread.start()
    for thread in (needle_thread, *crowd):
        thread.join()
    if not answers:
        return Outcome(trial, "no answer", 0, 0)
    told = bits(answers[0])
    preemptions = runtime.stats()["preemptions"] - before
    difference = None if told == alone else f"alone {alone!r}, in the crowd {told!r}"
    return Outcome(trial, difference, preemptions, answers[0].usage.cached_tokens)


def outcomes(*, trials: int, seed: int, most_companions: int) -> Iterator[Outcome]:
    """Loads the embedded model twice, with a large and with a small pool, and runs the trials one after another."""
    with ExitStack() as stack:
        pools = {
            small: stack.enter_context(Runtime.load(progress=False, kv_cache_mb=SMALL_POOL_MB if small else LARGE_POOL_MB))
            for small in (False, True)
        }
        alone = [bits(pools[False].chat(**asked(needle, f"alone {index}"))) for index, needle in enumerate(NEEDLES)]
        rng = random.Random(seed)
        for number in range(trials):
            trial = Trial.drawn(rng, number, most_companions)
            yield outcome(trial, pools[trial.small_pool], alone[trial.needle], rng)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.needle", description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--companions", type=int, default=64, help="at most so many companions (default 64)")
    parser.add_argument("--seed", type=int, default=1, help="draws the trials (default 1)")
    options = parser.parse_args()
    begun = time.monotonic()
    seen: list[Outcome] = []
    for one in outcomes(trials=options.trials, seed=options.seed, most_companions=options.companions):
        seen.append(one)
        verdict = "equal" if one.difference is None else f"DIFFERS: {one.difference}"
        sys.stdout.write(f"{time.monotonic() - begun:5.0f} s  {one.trial}  {one.preemptions} gave way  {verdict}\n")
        sys.stdout.flush()
    differing = sum(one.difference is not None for one in seen)
    preempted = sum(one.preemptions > 0 for one in seen)
    warm = sum(one.cached_tokens > 0 for one in seen)
    sys.stdout.write(f"{len(seen)} trials, {preempted} with preemption, {warm} with a warm prefix: {differing} differ\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
