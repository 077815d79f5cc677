"""Models that see against transformers, live: one and two images of odd sizes, plain and over HTTP."""

import asyncio
import base64
import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from tests.golden.test_families import ASKED, TOLERANCE, check
from tests.golden.tiny_models import GEMMA_IMAGES, IMAGE_TOKENS, QWEN_IMAGES, SEEING, TIE, Reference, TinyCheckpoint, parsed
from tests.golden.tiny_templates import TEXT, TOOLS, WEATHER
from tests.live_server import serving
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil, get_aspect_ratio_preserving_size
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from ecocore.completion import Completion
from ecocore.prompt.images.loader import ImageLoader
from ecocore.prompt.prompt import AnswerForm
from ecocore.request import ChatRequest
from ecocore.runtime import PROMPT_TOKENS, Runtime

# (height, width): smaller and larger than is looked at, halves that round to even, windows that are whole and cut.
SIZES = {"small": (40, 33), "wide": (70, 301), "large": (420, 330), "whole": (112, 224)}


def picture(name: str) -> NDArray[np.uint8]:
    """Patches of colour under noise, another one for each size."""
    height, width = SIZES[name]
    generator = np.random.default_rng(height)
    coarse = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    noise = generator.integers(-40, 40, (height, width, 3))
    pixels: NDArray[np.uint8] = np.clip(coarse + noise, 0, 255).astype(np.uint8)
    return pixels


