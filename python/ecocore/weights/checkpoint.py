"""What a model's files offer, whatever their format. Takes a path; leaves the meaning of names to the models."""

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ecocore.errors import InvalidModelFile
from ecocore.weights.gguf import GgufCheckpoint
from ecocore.weights.safetensors import SafetensorsCheckpoint


class Checkpoint(Protocol):
    """Named tensors with their settings. Whatever is wrong in the files is an InvalidModelFile that names the file."""

    @property
    def path(self) -> Path:
        """The GGUF file, or the folder."""

    @property
    def format(self) -> Literal["gguf", "safetensors"]:
        """How the tensors are stored, which decides how they are named."""

    @property
    def config(self) -> Mapping[str, Any]:
        """`config.json`, or the metadata of a GGUF file without its long arrays."""

    @property
    def settings_name(self) -> str:
        """The file that `config` is of, as errors call it."""

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype the weights were saved in; float32 for GGUF, whose exact values need it."""

    @property
    def chat_template(self) -> str | None:
        """Source of the template for plain conversations, or None if the model brings none."""

    @property
    def tool_template(self) -> str | None:
        """Source of another template for conversations with tools, or None if the one serves them too."""

    @property
    def image_settings(self) -> Mapping[str, Any]:
        """How images are prepared, as the files say it; empty where they say nothing."""

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """How its maker would draw, as the files say it; empty where they say nothing."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Texts of special tokens by the name templates use, such as "bos_token"."""

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Tokens that the model's own tokenizer puts before every plain text."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    @property
    def tokenizer_path(self) -> Path:
        """The file that `Tokenizer.from_file` opens."""

    def names(self) -> Collection[str]:
        """Names of the tensors, as the file spells them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions of a tensor, the slowest first."""

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor in its file."""

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The tensor as a new contiguous CPU tensor of `dtype`, which shares no memory with anything."""

    def load_part(self, name: str, dtype: torch.dtype, *, axis: Literal[0, 1], part: range) -> torch.Tensor:
        """As `load`, of the places `part` of the first or second dimension alone."""


def open_checkpoint(path: str | PathLike[str], mmproj: Path | None = None) -> Checkpoint:
    """Opens a `.gguf` file, or a folder with `config.json` and safetensors. Raises InvalidModelFile.

    `mmproj`: the file of the part that sees, for a `.gguf` file that it does not lie beside.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "config.json").exists() and (ggufs := sorted(path.glob("*.gguf"))):
            raise InvalidModelFile(f"{path} has no config.json; to load the GGUF file in it, name the file: {ggufs[0]}")
        if mmproj is not None:
            raise InvalidModelFile(f"{path} is a folder, which holds the part that sees; {mmproj} goes with a .gguf file")
        return SafetensorsCheckpoint(path)
    if not path.exists():
        raise InvalidModelFile(f"{path} does not exist; name a .gguf file, or a folder with config.json and safetensors")
    if path.suffix == ".safetensors":
        raise InvalidModelFile(f"{path} is one file of a model; name the folder that holds it and config.json")
    return GgufCheckpoint(path, mmproj)
