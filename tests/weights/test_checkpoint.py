"""One door for every format, and a sentence for what does not fit through it."""

from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file

from ecocore.errors import InvalidModelFile
from ecocore.weights.checkpoint import open_checkpoint


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x", torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_both_formats_open_through_one_door(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"x": torch.ones(4)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    for path, expected in ((tmp_path / "model.gguf", "gguf"), (folder, "safetensors"), (str(folder), "safetensors")):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == expected
        assert list(checkpoint.names()) == ["x"]
        assert checkpoint.shape("x") == (4,)
        assert checkpoint.nbytes("x") == 16
        assert checkpoint.load("x", torch.float32).tolist() == [1, 1, 1, 1]


def test_a_gguf_may_have_any_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "sha256-b179c952")
    assert open_checkpoint(tmp_path / "sha256-b179c952").format == "gguf"


def test_what_does_not_fit_is_told_what_would(tmp_path: Path) -> None:
    write_gguf(tmp_path / "inside.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in (
        (tmp_path / "nowhere", "does not exist; name a .gguf file, or a folder"),
        (tmp_path, "name the file: .*inside.gguf"),
        (tmp_path / "model.safetensors", "name the folder that holds it"),
        (tmp_path / "notes.txt", "notes.txt: header: is not a GGUF file"),
    ):
        with pytest.raises(InvalidModelFile, match=message):
            open_checkpoint(path)


def test_a_folder_needs_no_file_of_the_part_that_sees(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidModelFile, match="is a folder, which holds the part that sees"):
        open_checkpoint(tmp_path, tmp_path / "mmproj.gguf")
