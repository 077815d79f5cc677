"""The compiler out of torch's wheels, and what is kept of its work."""

import ctypes
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.kernels.host import A100

from ecocore import _core
from ecocore.errors import KernelUnavailable
from ecocore.kernels import nvrtc
from ecocore.kernels.nvrtc import CubinCache, Nvrtc, compiled, default_cache
from ecocore.kernels.sample import compiled_sample

ELF_MACHINE_CUDA = 190
SIMPLE = {
    "simple.cu": '#include "one.cuh"\nextern "C" __global__ void simple(int* out) { *out = ONE; }',
    "one.cuh": "#define ONE 1\n",
}


@pytest.mark.nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_the_sampler_compiles(architecture: str) -> None:
    cubin = Nvrtc.find().compile("sample.cu", dict(_core.cuda_sources()), architecture)
    assert cubin[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", cubin, 18) == (ELF_MACHINE_CUDA,)
    assert b".text.sample\0" in cubin


@pytest.mark.nvrtc
def test_what_does_not_compile_says_where() -> None:
    broken = {"broken.cu": "__global__ void f() { undefined(); }"}
    with pytest.raises(KernelUnavailable, match=r"(?s)broken\.cu does not compile for sm_90.*undefined"):
        Nvrtc.find().compile("broken.cu", broken, "sm_90")
    with pytest.raises(KernelUnavailable, match="does not compile for sm_1"):
        Nvrtc.find().compile("simple.cu", SIMPLE, "sm_1")


@pytest.mark.nvrtc
def test_threads_compile_side_by_side() -> None:
    compiler, cubins = Nvrtc.find(), list[bytes]()
    threads = [threading.Thread(target=lambda: cubins.append(compiler.compile("simple.cu", SIMPLE, "sm_80"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cubins) == 4
    assert len(set(cubins)) == 1


def test_a_machine_without_the_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_places", lambda: ["libnowhere.so.1"])
    with pytest.raises(KernelUnavailable, match="install torch's CUDA wheel"):
        Nvrtc.find()


def test_importing_ecocore_looks_for_no_compiler() -> None:
    seen = "import sys, ecocore, ecocore.sampling.sampler; print(*[name for name in sys.modules if 'kernels' in name])"
    ran = subprocess.run([sys.executable, "-c", seen], check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == ""


# --- the cache ------------------------------------------------------------------------------------------------------


class Counting(Nvrtc):
    """A compiler that counts, and makes something else each time."""

    def __init__(self, version: tuple[int, int] = (13, 2)) -> None:
        self.version, self.calls = version, 0  # type: ignore[misc]

    def compile(self, name: str, sources: object, architecture: str) -> bytes:
        self.calls += 1
        return f"{name} {architecture} {self.calls}".encode()


@pytest.fixture
def cache(tmp_path: Path) -> CubinCache:
    return CubinCache(tmp_path / "kernels")


def the_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "kernels").iterdir()
    return file


def test_a_kernel_is_compiled_once(tmp_path: Path, cache: CubinCache) -> None:
    first = compiled("sample.cu", "sm_90", compiler=Counting(), cache=cache)
    again = Counting()
    assert (compiled("sample.cu", "sm_90", compiler=again, cache=cache), again.calls) == (first, 0)
    assert the_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700


def test_another_compiler_architecture_or_source_is_another_kernel(cache: CubinCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(architecture: str, version: tuple[int, int]) -> int:
        compiler = Counting(version)
        compiled("sample.cu", architecture, compiler=compiler, cache=cache)
        return compiler.calls

    assert [calls("sm_90", (13, 2)), calls("sm_80", (13, 2)), calls("sm_90", (13, 3)), calls("sm_90", (13, 2))] == [1, 1, 1, 0]
    changed = [(name, text + "\n" if name == "numbers.cuh" else text) for name, text in _core.cuda_sources()]
    monkeypatch.setattr(_core, "cuda_sources", lambda: changed)
    assert calls("sm_90", (13, 2)) == 1


def test_without_a_folder_everything_is_compiled() -> None:
    compiler = Counting()
    assert compiled("sample.cu", "sm_90", compiler=compiler, cache=None) != compiled(
        "sample.cu", "sm_90", compiler=compiler, cache=None
    )


def test_a_damaged_kernel_is_not_taken(tmp_path: Path, cache: CubinCache) -> None:
    cache.put("key", b"a kernel of some length")
    file = the_file(tmp_path)
    good = file.read_bytes()
    for bad in (good[:-1], good + b"x", good[:40] + b"y" + good[41:], b"", b"short"):
        file.write_bytes(bad)
        assert cache.get("key") is None
    cache.put("key", b"another")
    assert cache.get("key") == b"another"


def test_what_others_could_have_written_is_not_taken(tmp_path: Path, cache: CubinCache) -> None:
    cache.put("key", b"kernel")
    file, folder = the_file(tmp_path), tmp_path / "kernels"
    for place, mode in ((file, 0o620), (file, 0o602), (folder, 0o770), (folder, 0o707)):
        before = place.stat().st_mode
        place.chmod(mode)
        assert cache.get("key") is None, oct(mode)
        place.chmod(before)
    assert cache.get("key") == b"kernel"
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert cache.get("key") is None


def test_a_folder_that_others_may_write_to_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    CubinCache(folder).put("key", b"kernel")
    assert list(folder.iterdir()) == []
    assert "writable by others" in caplog.text


def test_where_nothing_can_be_kept_the_kernel_still_comes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    compiler = Counting()
    assert compiled("sample.cu", "sm_90", compiler=compiler, cache=CubinCache(tmp_path / "file")) == b"sample.cu sm_90 1"


def test_a_pipe_in_the_cache_does_not_block(tmp_path: Path, cache: CubinCache) -> None:
    cache.put("key", b"kernel")
    file = the_file(tmp_path)
    file.unlink()
    os.mkfifo(file, 0o600)
    assert cache.get("key") is None


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    assert default_cache() is not None
    monkeypatch.setattr(Path, "home", nowhere)
    assert default_cache() is None


@pytest.mark.nvrtc
def test_the_device_names_the_architecture(tmp_path: Path) -> None:
    cubin = compiled_sample(A100, CubinCache(tmp_path / "kernels"))
    assert the_file(tmp_path).name.startswith("sample-sm_80-")
    assert ctypes.c_uint32.from_buffer_copy(cubin, 48).value != 0
