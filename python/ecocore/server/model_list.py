"""The models that are served: a name to its region, and the lists of the API."""

from collections.abc import Iterable, Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse

from ecocore.errors import ModelNotFound
from ecocore.regions.region import Region


class ModelList:
    """Every region by the name of its model."""

    def __init__(self, regions: Iterable[Region]) -> None:
        """The first of two regions with one name counts."""
        self._regions: dict[str, Region] = {}
        for region in regions:
            self._regions.setdefault(region.model_id, region)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.values())

    def __getitem__(self, model_id: str) -> Region:
        """The region that serves a model. Raises ModelNotFound, saying where the names are."""
        region = self._regions.get(model_id)
        if region is None:
            raise ModelNotFound("model", f"there is no model {model_id[:200]!r} here; GET /v1/models lists what is served")
        return region

    async def list_models(self, _request: Request) -> JSONResponse:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [_described(region) for region in self]})

    async def one_model(self, request: Request) -> JSONResponse:
        """GET /v1/models/{id}; a slash in the name may be plain or %2F."""
        return JSONResponse(_described(self[request.path_params["model_id"]]))


def _described(region: Region) -> dict[str, object]:
    return {
        "id": region.model_id,
        "object": "model",
        "created": region.created,
        "owned_by": "ecocore",
        "context_length": region.context_length,
        "abilities": list(region.abilities),
        # Nothing costs anything until prices are set.
        "price": None,
    }
