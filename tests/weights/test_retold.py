"""A checkpoint in other words: what is made, what stays, what is missing."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from ecocore.errors import InvalidModelFile
from ecocore.weights.gguf import GgufCheckpoint
from ecocore.weights.retold import Made, RetoldCheckpoint


def file_of(path: Path, **tensors: tuple[int, ...]) -> GgufCheckpoint:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_chat_template("{{ messages }}")
    for number, (name, shape) in enumerate(tensors.items()):
        writer.add_tensor(name, np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 100 * number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufCheckpoint(path)


def rows_together(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts)


def test_tensors_are_renamed_and_made_of_those_of_both_files(tmp_path: Path) -> None:
    text = file_of(tmp_path / "text.gguf", q=(2, 3), k=(1, 3))
    tower = file_of(tmp_path / "tower.gguf", v=(1, 3), norm=(3,))
    made = {"qkv.weight": Made(("q", "k", "v"), rows_together), "turned": Made(("norm",), lambda norm: norm.view(3, 1))}
    told = RetoldCheckpoint(text, tower, config={"a": 1}, made=made, image_settings={"b": 2})
    assert set(told.names()) == {"qkv.weight", "turned"}
    assert (told.shape("qkv.weight"), told.nbytes("qkv.weight")) == ((4, 3), 48)
    expected = torch.tensor([[0, 1, 2], [3, 4, 5], [100, 101, 102], [0, 1, 2]])
    assert torch.equal(told.load("qkv.weight", torch.bfloat16), expected.to(torch.bfloat16))
    assert told.load("turned", torch.float32).tolist() == [[100], [101], [102]]
    assert (told.config, told.image_settings, told.format) == ({"a": 1}, {"b": 2}, "gguf")
    assert (told.path, told.chat_template) == (text.path, "{{ messages }}")


def test_a_tensor_of_which_nothing_is_made_keeps_its_name(tmp_path: Path) -> None:
    told = RetoldCheckpoint(file_of(tmp_path / "x.gguf", a=(2,), b=(2,)), config={}, made={"ours": Made(("a",))})
    assert set(told.names()) == {"ours", "b"}
    assert told.load("b", torch.float32).tolist() == [100, 101]


def test_a_missing_part_is_named_as_the_file_would_call_it(tmp_path: Path) -> None:
    told = RetoldCheckpoint(file_of(tmp_path / "x.gguf", a=(2,)), config={}, made={"ours": Made(("a", "b"), rows_together)})
    assert set(told.names()) == {"ours"}
    for ask in (told.shape, told.nbytes, lambda name: told.load(name, torch.float32)):
        with pytest.raises(InvalidModelFile, match=r"^x\.gguf: has no tensor b$"):
            ask("ours")


def test_parts_that_do_not_fit_are_told_with_their_shapes(tmp_path: Path) -> None:
    source = file_of(tmp_path / "x.gguf", a=(2, 3), b=(2,))
    told = RetoldCheckpoint(source, config={}, made={"ours": Made(("a", "b"), rows_together)})
    with pytest.raises(InvalidModelFile, match=r"^x\.gguf: tensors that belong together do not fit: a of 2 x 3, b of 2$"):
        told.shape("ours")


def test_two_files_with_a_tensor_of_the_same_name_are_refused(tmp_path: Path) -> None:
    files = [file_of(tmp_path / name, a=(2,)) for name in ("x.gguf", "y.gguf")]
    with pytest.raises(InvalidModelFile, match=r"^y\.gguf: has a tensor 'a', as has x\.gguf$"):
        RetoldCheckpoint(*files, config={}, made={})
