"""The embedded model, whole: the right answer, and the same bits whatever else is going on."""

import random
import threading
from typing import Any

import pytest

from ecocore.completion import Completion
from ecocore.events import TokenLogprob
from ecocore.runtime import Runtime

pytestmark = pytest.mark.weights

NEEDLE: dict[str, Any] = {
    "messages": "Write one sentence about the sea.",
    "max_tokens": 24,
    "seed": 20240229,
    "top_p": 0.95,
    "frequency_penalty": 0.3,
    "logprobs": True,
    "top_logprobs": 3,
}
LONG = "The tide comes in, the tide goes out, and the harbour waits. " * 12


def bits(answer: Completion) -> tuple[str, tuple[TokenLogprob, ...]]:
    """Everything that must not change; log-probabilities compare as bits."""
    return answer.text, answer.logprobs


def test_the_capital_of_france(smollm2: Runtime) -> None:
    assert smollm2.chat("What is the capital of France?", temperature=0).text == "The capital of France is Paris."


def test_counting_goes_on_as_the_makers_code_counts(smollm2: Runtime) -> None:
    answer = smollm2.chat("Count from 1 to 10.", temperature=0, max_tokens=32)
    assert answer.text.startswith("1. 1\n2. 2\n3. 3\n4. 4\n5. 5")


def test_a_needle_is_the_same_among_random_companions(smollm2: Runtime) -> None:
    alone = bits(smollm2.chat(**NEEDLE))
    generator = random.Random(7)
    for trial in range(6):
        companions = [
            threading.Thread(
                target=smollm2.chat,
                args=(f"{number}: {LONG[: generator.randrange(10, 600)]}",),
                kwargs={"max_tokens": generator.randrange(1, 24), "seed": number},
            )
            for number in range(generator.randrange(1, 9))
        ]
        for companion in companions:
            companion.start()
        assert bits(smollm2.chat(**NEEDLE)) == alone, f"trial {trial}"
        for companion in companions:
            companion.join()


def test_a_warm_prefix_changes_no_bit() -> None:
    question: dict[str, Any] = {"messages": LONG + "What waits?", "max_tokens": 16, "temperature": 0, "logprobs": True}
    with Runtime.load(progress=False) as runtime:
        cold, warm = runtime.chat(**question), runtime.chat(**question)
    assert cold.usage.cached_tokens == 0
    assert warm.usage.cached_tokens >= 128
    assert bits(cold) == bits(warm)


def test_preemption_changes_no_bit() -> None:
    """A pool of a few blocks, so that sequences have to give way to each other and be computed anew."""
    asked: list[dict[str, Any]] = [
        {"messages": f"Tell me story number {number}.", "max_tokens": 120, "seed": number, "logprobs": True}
        for number in range(3)
    ]
    with Runtime.load(progress=False, kv_cache_mb=18) as runtime:
        alone = [bits(runtime.chat(**one)) for one in asked]
        together: dict[int, Any] = {}

        def ask(number: int) -> None:
            together[number] = bits(runtime.chat(**asked[number]))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert runtime.stats()["preemptions"] > 0
    assert [together[number] for number in range(len(asked))] == alone
