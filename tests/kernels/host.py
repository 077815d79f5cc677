"""A stand-in for a CUDA device: the kernel's own source, compiled for the CPU, on the memory of CPU tensors."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from ecocore.kernels.device import Grid, Limits
from ecocore.kernels.sample import Work

ROOT: Final = Path(__file__).parents[2]
H200: Final = Limits((9, 0), 132, 232448)
A100: Final = Limits((8, 0), 108, 166912)

_U32, _U64, _F32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_float
SIGNATURES: Final[tuple[tuple[str, Any, tuple[Any, ...]], ...]] = (
    ("weight_of", _U32, (_F32, _F32, _F32)),
    ("key_of_logit", _U32, (_F32,)),
    ("half_of", _F32, (_U32,)),
    ("high_half", _U64, (_U64, _U64)),
    ("part", _U64, (_U64, _U64)),
    ("quotient_of", _U32, (_U64, _U64, _U64)),
    ("bits_of", _U64, (_U64, _U32, _U32)),
)


def compiler() -> str | None:
    """A C++ compiler of this machine."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def build(folder: Path, *, threads: int) -> ctypes.CDLL:
    """The kernel for blocks of so many threads, as a library."""
    library = folder / f"sample_{threads}.so"
    command = [
        compiler() or "c++",
        "-std=c++17",
        "-O2",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
    ]
    command += [f"-DTHREADS={threads}", "-shared", "-fPIC", f"-I{ROOT / 'cuda'}", "-o", str(library)]
    subprocess.run([*command, str(Path(__file__).with_name("host_sample.cpp"))], check=True, timeout=300)
    loaded = ctypes.CDLL(str(library))
    for name, result, arguments in SIGNATURES:
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class FakeDevice:
    """Remembers what it was asked for. With a library it also does it: the memory of a launch is then that of CPU tensors."""

    def __init__(
        self,
        limits: Limits = H200,
        library: ctypes.CDLL | None = None,
        *,
        order: int = 0,
        ranks: int | None = None,
        fibers: bool = False,
    ) -> None:
        """`order`: in which order threads act. `ranks`: blocks that share a row, whatever was planned.

        `fibers`: threads run ahead of each other as far as barriers let them, which takes much longer.
        """
        self.limits = limits
        self.loaded: list[tuple[bytes, str, int]] = []
        self.launches: list[tuple[Grid, Work]] = []
        self._library, self._order, self._ranks, self._fibers = library, order, ranks, fibers

    def load(self, cubin: bytes, function: str, *, shared_bytes: int) -> str:
        self.loaded.append((cubin, function, shared_bytes))
        return function

    def launch(self, function: Any, grid: Grid, arguments: ctypes.Structure) -> None:
        assert function == "sample"
        assert isinstance(arguments, Work)
        self.launches.append((grid, arguments))
        if self._library is not None:
            rows, ranks = grid.blocks // grid.cluster, self._ranks or grid.cluster
            if self._fibers:
                assert self._library.sample_apart(ctypes.byref(arguments), rows, ranks, self._order) == 0, (
                    "a barrier is not reached"
                )
            else:
                self._library.sample_rows(ctypes.byref(arguments), rows, ranks, self._order)
