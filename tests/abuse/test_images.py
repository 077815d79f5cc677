"""Images that lead inwards, blow up, or never end: CVE-2025-6242, CVE-2026-24779, CVE-2026-22778 and their kin."""

import base64
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import PIL.Image
import pytest
from tests.abuse.target import Answer, Target, attacked


def parts(*urls: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}} for url in urls]}]


def inline(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def plain(width: int, height: int, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (10, 20, 30)).save(file, kind, **options)
    return file.getvalue()


def refused(answer: Answer, words: str = "") -> None:
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_image_url", "messages")
    assert words in answer.error["message"]


class Trap:
    """Listens on loopback, counts who connects, and never answers but with what it was given."""

    def __init__(self, answer: bytes = b"") -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.visits = 0
        self._answer = answer
        self._guests: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                guest, _ = self._listening.accept()
            except OSError:
                return
            self.visits += 1
            self._guests.append(guest)
            if self._answer:
                guest.recv(65536)
                guest.sendall(self._answer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for guest in self._guests:
            guest.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    trap = Trap()
    yield trap
    trap.close()


def test_no_url_makes_the_server_visit_this_machine(target: Target, trap: Trap) -> None:
    port = trap.port
    hosts = [
        *(
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "127.1",
            "127.0.0.01",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "2130706433",
            "0",
            "0.0.0.0",
        ),
        *(
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[::1%25lo]",
        ),
        *(
            "127.0.0.1.",
            "localhost.",
            "user@127.0.0.1",
            "8.8.8.8@127.0.0.1",
            "8.8.8.8\\@127.0.0.1",
            "127.0.0.1%2f",
            "127。0。0。1",
            "①②⑦.⓪.⓪.①",
        ),
        *("127.0.0.1%00.example.com", "127.0.0.1\t", " 127.0.0.1", "127.0.0.1\r\n", "ip6-localhost", "127.127.127.127"),
    ]
    for host in hosts:
        for url in (f"https://{host}:{port}/", f"http://{host}:{port}/", f"https:\\\\{host}:{port}/", f"//{host}:{port}/"):
            refused(target.chat(messages=parts(url)))
    assert trap.visits == 0


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "file://localhost/etc/passwd",
            "FILE:/etc/passwd",
            "/etc/passwd",
            "../../etc/passwd",
            "ftp://127.0.0.1/",
            "gopher://127.0.0.1/_x",
        ),
        *(
            "dict://127.0.0.1:6379/info",
            "ldap://127.0.0.1/",
            "jar:http://127.0.0.1!/",
            "unix:/var/run/docker.sock",
            "data:text/html,<script>",
            "javascript:1",
        ),
        *(
            "https://169.254.169.254/latest/meta-data/",
            "https://100.100.100.200/",
            "https://192.0.0.192/",
            "https://168.63.129.16/",
            "https://[fd00:ec2::254]/",
        ),
        *(
            "https://10.0.0.1/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://[fe80::1]/",
            "https://[fc00::1]/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
        ),
        *("https://", "https:///", "https://:443/", "https://?", "https://" + "a" * 100_000, "", "x"),
    ],
    ids=lambda url: url[:40],
)
def test_other_schemes_and_private_places_are_refused_quickly(target: Target, url: str) -> None:
    begun = time.monotonic()
    answer = target.chat(messages=parts(url))
    assert (answer.status, answer.error["param"]) == (400, "messages")
    assert time.monotonic() - begun < 2


