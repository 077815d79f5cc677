"""`cuda/sample.cu`: logits on a device to token ids, the same that the CPU draws for the same logits.

Takes a tensor and packed rows, checks both, launches once. Waits for nothing, so a launch may be captured in a CUDA graph: what
changes from one replay to the next lies in tensors. docs/sampling.md tells what is computed.
"""

import ctypes
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecocore.errors import InvalidParameter
from ecocore.kernels.device import CudaDevice, Device, Grid, Limits, find_driver
from ecocore.kernels.nvrtc import CubinCache, Nvrtc, compiled, default_cache

THREADS: Final = 1024
SHARED_BYTES: Final = 31656
"""What a block shares beside its keys; `Shared` in cuda/sample.cuh."""
MAX_VOCAB: Final = 1 << 19
MAX_RANKS: Final = 8
"""Blocks that share a row, at most: as many as a cluster has on every device that knows clusters."""
INPUT_BYTES: Final = 80
CHANGE_BYTES: Final = 16
_WORTH_A_BLOCK: Final = 4096
_KINDS: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_KEY_BYTES: Final = 4

TOLD: Final = np.dtype(
    [("sum", "u8"), ("peak", "f4"), ("chosen", "f4"), ("ids", "u4", (20,)), ("logits", "f4", (20,))],
)
"""`Told` of cuda/sample.cuh."""
_TOLD_UNIT: Final = 2.0**31
_LOWEST: Final = -9999.0


