"""Named tensors out of a checkpoint: each taken once, with the shape it must have, and none left over.

Takes a checkpoint, gives tensors and layers on the device. Knows no model: names and shapes are the caller's.
"""

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ecocore.errors import InvalidModelFile
from ecocore.model.layers import Linear

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint

# Elements of each tensor that enter the identity, evenly spread; a smaller tensor enters whole. Enough to tell two
# fine-tunes apart, few enough to cost nothing beside reading the file.
_SAMPLED = 65_536
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
    ) -> None:
        """`progress` hears (bytes done, bytes in all) after each tensor."""
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
        if name not in self._unused:
            raise InvalidModelFile(f"the model file lacks the tensor {name} of shape {_spelled(shape)}")
        if (found := tuple(self._checkpoint.shape(name))) != shape:
            raise InvalidModelFile(f"the tensor {name} has shape {_spelled(found)}; this model needs {_spelled(shape)}")
        tensor = self._checkpoint.load(name, dtype or self.dtype)
        del self._unused[name]
        if not _finite(tensor):
            raise InvalidModelFile(f"the tensor {name} holds a weight that is infinite or not a number; fetch its file anew")
        self._identify(name, tensor)
        self._advance(name)
        return tensor.to(self.device)

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

    def ignore_within(self, *beginnings: str) -> None:
        """Declares that this model does without the tensors whose names begin so."""
        for name in [name for name in self._unused if name.startswith(beginnings)]:
            del self._unused[name]
            self._advance(name)

    def finish(self) -> str:
        """The identity of what was loaded. Raises InvalidModelFile if a tensor is left over.

        A tensor that nobody asked for would have changed the answer: the file describes another model.
        """
        if self._unused:
            names = list(self._unused)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InvalidModelFile(f"the model file has tensors that this model does not know: {', '.join(names[:3])}{more}")
        self._tidy()
        return self._identity.hexdigest()

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
    return " x ".join(map(str, shape)) or "scalar"
