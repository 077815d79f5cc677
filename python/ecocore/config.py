"""Settings: flags over environment over one TOML file over defaults. The only file that reads the environment.

Gives frozen configurations; every error names the setting and where its value came from.
"""

import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict, TomlConfigSettingsSource

from ecocore.errors import InvalidConfiguration

ENV_PREFIX: Final = "ECOCORE_"
MOCK: Final = "mock"
DEFAULT: Final = "default"
# To black out a secret shorter than this, wherever its letters stand in a log, would hide the log and not the secret.
MIN_SECRET: Final = 4

Config = TypeVar("Config", bound=BaseSettings)

_READING = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to load: the name that requests ask for, and where it is. `path` None is the mock engine.

    `mmproj`: the GGUF file of its part that sees, if one was named.
    """

    name: str
    path: Path | None
    mmproj: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `NAME=PATH`, `PATH` (named for its last part) or `NAME=mock`. Raises ValueError."""
        name, separator, place = text.partition("=")
        if not separator or Path(text).expanduser().exists():
            name, place = "", text
        elif not name:
            raise ValueError(f"{text[:200]!r} has no name before the '='")
        if place == MOCK:
            return cls(name or MOCK, None)
        path = Path(place).expanduser()
        if not place or not path.exists():
            raise ValueError(f"there is no file or folder {place[:200]!r}; write NAME=PATH, PATH or NAME=mock")
        return cls(name or path.resolve().name.removesuffix(".gguf"), path)

    def __str__(self) -> str:
        return f"{self.name}={self.path or MOCK}"


@dataclass(frozen=True, slots=True)
class MmprojChoice:
    """The GGUF file of the part that sees of a model: of the one with this name; None is the only model."""

    name: str | None
    path: Path

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `NAME=PATH`, or `PATH` for the only model. Raises ValueError."""
        name, separator, place = text.partition("=")
        if not separator or Path(text).expanduser().exists():
            name, place = "", text
        path = Path(place).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no file {place[:200]!r}; write NAME=PATH, or PATH for the only model")
        return cls(name or None, path)

    def __str__(self) -> str:
        return str(self.path) if self.name is None else f"{self.name}={self.path}"


@dataclass(frozen=True, slots=True)
class RegionModel:
    """A model that a region serves: the name that requests ask for here, and its name there."""

    name: str
    name_there: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `NAME` or `NAME=NAME_THERE`. Raises ValueError."""
        name, separator, there = text.partition("=")
        if not name or (separator and not there):
            raise ValueError(f"{text[:200]!r} is no model; write NAME, or NAME=NAME_THERE")
        return cls(name, there or name)

    def __str__(self) -> str:
        return self.name if self.name == self.name_there else f"{self.name}={self.name_there}"


def _listed(value: Any) -> tuple[Any, ...]:
    """The environment spells several values with commas between them."""
    if isinstance(value, str):
        return tuple(text.strip() for text in value.split(","))
    if isinstance(value, (list, tuple)):
        return tuple(value)
    raise ValueError("must be a list of texts")


def _choices(value: Any) -> Any:
    return tuple(ModelChoice.parse(text) if isinstance(text, str) else text for text in _listed(value))


def _mmproj_choices(value: Any) -> Any:
    return tuple(MmprojChoice.parse(text) if isinstance(text, str) else text for text in _listed(value))


def _region_models(value: Any) -> Any:
    return tuple(RegionModel.parse(text) if isinstance(text, str) else text for text in _listed(value))


def _http_url(value: str) -> str:
    try:
        url = urlsplit(value)
        fits = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        fits = False
    if not fits or re.search(r"[\s\\]", value):
        raise ValueError("must be an URL that starts with http:// or https://")
    if "@" in url.netloc:
        raise ValueError("must hold no user name or password; a key stands in the variable that api_key_env names")
    if url.query or url.fragment:
        raise ValueError("must end with its path; there may be no ? or # in it")
    return value.rstrip("/")


