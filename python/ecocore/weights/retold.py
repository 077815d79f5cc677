"""A checkpoint in other words: its tensors under other names, some of them made of several, its settings spelled anew.

Takes a checkpoint and what is made of it, gives a checkpoint. Which name means what is the families' to know.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ecocore.errors import InvalidModelFile
from ecocore.weights.gguf import GgufCheckpoint


def _as_it_is(part: Tensor) -> Tensor:
    return part


@dataclass(frozen=True)
class Made:
    """A tensor made of `parts` of a file: `put` takes them in this order and puts them together."""

    parts: tuple[str, ...]
    put: Callable[..., Tensor] = _as_it_is


class RetoldCheckpoint:
    """See `Checkpoint`. What its files are and say beside tensors and settings is the first source's to tell.

    A tensor of the sources that nothing is made of keeps its own name, so that whoever loads notices it.
    """

    def __init__(
        self,
        *sources: GgufCheckpoint,
        config: Mapping[str, Any],
        made: Mapping[str, Made],
        image_settings: Mapping[str, Any] | None = None,
    ) -> None:
        """No two `sources` may have a tensor of the same name. Raises InvalidModelFile."""
        first = sources[0]
        self.config = config
        self.image_settings: Mapping[str, Any] = image_settings or {}
        self.format: Literal["gguf", "safetensors"] = first.format
        self.stored_dtype: torch.dtype = first.stored_dtype
        self.path, self.settings_name, self.tokenizer_path = first.path, first.settings_name, first.tokenizer_path
        self.chat_template, self.tool_template = first.chat_template, first.tool_template
        self.special_tokens: Mapping[str, str] = first.special_tokens
        self.generation_config: Mapping[str, Any] = first.generation_config
        self.start_ids, self.end_ids = first.start_ids, first.end_ids
        self._first = first
        self._homes: dict[str, GgufCheckpoint] = {}
        for source in sources:
            for name in source.names():
                if self._homes.setdefault(name, source) is not source:
                    raise InvalidModelFile(f"{source.path.name}: has a tensor {name!r:.80}, as has {self._homes[name].path.name}")
        used = {part for one in made.values() for part in one.parts}
        self._made = {**made, **{name: Made((name,)) for name in self._homes if name not in used}}

    def names(self) -> Collection[str]:
        """See `Checkpoint`; a tensor whose parts are missing is among them, and named when it is asked for."""
        return self._made.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint`."""
        parts = (torch.empty(self._home(part).shape(part), device="meta") for part in self._parts(name))
        return tuple(self._put(name, *parts).shape)

    def nbytes(self, name: str) -> int:
        """See `Checkpoint`."""
        return sum(self._home(part).nbytes(part) for part in self._parts(name))

    def load(self, name: str, dtype: torch.dtype) -> Tensor:
        """See `Checkpoint`."""
        return self._put(name, *(self._home(part).load(part, dtype) for part in self._parts(name))).contiguous()

    def load_part(self, name: str, dtype: torch.dtype, *, axis: Literal[0, 1], part: range) -> Tensor:
        """See `Checkpoint`. What it is made of may lie across a cut: the whole is made, and then cut."""
        return self.load(name, dtype).narrow(axis, part.start, len(part)).clone(memory_format=torch.contiguous_format)

    def _parts(self, name: str) -> tuple[str, ...]:
        return self._made[name].parts if name in self._made else (name,)

    def _home(self, part: str) -> GgufCheckpoint:
        # The first source says that it has no such tensor.
        return self._homes.get(part, self._first)

    def _put(self, name: str, *parts: Tensor) -> Tensor:
        try:
            return self._made[name].put(*parts)
        except (RuntimeError, IndexError):
            shapes = (" x ".join(map(str, part.shape)) for part in parts)
            told = ", ".join(f"{part} of {shape}" for part, shape in zip(self._parts(name), shapes, strict=True))
            raise InvalidModelFile(f"{self.path.name}: tensors that belong together do not fit: {told}") from None
