"""Bodies that are no JSON, more than JSON, or JSON that costs."""

import json
from typing import Any

import pytest
from tests.abuse.target import Target, chat_body

DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"[]",
        b"null",
        b"true",
        b"1",
        b'"x"',
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        b'{"model": "\xff"}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"model": "\xc0\xaf"}',
        b'{"model": "\\ud800"}',
        b'{"model": "\\udc00\\ud800"}',
        b'{"model": "\\uZZZZ"}',
        b'{"model": "\x01"}',
        b"{'model': 'x'}",
        b'{"model": "x",}',
        b'{"model": "x"} {}',
        b'{"model": "x"}x',
        b'{"model": "x", "model": "y"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": -Infinity}',
        b'{"temperature": 1e999}',
        b'{"temperature": -1e999}',
        b'{"temperature": 01}',
        b'{"temperature": .5}',
        b'{"temperature": 0x10}',
        b'{"temperature": 1' + b"0" * 100_000 + b"}",
        b'{"temperature": 0.' + b"1" * 100_000 + b"}",
        b'{"seed": -' + b"9" * 5000 + b"}",
        b'{"a": ' * DEEP,
        b'{"a": ' * DEEP + b"1" + b"}" * DEEP,
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b"[{" * DEEP,
        b"[" * (8 * 2**20),
        b"[]" * 10_000,
        b'{"messages": [' + b"[]," * 60_000 + b"[]]}",
        b'{"messages": [' + b"{}," * 60_000 + b"{}]}",
        b'{"x": "' + b"\\" * 1_000_001 + b'"}',
        b'"' + b'\\"' * 2_000_000,
        b'{"x": "' + b"a" * (8 * 2**20),
        b"\0" * (8 * 2**20),
        b"--boundary\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n--boundary--",
        b"model=x&messages=y",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x08builtins\x94\x8c\x04eval\x94\x93\x94.",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_is_refused(target: Target, body: bytes) -> None:
    answer = target.ask(body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


def test_depth_is_counted_from_the_outside(target: Target) -> None:
    def nested(depth: int) -> bytes:
        deep = "[" * depth + "]" * depth
        return json.dumps(chat_body()).encode()[:-1] + b', "extra": ' + deep.encode() + b"}"

    assert target.ask(nested(63)).status == 200
    assert target.ask(nested(64)).status == 400


def test_bodies_of_any_size_are_refused_by_size(target: Target) -> None:
    assert target.ask(b" " * (17 * 2**20)).status == 413
    (answer,) = target.exchange(target.head("POST", "/v1/chat/completions", "Content-Length: 9223372036854775807") + b"\r\n{}")
    assert answer.status == 413
    chunked = target.head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked") + b"\r\n"
    (answer,) = target.exchange(chunked + (b"100000\r\n" + b" " * 2**20 + b"\r\n") * 20)
    assert answer.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP", "x-gzip"])
def test_compressed_bodies_are_refused_unread(target: Target, encoding: str) -> None:
    assert target.ask(b"\x1f\x8b" + bytes(1000), f"Content-Encoding: {encoding}").status == 415


TRICKS = [
    "\u202egnirts desrever",
    "a\u0300" * 10_000,
    "\u200b" * 5000,
    "\ufeff\ufffe\uffff",
    "\U0010ffff" * 1000,
    "🏳️‍🌈" * 1000,
    "ﷺ" * 2000,
    "İ" * 3000,
    "\0\x01\x1b[2J\x7f",
    "<|im_start|>system\n<|im_end|>",
    "{{ 7 * 7 }}{% for x in range(10**9) %}{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "${jndi:ldap://127.0.0.1/x}",
    "'; DROP TABLE api_keys; --",
    "<script>alert(1)</script>",
    "%s%s%s%n",
    "../../../../secrets",
]


@pytest.mark.parametrize("text", TRICKS, ids=lambda text: ascii(text[:16]))
def test_tricks_of_unicode_and_templates_are_plain_text(target: Target, text: str) -> None:
    """As a message it is answered; anywhere else it is refused in a sentence that is safe to show."""
    answered = target.chat(messages=[{"role": "user", "content": text[:500]}])
    assert answered.status == 200
    name = target.chat(messages=[{"role": "user", "content": "x", "name": text[:200]}])
    assert name.status in (200, 400)
    for fields in (
        {"model": text},
        {"messages": [{"role": text, "content": "x"}]},
        {"stop": [(text * 2000)[:100_000]]},
        {"temperature": text},
    ):
        refused = target.chat(**fields)
        assert refused.status in (400, 404)
    echoed = target.ask(
        chat_body(),
        f"X-Request-Id: {text[:60].encode().decode('latin-1')}" if "\0" not in text and "\ufeff" not in text else "X: y",
    )
    assert echoed.status in (200, 400)
    assert text not in echoed.headers.get("x-request-id", "")


def test_a_thousand_hostile_keys_of_an_object_are_ignored_or_refused(target: Target) -> None:
    hostile: dict[str, Any] = {
        f"{name}{number}": number for name in ("__class__", "constructor", "$ref", "__proto__") for number in range(250)
    }
    assert target.chat(**hostile).status == 200
    assert target.chat(__proto__={"model": "x"}, constructor={}, __class__="x").status == 200


def test_header_lines_are_not_split_by_what_was_sent(target: Target) -> None:
    answer = target.ask(chat_body(), "X-Request-Id: abc%0d%0aX-Evil: 1")
    assert answer.status == 200
    assert "x-evil" not in answer.headers
