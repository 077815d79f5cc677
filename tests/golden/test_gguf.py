"""GGUF files of each family against transformers with the same weights, live."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH
from gguf import GGMLQuantizationType as Kind
from tests.golden.cases import IMAGES, TEXT, Case
from tests.golden.converted import convert_decoder, convert_gemma_decoder, convert_gemma_tower, convert_qwen_tower
from tests.golden.known import Known
from tests.golden.seeing import GEMMA_IMAGES
from tests.golden.tiny_models import MODELS, SEEING, TinyCheckpoint, qwen2, qwen2_5_vl
from transformers import LlamaConfig, LlamaForCausalLM

from ecocore.describing import describe
from ecocore.errors import InvalidParameter, InvalidRequest
from ecocore.families import family_of
from ecocore.runtime import Runtime
from ecocore.weights.checkpoint import open_checkpoint

# Every type that is read, so that each row of each matrix is whole blocks of it.
QUANTISED = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
QUANTISED += [Kind.IQ4_NL, Kind.IQ4_XS]
TURNS = {"turns": TEXT["turns"]}


def agree(checkpoint: TinyCheckpoint, path: Path, cases: Mapping[str, Case]) -> None:
    """The file's answers are transformers', whose weights became the file's."""
    known = Known.of(checkpoint, cases)
    known.refuse_ties()
    with Runtime.load(path, kv_cache_mb=16, progress=False) as runtime:
        assert runtime.accepts_images == any(case.images for case in cases.values())
        for name in cases:
            known.check(runtime.chat(**known.ask(name)), name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_qwen2(tmp_path: Path, kind: Kind, tied: bool) -> None:  # noqa: FBT001
    model = replace(MODELS["qwen2 tied"], build=lambda tokenizer: qwen2(tokenizer, tied=tied), seed=11)
    checkpoint = TinyCheckpoint(model, tmp_path / "folder")
    path = convert_decoder(checkpoint, tmp_path / "model.gguf", MODEL_ARCH.QWEN2, kind=lambda _: kind)
    agree(checkpoint, path, TURNS)


def wide_llama(layers: int) -> Callable[[Any], Any]:
    """As wide as the largest block."""

    def build(tokenizer: Any) -> Any:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=256,
                intermediate_size=256,
                num_hidden_layers=layers,
                num_attention_heads=8,
                num_key_value_heads=2,
                max_position_embeddings=2048,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4},
                tie_word_embeddings=False,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        )

    return build


def test_llama_with_every_type_in_one_file(tmp_path: Path) -> None:
    model = replace(MODELS["llama3 tied"], build=wide_llama(len(QUANTISED)), seed=12)
    checkpoint = TinyCheckpoint(model, tmp_path / "folder")

    def kind(name: str) -> Kind:
        return QUANTISED[int(name.split(".")[1])] if name.startswith("blk.") else Kind.Q6_K

    path = convert_decoder(checkpoint, tmp_path / "model.gguf", MODEL_ARCH.LLAMA, kind=kind)
    agree(checkpoint, path, TURNS)
    with pytest.raises(InvalidParameter, match=r"is for models that see images, and model\.gguf is none"):
        Runtime.load(path, mmproj=path, progress=False)


def qwen_vl(folder: Path) -> TinyCheckpoint:
    """Every second layer is without windows: a converter knows no other patterns."""
    model = replace(SEEING["qwen2.5-vl"], build=lambda tokenizer: qwen2_5_vl(tokenizer, full_layers=(1, 3)), seed=13)
    return TinyCheckpoint(model, folder)


def gemma(folder: Path) -> TinyCheckpoint:
    return TinyCheckpoint(replace(SEEING["gemma4"], seed=14), folder)


def qwen_vl_files(checkpoint: TinyCheckpoint, folder: Path, **options: Any) -> Path:
    def extra(writer: Any, config: Any) -> None:
        writer.add_rope_dimension_sections([*config.rope_parameters["mrope_section"], 0])

    convert_qwen_tower(checkpoint, folder / "mmproj-model.gguf", **options)
    return convert_decoder(checkpoint, folder / "model.gguf", MODEL_ARCH.QWEN2VL, extra=extra)