class Work(ctypes.Structure):
    """`Work` of cuda/sample.cuh: the kernel's one argument."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("inputs", ctypes.c_void_p),
        ("changes", ctypes.c_void_p),
        ("masks", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("possible", ctypes.c_void_p),
        ("told", ctypes.c_void_p),
        ("vocab", ctypes.c_uint32),
        ("words", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """The parameters of rows, as `_core.pack_rows` packs them, on the device. `tells`: some row wants log-probabilities."""

    inputs: Tensor
    changes: Tensor
    masks: Tensor
    tells: bool = False

    @classmethod
    def upload(
        cls,
        packed: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]],
        device: torch.device,
        *,
        tells: bool = False,
    ) -> Self:
        """Copies packed rows to the device."""
        inputs, changes, masks = (torch.from_numpy(array.view(np.uint8)).to(device) for array in packed)
        return cls(inputs, changes, masks, tells=tells)

    def __len__(self) -> int:
        return self.inputs.numel() // INPUT_BYTES


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a launch writes: an id for each row, whether one was possible, and what log-probabilities are made of."""

    ids: Tensor
    possible: Tensor
    told: Tensor | None

    @classmethod
    def empty(cls, rows: int, device: torch.device, *, tells: bool = False) -> Self:
        """Room for the draws of so many rows."""
        return cls(
            torch.empty(rows, dtype=torch.int64, device=device),
            torch.empty(rows, dtype=torch.int32, device=device),
            torch.empty(rows * TOLD.itemsize, dtype=torch.uint8, device=device) if tells else None,
        )

    def logprobs(self, row: int, count: int) -> tuple[float, list[tuple[int, float]]]:
        """The raw log-probability of the row's token, and the `count` likeliest. Waits for the launch."""
        if self.told is None:
            raise InvalidParameter("told", "was not asked for")
        size = TOLD.itemsize
        told = self.told[row * size : (row + 1) * size].cpu().numpy().view(TOLD)[0]
        log_sum = math.log(max(1, int(told["sum"])) / _TOLD_UNIT)

        def log(logit: np.float32) -> float:
            # What is impossible has no logarithm; where everything is, the peak is infinite too.
            return max(float(logit) - float(told["peak"]) - log_sum, _LOWEST) if math.isfinite(logit) else _LOWEST

        likeliest = zip(told["ids"][:count].tolist(), told["logits"][:count], strict=True)
        return log(told["chosen"]), [(token, log(logit)) for token, logit in likeliest]


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows are laid out on a device. `ranks`: blocks that share a row. `scratch`: its keys lie in global memory."""

    ranks: int
    shared_bytes: int
    scratch: bool


def plan(rows: int, vocab_size: int, limits: Limits) -> Plan:
    """As few blocks for a row as can hold its keys; more where the device would have idle ones."""
    most = MAX_RANKS if limits.capability[0] >= 9 else 1

    def needed(ranks: int) -> int:
        return SHARED_BYTES + _KEY_BYTES * _span(ranks, vocab_size)

    fitting = [ranks for ranks in range(1, most + 1) if needed(ranks) <= limits.shared_bytes]
    idle = max(1, min(most, limits.multiprocessors // rows, vocab_size // _WORTH_A_BLOCK))
    ranks = max(fitting[0] if fitting else 1, 1 << idle.bit_length() - 1)
    return Plan(ranks, needed(ranks) if fitting else SHARED_BYTES, not fitting)


class SampleKernel:
    """The sampler of one device, compiled and loaded."""

    def __init__(self, device: Device, cubin: bytes) -> None:
        """Use `sample_kernel`. Raises KernelUnavailable."""
        self._device = device
        self._function = device.load(cubin, "sample", shared_bytes=device.limits.shared_bytes)

    def draw(self, logits: Tensor, rows: Rows) -> Drawn:
        """One token for each row; `logits` (rows, vocab) is never written to. Raises as `launch`."""
        drawn = Drawn.empty(len(logits), logits.device, tells=rows.tells)
        self.launch(logits, rows, drawn)
        return drawn

    def launch(self, logits: Tensor, rows: Rows, drawn: Drawn) -> None:
        """The same into memory that is there already; what is captured in a graph must stay.

        The ids of changes and the numbers of masks are trusted: `_core.pack_rows` has checked them for this vocabulary.
        Raises InvalidParameter, KernelUnavailable.
        """
        _check_logits(logits)
        _check_company(logits, rows, drawn)
        count, vocab_size = logits.shape
        if count == 0:
            return
        layout = plan(count, vocab_size, self._device.limits)
        keys = torch.empty((count, vocab_size), dtype=torch.int32, device=logits.device) if layout.scratch else None
        work = Work(
            logits=logits.data_ptr(),
            stride=logits.stride(0) if count > 1 else vocab_size,
            inputs=rows.inputs.data_ptr(),
            changes=rows.changes.data_ptr() or None,
            masks=rows.masks.data_ptr() or None,
            keys=None if keys is None else keys.data_ptr(),
            ids=drawn.ids.data_ptr(),
            possible=drawn.possible.data_ptr(),
            told=None if drawn.told is None else drawn.told.data_ptr(),
            vocab=vocab_size,
            words=-(-vocab_size // 32),
            kind=_KINDS[logits.dtype],
        )
        self._device.launch(self._function, Grid(count * layout.ranks, THREADS, layout.ranks, layout.shared_bytes), work)


@cache
def sample_kernel(index: int) -> SampleKernel:
    """The kernel of the device that torch calls cuda:`index`. The first call of a machine compiles it, which takes seconds.

    Raises KernelUnavailable.
    """
    device = CudaDevice(index, find_driver())
    return SampleKernel(device, compiled_sample(device.limits, default_cache()))


def compiled_sample(limits: Limits, folder: CubinCache | None) -> bytes:
    """The machine code for such a device. Raises KernelUnavailable."""
    return compiled("sample.cu", limits.architecture, compiler=Nvrtc.find(), cache=folder)


def kernel_for(logits: Any) -> SampleKernel:
    """The kernel of the device that a tensor lies on."""
    index = logits.device.index
    return sample_kernel(torch.cuda.current_device() if index is None else index)


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 2 or not 1 <= logits.shape[1] <= MAX_VOCAB:
        shape = tuple(logits.shape)
        raise InvalidParameter("logits", f"must have the shape (rows, vocab) with at most {MAX_VOCAB} tokens, not {shape}")
    if logits.dtype not in _KINDS:
        raise InvalidParameter("logits", f"must be float32, float16 or bfloat16, not {logits.dtype}")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise InvalidParameter("logits", f"must have contiguous rows, not elements {logits.stride(1)} apart")
    if logits.is_neg():
        raise InvalidParameter("logits", "has its negative bit set; call .resolve_neg() first")


def _check_company(logits: Tensor, rows: Rows, drawn: Drawn) -> None:
    count = len(logits)
    if len(rows) != count:
        raise InvalidParameter("rows", f"has {len(rows)} entries for {count} rows of logits")
    if rows.tells and drawn.told is None:
        raise InvalidParameter("drawn", "has no room for the log-probabilities that a row asks for")
    sizes = [(drawn.ids, count, torch.int64), (drawn.possible, count, torch.int32)]
    if drawn.told is not None:
        sizes.append((drawn.told, count * TOLD.itemsize, torch.uint8))
    for tensor, size, dtype in sizes:
        if tensor.numel() < size or tensor.dtype != dtype or not tensor.is_contiguous():
            raise InvalidParameter("drawn", f"must hold {size} contiguous elements of {dtype}")
    tensors = [rows.inputs, rows.changes, rows.masks, *(tensor for tensor, _, _ in sizes)]
    if any(tensor.device != logits.device for tensor in tensors):
        raise InvalidParameter("logits", f"is on {logits.device}, and what belongs to its rows is elsewhere")


def _span(ranks: int, vocab_size: int) -> int:
    """Ids of the first block of a row; see `slice_of` in cuda/sample.cuh."""
    span = -(-vocab_size // ranks)
    return (span + 7) // 8 * 8
