"""Named tensors out of a checkpoint: each taken once, with the shape it must have, and none left over.

Takes a checkpoint, gives tensors and layers on the device; of a matrix that several ranks share, this rank's part alone is
read. Knows no model: names and shapes are the caller's, and always those of the whole.
"""

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from ecocore.errors import InvalidConfiguration, InvalidModelFile
from ecocore.model.layers import Linear
from ecocore.model.parallel import Embedding, Group, Head, Layer, RowParallel, filled_up, tokens_of

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint

# Elements of each tensor that enter the identity, evenly spread; a smaller tensor enters whole. Enough to tell two
# fine-tunes apart, few enough to cost nothing beside reading the file.
_SAMPLED = 65_536
# Of a shape in a message; no tensor of a model has as many.
_DIMENSIONS: Final = 8
# Tensors that are put in another order leave holes in the C library's memory that nothing else fits into, nearly half of
# a model. Every so many bytes what is free goes back to the system, where the library can do that; it takes milliseconds.
_TIDY_BYTES = 2**25
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


class TensorLoader:
    """Hands out the tensors of a checkpoint in one dtype and watches that all of them are used."""

    def __init__(
        self,
        checkpoint: "Checkpoint",
        *,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
        group: Group | None = None,
    ) -> None:
        """`progress` hears (bytes done, bytes in all) after each tensor. `group`: who computes together; None is one alone."""
        self.group: Final = group or Group()
        self.dtype: Final = dtype
        self.device: Final = device
        self.linears: Final[list[Linear]] = []
        self._checkpoint = checkpoint
        self._unused = dict.fromkeys(checkpoint.names())
        self._progress = progress
        self._total = sum(checkpoint.nbytes(name) for name in self._unused)
        self._done = self._tidied = 0
        self._identity = hashlib.blake2b(digest_size=16)

    def __contains__(self, name: str) -> bool:
        return name in self._unused

    def tensor(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor `name`, in the loader's dtype unless told.

        Raises InvalidModelFile if it is missing, not of `shape`, or holds what is no number.
        """
        self._check(name, shape)
        return self._taken(name, self._checkpoint.load(name, dtype or self.dtype))

    def column(self, name: str, *shape: int, units: int | None = None) -> Tensor:
        """The outputs that this rank has of a matrix (out_features, in_features), or of a bias (out_features,).

        `units`: what is not cut through, such as heads; None cuts anywhere.
        """
        return self._part(name, shape, axis=0, units=units)

    def row(self, name: str, out_features: int, in_features: int, *, units: int | None = None) -> Layer:
        """A layer that takes this rank's inputs and gives the whole product, cut as the `column` that it follows."""
        if (units or in_features) < self.group.size:
            raise InvalidConfiguration(
                f"tensor_parallel: {self.group.size} processes cannot share {name} of {in_features} inputs"
            )
        part = self.linear(self._part(name, (out_features, in_features), axis=1, units=units))
        return part if self.group.size == 1 else RowParallel(part, self.group)

    def embedding(self, name: str, vocab_size: int, hidden_size: int) -> Embedding:
        """The layer that makes rows of tokens."""
        return Embedding(self._tokens(name, vocab_size, hidden_size), self.group)

    def head(self, name: str, vocab_size: int, hidden_size: int) -> Layer:
        """The layer that makes logits of rows."""
        return self._head(self._tokens(name, vocab_size, hidden_size), vocab_size)

    def tied_head(self, embedding: Embedding, vocab_size: int) -> Layer:
        """The same with the weight of the embedding."""
        return self._head(embedding.weight, vocab_size)

    def linear(self, *parts: Tensor, bias: Sequence[Tensor] = ()) -> Linear:
        """One layer out of matrices (out_features, in_features) that read the same input, outputs side by side.

        `bias`: none, or one (out_features,) for each.
        """
        layer = Linear(torch.cat(parts) if len(parts) > 1 else parts[0], torch.cat(tuple(bias)) if bias else None)
        self.linears.append(layer)
        return layer

    def ignore(self, *endings: str) -> None:
        """Declares that this model does without the tensors whose names end so."""
        for name in [name for name in self._unused if name.endswith(endings)]:
            del self._unused[name]
            self._advance(name)

    def finish(self) -> str:
        """The identity of what was loaded. Raises InvalidModelFile if a tensor is left over.

        A tensor that nobody asked for would have changed the answer: the file describes another model.
        """
        # What the first rank keeps for all, the others leave.
        if self._unused and self.group.rank == 0:
            names = list(self._unused)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            told = ", ".join(f"{name!r:.80}" for name in names[:3])
            raise InvalidModelFile(f"the model file has tensors that this model does not know: {told}{more}")
        self._tidy()
        return self._identity.hexdigest()

    def _part(self, name: str, shape: tuple[int, ...], *, axis: Literal[0, 1], units: int | None) -> Tensor:
        if self.group.size == 1:
            return self.tensor(name, *shape)
        units = units or shape[axis]
        part, width = self.group.part(units), shape[axis] // units
        return self._range(name, shape, axis, range(part.start * width, part.stop * width))

    def _tokens(self, name: str, vocab_size: int, hidden_size: int) -> Tensor:
        """Rows of this rank's tokens, equally many on each rank."""
        if self.group.size == 1:
            return self.tensor(name, vocab_size, hidden_size)
        tokens = tokens_of(self.group, vocab_size)
        there = range(min(tokens.start, vocab_size), min(tokens.stop, vocab_size))
        return filled_up(self._range(name, (vocab_size, hidden_size), 0, there), len(tokens))

    def _range(self, name: str, shape: tuple[int, ...], axis: Literal[0, 1], part: range) -> Tensor:
        self._check(name, shape)
        return self._taken(name, self._checkpoint.load_part(name, self.dtype, axis=axis, part=part))

    def _head(self, weight: Tensor, vocab_size: int) -> Layer:
        part = self.linear(weight)
        return part if self.group.size == 1 else Head(part, vocab_size, self.group)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._unused:
            raise InvalidModelFile(f"the model file lacks the tensor {name} of shape {_spelled(shape)}")
        if (found := tuple(self._checkpoint.shape(name))) != shape:
            raise InvalidModelFile(f"the tensor {name} has shape {_spelled(found)}; this model needs {_spelled(shape)}")

    def _taken(self, name: str, tensor: Tensor) -> Tensor:
        del self._unused[name]
        if not _finite(tensor):
            raise InvalidModelFile(f"the tensor {name} holds a weight that is infinite or not a number; fetch its file anew")
        self._identify(name, tensor)
        self._advance(name)
        return tensor.to(self.device)

    def _identify(self, name: str, tensor: Tensor) -> None:
        flat = tensor.flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLED)].contiguous()
        self._identity.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        self._identity.update(sample.view(torch.uint8).numpy().tobytes())

    def _advance(self, name: str) -> None:
        self._done += self._checkpoint.nbytes(name)
        if self._done - self._tidied > _TIDY_BYTES:
            self._tidy()
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _tidy(self) -> None:
        self._tidied = self._done
        if _TRIM is not None:
            _TRIM(0)


def _finite(tensor: Tensor) -> bool:
    """One pass without a copy: what is no number is both the lowest and the highest."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _spelled(shape: tuple[int, ...]) -> str:
    more = [f"{len(shape) - _DIMENSIONS} more"] if len(shape) > _DIMENSIONS else []
    return " x ".join([*map(str, shape[:_DIMENSIONS]), *more]) or "scalar"
