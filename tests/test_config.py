"""Settings: flags over environment over one file over defaults, and errors that say where a value came from."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ecocore.config import ModelChoice, RegionModel, RuntimeConfig, ServerConfig, hide_password, settings
from ecocore.errors import InvalidConfiguration


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("ECOCORE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_defaults_listen_on_this_machine_alone(tmp_path: Path) -> None:
    config = ServerConfig.read({})
    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert config.database_url == f"sqlite:///{tmp_path}/data/ecocore/ecocore.db"
    assert RuntimeConfig.read({}).model_dump() == {
        "model": (),
        "mmproj": (),
        "precision": None,
        "device": "auto",
        "kv_cache_mb": 256,
        "generation_config": None,
        "tensor_parallel": 1,
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


def test_the_part_that_sees_is_named_for_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, tower = (tmp_path / name for name in ("one.gguf", "other.gguf", "tower.gguf"))
    for path in (one, other, tower):
        path.touch()
    alone = RuntimeConfig.read({"model": [str(one)], "mmproj": [str(tower)]})
    assert [(choice.name, choice.mmproj) for choice in alone.models()] == [("one", tower)]
    monkeypatch.setenv("ECOCORE_MMPROJ", f"other={tower}")
    both = RuntimeConfig.read({"model": [str(one), str(other)]})
    assert [(choice.name, choice.mmproj) for choice in both.models()] == [("one", None), ("other", tower)]
    for wrong in (str(tower), f"third={tower}"):
        config = RuntimeConfig.read({"model": [str(one), str(other)], "mmproj": [wrong]})
        with pytest.raises(InvalidConfiguration, match=r"mmproj: write NAME=PATH with the name of a model.*\(one, other\)"):
            config.models()
    with pytest.raises(InvalidConfiguration, match="mmproj: there is no file"):
        RuntimeConfig.read({"mmproj": ["nowhere.gguf"]})


def test_image_origins_may_be_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServerConfig.read({"allow_image_origin": ["http://a"]}).allow_image_origin == ("http://a",)
    monkeypatch.setenv("ECOCORE_ALLOW_IMAGE_ORIGIN", "http://a:1, https://b")
    monkeypatch.setenv("ECOCORE_NO_REMOTE_IMAGES", "true")
    config = ServerConfig.read({})
    assert (config.allow_image_origin, config.no_remote_images) == (("http://a:1", "https://b"), True)


def test_charges_of_one_file_wait_in_one_folder_whichever_way_leads_there(tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(tmp_path)
    folders = [ServerConfig.read({"database": f"sqlite:///{folder}/x.db"}).spools for folder in (tmp_path, tmp_path / "way")]
    assert folders == [tmp_path / "x.db.spool"] * 2


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
        ("port", 70000, "must be at most 65535"),
        ("port", -1, "must be at least 0"),
        ("port", "eighty", "must be a whole number, not 'eighty'"),
        ("mock_rate", "fast", "must be a number, not 'fast'"),
        ("isolate", "perhaps", "must be true or false, not 'perhaps'"),
        ("host", "", "must not be empty"),
        ("device", "gpu", "auto, cpu, cuda or cuda:N"),
        ("device", "cuda:x", "auto, cpu, cuda or cuda:N"),
        ("precision", "half", "must be 'exact' or 'fast'"),
        ("kv_cache_mb", 0, "1"),
        ("model", ["nowhere"], "no file or folder 'nowhere'"),
        ("model", ["=mock"], "no name before"),
        ("model", ["x="], "no file or folder ''"),
        ("billing", "postpaid", "'off' or 'prepaid'"),
        ("database", "nowhere", "must be sqlite:///path/to/file.db or postgresql://"),
        ("database", "mysql://x", "must be sqlite:///path/to/file.db or postgresql://"),
        ("database", "sqlite:////nowhere/x.db", "there is no folder '/nowhere'"),
        ("redis", "http://x", "redis://"),
        ("redis", "redis://[", "redis://"),
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


# --- the file -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ecocore.toml"


REGION = """
[[regions]]
name = "other"
url = "https://other.example/v1/"
models = ["big", "small=maker/small-1b"]
"""


def test_the_file_counts_after_the_environment_and_before_the_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('port = 1\nhost = "::1"\nlog_level = "info"\nmodel = ["a=mock", "b=mock"]\nkv_cache_mb = 64\n')
    monkeypatch.setenv("ECOCORE_HOST", "::2")
    monkeypatch.setenv("ECOCORE_PORT", "2")
    flags = {"config": file, "port": 3, "host": None}
    server, runtime = ServerConfig.read(flags), RuntimeConfig.read(flags)
    assert (server.port, server.host, server.log_level, server.isolate) == (3, "::2", "info", False)
    assert ([choice.name for choice in runtime.model], runtime.kv_cache_mb, runtime.device) == (["a", "b"], 64, "auto")


def test_the_file_may_be_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 1\nmax_waiting = 5\n")
    monkeypatch.setenv("ECOCORE_CONFIG", str(file))
    assert (ServerConfig.read({}).port, RuntimeConfig.read({}).max_waiting) == (1, 5)
    other = file.with_name("other.toml")
    other.write_text("port = 2\n")
    assert ServerConfig.read({"config": other}).port == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "prot: there is no such setting (from {file}); did you mean 'port'?"),
        ("kv-cache-mb = 1", "kv-cache-mb: there is no such setting (from {file}); did you mean 'kv_cache_mb'?"),
        ("[server]\nport = 1", "server: there is no such setting (from {file})"),
        ('config = "x"', "config: there is no such setting"),
        ('api_key = "x"', "api_key: there is no such setting"),
        ("port = 70000", "port: must be at most 65535 (from {file})"),
        ("port = 1.5", "port: must be a whole number, not 1.5 (from {file})"),
        ("host = 5", "host: must be a text (from {file})"),
        ("kv_cache_mb = 0", "kv_cache_mb: must be at least 1 (from {file})"),
        ("model = 5", "model: must be a list of texts (from {file})"),
        ("model = [5]", "model[0]: must be a text"),
        ("port = ", "config: {file} is no TOML: "),
        ("regions = 5", "regions: must be [[regions]] tables"),
        ("regions = [5]", "regions[0]: must be a table of settings"),
        ('[[regions]]\nname = "x"', "regions[0].url: is missing (from {file})"),
        (REGION + "colour = 1", "regions[0].colour: there is no such setting; a region has name, url, models, api_key_env, "),
        (REGION + "prioriti = 1", "regions[0].prioriti: there is no such setting; did you mean 'priority'? (from {file})"),
        (REGION + 'priority = "high"', "regions[0].priority: must be a whole number, not 'high'"),
        (REGION + 'api_key = "sk-very-secret"', "regions[0].api_key: a key must not stand in the file; put it into a variable"),
        (REGION + 'token = "sk-very-secret"', "regions[0].token: a key must not stand in the file; put it into a variable"),
        (REGION + 'api_key_env = "sk-very-secret"', "regions[0].api_key_env: must be the name of a variable"),
        (REGION + "priority = -1", "regions[0].priority: must be at least 0"),
        (REGION + "context_length = 0", "regions[0].context_length: must be at least 1"),
        (REGION + REGION, "regions: two regions are named 'other'"),
        (REGION.replace("https://", "ftp://"), "regions[0].url: must be an URL that starts with http"),
        (REGION.replace("https://", "https://user:very-secret@"), "regions[0].url: must hold no user name or password"),
        (REGION.replace("/v1/", "?x=very-secret"), "regions[0].url: must end with its path"),
        (REGION.replace("other.example", ""), "regions[0].url: must be an URL"),
        (REGION.replace("other.example", "[::1"), "regions[0].url: must be an URL"),
        (REGION.replace("other.example", "x:y"), "regions[0].url: must be an URL"),
        (REGION.replace('"other"', '"a b"'), "regions[0].name: must be of letters, digits"),
        (REGION.replace('"big"', '"small"'), "regions[0]: two models are named 'small'"),
        (REGION.replace('"big"', '"=x"'), "regions[0].models: '=x' is no model"),
        (REGION.replace('"big", "small=maker/small-1b"', ""), "regions[0].models: must name at least one"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(text: str, words: str, file: Path) -> None:
    file.write_text(text)
    for config in (ServerConfig, RuntimeConfig):
        try:
            config.read({"config": file})
        except InvalidConfiguration as error:
            said = str(error)
            break
    assert said.startswith(words.format(file=file))
    assert "secret" not in said


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_is_not_there_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="config: there is no file"):
        ServerConfig.read({"config": tmp_path / name})


def test_a_file_that_is_no_text_is_told(file: Path) -> None:
    file.write_bytes(b"host = '\xff'")
    with pytest.raises(InvalidConfiguration, match="is no TOML"):
        ServerConfig.read({"config": file})


def test_an_option_that_does_not_exist_is_heard() -> None:
    with pytest.raises(TypeError, match="warp"):
        ServerConfig.read({"warp": 9})


# --- regions and secrets --------------------------------------------------------------------------------


def test_regions_are_tables_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "sk-secret")
    more = 'api_key_env = "OTHER_API_KEY"\npriority = 2\ncontext_length = 4096\n'
    file.write_text(REGION + more + REGION.replace('"other"', '"third"'))
    first, second = ServerConfig.read({"config": file}).regions
    assert (first.name, first.url, first.priority, first.context_length) == ("other", "https://other.example/v1", 2, 4096)
    assert first.models == (RegionModel("big", "big"), RegionModel("small", "maker/small-1b"))
    assert first.api_key == SecretStr("sk-secret")
    assert (second.api_key, second.priority, second.context_length) == (None, 0, None)


@pytest.mark.parametrize(
    ("held", "words"), [("", "is not set"), ("two words", "cannot be sent"), ("\u00e9\x01", "cannot be sent")]
)
def test_a_key_that_is_not_there_is_missed_by_who_needs_it(
    held: str, words: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_API_KEY", held)
    file.write_text(REGION + 'api_key_env = "OTHER_API_KEY"\n')
    server = ServerConfig.read({"config": file})
    with pytest.raises(InvalidConfiguration, match=f"'other' names the variable OTHER_API_KEY, which .*{words}") as missed:
        _ = server.regions[0].api_key
    assert not held or held not in str(missed.value)
    with pytest.raises(InvalidConfiguration, match="OTHER_API_KEY"):
        _ = server.secrets


def test_a_variable_cannot_hold_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOCORE_REGIONS", "[]")
    with pytest.raises(InvalidConfiguration, match=r"regions: must be \[\[regions\]\] tables.*\(from ECOCORE_REGIONS\)"):
        ServerConfig.read({})


def test_secrets_are_known_and_never_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "sk-secret")
    file.write_text(REGION + 'api_key_env = "OTHER_API_KEY"\n')
    flags = {"config": file, "database": "postgresql://me:s3cr%40t@host/db?password=again", "redis": "redis://:p4ss@host/0"}
    server = ServerConfig.read(flags)
    assert set(server.secrets) == {"s3cr%40t", "s3cr@t", "again", "p4ss", "sk-secret"}
    shown = repr(settings(flags)) + repr(server.regions) + str(server.regions)
    assert not any(secret in shown for secret in server.secrets)


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("sqlite:////home/me/ecocore.db", "sqlite:////home/me/ecocore.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:sec/r@e:t@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&ssl=on", "postgresql://host/db?user=me&password=***&ssl=on"),
        ("redis://:secret@host/0", "redis://:***@host/0"),
    ],
)
def test_a_password_is_hidden_however_it_is_spelled(url: str, hidden: str) -> None:
    assert hide_password(url) == hidden


def test_every_setting_tells_where_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 1\nkv_cache_mb = 64\n" + REGION)
    monkeypatch.setenv("ECOCORE_HOST", "::1")
    told = {one.name: one for one in settings({"config": file, "model": ["a=mock"], "isolate": True})}
    assert told.keys() == ServerConfig.model_fields.keys() | RuntimeConfig.model_fields.keys()
    found = {name: (one.value, one.source) for name, one in told.items() if one.source != "default"}
    region = {
        "name": "other",
        "url": "https://other.example/v1",
        "models": ["big", "small=maker/small-1b"],
        "api_key_env": None,
        "priority": 0,
        "context_length": None,
    }
    assert found == {
        "config": (str(file), "--config"),
        "host": ("::1", "ECOCORE_HOST"),
        "isolate": (True, "--isolate"),
        "kv_cache_mb": (64, str(file)),
        "model": (["a=mock"], "--model"),
        "port": (1, str(file)),
        "regions": ([region], str(file)),
    }
