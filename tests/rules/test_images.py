"""Rule 33: images in messages, taken from data URLs and public https addresses alone."""

import base64
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.live_server import serving
from tests.rules.conftest import Api

from ecocore.prompt.images.loader import ImageLoader


def png(width: int = 40, height: int = 30) -> bytes:
    """A picture, made by hand: grey, eight bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + bytes((x * 5 + y) % 256 for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def data_url(data: bytes, label: str = "image/png") -> str:
    return f"data:{label};base64,{base64.b64encode(data).decode()}"


def picture(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def shown(*parts: dict[str, Any]) -> dict[str, Any]:
    """A question with these parts."""
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 4}


def prompt_tokens(api: Api, *parts: dict[str, Any]) -> int:
    usage = api.chat(**shown(*parts)).usage
    assert usage is not None
    return usage.prompt_tokens


@pytest.mark.parametrize("fields", [{}, {"detail": "auto"}, {"detail": "low"}, {"detail": "high"}, {"detail": None}], ids=str)
def test_rule_33_a_picture_is_taken_whatever_its_detail(api: Api, fields: dict[str, Any]) -> None:
    answer = api.chat(**shown(text("What is this?"), picture(data_url(png()), **fields)))
    assert answer.choices[0].message.content


@pytest.mark.parametrize("label", ["image/png", "image/jpeg", "image/webp", "image/x-whatever"])
def test_rule_33_the_bytes_tell_the_kind_and_the_label_does_not(api: Api, label: str) -> None:
    assert api.chat(**shown(picture(data_url(png(), label)))).choices[0].message.content


def test_rule_33_images_count_as_prompt_tokens(api: Api) -> None:
    alone = prompt_tokens(api, text("What?"))
    with_one = prompt_tokens(api, text("What?"), picture(data_url(png())))
    with_two = prompt_tokens(api, text("What?"), picture(data_url(png())), picture(data_url(png(60, 20))))
    assert alone < with_one < with_two


def test_rule_33_images_may_stand_in_any_turn(api: Api) -> None:
    turns = [
        {"role": "user", "content": [picture(data_url(png())), text("before"), picture(data_url(png(9, 9)))]},
        {"role": "assistant", "content": "Two pictures."},
        {"role": "user", "content": [text("and now?"), picture(data_url(png(30, 30)))]},
    ]
    assert api.chat(messages=turns, max_tokens=4).choices[0].message.content


BROKEN = png()
REFUSED = {
    "no base64": "data:image/png;base64,&&&&",
    "not declared as base64": "data:image/png," + base64.b64encode(BROKEN).decode(),
    "empty": "data:image/png;base64,",
    "no picture": data_url(b"hello, I am a text"),
    "cut": data_url(BROKEN[: len(BROKEN) // 2]),
    "only a header": data_url(BROKEN[:24]),
    "an SVG": data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "no scheme": "example.com/a.png",
    "plain http": "http://example.com/a.png",
    "a file": "file:///etc/hostname",
    "ftp": "ftp://example.com/a.png",
    "nothing": "",
    "loopback": "https://127.0.0.1/a.png",
    "loopback by name": "https://localhost/a.png",
    "loopback in six": "https://[::1]/a.png",
    "mapped loopback": "https://[::ffff:127.0.0.1]/a.png",
    "private": "https://10.0.0.1/a.png",
    "private too": "https://192.168.1.1/a.png",
    "link-local": "https://169.254.169.254/latest/meta-data",
    "any address": "https://0.0.0.0/a.png",
    "a number for an address": "https://2130706433/a.png",
    "a user in the address": "https://user:secret@127.0.0.1/a.png",
    "a backslash": "https://example.com\\@127.0.0.1/a.png",
}


@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_rule_33_what_is_no_picture_or_no_public_address_is_a_400(api: Api, url: str, *, stream: bool) -> None:
    error = api.refusal(stream=stream, **shown(text("What is this?"), picture(url)))
    assert error["param"] == "messages"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": 7},
        {"type": "image_url", "image_url": {"url": 7}},
        picture(data_url(png()), detail="huge"),
    ],
    ids=str,
)
def test_rule_33_a_malformed_part_is_told(api: Api, part: dict[str, Any]) -> None:
    assert api.refusal(**shown(part))["param"] == "messages"


# --- by URL ---------------------------------------------------------------------------------------------


class _Gallery(BaseHTTPRequestHandler):
    """A host of pictures on loopback."""

    def do_GET(self) -> None:
        kinds = {"/a.png": (200, png()), "/text": (200, b"hello"), "/gone": (404, png())}
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.send_header("content-length", "0")
            self.end_headers()
            return
        status, body = kinds.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def gallery() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Gallery) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str]]:
    """A server that was told to trust one host, and that host."""
    with gallery() as origin:
        images = ImageLoader(allowed_origins=[origin])
        with serving(tmp_path_factory.mktemp("allowing"), images=images) as live:
            api = Api(live)
            with api.client:
                yield api, origin


def test_rule_33_an_allowed_origin_may_be_plain_http_and_private(allowing: tuple[Api, str]) -> None:
    api, origin = allowing
    by_url = prompt_tokens(api, text("What?"), picture(f"{origin}/a.png"))
    assert by_url == prompt_tokens(api, text("What?"), picture(data_url(png())))
    assert by_url == prompt_tokens(api, text("What?"), picture(f"{origin}/to/{origin}/a.png"))


@pytest.mark.parametrize(
    "path", ["/gone", "/text", "/to/https://127.0.0.1:1/a.png", "/to/https://10.0.0.1/a.png", "/to/file:///etc/hostname"]
)
def test_rule_33_a_fetch_that_fails_or_is_sent_on_to_a_private_address_is_a_400(allowing: tuple[Api, str], path: str) -> None:
    api, origin = allowing
    began = time.monotonic()
    error = api.refusal(**shown(picture(origin + path)))
    assert (error["param"], error["type"]) == ("messages", "invalid_request_error")
    assert time.monotonic() - began < 5
