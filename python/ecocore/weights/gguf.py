"""A GGUF file as a checkpoint: weights, settings, vocabulary and chat template in one file.

A model that sees has a second one, of the part that sees: `projector` gives it.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ecocore import _core
from ecocore.errors import InvalidModelFile

logger = logging.getLogger(__name__)

# Metadata keys of the tokens that templates know by name.
_NAMED_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
}
_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_PROJECTOR_KEYS = ("clip.vision.projector_type", "clip.projector_type")


class GgufCheckpoint:
    """See `Checkpoint`."""

    format: Literal["gguf"] = "gguf"
    # Dequantised weights are exact in float32 alone.
    stored_dtype = torch.float32

    def __init__(self, path: Path, mmproj: Path | None = None) -> None:
        """Reads and checks the header. Raises InvalidModelFile. `mmproj`: see `projector`."""
        self.path, self.settings_name = path, path.name
        self._mmproj = mmproj
        self.image_settings: Mapping[str, Any] = {}
        self.generation_config: Mapping[str, Any] = {}
        self.tokenizer_path = path
        self._file = _core.read_gguf(path)
        self._tensors = self._file.tensors
        self.config: Mapping[str, Any] = self._file.metadata
        if self.config.get("split.count", 1) != 1:
            raise InvalidModelFile(f"{path} is one part of a split file; merge the parts with `gguf-split --merge`")
        self.tool_template = None
        self.chat_template = self._text("tokenizer.chat_template")
        tokens = self._array("tokenizer.ggml.tokens", str)
        self.special_tokens: Mapping[str, str] = {
            name: tokens[token_id] for name, key in _NAMED_TOKENS.items() if (token_id := self._token_id(key, tokens)) is not None
        }
        self.start_ids = self._start_ids(tokens) if self.config.get("tokenizer.ggml.add_bos_token") is True else ()
        self.end_ids = self._find_end_ids(tokens)

    def names(self) -> Collection[str]:
        """See `Checkpoint`."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint`."""
        if name not in self._tensors:
            raise InvalidModelFile(f"{self.path.name}: has no tensor {name}")
        return self._tensors[name][1]

    def nbytes(self, name: str) -> int:
        """See `Checkpoint`."""
        return self._file.nbytes(name)

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Checkpoint`. Quantised weights are turned into float32 first."""
        tensor = torch.empty(self.shape(name), dtype=torch.float32)
        self._file.dequantize(name, tensor)
        return tensor.to(dtype)

    def load_part(self, name: str, dtype: torch.dtype, *, axis: Literal[0, 1], part: range) -> torch.Tensor:
        """See `Checkpoint`. Blocks of quantised weights may lie across a cut: the whole tensor is turned, and then cut."""
        return self.load(name, dtype).narrow(axis, part.start, len(part)).clone(memory_format=torch.contiguous_format)

    def token_id(self, text: str) -> int:
        """The id of a token that the file must have. Raises InvalidModelFile."""
        tokens = self._array("tokenizer.ggml.tokens", str)
        if text not in tokens:
            raise InvalidModelFile(f"{self.path.name}: metadata key tokenizer.ggml.tokens: lacks {text}; fetch the file anew")
        return tokens.index(text)

    def begin_with(self, kinds: Collection[str]) -> None:
        """Says of which kinds of vocabularies texts begin with a token where the file is silent about it."""
        if self.config.get("tokenizer.ggml.add_bos_token") is None and self.config.get("tokenizer.ggml.pre") in kinds:
            self.start_ids = self._start_ids(self._array("tokenizer.ggml.tokens", str))

    def end_with(self, texts: Collection[str]) -> None:
        """Says which tokens end an answer beside those that the file names, whatever kind it says they are."""
        tokens = self._array("tokenizer.ggml.tokens", str)
        self.end_ids |= {token_id for token_id, token in enumerate(tokens) if token in texts}

    def projector(self, kind: str) -> "GgufCheckpoint | None":
        """The file of the part that sees: the one that was named, else the only one that lies beside this one.

        The named one must be of this `kind`; one that was found may belong to another model. Raises InvalidModelFile.
        """
        path = self._mmproj or _mmproj_beside(self.path)
        if path is None:
            return None
        file = GgufCheckpoint(path)
        found = next((file.config[key] for key in _PROJECTOR_KEYS if key in file.config), None)
        if found == kind:
            return file
        if self._mmproj is not None:
            raise InvalidModelFile(f"{path.name}: its {_PROJECTOR_KEYS[-1]} is {found!r:.80}; {self.path.name} needs {kind!r}")
        logger.info("%s sees no images: %s beside it is of kind %.80r, not %s", self.path.name, path.name, found, kind)
        return None

    def _start_ids(self, tokens: list[str]) -> tuple[int, ...]:
        start = self._token_id(_NAMED_TOKENS["bos_token"], tokens)
        return () if start is None else (start,)

    def _find_end_ids(self, tokens: list[str]) -> frozenset[int]:
        return frozenset(token_id for key in _END_KEYS if (token_id := self._token_id(key, tokens)) is not None)

    def _token_id(self, key: str, tokens: list[str]) -> int | None:
        token_id = self.config.get(key)
        if token_id is None:
            return None
        if type(token_id) is not int or not 0 <= token_id < len(tokens):
            raise InvalidModelFile(f"{self.path.name}: metadata key {key}: no token has this id; fetch the file anew")
        return token_id

    def _text(self, key: str) -> str | None:
        text = self.config.get(key)
        if text is not None and not isinstance(text, str):
            raise InvalidModelFile(f"{self.path.name}: metadata key {key}: is no text; fetch the file anew")
        return text

    def _array(self, key: str, kind: type) -> list[Any]:
        value = self._file.value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
            raise InvalidModelFile(f"{self.path.name}: metadata key {key}: is no array of {kind.__name__}; fetch the file anew")
        return value


def _mmproj_beside(path: Path) -> Path | None:
    """The file whose name says, as converters have it, that it is the part of a model that sees."""
    found = [file for file in sorted(path.parent.glob("*.gguf")) if "mmproj" in file.name.lower() and file.name != path.name]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        logger.warning("%s sees no images: its part that sees may be each of %s; name one with mmproj", path.name, names)
    return found[0] if len(found) == 1 else None
