"""The cases can tell right from wrong: each fact that is broken on purpose changes an answer by more than the tolerance."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from tests.golden.known import TOLERANCE, Known, Knows

from ecocore.model import attention, gemma4, llama, qwen2_5_vl_vision, sight
from ecocore.model.batch import Integers
from ecocore.model.gemma4_config import Gemma4Config
from ecocore.model.qwen2_5_vl import Qwen25Vl
from ecocore.model.qwen2_5_vl_config import Qwen25VlConfig
from ecocore.model.rotary import rotary_frequencies
from ecocore.prompt.images import qwen2_5_vl, view
from ecocore.runtime import Runtime

Break = Callable[[pytest.MonkeyPatch], None]


def furthest(model: Known) -> float:
    """The largest difference of a log-probability over all cases; infinite where a prompt is another."""
    worst = 0.0
    with Runtime.load(model.folder, kv_cache_mb=16, progress=False) as runtime:
        for case, reference in model.references.items():
            answer = runtime.chat(**model.ask(case) | {"max_tokens": 8})
            if answer.usage.prompt_tokens != len(reference.prompt_ids):
                return float("inf")
            for token, expected, drawn in zip(answer.logprobs, reference.top, reference.token_ids, strict=False):
                ours = {one.token_id: one.logprob for one in token.top}
                shared = ours.keys() & expected.keys()
                worst = max([worst, *(abs(ours[one] - expected[one]) for one in shared)])
                if token.token_id != drawn:
                    break
    return worst


def _of(config: type[Any], change: Callable[[Any], Any]) -> Break:
    """What the files say is read otherwise."""
    right = config.of.__func__

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(config, "of", classmethod(lambda cls, checkpoint: change(right(cls, checkpoint))))

    return apply


def _no_scaling(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(llama, "rotary_frequencies", lambda dim, theta, _: rotary_frequencies(dim, theta))


def _one_dimension(patch: pytest.MonkeyPatch) -> None:
    def counted(_: Any, views: Sequence[sight.View], length: int) -> Integers:
        return np.broadcast_to(np.arange(length + 1), (3, length + 1))

    patch.setattr(Qwen25Vl, "coordinates", counted)


def _half_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(qwen2_5_vl, "round", lambda value: int(value + 0.5), raising=False)


def _pillow(patch: pytest.MonkeyPatch) -> None:
    def resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        return np.array(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BICUBIC))

    patch.setattr(view, "resize_rgb", resized)


def _wider_window(by: int) -> Break:
    def change(config: Gemma4Config) -> Gemma4Config:
        layers = (replace(layer, window=layer.window and layer.window + by) for layer in config.kv_layers)
        return replace(config, kv_layers=tuple(layers))

    return _of(Gemma4Config, change)


def _no_layer_scalar(patch: pytest.MonkeyPatch) -> None:
    right = gemma4._Layer.__init__

    def changed(self: Any, *arguments: Any) -> None:
        right(self, *arguments)
        self._scalar = torch.ones_like(self._scalar)

    patch.setattr(gemma4._Layer, "__init__", changed)


def _scaled_images(patch: pytest.MonkeyPatch) -> None:
    right = gemma4.Gemma4.see

    def changed(self: Any, image: sight.View) -> Generator[None, None, torch.Tensor]:
        seen: torch.Tensor = yield from right(self, image)
        return seen.mul(60**0.5)

    patch.setattr(gemma4.Gemma4, "see", changed)


def _images_in_full_layers(patch: pytest.MonkeyPatch) -> None:
    right = attention.AttentionPlan._plan_prefills

    def changed(self: Any, batch: Any, tables: Any, mask: Any, spans: Any, *, look_around: bool) -> Any:
        return right(self, batch, tables, mask, spans, look_around=True)

    patch.setattr(attention.AttentionPlan, "_plan_prefills", changed)


def _angles(name: str, **change: Any) -> Break:
    return _of(Gemma4Config, lambda config: replace(config, **{name: replace(getattr(config, name), **change)}))


BROKEN: dict[str, tuple[str, Break]] = {
    "no scaling of rotary waves": ("llama3 tied", _no_scaling),
    "another epsilon": ("gemma4 text sharded", _of(Gemma4Config, lambda config: replace(config, rms_norm_eps=1e-6))),
    "the tower's epsilon in the text": (
        "qwen2.5-vl",
        _of(Qwen25VlConfig, lambda config: replace(config, text=replace(config.text, rms_norm_eps=1e-6))),
    ),
    # The text's, 1e-5, would move log-probabilities by 0.0003 only: the tower's numbers are large, and the tolerance sees
    # epsilons from 1e-4 on.
    "another epsilon in the tower": ("qwen2.5-vl", lambda patch: patch.setattr(qwen2_5_vl_vision, "_EPS", 1e-3)),
    "positions in one dimension": ("qwen2.5-vl", _one_dimension),
    "no windows in the tower": (
        "qwen2.5-vl",
        _of(Qwen25VlConfig, lambda config: replace(config, tower=replace(config.tower, full_layers=frozenset(range(4))))),
    ),
    "halves rounded up": ("qwen2.5-vl", _half_up),
    "resizing by Pillow": ("qwen2.5-vl", _pillow),
    "a window of one more": ("gemma4 text sharded", _wider_window(1)),
    "a window of one less": ("gemma4 text sharded", _wider_window(-1)),
    "no cap": ("gemma4 text sharded", _of(Gemma4Config, lambda config: replace(config, logit_cap=None))),
    "no scalar of a layer": ("gemma4 text sharded", _no_layer_scalar),
    "all pairs of full layers turn": ("gemma4 text sharded", _angles("full", rotated=8)),
    "tokens of an image that only look back": ("gemma4", _of(Gemma4Config, lambda config: replace(config, looks_around=False))),
    "tokens of an image that look around everywhere": ("gemma4", _images_in_full_layers),
    "images scaled as tokens are": ("gemma4", _scaled_images),
}


@pytest.mark.parametrize("name", sorted({name for name, _ in BROKEN.values()}))
def test_what_is_whole_is_within_the_tolerance(name: str, known: Knows) -> None:
    assert furthest(known(name)) < TOLERANCE


@pytest.mark.parametrize("fact", list(BROKEN))
def test_each_broken_fact_is_noticed(fact: str, known: Knows, monkeypatch: pytest.MonkeyPatch) -> None:
    name, broken = BROKEN[fact]
    model = known(name)
    broken(monkeypatch)
    assert furthest(model) > TOLERANCE
