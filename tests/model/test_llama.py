"""Tiny Llamas against what transformers computed, in both formats, with each fact that could be wrong."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.checkpoints import (
    DIM,
    HIDDEN,
    LLAMA3_ROPE,
    TINY,
    TINY_CASES,
    VOCAB,
    MemoryCheckpoint,
    as_gguf,
    tiny_prompt,
    tiny_tensors,
)
from tests.model.driver import Driver, Line, runner_of
from torch import Tensor

from ecocore.errors import InvalidModelFile

GOLDEN: dict[str, list[float]] = json.loads((Path(__file__).parents[1] / "golden/tiny_llama.json").read_text("utf-8"))["logits"]
NAMES = list(TINY_CASES)


def logits_of(checkpoint: MemoryCheckpoint, **options: Any) -> Tensor:
    runner = runner_of(checkpoint, **options)
    return Driver(runner).step(Line.of(tiny_prompt()).prompt)[0]


def folder(name: str) -> MemoryCheckpoint:
    return MemoryCheckpoint(tiny_tensors(TINY_CASES[name]), TINY_CASES[name])


@pytest.mark.parametrize("name", NAMES)
def test_logits_agree_with_transformers(name: str) -> None:
    torch.testing.assert_close(logits_of(folder(name)), torch.tensor(GOLDEN[name]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "llama3"])
def test_a_gguf_file_of_the_same_model_gives_the_same_logits(name: str) -> None:
    config = TINY_CASES[name]
    torch.testing.assert_close(logits_of(as_gguf(tiny_tensors(config), config)), torch.tensor(GOLDEN[name]), rtol=0, atol=1e-4)


def test_gguf_scales_its_rotary_frequencies_by_a_tensor() -> None:
    checkpoint = as_gguf(tiny_tensors())
    divisors = []
    for index in range(DIM // 2):
        wavelength = 2 * math.pi * 10000 ** (2 * index / DIM)
        blend = (LLAMA3_ROPE["original_max_position_embeddings"] / wavelength - 1.0) / (4.0 - 1.0)
        blend = min(max(blend, 0.0), 1.0)
        divisors.append(1 / ((1 - blend) / 8.0 + blend))
    checkpoint.tensors["rope_freqs.weight"] = torch.tensor(divisors)
    torch.testing.assert_close(logits_of(checkpoint), torch.tensor(GOLDEN["llama3"]), rtol=0, atol=1e-4)


def test_every_fact_makes_a_difference_that_the_tolerance_would_catch() -> None:
    plain = torch.tensor(GOLDEN["plain"])
    for name in NAMES[1:]:
        assert (torch.tensor(GOLDEN[name]) - plain).abs().max() > 0.01, name


@pytest.mark.parametrize("part", ["q_proj", "k_proj"])
def test_the_order_of_query_and_key_rows_makes_a_difference(part: str) -> None:
    tensors = tiny_tensors()
    wrong = as_gguf(tensors)
    gguf_name = {"q_proj": "attn_q", "k_proj": "attn_k"}[part]
    for index in range(2):
        wrong.tensors[f"blk.{index}.{gguf_name}.weight"] = tensors[f"model.layers.{index}.self_attn.{part}.weight"]
    assert (logits_of(wrong) - torch.tensor(GOLDEN["plain"])).abs().max() > 0.01


def test_a_tied_head_ignores_a_stored_one() -> None:
    checkpoint = folder("tied")
    checkpoint.tensors["lm_head.weight"] = torch.zeros((VOCAB, HIDDEN))
    torch.testing.assert_close(logits_of(checkpoint), torch.tensor(GOLDEN["tied"]), rtol=0, atol=1e-4)


def test_stored_frequencies_of_older_files_are_ignored() -> None:
    checkpoint = folder("plain")
    checkpoint.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(DIM // 2)
    torch.testing.assert_close(logits_of(checkpoint), torch.tensor(GOLDEN["plain"]), rtol=0, atol=1e-4)


def test_bfloat16_stays_near() -> None:
    exact = torch.tensor(GOLDEN["plain"]).log_softmax(-1)
    near = logits_of(folder("plain"), precision="fast").log_softmax(-1)
    assert 0 < (near - exact).abs().max() < 0.3


@pytest.mark.parametrize("divisor", [0.0, -1.0])
def test_divisors_that_would_make_no_number_are_refused(divisor: float) -> None:
    checkpoint = folder("plain")
    checkpoint.tensors["rope_freqs.weight"] = torch.full((DIM // 2,), divisor)
    with pytest.raises(InvalidModelFile, match="divisors of rotary frequencies must be above 0"):
        runner_of(checkpoint)


def test_a_base_of_angles_that_would_make_no_number_is_refused() -> None:
    with pytest.raises(InvalidModelFile, match="infinite or not a number"):
        runner_of(MemoryCheckpoint(tiny_tensors(), TINY | {"rope_theta": 1e-320}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lm_head.weight": None}, "lacks the tensor lm_head.weight of shape 130 x 48"),
        (
            {"model.layers.1.mlp.up_proj.weight": torch.ones(96, 47)},
            r"up_proj.weight has shape 96 x 47; this model needs 96 x 48",
        ),
        ({"model.norm.weight": torch.ones(())}, "model.norm.weight has shape scalar"),
        ({"model.layers.2.mlp.up_proj.weight": torch.ones(96, 48)}, "does not know: 'model.layers.2.mlp.up_proj.weight'"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(96)}, "does not know: 'model.layers.0.self_attn.q_proj.bias'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor | None], said: str) -> None:
    tensors: dict[str, Tensor | None] = {**tiny_tensors(), **change}
    checkpoint = MemoryCheckpoint({name: tensor for name, tensor in tensors.items() if tensor is not None}, TINY)
    with pytest.raises(InvalidModelFile, match=said):
        runner_of(checkpoint)
