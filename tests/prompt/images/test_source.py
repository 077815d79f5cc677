"""How the `url` of an image is read, and what is refused for being readable in two ways."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from ecocore.errors import InvalidConfiguration
from ecocore.prompt.images import source as sources
from ecocore.prompt.images.source import BadImage, InlineImage, Origin, RemoteImage, parse_source

NONE: frozenset[Origin] = frozenset()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "HTTPS://Example.COM/a/b.png?size=1&sig=a%2Fb+c#part",
        "https://example.com:8443/a%20b",
        "https://xn--bcher-kva.example/ü".replace("ü", "%C3%BC"),
        "https://my_bucket.example/x",
        "https://8.8.8.8/x",
        "https://[2606:4700::1111]:444/x",
        "https://example.com?x=@y",
        "https://example.com/a@b:c",
        "https://3com.example",
    ],
)
def test_a_plain_https_url_is_taken_as_it_is(url: str) -> None:
    source = parse_source(url, NONE)
    assert isinstance(source, RemoteImage)
    assert (source.url, source.trusted) == (URL(url, encoded=True), False)


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com/x.png", "//example.com/x", "/etc/passwd", "https:", "https://", "https:///x", "https:/example.com"),
        *("http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)"),
        *("unix:///var/run/docker.sock", "ws://example.com/", "blob:https://example.com/x", "https+unix://x/"),
        # another parser, another host
        *(
            "https://example.com\\@10.0.0.1/",
            "https:\\\\example.com/",
            "https://example.com\\.evil.example/",
            "https:/\\example.com",
        ),
        *("https://user@example.com/", "https://user:password@example.com/", "https://@example.com/", "https://:@example.com/"),
        *("https://a@b@example.com/", "https://example.com:80:80/", "https://example.com:/", "https://example.com:0443/"),
        *("https://example.com:99999/", "https://example.com:-1/", "https://example.com:0/", "https://example.com:4 43/"),
        *(
            "https://[::1",
            "https://::1/",
            "https://[::1]x/",
            "https://[fe80::1%25eth0]/",
            "https://[fe80::1%eth0]/",
            "https://[v1.x]/",
        ),
        # white space, control characters, other alphabets
        *(
            " https://example.com/",
            "https://example.com/ ",
            "https://exa mple.com/",
            "https://example.com/\r\nX: y",
            "https://a\0b/",
        ),
        *(
            "https://example.com/\t",
            "ht\ntps://example.com/",
            "https://bücher.example/",
            "https://example。com/",
            "https://①②⑦.0.0.1/",
        ),
        *("https://ⓛocalhost/", "https://example.com/ü", "https://exa\u00admple.com/", "https://example.com/\u202e"),
        # numbers that resolvers take for addresses
        *("https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/"),
        *("https://127.0.0.01/", "https://0/", "https://0x/", "https://1.2.3.4.5/", "https://example.0x7f/", "https://08.8.8.8/"),
        # names that are none
        *(
            "https://example.com./",
            "https://127.0.0.1./",
            "https://.example.com/",
            "https://a..b/",
            "https://-a.example/",
            "https://a-/",
        ),
        *(
            "https://exam%70le.com/",
            "https://127.0.0.1%2f@example.com/",
            "https://*/",
            "https://a,b/",
            "https://4]9[c@",
            "https://]][@a@",
            "https://" + "a" * 64 + ".example/",
        ),
        *("https://" + "a." * 127 + "example/", "https://example.com/" + "a" * 8192),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(BadImage) as refused:
        parse_source(url, NONE)
    assert "example" not in str(refused.value), "what the client wrote is not needed to say what is wrong"


@given(st.text(max_size=60) | st.text("https:/@\\[].%?#0123456789abcx-_", max_size=60).map("https://".__add__))
def test_a_url_passes_only_if_its_host_stands_plain_behind_the_scheme(url: str) -> None:
    try:
        source = parse_source(url, NONE)
    except BadImage:
        return
    if isinstance(source, RemoteImage):
        host = source.url.raw_host
        assert host is not None
        assert url.isascii()
        assert url[8:].startswith((host, f"[{host}]"))
        assert url[8:].split("/", maxsplit=1)[0].split("?", maxsplit=1)[0].split("#", maxsplit=1)[0].count("@") == 0


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["image/png", "IMAGE/JPEG", "image/png;name=x", "text/html", ""]))
def test_a_data_url_gives_its_bytes_whatever_its_label_says(data: bytes, label: str) -> None:
    source = parse_source(f"data:{label};base64,{base64.b64encode(data).decode()}", NONE)
    assert isinstance(source, InlineImage)
    assert source.decode(300) == data


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        "data:image/png,xyz",
        "data:image/png;base64",
        "data:image/png;base64;x,AAAA",
        "data:" + "a" * 200 + ";base64,AA",
    ],
)
def test_a_data_url_must_say_that_it_is_base64(url: str) -> None:
    with pytest.raises(BadImage, match="base64"):
        parse_source(url, NONE)


@pytest.mark.parametrize(
    "payload", ["A", "AA", "AAA", "AA==A", "AAAA=", "====", "AA-_", "AA AA", "AAAA\n", "AA%3D%3D", "ÄÄÄÄ", "AAAA,AAAA", "AA=A"]
)
def test_base64_is_strict(payload: str) -> None:
    source = parse_source(f"data:image/png;base64,{payload}", NONE)
    assert isinstance(source, InlineImage)
    with pytest.raises(BadImage, match="no valid base64"):
        source.decode(100)


def test_a_data_url_has_a_size() -> None:
    source = InlineImage(base64.b64encode(b"x" * 100).decode())
    assert source.decode(100) == b"x" * 100
    for size in (99, 98, 10, 1):
        with pytest.raises(BadImage, match=f"more than {size} bytes"):
            source.decode(size)


def test_a_data_url_is_decoded_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PIECE", 8)
    for size in range(40):
        data = bytes(range(size))
        text = base64.b64encode(data).decode()
        source = parse_source("data:image/png;base64," + text, NONE)
        assert isinstance(source, InlineImage)
        assert source.decode(100) == data
        assert 0 <= source.most_bytes - len(data) <= 2
    for bad in (
        "AAAAAAA=AAAA",
        "AAA=AAAAAAAAAAAA",
        "AAAAAA==AAAAAAA=",
        "AAAAAAAAA",
        "AAAAAAAA====",
        "AAAAAAAA=AAA",
        "AAAAAAAAAA\nA",
    ):
        with pytest.raises(BadImage, match="no valid base64"):
            InlineImage(bad).decode(100)


def test_an_allowed_origin_is_scheme_host_and_port() -> None:
    trusted = Origin.configured(["http://images.internal:8080", "https://CDN.example/"])

    def is_trusted(url: str) -> bool:
        return RemoteImage.parse(url, trusted).trusted

    assert is_trusted("http://images.internal:8080/x.png")
    assert is_trusted("http://IMAGES.internal:8080/x.png")
    assert is_trusted("https://cdn.example:443/x.png")
    assert not is_trusted("https://images.internal:8080/x.png")
    assert not is_trusted("https://cdn.example:8443/x.png")
    for url in (
        "http://images.internal/",
        "http://cdn.example/",
        "http://images.internal:8081/",
        "http://x.images.internal:8080/",
    ):
        with pytest.raises(BadImage, match="https://"):
            is_trusted(url)


@pytest.mark.parametrize(
    "text", ["", "images.internal", "http://a/path", "http://a?x", "http://a#x", "ftp://a", "http://u@a", "http://0x7f.1", "*"]
)
def test_an_allowed_origin_that_is_none_is_told(text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="allow_image_origin"):
        Origin.configured([text])
