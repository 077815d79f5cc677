"""Fetching from hosts that lie, stall, redirect and point inwards: all of it on loopback."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompt.images.conftest import ImageHost, image_host
from tests.prompt.images.test_address import NOT_PUBLIC, PUBLIC

from ecocore.errors import Overloaded
from ecocore.prompt.images import fetch as fetching
from ecocore.prompt.images.address import is_public
from ecocore.prompt.images.fetch import Fetcher
from ecocore.prompt.images.source import BadImage, Origin, RemoteImage, parse_source

Ask = Callable[[str], Awaitable[bytes]]


async def fetched(url: str, *allowed: str, **options: Any) -> bytes:
    trusted = Origin.configured(allowed)
    fetcher = Fetcher(trusted, max_bytes=options.pop("max_bytes", 1000), **options)
    image = parse_source(url, trusted)
    assert isinstance(image, RemoteImage)
    return await fetcher.fetch(image, lambda _: None)


@pytest.fixture
def ask(host: ImageHost) -> Ask:
    """Fetches with the host's origin allowed."""
    return lambda url: fetched(url, host.origin)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that anything tries to connect to from here on; none of them is reached."""
    addresses: list[str] = []

    async def connect(_loop: Any, _socket: Any, address: Any) -> None:
        addresses.append(address[0])
        raise OSError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    return addresses


def resolving(table: dict[str, Sequence[str]]) -> Any:
    async def resolve(name: str, _port: int) -> Sequence[str]:
        return table[name]

    return resolve


async def test_an_allowed_origin_delivers(host: ImageHost, ask: Ask) -> None:
    assert await ask(host.serves("/x", b"picture")) == b"picture"
    (head,) = host.heads
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"accept", b"accept-encoding", b"user-agent", b"connection"}, "nothing else goes along"


async def test_path_and_query_go_out_as_they_came(host: ImageHost, ask: Ask) -> None:
    path = "/a%2Fb/%7Ec?sig=x%2By+z&e=%3D"
    await ask(host.serves(path, b"") + "#part")
    assert host.heads[0].startswith(b"GET " + path.encode() + b" HTTP/1.1\r\n")


async def test_nothing_of_the_environment_is_used(
    host: ImageHost, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    host.serves("/x", b"picture", "Set-Cookie: a=b; Path=/")
    assert [await ask(host.origin + "/x") for _ in range(2)] == [b"picture"] * 2
    assert b"uthorization" not in host.heads[1]
    assert b"ookie" not in host.heads[1]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_a_host_with_an_address_that_is_not_public_is_not_connected_to(address: str, connected: list[str]) -> None:
    for addresses in ([address], [PUBLIC[0], address], [address, *PUBLIC]):
        with pytest.raises(BadImage, match="not on the public internet"):
            await fetched("https://example.com/x", resolve=resolving({"example.com": addresses}))
    assert connected == []


@pytest.mark.parametrize("address", [text for text in NOT_PUBLIC if text.count(".") == 3 or ":" in text])
async def test_such_an_address_in_the_url_itself_is_not_connected_to(address: str, connected: list[str]) -> None:
    with pytest.raises(BadImage):
        await fetched(f"https://[{address}]/x" if ":" in address else f"https://{address}/x")
    assert connected == []


async def test_the_connection_goes_to_the_judged_addresses_and_the_name_is_asked_once(connected: list[str]) -> None:
    asked: list[str] = []

    async def rebinding(name: str, _port: int) -> Sequence[str]:
        asked.append(name)
        return ["8.8.8.8", "2606:4700::1111"] if len(asked) == 1 else ["127.0.0.1"]

    with pytest.raises(BadImage, match="cannot be reached"):
        await fetched("https://example.com/x", resolve=rebinding)
    assert asked == ["example.com"]
    assert sorted(connected) == ["2606:4700::1111", "8.8.8.8"]


async def test_no_socket_is_made_for_an_address_that_was_not_judged() -> None:
    make = fetching._only(["8.8.8.8"])
    make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 443))).close()
    with pytest.raises(OSError, match="not judged"):
        make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 443)))


_HOSTS = st.one_of(
    st.sampled_from(
        ["localhost", "example.com", "0", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"]
    ),
    st.ip_addresses().map(lambda address: f"[{address}]" if address.version == 6 else str(address)),
    st.ip_addresses(v=4).map(lambda address: str(int(address))),
    st.ip_addresses(v=4).map(lambda address: hex(int(address))),
    st.ip_addresses(v=4).map(lambda address: ".".join(f"0{int(part):o}" for part in str(address).split("."))),
    st.text("0123456789abcdefx.:[]%@\\/?#-_ ", max_size=30),
)
_SPELLINGS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(
        ["https://", "http://", "HTTPS://", "https:", "https:/", "https:\\\\", "//", "https://https://", " https://"]
    ),
    st.sampled_from(["", "", "", "user@", "8.8.8.8@", "8.8.8.8\\@", "8.8.8.8#@", "8.8.8.8?@", "example.com:80@", "%00"]),
    _HOSTS,
    st.sampled_from(["", "", ":443", ":80", ":0443", ":", ".", "%2f", "%00.example.com", "\\.example.com", "。"]),
    st.sampled_from(["", "/", "/x", "?x", "#x", "/../x", "/@127.0.0.1", "\\@127.0.0.1/"]),
)


@settings(max_examples=400, deadline=None)
@given(_SPELLINGS)
def test_no_spelling_of_a_url_reaches_an_address_that_is_not_public(url: str) -> None:
    connected: list[str] = []

    async def connect(_socket: Any, address: Any) -> None:
        connected.append(address[0])
        raise OSError

    async def resolve(name: str, _port: int) -> Sequence[str]:
        """What the C library would make of it, without asking anybody."""
        try:
            return [socket.inet_ntoa(socket.inet_aton(name))]
        except OSError:
            pass
        return [name] if ":" in name else ["127.0.0.1"] if name == "localhost" else ["8.8.8.8"]

    async def attempt() -> None:
        asyncio.get_running_loop().sock_connect = connect  # type: ignore[assignment,method-assign]
        with pytest.raises(BadImage):
            await fetched(url, resolve=resolve)

    asyncio.run(attempt())
    assert all(map(is_public, connected)), connected


async def test_redirects_are_followed_three_times(host: ImageHost, ask: Ask) -> None:
    host.serves("/0", b"picture")
    urls = [host.redirects(f"/{number}", f"/{number - 1}") for number in range(1, 5)]
    assert await ask(urls[2]) == b"picture"
    assert len(host.heads) == 4
    with pytest.raises(BadImage, match="redirects more than 3 times"):
        await ask(urls[3])
    host.redirects("/loop", "/loop")
    with pytest.raises(BadImage, match="redirects more than 3 times"):
        await ask(host.origin + "/loop")


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_a_redirect_may_be_relative(host: ImageHost, ask: Ask, status: str) -> None:
    host.serves("/b/c?d", b"picture")
    assert await ask(host.serves("/b/a", b"", "Location: c?d", status=status)) == b"picture"


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://127.0.0.1:1/",
            "https://127.0.0.1:1/",
            "https://169.254.169.254/latest/",
            "https://[::1]/",
            "//10.0.0.1/",
            "https://localhost/",
        ),
        *(
            "file:///etc/passwd",
            "data:image/png;base64,AAAA",
            "http://example.com/",
            "https://user@8.8.8.8/",
            "https://2130706433/",
        ),
        *("", "https://8.8.8.8\\@127.0.0.1/", "https://[", "/ä", "/a b", "https:///x", "/" + "a" * 8190),
    ],
)
async def test_where_an_allowed_origin_redirects_to_is_not_allowed_by_that(host: ImageHost, location: str) -> None:
    with pytest.raises(BadImage):
        await fetched(host.redirects("/x", location), host.origin)
    assert len(host.heads) == 1


async def test_between_two_allowed_origins_a_redirect_passes(host: ImageHost) -> None:
    async with image_host() as other:
        host.redirects("/x", other.serves("/y", b"picture"))
        assert await fetched(host.origin + "/x", host.origin, other.origin) == b"picture"
        with pytest.raises(BadImage, match="https://"):
            await fetched(host.origin + "/x", host.origin)
        assert len(other.heads) == 1


@pytest.mark.parametrize("status", ["404 Not Found", "500 x", "204 x", "206 x", "304 x", "201 x", "401 x"])
async def test_only_a_200_is_a_picture(host: ImageHost, ask: Ask, status: str) -> None:
    with pytest.raises(BadImage, match=f"status {status[:3]}"):
        await ask(host.serves("/x", b"" if status[:3] in ("204", "304") else b"secret body", status=status))


async def test_a_compressed_answer_is_refused(host: ImageHost, ask: Ask) -> None:
    for encoding in ("gzip", "br", "deflate", "GZIP", "identity, gzip"):
        with pytest.raises(BadImage, match="compressed"):
            await ask(host.serves("/x", gzip.compress(b"0" * 10_000), f"Content-Encoding: {encoding}"))
    assert await ask(host.serves("/x", b"picture", "Content-Encoding: identity")) == b"picture"


async def test_bytes_are_counted_and_no_length_is_believed(host: ImageHost, ask: Ask) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            sent += 1024

    async def lying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n")

    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    host.answers.update({"/endless": endless, "/lying": lying, "/short": short})
    assert await ask(host.serves("/most", b"x" * 1000)) == b"x" * 1000
    for url in (host.serves("/more", b"x" * 1001), host.origin + "/endless", host.origin + "/lying"):
        with pytest.raises(BadImage, match="more than 1000 bytes"):
            await ask(url)
    assert sent < 20 * 2**20
    with pytest.raises(BadImage, match="cannot be reached"):
        await ask(host.origin + "/short")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\xff\n\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_told_in_our_own_words(host: ImageHost, ask: Ask, answer: bytes) -> None:
    host.answers["/x"] = answer
    with pytest.raises(BadImage) as refused:
        await ask(host.origin + "/x")
    assert "cannot be reached, or does not speak HTTP" in str(refused.value)


async def test_a_closed_port_and_a_name_without_address_are_told(host: ImageHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(BadImage, match="cannot be reached"):
        await fetched(closed + "/x", closed)

    async def nowhere(_name: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    for resolve in (nowhere, resolving({"example.com": []})):
        with pytest.raises(BadImage, match="has no address"):
            await fetched("https://example.com/", resolve=resolve)


async def test_the_system_is_asked_for_names(host: ImageHost) -> None:
    origin = f"http://localhost:{host.port}"
    host.serves("/x", b"picture")
    assert await fetched(origin + "/x", origin) == b"picture"
    with pytest.raises(BadImage, match="not on the public internet"):
        await fetched(f"https://localhost:{host.port}/x")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[ImageHost]:
    """A host whose certificate is for localhost."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with image_host(context) as started:
        started.serves("/x", b"picture")
        yield started


