"""A short run of `make schema`, and that it would see a lie."""

import copy
from collections.abc import Iterator

import httpx
import pytest
from tests.live_server import Live, serving
from tests.schema import CONTEXT_LENGTH, ask

BODIES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A context so small that no answer is long."""
    with serving(tmp_path_factory.mktemp("schema"), context_length=CONTEXT_LENGTH) as server:
        yield server


def test_every_answer_is_as_described(small: Live) -> None:
    tally = ask(small, 300)
    assert tally.violations == []
    assert tally.requests >= 300
    assert {("POST " + path, status) for path in BODIES for status in (200, 400)} <= tally.answers.keys()


def test_an_answer_that_is_not_as_described_is_found(small: Live) -> None:
    document = httpx.get(f"{small.url}/openapi.json").json()
    paths = document["paths"]
    lying = copy.deepcopy(document)
    lying["paths"] = {"/tokenize": paths["/tokenize"], "/detokenize": paths["/detokenize"]}
    answer = {"type": "object", "properties": {"prompt": {"type": "integer"}}}
    lying["paths"]["/detokenize"]["post"]["responses"]["200"]["content"]["application/json"]["schema"] = answer
    tally = ask(small, 20, document=lying)
    assert tally.violations
    assert all(violation.startswith("POST /detokenize") for violation in tally.violations)
