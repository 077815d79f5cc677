"""llama.cpp's chain of samplers by ctypes, out of the package llama-cpp-python where `make llama-cpp` has compiled it.

Its programs make an array of candidates for each row and hand that to the chain; so does this, but copies a ready one.
"""

import ctypes
import subprocess
from ctypes import POINTER, byref, c_bool, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

_WHERE: Final = """
from importlib.util import find_spec
found = find_spec("llama_cpp")
print(found.submodule_search_locations[0] if found else "")
"""


class _TokenData(ctypes.Structure):
    _fields_ = (("id", c_int32), ("logit", c_float), ("p", c_float))


class _TokenDataArray(ctypes.Structure):
    _fields_ = (("data", POINTER(_TokenData)), ("size", c_size_t), ("selected", c_int64), ("sorted", c_bool))


class _ChainParams(ctypes.Structure):
    _fields_ = (("no_perf", c_bool),)


def library(python: Path) -> ctypes.CDLL | None:
    """The library in the environment of an interpreter, or None."""
    ran = subprocess.run([python, "-c", _WHERE], check=True, capture_output=True, text=True)
    file = Path(ran.stdout.strip(), "lib", "libllama.so")
    if not ran.stdout.strip() or not file.is_file():
        return None
    found = ctypes.CDLL(str(file))
    for name, result, arguments in (
        ("llama_sampler_chain_init", c_void_p, (_ChainParams,)),
        ("llama_sampler_chain_add", None, (c_void_p, c_void_p)),
        ("llama_sampler_init_top_k", c_void_p, (c_int32,)),
        ("llama_sampler_init_top_p", c_void_p, (c_float, c_size_t)),
        ("llama_sampler_init_dist", c_void_p, (c_uint32,)),
        ("llama_sampler_apply", None, (c_void_p, c_void_p)),
        ("llama_sampler_free", None, (c_void_p,)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every token of one row with its logit. `work` is what a chain sorts and cuts."""

    ready: Any
    work: Any

    @classmethod
    def of(cls, row: Any) -> Self:
        """From a numpy array of logits."""
        ready = (_TokenData * len(row))()
        for token_id, logit in enumerate(row.tolist()):
            ready[token_id] = _TokenData(token_id, logit, 0.0)
        return cls(ready, (_TokenData * len(row))())


@dataclass(frozen=True, slots=True)
class Chain:
    """top_k (0: none), then top_p, then a draw where there is a seed."""

    library: ctypes.CDLL
    samplers: int

    @classmethod
    def of(cls, library: ctypes.CDLL, *, top_k: int, top_p: float, seed: int | None) -> Self:
        chain = library.llama_sampler_chain_init(_ChainParams(no_perf=True))
        if top_k:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_k(top_k))
        library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_p(top_p, 1))
        if seed is not None:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_dist(seed))
        return cls(library, chain)

    def draw(self, candidates: Candidates) -> int:
        """The id of the token that the chain chose."""
        left = self._apply(candidates)
        return int(left.data[left.selected].id)

    def kept(self, candidates: Candidates) -> list[tuple[int, float]]:
        """Ids and logits of the tokens that the chain left."""
        left = self._apply(candidates)
        return [(left.data[place].id, left.data[place].logit) for place in range(left.size)]

    def _apply(self, candidates: Candidates) -> _TokenDataArray:
        ctypes.memmove(candidates.work, candidates.ready, ctypes.sizeof(candidates.ready))
        left = _TokenDataArray(ctypes.cast(candidates.work, POINTER(_TokenData)), len(candidates.ready), -1, False)
        self.library.llama_sampler_apply(self.samplers, byref(left))
        return left