async def test_certificates_are_verified(authority: trustme.CA, secure: ImageHost) -> None:
    by_name, by_address = f"https://localhost:{secure.port}", f"https://127.0.0.1:{secure.port}"
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    assert await fetched(by_name + "/x", by_name, ssl=trusting) == b"picture"
    with pytest.raises(BadImage, match="cannot be reached"):
        await fetched(by_address + "/x", by_address, ssl=trusting)
    with pytest.raises(BadImage, match="cannot be reached"):
        await fetched(by_name + "/x", by_name)


async def test_bytes_are_told_as_they_come_and_may_be_refused(host: ImageHost) -> None:
    told: list[int] = []
    first, go = asyncio.Event(), asyncio.Event()

    async def in_two_halves(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 800\r\n\r\n" + b"x" * 700)
        await writer.drain()
        await go.wait()
        writer.write(b"x" * 100)

    def take(size: int) -> None:
        told.append(size)
        first.set()
        if sum(told) > 1000:
            raise Overloaded

    host.answers["/halves"] = in_two_halves
    trusted = Origin.configured([host.origin])
    fetcher = Fetcher(trusted, max_bytes=900)
    image = RemoteImage.parse(host.origin + "/halves", trusted)
    waiting = asyncio.create_task(fetcher.fetch(image, take))
    await first.wait()
    assert told == [700]
    go.set()
    assert (len(await waiting), told) == (800, [700, 100])
    with pytest.raises(Overloaded):
        await fetcher.fetch(image, take)
    assert fetcher._open == 0


async def test_so_many_are_fetched_at_a_time(host: ImageHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_OPEN", 0)
    with pytest.raises(Overloaded):
        await fetched(host.serves("/x", b"picture"), host.origin)
    assert host.heads == []


async def test_who_leaves_ends_the_fetch(host: ImageHost) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await writer.drain()
        begun.set()
        assert await reader.read() == b""
        ended.set()

    host.answers["/x"] = stalling
    fetching_task = asyncio.create_task(fetched(host.origin + "/x", host.origin))
    await begun.wait()
    fetching_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching_task
    await asyncio.wait_for(ended.wait(), 5)