def file_of(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def inline(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(file_of(pixels)).decode()


def part(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": inline(pixels)}}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


WORDS = "".join(f"On day {day} the keeper saw {day * 7 % 11} ships. " for day in range(1, 25))
# What is said, and the images that it shows.
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "none": (TEXT["turns"], []),
    "one": ([{"role": "user", "content": [words("What is this? "), part(picture("wide")), words(" Say.")]}], ["wide"]),
    "small": ([{"role": "user", "content": [part(picture("small"))]}], ["small"]),
    # The first step would end within the image.
    "late": ([{"role": "user", "content": [words(WORDS), part(picture("large"))]}], ["large"]),
    "two": (
        [
            {"role": "user", "content": [part(picture("large")), words("One."), part(picture("whole"))]},
            {"role": "assistant", "content": "Two pictures."},
            {"role": "user", "content": [words("And what else?")]},
        ],
        ["large", "whole"],
    ),
}


def resized(pixels: NDArray[np.uint8], height: int, width: int) -> torch.Tensor:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    return torch.nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)[0]


class QwenOracle:
    """Prompt and pixels as transformers' processor makes them; only the resizing is torch's own, as there."""

    def __init__(self, checkpoint: TinyCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.processor = Qwen2VLImageProcessorPil(**QWEN_IMAGES)

    def answer(self, messages: list[dict[str, Any]], names: list[str]) -> Reference:
        checkpoint = self.checkpoint
        checkpoint.model.model.rope_deltas = None
        if not names:
            return checkpoint.answer(messages)
        plain = [{**message, "content": _bare(message["content"])} for message in messages]
        ids = checkpoint.tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False, tokenize=True)
        images = []
        for name in names:
            height, width = smart_resize(
                *SIZES[name], 28, min_pixels=QWEN_IMAGES["min_pixels"], max_pixels=QWEN_IMAGES["max_pixels"]
            )
            images.append(resized(picture(name), height, width).permute(1, 2, 0).numpy())
        seen = self.processor(images=images, do_resize=False, return_tensors="pt")
        pad = checkpoint.model.config.image_token_id
        counts = iter((seen["image_grid_thw"].prod(-1) // 4).tolist())
        prompt = [one for token in ids for one in ([token] * next(counts) if token == pad else [token])]
        extras = {
            "pixel_values": seen["pixel_values"].float(),
            "image_grid_thw": seen["image_grid_thw"],
            "mm_token_type_ids": torch.tensor([[int(token == pad) for token in prompt]]),
        }
        return checkpoint.continued(prompt, extras)


class GemmaOracle:
    """As `QwenOracle`."""

    def __init__(self, checkpoint: TinyCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.processor = Gemma4ImageProcessorPil(**GEMMA_IMAGES)

    def answer(self, messages: list[dict[str, Any]], names: list[str]) -> Reference:
        checkpoint = self.checkpoint
        if not names:
            return checkpoint.answer(messages)
        plain = [{**message, "content": _bare(message["content"])} for message in messages]
        ids = checkpoint.tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False, tokenize=True)
        patches = GEMMA_IMAGES["max_soft_tokens"] * 9
        images = []
        for name in names:
            height, width = get_aspect_ratio_preserving_size(*SIZES[name], 16, patches, 3)
            images.append(resized(picture(name), height, width).permute(1, 2, 0).numpy())
        seen = self.processor(images=images, do_resize=False, return_tensors="pt")
        begin, pad, end = checkpoint.tokenizer.convert_tokens_to_ids(list(IMAGE_TOKENS))
        counts = iter([int(count) for count in seen["num_soft_tokens_per_image"]])
        prompt = [one for token in ids for one in ([begin, *[token] * next(counts), end] if token == pad else [token])]
        extras = {
            "pixel_values": seen["pixel_values"].float(),
            "image_position_ids": seen["image_position_ids"],
            "mm_token_type_ids": torch.tensor([[int(token == pad) for token in prompt]]),
        }
        return checkpoint.continued(prompt, extras)


def _bare(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "image"} if piece["type"] == "image_url" else piece for piece in content]


@dataclass
class Pair:
    runtime: Runtime
    checkpoint: TinyCheckpoint
    tool_template: str | None
    references: dict[str, Reference]
    banned: list[int]

    def ask(self, name: str) -> dict[str, Any]:
        bias = {str(token_id): -100 for token_id in self.banned}
        return {"messages": CONVERSATIONS[name][0], "logit_bias": bias, **ASKED}


@pytest.fixture(scope="module", params=list(SEEING))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    checkpoint = TinyCheckpoint(SEEING[request.param], tmp_path_factory.mktemp("tiny"))
    oracle = QwenOracle(checkpoint) if SEEING[request.param].images is QWEN_IMAGES else GemmaOracle(checkpoint)
    references = {name: oracle.answer(*asked) for name, asked in CONVERSATIONS.items()}
    with pytest.MonkeyPatch.context() as patch, Runtime.load(checkpoint.folder, kv_cache_mb=16, progress=False) as runtime:
        patch.setattr(runtime, "_form", lambda _: AnswerForm())
        yield Pair(runtime, checkpoint, SEEING[request.param].tool_template, references, checkpoint.banned)


def test_no_reference_is_a_tie(pair: Pair) -> None:
    for name, reference in pair.references.items():
        assert reference.margin > TIE, f"{name}: {reference.margin}; choose another seed"
        assert len(set(reference.token_ids)) > 3, name


def test_answers_are_those_of_transformers_alone_in_company_and_from_the_cache(pair: Pair) -> None:
    names = list(pair.references)
    alone = {name: pair.runtime.chat(**pair.ask(name)) for name in names}
    for name in names:
        check(alone[name], pair.references[name], name)

    async def together() -> list[Completion]:
        return await asyncio.gather(*(pair.runtime.achat(**pair.ask(name)) for name in names))

    before = pair.runtime.stats()["prefix_hits"]
    for name, crowded in zip(names, asyncio.run(together()), strict=True):
        assert crowded.logprobs == alone[name].logprobs, name
    assert pair.runtime.stats()["prefix_hits"] > before


def test_a_step_that_would_cut_an_image_is_among_the_cases(pair: Pair) -> None:
    request = ChatRequest.parse({"model": "tiny", **pair.ask("late")})
    (view,) = pair.runtime._prepare_whole(request).views
    if pair.runtime.tokenizer.token_to_id("<|image|>") is not None:
        assert view.start < PROMPT_TOKENS < view.start + view.rows * view.columns


def test_conversations_with_tools_are_told_in_the_template_for_them(pair: Pair) -> None:
    if pair.tool_template is None:
        pytest.skip("this model has one template")
    for messages in TOOLS.values():
        request = ChatRequest.parse({"model": "tiny", "messages": messages, "tools": [WEATHER]})
        expected = pair.checkpoint.tokenizer.apply_chat_template(
            parsed(messages),
            tools=[WEATHER],
            chat_template=pair.tool_template,
            add_generation_prompt=True,
            return_dict=False,
            tokenize=True,
        )
        assert pair.runtime.prepare(request).token_ids.tolist() == expected
    shown = [{"role": "user", "content": [words("What is this?"), part(picture("small"))]}]
    (view,) = pair.runtime._prepare_whole(ChatRequest.parse({"model": "tiny", "messages": shown, "tools": [WEATHER]})).views
    assert view.rows * view.columns > 0


def test_an_image_is_never_taken_for_another_of_the_same_size(pair: Pair) -> None:
    changed = part(255 - picture("small"))
    first = pair.runtime.chat(**pair.ask("small"))
    second = pair.runtime.chat(**(pair.ask("small") | {"messages": [{"role": "user", "content": [changed]}]}))
    assert first.logprobs != second.logprobs


def test_over_http_by_data_url_and_by_address_plain_and_streamed(pair: Pair, tmp_path: Path) -> None:
    reference = pair.references["two"]
    asked = {key: value for key, value in pair.ask("two").items() if key != "temperature"}
    with image_host() as host, serving(tmp_path, model=pair.runtime, images=ImageLoader(allowed_origins=[host])) as live:
        remote = [{**message, "content": _by_address(message["content"], host)} for message in asked["messages"]]
        whole = [live.chat(**asked | {"model": live.runtime.model_id, "messages": sent}) for sent in (asked["messages"], remote)]
        for response in whole:
            assert response.status_code == 200, response.text
            told = response.json()
            assert told["usage"]["prompt_tokens"] == len(reference.prompt_ids)
            drawn = told["choices"][0]["logprobs"]["content"]
            assert len(drawn) == len(reference.token_ids)
            for token, token_id, expected in zip(drawn, reference.token_ids, reference.top, strict=True):
                assert abs(token["logprob"] - expected.get(token_id, token["logprob"])) < TOLERANCE
        assert whole[0].json()["choices"] == whole[1].json()["choices"]
        with live.client() as client:
            stream = client.chat.completions.create(
                model=live.runtime.model_id,
                messages=asked["messages"],
                logit_bias=asked["logit_bias"],
                max_tokens=asked["max_tokens"],
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == whole[0].json()["choices"][0]["message"]["content"]


@contextmanager
def image_host() -> Iterator[str]:
    """An origin on loopback that serves each picture under its name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file_of(picture(self.path.strip("/"))))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _by_address(content: Any, origin: str) -> Any:
    if isinstance(content, str):
        return content
    names = {inline(picture(name)): name for name in SIZES}
    return [
        {"type": "image_url", "image_url": {"url": f"{origin}/{names[piece['image_url']['url']]}"}}
        if piece["type"] == "image_url"
        else piece
        for piece in content
    ]
