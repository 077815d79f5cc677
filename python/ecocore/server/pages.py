"""The pages for people: `/`, `/docs` and their files, all of them ours. Nothing is loaded from elsewhere.

The files are read once; a name that is none of theirs is not looked for.
"""

from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_MEDIA: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS: Final = {
    # What a page may do: run and style itself from here, and ask this server.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Pages:
    """The files of `static/`, as answers."""

    def __init__(self) -> None:
        """Reads them."""
        folder = files("ecocore.server") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _MEDIA}

    async def index(self, _request: Request) -> Response:
        """GET /."""
        return self._answer("index.html")

    async def docs(self, _request: Request) -> Response:
        """GET /docs."""
        return self._answer("docs.html")

    async def file(self, request: Request) -> Response:
        """GET /static/{name}."""
        return self._answer(request.path_params["name"])

    def _answer(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        return Response(self._files[name], media_type=_MEDIA[name.rpartition(".")[2]], headers=_HEADERS)
