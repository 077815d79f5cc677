"""Where requests go: a URL as people write it -> connections and the bytes of requests. Knows where a key stands."""

import re
import ssl
from dataclasses import dataclass
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from ecocore import __version__
from ecocore.bench.http1 import Pool
from ecocore.errors import InvalidConfiguration

DEFAULT_PATH: Final = "/v1"
CHAT: Final = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and the path below which its API stands. The key is shown to nobody."""

    tls: bool
    host: str
    port: int
    path: str
    key: str | None

    @classmethod
    def parse(cls, url: str, key: str | None = None) -> Self:
        """`http://127.0.0.1:8000`, with or without `/v1` or the whole path of chats; https too. Raises InvalidConfiguration."""
        shown = url[:200]
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InvalidConfiguration(f"url: {shown!r} holds signs that no URL may; write it as http://HOST:PORT")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidConfiguration(f"url: {shown!r} is no URL ({error})") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidConfiguration(f"url: {shown!r} is not of the form http://HOST:PORT or https://HOST")
        if parts.username is not None or parts.query or parts.fragment:
            raise InvalidConfiguration(
                "url: has a user, a query or a fragment; give the key with --key and nothing behind the path"
            )
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise InvalidConfiguration("key: holds spaces, line ends or signs beyond ASCII, which no header can carry")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix(CHAT) or DEFAULT_PATH
        return cls(tls, parts.hostname, port or (443 if tls else 80), path, key)

    @property
    def url(self) -> str:
        """As one would write it."""
        return f"http{'s' * self.tls}://{self._authority}{self.path}"

    def pool(self) -> Pool:
        """Connections to it; none is made yet."""
        return Pool(self.host, self.port, ssl.create_default_context() if self.tls else None)

    def request(self, method: Literal["GET", "POST"], path: str, body: bytes = b"") -> bytes:
        """The bytes of a request. `path`: below the API's own, as in "/models"."""
        lines = [
            f"{method} {self.path}{path} HTTP/1.1",
            f"Host: {self._authority}",
            f"User-Agent: ecocore-bench/{__version__}",
            "Accept-Encoding: identity",
        ]
        if self.key is not None:
            lines.append(f"Authorization: Bearer {self.key}")
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"