def _variable(value: str) -> str:
    # A key that was written here by mistake is not quoted, and hardly ever looks like this.
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", value):
        raise ValueError("must be the name of a variable, such as OTHER_API_KEY; the key itself stands in that variable")
    return value


def _database_url(value: str) -> str:
    # Not quoted: it may hold a password.
    if _scheme(value).partition("+")[0] not in {"sqlite", "postgresql", "postgres"}:
        raise ValueError("must be sqlite:///path/to/file.db or postgresql://USER:PASSWORD@HOST/NAME")
    # Only the data folder is made: another one that is not there is a mistyped path.
    if (file := _sqlite_file(value)) is not None and not file.parent.is_dir():
        raise ValueError(f"there is no folder {str(file.parent)[:200]!r} to keep the database in")
    return value


def _sqlite_file(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(parts.path[1:]) if parts.scheme.startswith("sqlite") and parts.path.strip("/") else None


def _redis_url(value: str) -> str:
    if _scheme(value) not in {"redis", "rediss", "unix"}:
        raise ValueError("must be an URL such as redis://HOST:6379/0")
    return value


def _scheme(url: str) -> str:
    """Empty for what is no URL."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def _region_tables(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be [[regions]] tables of the file that --config names")  # noqa: TRY004  # pydantic's own form
    return tuple(value)


def _device(value: str) -> str:
    kind, _, number = value.partition(":")
    if value in {"auto", "cpu", "cuda"} or (kind == "cuda" and number.isascii() and number.isdigit()):
        return value
    raise ValueError("must be auto, cpu, cuda or cuda:N")


class RegionSettings(BaseModel):
    """Another server that speaks the same API: where it is, what it serves, how early it is asked (low numbers first)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    url: Annotated[str, AfterValidator(_http_url)]
    models: Annotated[tuple[RegionModel, ...], BeforeValidator(_region_models), Field(min_length=1)]
    api_key_env: Annotated[str, AfterValidator(_variable)] | None = None
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    context_length: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None

    @property
    def api_key(self) -> SecretStr | None:
        """What the variable holds; only who serves or asks needs it. Raises InvalidConfiguration if it is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        where = f"regions: api_key_env of {self.name!r} names the variable {self.api_key_env}, which"
        if not key:
            raise InvalidConfiguration(f"{where} is not set")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InvalidConfiguration(f"{where} holds what cannot be sent in a header")
        return SecretStr(key)

    @model_validator(mode="after")
    def _name_models_once(self) -> Self:
        _once("models", [model.name for model in self.models])
        return self


def _once(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} are named {name!r}")


def _named_once(regions: tuple[RegionSettings, ...]) -> tuple[RegionSettings, ...]:
    _once("regions", [region.name for region in regions])
    return regions


class RuntimeConfig(BaseSettings):
    """Which models to load, and how."""

    model_config = _READING

    model: Annotated[tuple[ModelChoice, ...], NoDecode, BeforeValidator(_choices)] = ()
    mmproj: Annotated[tuple[MmprojChoice, ...], NoDecode, BeforeValidator(_mmproj_choices)] = ()
    precision: Literal["exact", "fast"] | None = None
    device: Annotated[str, AfterValidator(_device)] = "auto"
    kv_cache_mb: Annotated[int, Field(ge=1, le=2**20)] = 256
    generation_config: Literal["model"] | None = None
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    max_sequences: Annotated[int, Field(ge=1, le=2**16)] = 256
    max_waiting: Annotated[int, Field(ge=1, le=2**16)] = 256
    max_waiting_per_key: Annotated[int, Field(ge=1, le=2**16)] = 64
    mock_rate: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> Self:
        """Flags that are None were not given. Raises InvalidConfiguration."""
        return _read(cls, flags)

    def models(self) -> tuple[ModelChoice, ...]:
        """The models that are given, each with the part that sees that was named for it. Raises InvalidConfiguration."""
        names = [choice.name for choice in self.model]
        for name in names:
            if names.count(name) > 1:
                raise InvalidConfiguration(f"model: two models are named {name!r}; write NAME=PATH")
        choices = {choice.name: choice for choice in self.model}
        for part in self.mmproj:
            named = part.name or (names[0] if len(names) == 1 else "")
            if named not in choices:
                told = ", ".join(names) or "none"
                raise InvalidConfiguration(
                    f"mmproj: write NAME=PATH with the name of a model that is given ({told}), not {str(part)!r}"
                )
            choices[named] = replace(choices[named], mmproj=part.path)
        return tuple(choices.values())


class ClientConfig(BaseSettings):
    """What a client of servers needs."""

    model_config = _READING

    api_key: str | None = None

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> Self:
        """Flags that are None were not given. Raises InvalidConfiguration."""
        return _read(cls, flags)


def _data_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ecocore"


class ServerConfig(BaseSettings):
    """Where to listen, where accounts and keys are kept, and which other servers stand behind this one."""

    model_config = _READING

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    home: Path = Field(default_factory=_data_folder)
    database: Annotated[str, AfterValidator(_database_url)] | None = None
    redis: Annotated[str, AfterValidator(_redis_url)] | None = None
    billing: Literal["off", "prepaid"] = "off"
    allow_image_origin: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    no_remote_images: bool = False
    isolate: bool = False
    log_level: Literal["warning", "info"] = "warning"
    config: Path | None = None
    regions: Annotated[tuple[RegionSettings, ...], NoDecode, BeforeValidator(_region_tables), AfterValidator(_named_once)] = ()

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> Self:
        """Flags that are None were not given. Raises InvalidConfiguration."""
        return _read(cls, flags)

    @property
    def database_url(self) -> str:
        """The database; unless set, a file in the data folder."""
        return self.database or f"sqlite:///{self.home.expanduser().absolute() / 'ecocore.db'}"

    @property
    def spools(self) -> Path:
        """Where charges wait that the database does not take at the moment: beside its file, or else in the data folder."""
        if (file := _sqlite_file(self.database_url)) is not None:
            # Whichever way servers get to one file, they must see each other's charges.
            file = file.resolve()
            return file.with_name(file.name + ".spool")
        name = hashlib.sha256(hide_password(self.database_url).encode()).hexdigest()[:12]
        return self.home.expanduser().absolute() / "spool" / name

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys and passwords among these settings, for blacking them out. Raises as `RegionSettings.api_key` does."""
        passwords = [secret for url in (self.database, self.redis) if url is not None for secret in _passwords(url)]
        keys = [region.api_key.get_secret_value() for region in self.regions if region.api_key is not None]
        return tuple(secret for secret in (*passwords, *keys) if len(secret) >= MIN_SECRET)


_FIELDS: Final = ServerConfig.model_fields.keys() | RuntimeConfig.model_fields.keys()


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as it counts, its secrets hidden, and where it came from: a flag, a variable, a file, or "default"."""

    name: str
    value: Any
    source: str


def settings(flags: Mapping[str, Any]) -> list[Setting]:
    """All settings of a server. Raises InvalidConfiguration where reading them would."""
    told: list[Setting] = []
    for config in (ServerConfig, RuntimeConfig):
        read, sources = _read(config, flags), _given(config, flags).sources
        for name in config.model_fields:
            value = read.database_url if isinstance(read, ServerConfig) and name == "database" else getattr(read, name)
            told.append(Setting(name, _shown(value), sources.get(name, DEFAULT)))
    return told


_PASSWORD: Final = re.compile(r"(?<=://)([^:/@]*):(.*)(?=@)")
_QUERY_SECRET: Final = re.compile(r"([?&][^=&]*(?:pass|key|secret|token)[^=&]*)=([^&]*)", re.IGNORECASE)


def hide_password(url: str) -> str:
    """The URL with *** for its password, however it is spelled, and for what its query calls one."""
    return _QUERY_SECRET.sub(r"\1=***", _PASSWORD.sub(r"\1:***", url))


def _passwords(url: str) -> list[str]:
    """What `hide_password` hides, as it stands there and as it is meant."""
    found = [match[2] for pattern in (_PASSWORD, _QUERY_SECRET) for match in pattern.finditer(url)]
    return [secret for spelled in found for secret in {spelled, unquote(spelled)}]


def _shown(value: Any) -> Any:
    """For people and for JSON."""
    if isinstance(value, tuple):
        return [_shown(one) for one in value]
    if isinstance(value, BaseModel):
        return {name: _shown(getattr(value, name)) for name in type(value).model_fields}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return hide_password(str(value))


@dataclass(frozen=True, slots=True)
class _Given:
    """What was set, and of each where."""

    values: dict[str, Any]
    sources: dict[str, str]


def _given(config: type[BaseSettings], flags: Mapping[str, Any]) -> _Given:
    """The first source that has a setting counts. Raises InvalidConfiguration for a file that cannot be used."""
    given = _Given({}, {})
    options = ClientConfig.model_fields.keys() if config is ClientConfig else _FIELDS
    if unknown := flags.keys() - options:
        raise TypeError(f"there is no such option: {min(unknown)}")

    def add(values: Mapping[str, Any], source: str) -> None:
        for name, value in values.items():
            if name in config.model_fields and name not in given.values:
                given.values[name] = value
                given.sources[name] = source.format(flag=name.replace("_", "-"), variable=ENV_PREFIX + name.upper())

    add({name: value for name, value in flags.items() if value is not None}, "--{flag}")
    add(EnvSettingsSource(config)(), "{variable}")
    if config is not ClientConfig:
        path = flags.get("config") or EnvSettingsSource(ServerConfig)().get("config")
        if path is not None:
            add(_file(Path(path)), str(path).replace("{", "{{").replace("}", "}}"))
    return given


def _file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidConfiguration(f"config: there is no file {str(path)!r}")
    try:
        values = TomlConfigSettingsSource(ServerConfig, path).toml_data
    except OSError as error:
        raise InvalidConfiguration(f"config: {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"config: {path} is no TOML: {error}") from None
    known = _FIELDS - {"config"}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "ecocore config lists the settings"
            raise InvalidConfiguration(f"{name[:80]}: there is no such setting (from {path}); {hint}")
    return values


def _read(config: type[Config], flags: Mapping[str, Any]) -> Config:
    given = _given(config, flags)
    try:
        return config(**given.values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        setting = str(first["loc"][0])
        raise InvalidConfiguration(f"{_place(first['loc'])}: {_reason(first)} (from {given.sources[setting]})") from None


# What pydantic says about the kinds of mistakes, in our words. {value}: what was given; never a text that could be a secret.
_REASONS: Final = {
    "bool_parsing": "must be true or false, not {value}",
    "bool_type": "must be true or false, not {value}",
    "dataclass_type": "must be a text",
    "float_parsing": "must be a number, not {value}",
    "float_type": "must be a number, not {value}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number, not {value}",
    "int_parsing": "must be a whole number, not {value}",
    "int_parsing_size": "must be a whole number of a sensible size",
    "int_type": "must be a whole number, not {value}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_type": "must be a table of settings",
    "path_type": "must be a path",
    "string_pattern_mismatch": "must be of letters, digits, '.', '_' and '-', begin with a letter or digit, and have 64 at most",
    "string_too_short": "must not be empty",
    "string_type": "must be a text",
    "too_short": "must name at least one",
}
# How people call a key where they should name the variable that holds it.
_KEY_ITSELF: Final = frozenset({"api_key", "apikey", "key", "token", "secret", "password"})


def _reason(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]))
    if kind in _REASONS:
        return _REASONS[kind].format(**error.get("ctx", {}), value=repr(error["input"])[:60])
    return error["msg"].removeprefix("Value error, ")


def _unknown_key(name: str) -> str:
    """Of a table of a region: the others are judged where the file is read."""
    known = RegionSettings.model_fields
    if name.lower().replace("-", "_") in _KEY_ITSELF:
        return "a key must not stand in the file; put it into a variable, and name the variable with api_key_env"
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"a region has {', '.join(known)}"
    return f"there is no such setting; {hint}"


def _place(loc: tuple[int | str, ...]) -> str:
    """As one would write it: `regions[0].url`."""
    first, *rest = loc
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
