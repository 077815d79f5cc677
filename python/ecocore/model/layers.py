"""The layers that models are built from, computed so that a row's bits do not depend on the rows beside it.

That holds for row counts that are multiples of `ROW_MULTIPLE`; docs/determinism.md has the experiment behind it.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, pad, rms_norm, silu

# Matrix kernels take other paths, with other roundings, for a remainder of one to three rows.
ROW_MULTIPLE = 4


def padded(num_rows: int) -> int:
    """`num_rows`, rounded up to where rows are independent."""
    return -(-num_rows // ROW_MULTIPLE) * ROW_MULTIPLE


class RmsNorm:
    """Divides a row by its root mean square: in float32, cast back, then times the weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """`weight`: (width,)."""
        self._weight = weight
        self._eps = eps

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, width) to the same."""
        normal = rms_norm(rows.float(), self._weight.shape, eps=self._eps)
        return normal.to(rows.dtype).mul_(self._weight)


Activation = Literal["silu", "gelu_tanh"]


class WideRmsNorm:
    """Divides a row by its root mean square and multiplies by the weight, all in float32, then casts back."""

    def __init__(self, eps: float, weight: Tensor | None = None) -> None:
        """`weight`: (width,); None only divides."""
        self._weight = None if weight is None else weight.float()
        self._eps = eps

    def __call__(self, rows: Tensor) -> Tensor:
        """(..., width) to the same, in memory of its own."""
        return rms_norm(rows.float(), rows.shape[-1:], self._weight, self._eps).to(rows.dtype)


class Linear:
    """A matrix, alone or together with what follows it. Row counts must be multiples of `ROW_MULTIPLE`.

    On a CPU the weight is repacked once for oneDNN, which is two to three times faster on it than on a plain matrix.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight`: (out_features, in_features); `bias`: (out_features,)."""
        self.out_features, self.in_features = weight.shape
        self._bias = bias
        self.dtype, self.device = weight.dtype, weight.device
        # Set where this machine's kernels let rows depend on each other: every call then has exactly so many.
        self.tile: int | None = None
        self._packed = weight.device.type == "cpu" and _onednn_packs(weight.dtype)
        self._weight: Tensor = _PACK(weight, None) if self._packed else weight.contiguous()

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, in_features) to (rows, out_features)."""
        return self._run(self._product, rows)

    def activated(self, rows: Tensor, activation: Activation) -> Tensor:
        """The product's activation.

        Not torch's own on a CPU: that one cuts its work between threads without regard to rows, and rounds
        differently at the cuts.
        """
        return self._run(partial(self._activated, activation), rows)

    def times(self, rows: Tensor, factors: Tensor) -> Tensor:
        """The product times `factors` (rows, out_features), element by element."""
        return self._run(self._times, rows, factors)

    def _run(self, compute: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        if self.tile is None:
            return compute(*operands)
        num_rows, size = len(operands[0]), self.tile
        whole = [pad(operand, (0, 0, 0, -num_rows % size)) for operand in operands]
        tiles = (compute(*(operand[at : at + size] for operand in whole)) for at in range(0, num_rows, size))
        return torch.cat(list(tiles))[:num_rows]

    def _product(self, rows: Tensor) -> Tensor:
        if not self._packed:
            return linear(rows, self._weight, self._bias)
        product: Tensor = _PRODUCT(rows, self._weight, self._bias, "none", [], "")
        return product

    def _activated(self, activation: Activation, rows: Tensor) -> Tensor:
        if not self._packed:
            product = linear(rows, self._weight, self._bias)
            return silu(product) if activation == "silu" else gelu(product, approximate="tanh")
        name, algorithm = _FUSED[activation]
        fused: Tensor = _PRODUCT(rows, self._weight, self._bias, name, [], algorithm)
        return fused

    def _times(self, rows: Tensor, factors: Tensor) -> Tensor:
        if not self._packed:
            return linear(rows, self._weight, self._bias).mul_(factors)
        product: Tensor = _PRODUCT_WITH(rows, factors, self._weight, self._bias, "mul")
        return product


class GatedMlp:
    """down(activation(gate x) * up x)."""

    def __init__(self, gate: Linear, up: Linear, down: Callable[[Tensor], Tensor], activation: Activation = "silu") -> None:
        self._gate, self._up, self._down = gate, up, down
        self._activation: Activation = activation

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, hidden) to the same."""
        return self._down(self._up.times(rows, self._gate.activated(rows, self._activation)))


# What oneDNN calls the activations.
_FUSED: Final[dict[Activation, tuple[str, str]]] = {"silu": ("swish", ""), "gelu_tanh": ("gelu", "tanh")}

# oneDNN's products as torch registers them for its own compiler. Looked up once, and early enough to find them missing.
_PACK: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_PRODUCT: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_PRODUCT_WITH: Any = getattr(_PRODUCT, "binary", None)


@cache
def _onednn_packs(dtype: torch.dtype) -> bool:
    """Whether this torch on this machine multiplies by packed matrices of `dtype`."""
    if None in (_PACK, _PRODUCT, _PRODUCT_WITH):
        return False
    ones = torch.ones((16, 16), dtype=dtype)
    try:
        packed = _PACK(ones, None)
        product = _PRODUCT(ones, packed, None, "swish", [], "")
        both = _PRODUCT_WITH(ones, product, packed, None, "mul")
    except RuntimeError:
        return False
    # silu(16) * 16, which is 256 as near as either dtype can say.
    return bool(((both.float() - 256).abs() < 1).all())
