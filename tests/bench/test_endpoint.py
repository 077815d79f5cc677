"""URLs as people write them, and the bytes of requests."""

import pytest

from ecocore.bench.endpoint import Endpoint
from ecocore.errors import InvalidConfiguration


@pytest.mark.parametrize(
    ("url", "place", "host"),
    [
        ("http://127.0.0.1:8000", (False, "127.0.0.1", 8000, "/v1"), "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", (False, "127.0.0.1", 8000, "/v1"), "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", (False, "127.0.0.1", 8000, "/v1"), "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/chat/completions", (False, "127.0.0.1", 8000, "/v1"), "127.0.0.1:8000"),
        ("http://models.internal", (False, "models.internal", 80, "/v1"), "models.internal"),
        ("https://models.internal/openai/v1", (True, "models.internal", 443, "/openai/v1"), "models.internal"),
        ("HTTPS://Models.Internal:8443", (True, "models.internal", 8443, "/v1"), "models.internal:8443"),
        ("http://[::1]:8000", (False, "::1", 8000, "/v1"), "[::1]:8000"),
    ],
)
def test_a_url_tells_where_and_the_request_says_it(url: str, place: tuple[bool, str, int, str], host: str) -> None:
    endpoint = Endpoint.parse(url, "k-1")
    assert (endpoint.tls, endpoint.host, endpoint.port, endpoint.path) == place
    request = endpoint.request("POST", "/chat/completions", b"{}")
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST {place[3]}/chat/completions HTTP/1.1"
    assert {f"Host: {host}", "Authorization: Bearer k-1", "Content-Length: 2", "Accept-Encoding: identity"} <= set(lines)
    assert body == b"{}"
    assert Endpoint.parse(endpoint.url) == Endpoint.parse(url)


def test_without_a_key_none_is_sent() -> None:
    assert b"authorization" not in Endpoint.parse("http://x").request("GET", "/models").lower()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "not of the form"),
        ("localhost:8000", "not of the form"),
        ("ftp://x", "not of the form"),
        ("http://", "not of the form"),
        ("http://x:port", "no URL"),
        ("http://x:99999", "no URL"),
        ("http://user:secret@x", "has a user"),
        ("http://x/?key=secret", "a query"),
        ("http://x/a b", "holds signs"),
        ("http://x/\r\nX: y", "holds signs"),
        ("http://müller.example", "holds signs"),
    ],
)
def test_a_wrong_url_is_told_without_its_secrets(url: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words) as raised:
        Endpoint.parse(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["", "a b", "secret\r\nX: y", "clé"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidConfiguration, match="key: ") as raised:
        Endpoint.parse("http://x", key)
    assert "secret" not in str(raised.value)
