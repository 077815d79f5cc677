"""Images in messages, through a real server: what is counted, what is refused, and when."""

import base64
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.live_server import serving
from tests.prompt.images.conftest import encoded, picture

from ecocore.prompt.images.loader import ImageLoader
from ecocore.runtime import Runtime


def image_part(url: str, **fields: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def inline(seed: int = 0) -> dict[str, object]:
    return image_part("data:image/png;base64," + base64.b64encode(encoded(picture(8, 8, seed))).decode())


def asking(*parts: dict[str, object]) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, *parts]}]


class Host:
    """An image host in a thread; `asked` is what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(encoded(picture()))

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    thread = threading.Thread(target=host.server.serve_forever, args=(0.01,))
    thread.start()
    yield host
    host.server.shutdown()
    thread.join()
    host.server.server_close()


def test_every_image_counts_in_the_prompt(live: Any) -> None:
    def prompt_tokens(*parts: dict[str, object]) -> int:
        response = live.chat(messages=asking(*parts), max_tokens=1)
        assert response.status_code == 200, response.text
        return int(response.json()["usage"]["prompt_tokens"])

    without, one, three = prompt_tokens(), prompt_tokens(inline()), prompt_tokens(inline(), inline(1), inline(2))
    assert one > without
    assert three - without == 3 * (one - without)


def test_the_openai_client_sends_images_in_any_turn(live: Any) -> None:
    with live.client() as client:
        answer = client.chat.completions.create(
            model="some-maker/some-model",
            messages=[*asking(inline()), {"role": "assistant", "content": "noise"}, *asking(inline(1))],
            max_tokens=3,
        )
    assert answer.usage.completion_tokens == 3


def test_two_pictures_never_share_a_prefix_and_one_picture_does(live: Any) -> None:
    long_text: dict[str, object] = {"type": "text", "text": "x" * 500}

    def cached(picture_part: dict[str, object]) -> int:
        response = live.chat(messages=asking(picture_part, long_text), max_tokens=1)
        return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [cached(inline(7)), cached(inline(8))] == [0, 0]
    assert cached(inline(7)) > 0


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAAA",
        "data:image/png;base64,*",
        "data:image/png,AAAA",
        "http://example.com/x.png",
        "file:///etc/passwd",
        "https://127.0.0.1/x.png",
        "https://[::1]/x.png",
        "https://localhost/x.png",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
    ],
)
def test_a_bad_image_is_a_400_that_says_which(live: Any, url: str) -> None:
    response = live.chat(messages=asking(inline(), image_part(url)))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_image_url", "messages")
    assert error["message"].startswith("messages: image 2 ")
    assert response.elapsed.total_seconds() < 2


def test_an_allowed_origin_is_fetched_from(tmp_path: Path, host: Host) -> None:
    images = ImageLoader(allowed_origins=[host.origin])
    with serving(tmp_path, images=images) as live:
        assert live.chat(messages=asking(image_part(host.origin + "/a.png", detail="high")), max_tokens=1).status_code == 200
        assert host.asked == ["/a.png"]
        # What is wrong with the rest is told first, and then nothing is fetched.
        refused = live.chat(messages=[*asking(image_part(host.origin + "/b.png")), {"role": "user", "content": "x" * 9000}])
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        refused = live.chat(messages=asking(image_part(host.origin + "/b.png")), model="nobody/nothing")
        assert refused.status_code == 404
        assert host.asked == ["/a.png"]
    images.close()


def test_a_text_model_refuses_images_before_any_fetch(tmp_path: Path, host: Host) -> None:
    images = ImageLoader(allowed_origins=[host.origin])
    with Runtime.mock("some-maker/some-model", images=False) as blind, serving(tmp_path, images=images, model=blind) as live:
        for part in (image_part(host.origin + "/a.png"), inline()):
            response = live.chat(messages=asking(part))
            assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
            assert "text only" in response.json()["error"]["message"]
        assert live.chat(messages=asking(), max_tokens=1).status_code == 200
        large = live.chat(messages=[{"role": "user", "content": "x" * (5 * 2**20)}])
        assert large.status_code == 413, "only who sees images takes requests of 16 MiB"
    assert host.asked == []
    images.close()


def test_embedded_callers_send_images_too(mock: Runtime) -> None:
    assert mock.chat(asking(inline()), max_tokens=5).usage.completion_tokens == 5
    with pytest.raises(ValueError, match="image 1 cannot be used"):
        mock.chat(asking(image_part("https://127.0.0.1/")))


async def test_embedded_callers_send_images_from_a_loop(mock: Runtime) -> None:
    answer = await mock.achat(asking(inline()), max_tokens=5)
    assert answer.usage.completion_tokens == 5
