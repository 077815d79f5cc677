"""What a server and its engines say to each other comes out as it went in."""

import json

import pytest

from ecocore import errors
from ecocore.errors import EcocoreError, InvalidRequest
from ecocore.regions.contract import Facts, owner_headers, owner_of, rebuilt, spelled
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Owner
from ecocore.runtime import Runtime
from ecocore.server.error_table import api_error


class Stranger(errors.QueueFull):
    """A kind that only one side knows."""


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest(None, "no field is at fault"),
        errors.InvalidParameter("messages", "no", "invalid_type", place="[0].content"),
        errors.InvalidParameter("n", 'says "no"\n\u20ac'),
        errors.UnsupportedParameter("tools", "no"),
        errors.ContextLengthExceeded("messages", "no"),
        errors.ModelNotFound("model", "no"),
        errors.InvalidModelFile("tensor x: cut"),
        errors.InvalidConfiguration("device: no"),
        errors.Overloaded("full"),
        errors.QueueFull("full"),
        errors.EngineFailure("engine_error", "lost"),
        errors.EngineBroken("engine_error", "a process is lost"),
        errors.RegionUnavailable("down"),
        errors.RuntimeClosed("closed"),
        errors.InternalError("broken"),
        errors.EcocoreError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_there_as_it_was_here(error: EcocoreError) -> None:
    again = rebuilt(json.loads(json.dumps(spelled(error))))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert api_error(again) == api_error(error)
    if isinstance(error, InvalidRequest) and isinstance(again, InvalidRequest):
        assert (again.param, again.message, again.code, again.place) == (error.param, error.message, error.code, error.place)


def test_every_kind_of_error_is_known() -> None:
    assert {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EcocoreError)} == {
        type(rebuilt({"kind": kind.__name__, "param": None, "message": "", "code": "x", "place": ""}))
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, EcocoreError)
    }


def test_a_kind_that_only_one_side_knows_is_the_next_above_it() -> None:
    assert type(rebuilt(spelled(Stranger("full")))) is errors.QueueFull
    assert type(rebuilt({"kind": "NoSuchKind", "message": "x"})) is errors.InternalError


@pytest.mark.parametrize("owner", [Owner(), Owner(b"account 7", 2**63), Owner(bytes(range(256)), 1)])
def test_an_owner_travels_in_headers(owner: Owner) -> None:
    headers = owner_headers(owner)
    assert all(text.isascii() and text.isprintable() for text in headers.values())
    assert owner_of(headers) == owner


def test_nobody_in_particular_is_who_is_not_named() -> None:
    assert owner_of({}) == Owner()


def test_facts_are_those_of_the_region(mock: Runtime) -> None:
    region = LocalRegion(mock)
    facts = Facts.parse(json.loads(json.dumps(Facts.of(region).spelled())))
    assert facts == Facts.of(region)
    for name in Facts.__slots__:
        assert getattr(facts, name) == getattr(region, name)
