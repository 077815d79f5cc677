"""Guessing keys, and asking the database through one: CVE-2026-42208 and its kin."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.abuse.target import Target, statuses


def asked(target: Target, *lines: str) -> bytes:
    return "\r\n".join(["GET /v1/models HTTP/1.1", "Host: x", *lines, "", ""]).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "Bearer",
            "Bearer ",
            "Bearer  ",
            "bearer null",
            "Bearer undefined",
            "Bearer None",
            "Bearer eco_",
            "Bearer true",
            "Bearer *",
            "Bearer %",
        ),
        *(
            "Basic ZWNvOmVjbw==",
            "Digest x",
            "Negotiate x",
            "Bearer eco_" + "0" * 49,
            "Bearer eco_" + "A" * 49,
            "Bearer eco_" + "é" * 49,
        ),
        *(
            "Bearer ' OR '1'='1",
            "Bearer eco_' OR 1=1; --",
            "Bearer eco_x' UNION SELECT hash FROM api_keys --",
            'Bearer eco_" OR ""="',
            "Bearer eco_%",
        ),
        *(
            "Bearer eco_" + "_" * 49,
            "Bearer \x00"[:-1] + "x",
            "Bearer eco_$(id)",
            "Bearer eco_{{7*7}}",
            "Bearer " + "a" * 30_000,
            "Bearer eco_x eco_y",
        ),
        *(
            "Bearer sk-proj-abc",
            "Token eco_x",
            "eco_x",
            "Bearer\teco_x",
            "Bearer ../../etc/passwd",
            "Bearer eyJhbGciOiJub25lIn0.e30.",
        ),
    ],
)
def test_no_spelling_of_a_key_passes(target: Target, value: str) -> None:
    (answer,) = target.exchange(asked(target, f"Authorization: {value}"))
    assert answer.status in (400, 401)
    assert value[-20:] not in answer.body.decode() or len(value) < 12


def test_a_key_in_the_wrong_place_is_no_key(target: Target) -> None:
    key = target.key
    for lines in (
        [f"X-Api-Key: {key}"],
        [f"Api-Key: {key}"],
        [f"Cookie: key={key}; Authorization=Bearer {key}"],
        [f"Proxy-Authorization: Bearer {key}"],
        [f"Authorization: Bearer {key}", "Authorization: Bearer x"],
        ["Authorization: Bearer x", f"Authorization: Bearer {key}"],
        [f"Authorization: Bearer {key}, Bearer x"],
        [f"Authorization: {key}"],
        [f"Authorization: Bearer {key[:-1]}"],
        [f"Authorization: Bearer {key}x"],
        [f"Authorization: Bearer {key.swapcase()}"],
        [f"Authorization_: Bearer {key}"],
    ):
        (answer,) = target.exchange(asked(target, *lines))
        assert answer.status == 401
    for path in (f"/v1/models?key={key}", f"/v1/models?api_key={key}&access_token={key}"):
        (answer,) = target.exchange(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.status == 401
    (answer,) = target.exchange(asked(target, f"aUTHORIZATION: bEARER   {key} "))
    assert answer.status == 200


def test_guessing_is_quick_to_refuse_and_holds_up_nobody(target: Target) -> None:
    """Half of the guesses have a right checksum's form, so that the database is asked."""

    def guess(number: int) -> list[int]:
        guesses = b"".join(asked(target, f"Authorization: Bearer {target.key[:-6]}{number:03}{index:03}") for index in range(50))
        return statuses(target.exchange(guesses, answers=50))

    begun = time.monotonic()
    with ThreadPoolExecutor(8) as crowd:
        for found in crowd.map(guess, range(8)):
            assert set(found) == {401}
    assert time.monotonic() - begun < 10
