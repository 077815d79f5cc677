"""CUDA sources to machine code: the compiler out of torch's own wheels, and a folder of what it has compiled.

Takes the sources that the extension carries, gives a cubin for one architecture. Loading it is `device`'s part. Nothing here
needs a device, a driver or a toolkit, and nothing is looked for before the first kernel is wanted.
"""

import ctypes
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from ecocore import _core
from ecocore.errors import KernelUnavailable

log = logging.getLogger(__name__)

OPTIONS: Final = ("--std=c++17", "--fmad=false")
"""A multiplication fused with an addition would round once instead of twice, and the CPU would draw another token."""

_MAX_CUBIN: Final = 64 * 2**20


class Nvrtc:
    """NVIDIA's run-time compiler. Any thread may compile; other threads run meanwhile."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Use `Nvrtc.find`."""
        self._library = library
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version: Final = (major.value, minor.value)

    @classmethod
    def find(cls) -> Self:
        """The compiler that torch brings. Raises KernelUnavailable."""
        for place in _places():
            with suppress(OSError):
                return cls(ctypes.CDLL(place))
        raise KernelUnavailable(
            "NVRTC is absent, which compiles CUDA kernels; install torch's CUDA wheel, whose packages bring it"
        )

    def compile(self, name: str, sources: Mapping[str, str], architecture: str) -> bytes:
        """The cubin of `sources[name]`, which may include the others. `architecture`: as in "sm_90".

        Raises KernelUnavailable with what the compiler said.
        """
        headers = {file: text for file, text in sources.items() if file != name}
        texts = _strings(headers.values())
        program = ctypes.c_void_p()
        created = self._library.nvrtcCreateProgram(
            ctypes.byref(program), sources[name].encode(), name.encode(), len(headers), texts, _strings(headers)
        )
        self._check(created, "nvrtcCreateProgram")
        try:
            options = _strings((f"--gpu-architecture={architecture}", *OPTIONS))
            if self._library.nvrtcCompileProgram(program, len(options), options):
                said = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
                raise KernelUnavailable(f"{name} does not compile for {architecture}: {said[:2000]}")
            return self._read(program, "CUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
        return buffer.raw

    def _check(self, status: int, call: str) -> None:
        if status:
            raise KernelUnavailable(f"{call} failed: {self._library.nvrtcGetErrorString(status).decode()}")


class CubinCache:
    """A folder of compiled kernels.

    What lies there runs on the device, so nothing is taken that somebody else could have written: folder and files must
    belong to this user, be writable by nobody else, and hold what was put. Where that is not so, kernels are compiled again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """What was put under `key`, if it is there and can be trusted."""
        with suppress(OSError):
            if not self._is_ours(os.lstat(self._folder), stat.S_ISDIR):
                return None
            # The file is opened before it is judged, so that it cannot be another one afterwards.
            with os.fdopen(os.open(self._file(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                if not self._is_ours(found, stat.S_ISREG) or found.st_size > _MAX_CUBIN:
                    return None
                digest, cubin = file.read(32), file.read(_MAX_CUBIN)
            if hashlib.sha256(cubin).digest() == digest:
                return cubin
        return None

    def put(self, key: str, cubin: bytes) -> None:
        """Keeps a cubin. A reader sees all of it or nothing; where it cannot be kept, it is compiled again next time."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_ours(os.lstat(self._folder), stat.S_ISDIR):
                log.warning("%s is writable by others, so compiled kernels are not kept there", self._folder)
                return
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            path = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(cubin).digest() + cubin)
                path.replace(self._file(key))
            except OSError:
                path.unlink()
                raise
        except OSError as error:
            log.info("the compiled kernel is not kept: %s", error)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.cubin"

    @staticmethod
    def _is_ours(found: os.stat_result, kind: Any) -> bool:
        return bool(kind(found.st_mode)) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def compiled(name: str, architecture: str, *, compiler: Nvrtc, cache: CubinCache | None) -> bytes:
    """The cubin of one of the extension's kernels, compiled at first use. Raises KernelUnavailable."""
    sources = dict(_core.cuda_sources())
    key = _key(name, sources, architecture, compiler.version)
    if cache is None:
        return compiler.compile(name, sources, architecture)
    cubin = cache.get(key)
    if cubin is None:
        log.info("compiling %s for %s, once", name, architecture)
        cubin = compiler.compile(name, sources, architecture)
        cache.put(key, cubin)
    return cubin


def default_cache() -> CubinCache | None:
    """In the user's folder of things that may be thrown away; None for a user without a home."""
    try:
        return CubinCache(Path.home() / ".cache" / "ecocore" / "kernels")
    except RuntimeError:
        return None


def _key(name: str, sources: Mapping[str, str], architecture: str, version: tuple[int, int]) -> str:
    """Everything that decides what comes out, as a file name."""
    parts = [name, architecture, f"{version[0]}.{version[1]}", *OPTIONS]
    for file in sorted(sources):
        parts += [file, hashlib.sha256(sources[file].encode()).hexdigest()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{Path(name).stem}-{architecture}-{digest[:32]}"


def _places() -> Iterable[str]:
    """Where NVRTC may be: among the packages that torch depends on, else wherever the loader finds the name."""
    spec = find_spec("nvidia")
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        for pattern in ("cu*/lib/libnvrtc.so.*", "cuda_nvrtc/lib/libnvrtc.so.*"):
            found = [path for path in folder.glob(pattern) if path.suffix[1:].isdigit()]
            yield from (str(path) for path in sorted(found, key=lambda path: int(path.suffix[1:]), reverse=True))
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")


def _strings(values: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded: Sequence[bytes] = [value.encode() for value in values]
    return (ctypes.c_char_p * len(encoded))(*encoded)
