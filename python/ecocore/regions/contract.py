"""What a server and the process of an engine say to each other, beside the API that both speak.

A request is judged first and started later, as in one process: the child answers the API's own POST, sent with
`Accept: ADMISSION`, with the name of an admission, and `POST ADMISSIONS_PATH/{name}` with the request's events; `DELETE`
gives up an admission that will not be started. Errors come as the kinds they were raised as, so that the server may tell
them in the client's words.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from ecocore import errors
from ecocore.errors import EcocoreError, EngineFailure, InternalError, InvalidRequest
from ecocore.regions.region import Owner, Region

ADMISSION: Final = "application/vnd.ecocore.admission+json"
"""Asked for: judge the request and keep it; what is wrong is told as it was raised."""
EVENTS: Final = "application/vnd.ecocore.events"
"""Frames for `_core.EventDecoder`."""
ADMISSIONS_PATH: Final = "/v1/admissions"
HEARTBEAT_PATH: Final = "/heartbeat"
"""What `Region.stats` says; that it is said tells that the process lives."""

_SALT: Final = "x-ecocore-salt"
_KEY: Final = "x-ecocore-key"

_KINDS: Final[Mapping[str, type[EcocoreError]]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EcocoreError)
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a region says of itself, from a region in another process; see `Region`."""

    model_id: str
    created: int
    context_length: int
    accepts_images: bool
    fingerprint: str
    abilities: tuple[str, ...]

    @classmethod
    def of(cls, region: Region) -> Self:
        """The facts of `region`."""
        return cls(**{name: getattr(region, name) for name in cls.__slots__})

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """From the object that `spelled` made."""
        return cls(**{**fields, "abilities": tuple(fields["abilities"])})

    def spelled(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def owner_headers(owner: Owner) -> dict[str, str]:
    """Whom a request is for, beside its start."""
    return {_SALT: owner.salt.hex(), _KEY: str(owner.key)}


def owner_of(headers: Mapping[str, str]) -> Owner:
    """The owner in `headers`; nobody in particular where they say nothing."""
    return Owner(bytes.fromhex(headers.get(_SALT, "")), int(headers.get(_KEY, "0")))


def spelled(error: EcocoreError) -> dict[str, Any]:
    """An error as a JSON object: its kind, or the next one above it that `errors` draws, and what it holds."""
    kind = next(above.__name__ for above in type(error).__mro__ if above.__name__ in _KINDS)
    if isinstance(error, InvalidRequest):
        return {"kind": kind, "param": error.param, "message": error.message, "code": error.code, "place": error.place}
    code = {"code": error.code} if isinstance(error, EngineFailure) else {}
    return {"kind": kind, "message": str(error), **code}


def rebuilt(fields: Mapping[str, Any]) -> EcocoreError:
    """The error that `spelled` made an object of."""
    kind = _KINDS.get(fields["kind"], InternalError)
    if issubclass(kind, InvalidRequest):
        return kind(fields["param"], fields["message"], fields["code"], place=fields["place"])
    if issubclass(kind, EngineFailure):
        return kind(fields["code"], fields["message"])
    return kind(fields["message"])