def test_hosts_that_lie_are_borne(tmp_path: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An allowed origin may still stall, redirect inwards, send without end, or send bombs."""
    secret = Trap(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    image = plain(4, 4)
    hostile = {
        "stalls": (Trap(), "within 1 seconds"),
        "dribbles": (Trap(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"), "within 1 seconds"),
        "redirects inwards": (Trap(b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:%d/\r\n\r\n" % secret.port), "https://"),
        "redirects to metadata": (Trap(b"HTTP/1.1 302 x\r\nLocation: https://169.254.169.254/\r\n\r\n"), "public internet"),
        "redirects for ever": (
            Trap(b"HTTP/1.1 302 x\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            "more than 3 times",
        ),
        "is compressed": (Trap(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + zlib.compress(bytes(10**7))), "compressed"),
        "is large": (Trap(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(11 * 2**20)), "bytes"),
        "announces more": (Trap(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), "bytes"),
        "speaks something else": (Trap(b"220 smtp.example ESMTP\r\n"), "does not speak HTTP"),
        "shows a page": (
            Trap(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nConnection: close\r\n\r\n<html>secret</html>"),
            "within|no PNG",
        ),
        "sends a bomb": (
            Trap(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(png(60_000, 60_000)) + png(60_000, 60_000)),
            "pixels",
        ),
        "keeps its word": (Trap(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(image) + image), ""),
    }
    origins = [f"http://127.0.0.1:{trap.port}" for trap, _ in hostile.values()]
    folder = tmp_path_factory.mktemp("hosts")
    try:
        with attacked(folder, origins=origins, images={"fetch_seconds": 1.0}) as target:
            assert target.is_well()
            descriptors = target.descriptors()
            for (trap, words), origin in zip(hostile.values(), origins, strict=True):
                answer = target.chat(messages=parts(origin + "/x"))
                if words:
                    refused(answer)
                    assert any(word in answer.error["message"] for word in words.split("|")), answer.error
                else:
                    assert answer.status == 200
                assert trap.visits >= 1
            # Sixteen images that stall take no longer than one.
            begun = time.monotonic()
            refused(target.chat(messages=parts(*[origins[0] + "/x"] * 16)), "within 1 seconds")
            assert time.monotonic() - begun < 5
            assert secret.visits == 0
            assert target.is_well()
            assert target.eventually(lambda: target.descriptors() <= descriptors + 24)
    finally:
        secret.close()
        for trap, _ in hostile.values():
            trap.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no PNG"),
        (b"\0", "no PNG"),
        (plain(1, 1), "pixels"),
        (plain(1, 100), "pixels"),
        (png(2**31 - 1, 2**31 - 1), "pixels"),
        (png(0, 0), "pixels"),
        (png(16_384, 16_384), "pixels"),
        (png(5000, 5000, b"x"), "damaged"),
        (png(5000, 5000, zlib.compress(bytes(100))), "damaged"),
        (b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(10), "pixels"),
        (b"GIF89a\xff\xff\xff\xff\0\0\0", "pixels"),
        (b"\xff\xd8" + b"\xff\xe0\0\x02" * 100_000, "no JPEG"),
        (plain(64, 64)[:-40], "damaged"),
        (plain(64, 64, "JPEG")[:200], ""),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "no PNG"),
        (b"%!PS\n(/etc/passwd) (r) file", "no PNG"),
        (b"push graphic-context\nfill 'url(https://127.0.0.1/)'", "no PNG"),
        (b"\0\0\0\x18ftypmp42", "no PNG"),
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else "",
)
def test_pictures_that_mean_harm_are_refused_in_plain_words(target: Target, data: bytes, words: str) -> None:
    refused(target.chat(messages=parts(inline(data))), words)


def test_a_picture_that_blows_up_costs_no_more_than_its_area(target: Target) -> None:
    """A file of 30 kB whose pixels are 75 MB, eight times in a crowd; and twice as many pixels as may be together."""
    bomb = inline(plain(5000, 5000, compress_level=9))
    assert len(bomb) < 300_000
    peak = target.peak()
    assert target.chat(messages=parts(bomb, bomb)).status == 200
    refused(target.chat(messages=parts(bomb, bomb, bomb)), "pixels together")
    crowd = [threading.Thread(target=lambda: target.chat(messages=parts(bomb))) for _ in range(8)]
    for one in crowd:
        one.start()
    assert target.is_well(), "who sends text does not wait for those who send pictures"
    for one in crowd:
        one.join()
    assert target.peak() <= peak + 900 * 2**20


def test_a_thousand_frames_are_one(target: Target) -> None:
    """CVE-2026-5497: one data URL held thousands of frames."""
    frames = [PIL.Image.new("L", (64, 64), number % 256) for number in range(1000)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    begun = time.monotonic()
    assert target.chat(messages=parts(inline(file.getvalue()))).status == 200
    assert time.monotonic() - begun < 2


def test_a_picture_of_scans_without_end_holds_no_decoder(target: Target) -> None:
    """Each scan of a few bytes is a pass over 31 million pixels; a body has room for thousands, a file for 200,000."""
    file = plain(5600, 5600, "JPEG", progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    bomb = inline(file[:-2] + scan * (5 * 2**20 // len(scan)) + b"\xff\xd9")
    begun = time.monotonic()
    for _ in range(4):
        refused(target.chat(messages=parts(bomb)), "more than 100 scans")
    assert time.monotonic() - begun < 5
    assert target.chat(messages=parts(inline(plain(64, 64, "JPEG", progressive=True)))).status == 200


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xd0", b"\xff\x01", b"\xff\xe0\0\x02"], ids=repr)
def test_no_padding_holds_the_event_loop(target: Target, filler: bytes) -> None:
    photo = plain(64, 64, "JPEG")
    bomb = inline(photo[:2] + filler * (8 * 2**20 // len(filler)) + photo[2:])
    crowd = [threading.Thread(target=lambda: target.chat(messages=parts(bomb))) for _ in range(3)]
    for one in crowd:
        one.start()
    assert target.is_well(), "who sends text does not wait for those who send pictures"
    for one in crowd:
        one.join()
    refused(target.chat(messages=parts(bomb)), "no JPEG")


def test_images_are_counted(target: Target) -> None:
    small = inline(plain(4, 4))
    assert target.chat(messages=parts(*[small] * 16)).status == 200
    answer = target.chat(messages=parts(*[small] * 17))
    assert (answer.status, answer.error["code"]) == (400, "array_above_max_length")
    answer = target.chat(messages=parts(*[small] * 257))
    assert (answer.status, answer.error["param"]) == (400, "messages")


def test_data_urls_are_strict(target: Target) -> None:
    for url in (
        "data:",
        "data:,",
        "data:image/png;base64,",
        "data:image/png;base64,%%%",
        "data:image/png;base64,AAA",
        "data:;base64;base64",
        "data:image/png;charset=x,AAAA",
    ):
        refused(target.chat(messages=parts(url)))
    refused(target.chat(messages=parts("data:image/png;base64," + "A" * (15 * 2**20))), "bytes")
