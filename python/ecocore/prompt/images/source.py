"""What the `url` of an image means: bytes in the request itself, or a place to fetch them from.

Takes text from a stranger, gives an `InlineImage` or a `RemoteImage`, or a BadImage with the reason. One parser (yarl)
reads a URL, and only spellings pass that every other parser would read in the same way.
"""

import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self

from yarl import URL

from ecocore.errors import InvalidConfiguration

MAX_URL: Final = 8192
_MAX_LABEL: Final = 100
# Letters of base64, a multiple of four. Decoding keeps the interpreter to itself; between two pieces others get their turn.
_PIECE: Final = 2**20

# No space, no control character, no backslash, nothing outside ASCII.
_PLAIN: Final = re.compile(r"[!-\[\]-~]+")
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_MAX_NAME: Final = 253
# Where the last label looks like a number, resolvers read the whole name as an address: 0x7f.1, 2130706433.
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
# What yarl raises for what it cannot read; brackets that do not pair take it past the end of a string.
_UNREADABLE: Final = (ValueError, IndexError)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class BadImage(Exception):
    """An image cannot be had; the text is for its sender and holds no words of any library."""


@dataclass(frozen=True, slots=True)
class InlineImage:
    """A data URL's payload in base64, not decoded yet."""

    url: str
    start: int = 0
    """Where the payload begins: a slice would be a copy of it."""

    @property
    def most_bytes(self) -> int:
        """What it holds when decoded; at most two bytes less."""
        return (len(self.url) - self.start) // 4 * 3

    def decode(self, max_bytes: int) -> bytes:
        """The bytes. Raises BadImage for anything but strict base64, and for more than `max_bytes`."""
        if self.most_bytes > max_bytes + 2:
            raise BadImage(f"it has more than {max_bytes} bytes")
        try:
            data = self._decoded()
        except ValueError:
            raise BadImage("its data URL holds no valid base64") from None
        if len(data) > max_bytes:
            raise BadImage(f"it has more than {max_bytes} bytes")
        return data

    def _decoded(self) -> bytes:
        if (len(self.url) - self.start) % 4:
            raise ValueError("it ends within a group of four")
        pieces: list[bytes] = []
        for at in range(self.start, len(self.url), _PIECE):
            if pieces and len(pieces[-1]) < _PIECE // 4 * 3:
                raise ValueError("it is padded before its end")
            pieces.append(binascii.a2b_base64(self.url[at : at + _PIECE], strict_mode=True))
        return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host in lower case, and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: URL) -> Self:
        """`url`: one that `_strict` has passed."""
        assert url.raw_host is not None
        assert url.port is not None
        return cls(url.scheme, url.raw_host.lower(), url.port)

    @classmethod
    def configured(cls, texts: Iterable[str]) -> frozenset[Self]:
        """Origins as settings spell them: `http://images.internal:8080`. Raises InvalidConfiguration."""
        return frozenset(cls._configured(text) for text in texts)

    @classmethod
    def _configured(cls, text: str) -> Self:
        try:
            url = _strict(text)
        except BadImage as error:
            raise InvalidConfiguration(f"allow_image_origin: {text[:200]!r}: {error}") from None
        if url.raw_path_qs not in ("", "/") or "#" in text:
            raise InvalidConfiguration(f"allow_image_origin: {text[:200]!r} names more than scheme, host and port")
        return cls.of(url)


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """A place to fetch an image from. `trusted`: its origin is exempt from the https and public-address rules."""

    url: URL
    trusted: bool

    @classmethod
    def parse(cls, text: str, trusted: frozenset[Origin]) -> Self:
        """Reads a URL, also that of a redirect. Raises BadImage."""
        url = _strict(text)
        is_trusted = Origin.of(url) in trusted
        if url.scheme != "https" and not is_trusted:
            raise BadImage("its URL must begin with https:// or data:")
        return cls(url, is_trusted)

    def redirected(self, location: str, trusted: frozenset[Origin]) -> "RemoteImage":
        """Where an answer points to, judged like any other URL. Raises BadImage."""
        if not _PLAIN.fullmatch(location) or len(location) > MAX_URL:
            raise BadImage("its host redirects to something that is no URL")
        try:
            target = self.url.join(URL(location, encoded=True))
        except _UNREADABLE:
            raise BadImage("its host redirects to something that is no URL") from None
        return RemoteImage.parse(str(target), trusted)


def parse_source(text: str, trusted: frozenset[Origin]) -> InlineImage | RemoteImage:
    """Reads the `url` of an image part. A data URL's label is not believed: the bytes tell what they are. Raises BadImage."""
    if text[:5].lower() != "data:":
        return RemoteImage.parse(text, trusted)
    label, comma, _ = text[5 : 5 + _MAX_LABEL].partition(",")
    if not comma or not label.lower().endswith(";base64"):
        raise BadImage("its data URL must read data:image/...;base64,...")
    return InlineImage(text, 5 + len(label) + 1)


def _strict(text: str) -> URL:
    """The URL in `text`, if there is only one way to read it."""
    if len(text) > MAX_URL:
        raise BadImage(f"its URL is longer than {MAX_URL} characters")
    if not _PLAIN.fullmatch(text):
        raise BadImage("its URL holds a space, a backslash or a character that must be percent-encoded")
    try:
        url = URL(text, encoded=True)
        host, port = url.raw_host, url.port
    except _UNREADABLE:
        raise BadImage("its URL is malformed") from None
    if url.scheme not in _DEFAULT_PORTS:
        raise BadImage("its URL must begin with https:// or data:")
    if not host or not port:
        raise BadImage("its URL names no host")
    if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
        raise BadImage("its URL holds a user name or a password")
    if not _is_name(host) and not _is_address(host):
        raise BadImage("its URL names a host that is neither a plain name nor a plain address")
    # The host that was judged must stand where everybody looks for it, spelled as it was judged.
    shown = f"[{host}]" if ":" in host else host
    authority = shown if url.explicit_port is None else f"{shown}:{url.explicit_port}"
    before, rest = text[len(url.scheme) :][:3], text[len(url.scheme) + 3 :]
    if before != "://" or not rest.startswith(authority) or rest[len(authority) :][:1] not in ("", "/", "?", "#"):
        raise BadImage("its URL is malformed")
    return url


def _is_name(host: str) -> bool:
    labels = host.split(".")
    return (
        len(host) <= _MAX_NAME
        and all(_LABEL.fullmatch(label) and label[0] != "-" and label[-1] != "-" for label in labels)
        and _NUMBER.fullmatch(labels[-1]) is None
    )


def _is_address(host: str) -> bool:
    """Whether it is an address in its full decimal spelling, or an IPv6 one without a zone."""
    if "%" in host:
        return False
    for kind in (IPv4Address, IPv6Address):
        try:
            kind(host)
        except ValueError:
            continue
        return True
    return False
