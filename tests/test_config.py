"""Settings: flags over environment over defaults, and errors that say where a value came from."""

from pathlib import Path
from typing import Any

import pytest

from ecocore.config import ModelChoice, RuntimeConfig, ServerConfig
from ecocore.errors import InvalidConfiguration


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "HOST",
        "PORT",
        "HOME",
        "DATABASE",
        "MODEL",
        "PRECISION",
        "DEVICE",
        "KV_CACHE_MB",
        "MAX_SEQUENCES",
        "MAX_WAITING",
        "MAX_WAITING_PER_KEY",
        "MOCK_RATE",
        "ALLOW_IMAGE_ORIGIN",
        "NO_REMOTE_IMAGES",
    ):
        monkeypatch.delenv(f"ECOCORE_{name}", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_defaults_listen_on_this_machine_alone(tmp_path: Path) -> None:
    config = ServerConfig.read({})
    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert config.database_url == f"sqlite:///{tmp_path}/data/ecocore/ecocore.db"
    assert RuntimeConfig.read({}).model_dump() == {
        "model": (),
        "precision": None,
        "device": "auto",
        "kv_cache_mb": 256,
        "max_sequences": 256,
        "max_waiting": 256,
        "max_waiting_per_key": 64,
        "mock_rate": 0.0,
    }


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOCORE_PORT", "9000")
    monkeypatch.setenv("ECOCORE_HOST", "::1")
    config = ServerConfig.read({"port": 9001, "host": None})
    assert (config.port, config.host) == (9001, "::1")


def test_image_origins_may_be_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServerConfig.read({"allow_image_origin": ["http://a"]}).allow_image_origin == ("http://a",)
    monkeypatch.setenv("ECOCORE_ALLOW_IMAGE_ORIGIN", "http://a:1, https://b")
    monkeypatch.setenv("ECOCORE_NO_REMOTE_IMAGES", "true")
    config = ServerConfig.read({})
    assert (config.allow_image_origin, config.no_remote_images) == (("http://a:1", "https://b"), True)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOCORE_PORT", "")
    assert ServerConfig.read({}).port == 8000


def test_the_home_is_where_the_database_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOCORE_HOME", "/somewhere")
    assert ServerConfig.read({}).database_url == "sqlite:////somewhere/ecocore.db"
    assert ServerConfig.read({"database": "sqlite:///x.db"}).database_url == "sqlite:///x.db"


def test_models_are_named_for_their_last_part_unless_named(tmp_path: Path) -> None:
    folder, file = tmp_path / "some-model", tmp_path / "tiny.gguf"
    folder.mkdir()
    file.touch()
    choices = RuntimeConfig.read({"model": [str(folder), str(file), f"mine/x={file}", "fast=mock", "mock"]}).model
    assert choices == (
        ModelChoice("some-model", folder),
        ModelChoice("tiny", file),
        ModelChoice("mine/x", file),
        ModelChoice("fast", None),
        ModelChoice("mock", None),
    )


def test_a_path_may_hold_an_equals_sign(tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert RuntimeConfig.read({"model": [str(odd)]}).model == (ModelChoice("a=b", odd),)


def test_the_environment_separates_models_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOCORE_MODEL", "a=mock, b=mock")
    assert [choice.name for choice in RuntimeConfig.read({}).model] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("port", 70000, "65535"),
        ("port", -1, "0"),
        ("host", "", "character"),
        ("device", "gpu", "auto, cpu, cuda or cuda:N"),
        ("device", "cuda:x", "auto, cpu, cuda or cuda:N"),
        ("precision", "half", "'exact' or 'fast'"),
        ("kv_cache_mb", 0, "1"),
        ("model", ["nowhere"], "no file or folder 'nowhere'"),
        ("model", ["=mock"], "no name before"),
        ("model", ["x="], "no file or folder ''"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(name: str, value: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig if name in ServerConfig.model_fields else RuntimeConfig
    with pytest.raises(InvalidConfiguration) as flag:
        config.read({name: value})
    assert str(flag.value).startswith(f"{name}: ")
    assert words in str(flag.value)
    assert str(flag.value).endswith(f"(from --{name.replace('_', '-')})")
    spelled = value[0] if isinstance(value, list) else str(value)
    if spelled:
        monkeypatch.setenv(f"ECOCORE_{name.upper()}", spelled)
        with pytest.raises(InvalidConfiguration, match=rf"\(from ECOCORE_{name.upper()}\)"):
            config.read({})
