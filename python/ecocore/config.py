"""Settings: flags over environment over defaults. The only file that reads the environment.

Gives frozen configurations; every error names the setting and where its value came from.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ecocore.errors import InvalidConfiguration

ENV_PREFIX: Final = "ECOCORE_"
MOCK: Final = "mock"

Config = TypeVar("Config", bound=BaseSettings)

_READING = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to load: the name that requests ask for, and where it is. `path` None is the mock engine."""

    name: str
    path: Path | None

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


def _choices(value: Any) -> Any:
    """The environment spells several models with commas between them."""
    texts = value.split(",") if isinstance(value, str) else value
    return tuple(ModelChoice.parse(text.strip()) if isinstance(text, str) else text for text in texts)


def _listed(value: Any) -> Any:
    """The environment spells several values with commas between them."""
    return tuple(text.strip() for text in value.split(",")) if isinstance(value, str) else tuple(value)


def _device(value: str) -> str:
    kind, _, number = value.partition(":")
    if value in {"auto", "cpu", "cuda"} or (kind == "cuda" and number.isascii() and number.isdigit()):
        return value
    raise ValueError("must be auto, cpu, cuda or cuda:N")


class RuntimeConfig(BaseSettings):
    """Which models to load, and how."""

    model_config = _READING

    model: Annotated[tuple[ModelChoice, ...], NoDecode, BeforeValidator(_choices)] = ()
    precision: Literal["exact", "fast"] | None = None
    device: Annotated[str, AfterValidator(_device)] = "auto"
    kv_cache_mb: Annotated[int, Field(ge=1, le=2**20)] = 256
    max_sequences: Annotated[int, Field(ge=1, le=2**16)] = 256
    max_waiting: Annotated[int, Field(ge=1, le=2**16)] = 256
    max_waiting_per_key: Annotated[int, Field(ge=1, le=2**16)] = 64
    mock_rate: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> Self:
        """Flags that are None were not given. Raises InvalidConfiguration."""
        return _read(cls, flags)


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
    """Where to listen, and where accounts and keys are kept."""

    model_config = _READING

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    home: Path = Field(default_factory=_data_folder)
    database: str | None = None
    allow_image_origin: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    no_remote_images: bool = False
    isolate: bool = False
    log_level: Literal["warning", "info"] = "warning"

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> Self:
        """Flags that are None were not given. Raises InvalidConfiguration."""
        return _read(cls, flags)

    @property
    def database_url(self) -> str:
        """The database; unless set, a file in the data folder."""
        return self.database or f"sqlite:///{self.home.expanduser().absolute() / 'ecocore.db'}"


def _read(config: type[Config], flags: Mapping[str, Any]) -> Config:
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return config(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        setting = str(first["loc"][0])
        source = f"--{setting.replace('_', '-')}" if setting in given else ENV_PREFIX + setting.upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidConfiguration(f"{setting}: {reason} (from {source})") from None
