"""A CUDA device as the kernels see it: what it can do, loading machine code, launching a function.

Takes cubins and launches; goes through the driver in torch's own context, on torch's current stream. What is launched, and with
what, is the kernels' part. `Device` is all that they need, so a test can stand in for the driver.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from ecocore.errors import KernelUnavailable

_MULTIPROCESSORS: Final = 16
_CAPABILITY_MAJOR: Final = 75
_CAPABILITY_MINOR: Final = 76
_SHARED_BYTES: Final = 97
_MAX_DYNAMIC_SHARED: Final = 8
_CLUSTER_DIMENSION: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do. `shared_bytes`: of one block, at most."""

    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int

    @property
    def architecture(self) -> str:
        """As the compiler calls it."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True, slots=True)
class Grid:
    """How many blocks of how many threads. `cluster`: blocks that see each other's shared memory."""

    blocks: int
    threads: int
    cluster: int
    shared_bytes: int


class Device(Protocol):
    """Where kernels run."""

    @property
    def limits(self) -> Limits:
        """What it can do."""

    def load(self, cubin: bytes, function: str, *, shared_bytes: int) -> Any:
        """The function of a cubin, allowed to use so much shared memory. Raises KernelUnavailable."""

    def launch(self, function: Any, grid: Grid, arguments: ctypes.Structure) -> None:
        """Starts it with one argument, on the stream that torch uses now. Waits for nothing. Raises KernelUnavailable."""


def find_driver() -> Any:
    """NVIDIA's driver library. Raises KernelUnavailable."""
    if torch.version.cuda is None:
        raise KernelUnavailable("this torch was not built for CUDA, and ecocore's kernels run on nothing else")
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise KernelUnavailable(f"the CUDA driver is absent: {error}") from error


def torch_stream(index: int) -> int:
    """The stream that torch uses now on this device and thread."""
    stream: int = torch.cuda.current_stream(index).cuda_stream
    return stream


class CudaDevice:
    """A device of this machine."""

    def __init__(self, index: int, driver: Any, stream_of: Callable[[int], int] = torch_stream) -> None:
        """`index`: as torch counts. `driver`: what `find_driver` found. Raises KernelUnavailable."""
        self._driver = driver
        self._stream_of = stream_of
        self._index: Final = index
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        # The driver counts as torch does: both leave out what CUDA_VISIBLE_DEVICES leaves out.
        self._call("cuDeviceGet", ctypes.byref(device), index)
        # Torch's own context: memory and streams of torch are at home there. It is kept as long as the process lives.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context: Final = context

        def attribute(number: int) -> int:
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
            return value.value

        self._limits: Final = Limits(
            (attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR)), attribute(_MULTIPROCESSORS), attribute(_SHARED_BYTES)
        )

    @property
    def limits(self) -> Limits:
        """What it can do."""
        return self._limits

    def load(self, cubin: bytes, function: str, *, shared_bytes: int) -> ctypes.c_void_p:
        """The function of a cubin, allowed to use so much shared memory. It stays loaded. Raises KernelUnavailable."""
        module, handle = ctypes.c_void_p(), ctypes.c_void_p()
        with self._current():
            self._call("cuModuleLoadData", ctypes.byref(module), cubin)
            self._call("cuModuleGetFunction", ctypes.byref(handle), module, function.encode())
            self._call("cuFuncSetAttribute", handle, _MAX_DYNAMIC_SHARED, shared_bytes)
        return handle

    def launch(self, function: ctypes.c_void_p, grid: Grid, arguments: ctypes.Structure) -> None:
        """Starts it with one argument, on the stream that torch uses now. Waits for nothing. Raises KernelUnavailable."""
        cluster = LaunchAttribute(_CLUSTER_DIMENSION, cluster=(grid.cluster, 1, 1))
        config = LaunchConfig(
            (grid.blocks, 1, 1),
            (grid.threads, 1, 1),
            grid.shared_bytes,
            self._stream_of(self._index),
            ctypes.pointer(cluster),
            1 if grid.cluster > 1 else 0,
        )
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with self._current():
            self._call("cuLaunchKernelEx", ctypes.byref(config), function, parameters, None)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Makes torch's context that of this thread."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            said = text.value.decode() if text.value else f"error {status}"
            raise KernelUnavailable(f"{name} failed on cuda:{self._index}: {said}")


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute; of its many kinds of value, the dimensions of a cluster."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_char * 4),
        ("cluster", ctypes.c_uint * 3),
        ("rest", ctypes.c_char * 52),
    )


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("num_attributes", ctypes.c_uint),
    )
