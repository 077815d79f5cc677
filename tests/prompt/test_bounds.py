"""What fits a model: the same for messages, for a text and for token ids."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.prompt.templates import CHATML

from ecocore._core import Tokenizer
from ecocore.errors import ContextLengthExceeded, InvalidParameter
from ecocore.prompt.build import PromptBuilder
from ecocore.prompt.images.image import Image
from ecocore.prompt.plain import PlainPrompts
from ecocore.prompt.prompt import Prompt
from ecocore.prompt.template import ChatTemplate
from ecocore.request import ChatRequest

Build = Callable[[str, ChatRequest], Prompt]
BOUNDS: Any = {"context_length": 100, "vocab_size": 257}


def chat(_text: str, request: ChatRequest) -> Prompt:
    return PromptBuilder(Tokenizer.bytes_only(), ChatTemplate(CHATML, {}), **BOUNDS).build(request)


def plain() -> PlainPrompts:
    return PlainPrompts(Tokenizer.bytes_only(), start_ids=(), **BOUNDS)


def of_text(text: str, request: ChatRequest) -> Prompt:
    return plain().build(text, request)


def of_ids(text: str, request: ChatRequest) -> Prompt:
    return plain().build(list(text.encode()), request)


def asking(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "m", "messages": [{"role": "user", "content": text}], **fields})


@pytest.fixture(params=[chat, of_text, of_ids])
def build(request: pytest.FixtureRequest) -> Build:
    made: Build = request.param
    return made


def test_the_answer_gets_what_remains(build: Build) -> None:
    remaining = 100 - len(build("hello", asking("hello")).token_ids)
    for asked, expected in {None: remaining, 5: 5, 99: remaining}.items():
        assert build("hello", asking("hello", max_tokens=asked)).max_tokens == expected


def test_what_leaves_no_room_is_refused_by_its_field(build: Build) -> None:
    field = "messages" if build is chat else "prompt"
    with pytest.raises(ContextLengthExceeded, match=r"the context here is 100 .* shorten") as raised:
        build("x" * 100, asking("x" * 100))
    assert raised.value.param == field


@pytest.mark.parametrize("fields", [{"logit_bias": {"257": 1}}, {"stop_token_ids": [1, 257]}])
def test_ids_that_the_model_lacks_are_refused_by_their_field(build: Build, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="token id 257 is outside the vocabulary of 257") as raised:
        build("hello", asking("hello", **fields))
    assert raised.value.param in fields


def test_the_salt_of_a_request_reaches_its_prompt(build: Build) -> None:
    for salt, expected in {None: b"", "mine": b"mine", "\u00e9\U0001f600": "\u00e9\U0001f600".encode()}.items():
        assert build("hello", asking("hello", cache_salt=salt)).cache_salt == expected


@pytest.mark.parametrize("ids", [[1, 257], [-1, 5], [2**40], []])
def test_a_prompt_of_ids_that_are_none_is_refused(ids: list[int]) -> None:
    with pytest.raises(InvalidParameter) as raised:
        plain().build(ids, asking("x"))
    assert raised.value.param == "prompt"


def test_a_prompt_that_shows_images_differs_from_itself_in_their_digest_alone(build: Build) -> None:
    def image(seed: int) -> Image:
        return Image(np.zeros((2, 2, 3), np.uint8), bytes([seed]) * 32)

    prompt = build("hello", asking("hello", cache_salt="mine", max_tokens=5))
    one, two, turned = (prompt.showing(images) for images in ([image(1)], [image(1), image(2)], [image(2), image(1)]))
    assert len({prompt.image_digest, one.image_digest, two.image_digest, turned.image_digest}) == 4
    assert one.image_digest == prompt.showing([image(1)]).image_digest
    for shown in (one, two, turned):
        assert shown.token_ids is prompt.token_ids
        assert (shown.max_tokens, shown.cache_salt, shown.form) == (5, b"mine", prompt.form)