def gemma_files(checkpoint: TinyCheckpoint, folder: Path, **options: Any) -> Path:
    convert_gemma_tower(checkpoint, folder / "mmproj-model.gguf", **options)
    return convert_gemma_decoder(checkpoint, folder / "model.gguf")


@pytest.mark.parametrize("fused", [False, True])
def test_qwen2_5_vl_files_hold_the_tensors_of_the_folder(tmp_path: Path, fused: bool) -> None:  # noqa: FBT001
    checkpoint = qwen_vl(tmp_path / "folder")
    same_checkpoint(checkpoint, qwen_vl_files(checkpoint, tmp_path, fused=fused))


def test_gemma4_files_hold_the_tensors_of_the_folder(tmp_path: Path) -> None:
    checkpoint = gemma(tmp_path / "folder")
    same_checkpoint(checkpoint, gemma_files(checkpoint, tmp_path))


def same_checkpoint(checkpoint: TinyCheckpoint, path: Path) -> None:
    """Every tensor bit for bit, and the same config but for what stands in a tensor in one of them."""
    folder, file = open_checkpoint(checkpoint.folder), open_checkpoint(path)
    family = family_of(folder)
    assert family_of(file) is family
    told = family.told(file)

    def bare(name: str) -> str:
        """Newer folders have another prefix than older ones."""
        return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")

    theirs = {bare(name): folder.load(name, torch.float32) for name in folder.names()}
    ours = {bare(name): told.load(name, torch.float32) for name in told.names()}
    divisors = ours.pop("rope_freqs.weight", torch.empty(0))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
        assert told.shape(next(one for one in told.names() if bare(one) == name)) == tuple(tensor.shape)
    assert shape_of(family.configure(told)) == shape_of(family.configure(folder))
    card, expected = asdict(describe(path)), asdict(describe(checkpoint.folder))
    same = ("family", "images", "reasoning", "layers", "heads", "windows", "vocabulary", "cached_numbers", "shared_numbers")
    assert {name: card[name] for name in same} == {name: expected[name] for name in same}
    assert card["images"]
    assert card["parameters"] == expected["parameters"] + len(divisors)


def shape_of(config: Any) -> Any:
    """Floats of GGUF have 32 bits; which pairs of a Gemma 4 turn stands in a tensor."""
    told = asdict(config)
    told.pop("full", None)

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(one) for one in value]
        return float(np.float32(value)) if isinstance(value, float) else value

    return rounded(told)


def test_qwen2_5_vl_sees_as_transformers(tmp_path: Path) -> None:
    checkpoint = qwen_vl(tmp_path / "folder")
    path = qwen_vl_files(checkpoint, tmp_path, kind=Kind.F16)
    agree(checkpoint, path, {name: IMAGES[name] for name in ("none", "one", "two")})


def test_gemma4_sees_as_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file does not say how many tokens an image may take: as many as the makers' own settings say.
    monkeypatch.setitem(GEMMA_IMAGES, "max_soft_tokens", 280)
    checkpoint = gemma(tmp_path / "folder")
    path = gemma_files(checkpoint, tmp_path, kind=Kind.F16)
    agree(checkpoint, path, {name: IMAGES[name] for name in ("none", "one", "late")})


@pytest.mark.parametrize("files", [(qwen_vl, qwen_vl_files), (gemma, gemma_files)], ids=["qwen2.5-vl", "gemma4"])
def test_without_the_part_that_sees_a_model_reads_text_and_refuses_images(tmp_path: Path, files: Any) -> None:
    make, convert = files
    checkpoint = make(tmp_path / "folder")
    path = convert(checkpoint, tmp_path)
    (tmp_path / "mmproj-model.gguf").unlink()
    agree(checkpoint, path, {"short": TEXT["short"]})
    with Runtime.load(path, kv_cache_mb=4, progress=False) as runtime, pytest.raises(InvalidRequest, match="images"):
        runtime.chat(IMAGES["small"].messages, max_tokens=1)
