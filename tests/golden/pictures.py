"""Pictures of odd sizes, in the ways that messages may hold them."""

import base64
import http.server
import io
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray

# (height, width): smaller and larger than is looked at, halves that round to even, windows that are whole and cut.
SIZES: Final = {"small": (40, 33), "wide": (70, 301), "large": (420, 330), "whole": (112, 224)}


def picture(name: str) -> NDArray[np.uint8]:
    """Patches of colour under noise, another one for each size."""
    height, width = SIZES[name]
    generator = np.random.default_rng(height)
    coarse = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    noise = generator.integers(-40, 40, (height, width, 3))
    pixels: NDArray[np.uint8] = np.clip(coarse + noise, 0, 255).astype(np.uint8)
    return pixels


def file_of(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def inline(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(file_of(pixels)).decode()


def part(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": inline(pixels)}}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def by_address(content: Any, origin: str) -> Any:
    """The same content, its pictures where `image_host` has them."""
    if not isinstance(content, list):
        return content
    names = {inline(picture(name)): name for name in SIZES}
    return [
        {"type": "image_url", "image_url": {"url": f"{origin}/{names[piece['image_url']['url']]}"}}
        if piece["type"] == "image_url"
        else piece
        for piece in content
    ]


@contextmanager
def image_host(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """An origin on loopback that serves each picture under its name; https where there is a certificate for localhost."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file_of(picture(self.path.strip("/"))))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}" if tls is None else f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
