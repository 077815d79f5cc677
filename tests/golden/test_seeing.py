"""Models that see: what the cases of `test_families` leave open. Images by data URL and by address, with the official client."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from openai import OpenAI
from tests.golden.cases import WEATHER
from tests.golden.known import Known, Knows
from tests.golden.pictures import by_address, image_host, part, picture, words
from tests.golden.tiny_models import SEEING
from tests.live_server import serving

from ecocore import capacity as capacity_module
from ecocore.capacity import PROMPT_TOKENS, Capacity
from ecocore.model.kv_groups import BLOCK_SIZE
from ecocore.prompt.images.loader import ImageLoader
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime


@dataclass
class Pair:
    known: Known
    runtime: Runtime

    def views(self, name: str, **fields: Any) -> Any:
        request = ChatRequest.parse({"model": "tiny", **self.known.ask(name), **fields})
        return self.runtime._prepare_whole(request).views


@pytest.fixture(scope="module", params=list(SEEING))
def pair(request: pytest.FixtureRequest, known: Knows) -> Iterator[Pair]:
    model = known(request.param)
    with Runtime.load(model.folder, kv_cache_mb=16, progress=False) as runtime:
        yield Pair(model, runtime)


def test_a_step_that_would_cut_an_image_is_among_the_cases(pair: Pair) -> None:
    (view,) = pair.views("late")
    begin, end = view.start, view.start + view.rows * view.columns
    assert any(begin < cut < end for cut in range(0, end, BLOCK_SIZE))


def test_images_are_looked_at_where_tools_are_told_in_another_template(pair: Pair) -> None:
    shown = [{"role": "user", "content": [words("What is this?"), part(picture("small"))]}]
    (view,) = pair.views("small", messages=shown, tools=[WEATHER])
    assert view.rows * view.columns > 0


def test_an_image_is_never_taken_for_another_of_the_same_size(pair: Pair) -> None:
    changed = part(255 - picture("small"))
    first = pair.runtime.chat(**pair.known.ask("small"))
    second = pair.runtime.chat(**(pair.known.ask("small") | {"messages": [{"role": "user", "content": [changed]}]}))
    assert first.logprobs != second.logprobs


def cold(asked: dict[str, Any]) -> dict[str, Any]:
    """The same, with nothing in the cache for it."""
    return asked | {"cache_salt": "nobody else's"}


def test_a_later_turn_with_another_image_finds_all_that_stands_before_it(pair: Pair) -> None:
    asked = pair.known.ask("late")
    pair.runtime.chat(**asked)
    later = [{"role": "assistant", "content": "Ships."}, {"role": "user", "content": [words("And "), part(picture("whole"))]}]
    asked["messages"] = [*asked["messages"], *later]
    _, added = pair.views("late", messages=asked["messages"])
    warm = pair.runtime.chat(**asked)
    # The first turn ended with a question for an answer, up to where its last whole block goes.
    assert warm.usage.cached_tokens >= PROMPT_TOKENS
    assert added.start - warm.usage.cached_tokens < 2 * BLOCK_SIZE
    assert warm.logprobs == pair.runtime.chat(**cold(asked)).logprobs


def test_a_hit_that_ends_within_an_image_changes_no_bit(pair: Pair) -> None:
    for length in range(2 * BLOCK_SIZE):
        shown = [words("x" * length), part(picture("large"))]
        asked = pair.known.ask("late") | {"messages": [{"role": "user", "content": shown}]}
        prompt = pair.runtime._prepare_whole(ChatRequest.parse({"model": "tiny", **asked}))
        (view,) = prompt.views
        found = (len(prompt.token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE
        if view.start < found < view.start + view.rows * view.columns:
            break
    else:
        pytest.fail("no text before the image is so long that blocks end within it")
    pair.runtime.chat(**asked)
    warm = pair.runtime.chat(**asked)
    assert warm.usage.cached_tokens == found
    assert warm.logprobs == pair.runtime.chat(**cold(asked)).logprobs


def test_images_side_by_side_are_read_one_by_one_and_no_step_changes_a_bit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = [part(np.roll(picture("large"), shift, axis=1)) for shift in range(5)]
    asked = pair.known.ask("late") | {"messages": [{"role": "user", "content": [*beside, words("Which one?")]}]}
    views = pair.runtime._prepare_whole(ChatRequest.parse({"model": "tiny", **asked})).views
    largest = max(view.rows * view.columns for view in views)
    assert all(after.start - before.start - before.rows * before.columns <= 2 for before, after in pairwise(views))
    whole = pair.runtime.chat(**asked)
    monkeypatch.setattr(capacity_module, "PROMPT_TOKENS", BLOCK_SIZE)
    # So little memory that five images and their window would not be there at once.
    with Runtime.load(pair.known.folder, kv_cache_mb=1, capacity=Capacity(running=2), progress=False) as small:
        steps: list[int] = []
        compute = small._loop._executor._model.forward

        def noting(batch: Any) -> Any:
            steps.append(batch.num_prompt_tokens)
            return compute(batch)

        monkeypatch.setattr(small._loop._executor._model, "forward", noting)
        cut = [small.chat(**asked), small.chat(**asked)]
    assert cut[1].usage.cached_tokens > 0
    assert [one.logprobs for one in cut] == [whole.logprobs] * 2
    assert max(steps) <= max(small._loop._capacity.step_tokens, largest + BLOCK_SIZE)


def test_the_official_client_shows_images_by_data_url_and_by_address_plain_and_streamed(pair: Pair, tmp_path: Path) -> None:
    authority = trustme.CA()
    certified, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(certified)
    authority.configure_trust(trusting)
    inline = pair.known.cases["two"].messages
    with image_host() as http, image_host(certified) as https:
        places = [
            inline,
            *([{**turn, "content": by_address(turn["content"], host)} for turn in inline] for host in (http, https)),
        ]
        images = ImageLoader(allowed_origins=[http, https], ssl=trusting)
        with serving(tmp_path, model=pair.runtime, images=images) as live, live.client().with_options(timeout=120) as client:
            answers = [answer(client, pair, messages) for messages in places]
            streams = [stream(client, pair, messages) for messages in places]
        images.close()
    choice, usage = answers[0]
    pair.known.check_told(choice, usage, "two")
    assert [told for told, _ in answers[1:]] == [choice, choice]
    assert streams == [choice["message"]["content"]] * len(places)


def parameters(pair: Pair, messages: Any) -> dict[str, Any]:
    asked = pair.known.ask("two") | {"messages": messages, "model": pair.runtime.model_id}
    return asked | {"extra_body": {"ignore_eos": asked.pop("ignore_eos")}}


def answer(client: OpenAI, pair: Pair, messages: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    told = client.chat.completions.create(**parameters(pair, messages)).model_dump()
    return told["choices"][0], told["usage"]


def stream(client: OpenAI, pair: Pair, messages: Any) -> str:
    chunks = client.chat.completions.create(**parameters(pair, messages), stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
