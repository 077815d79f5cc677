"""The models that are served: a name to the regions that run it, and the lists of the API."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from ecocore.accounts.money import spell_usd
from ecocore.accounts.pricing import Price
from ecocore.errors import ModelNotFound
from ecocore.regions.region import Region
from ecocore.regions.router import Router
from ecocore.server.billing import Cashier


class ModelList:
    """The regions of each model, in the order in which they are tried."""

    def __init__(self, regions: Iterable[tuple[int, Region]], cashier: Cashier | None = None) -> None:
        """Each region with its priority. `cashier`: knows the prices that the lists tell."""
        ranked: dict[str, list[tuple[int, Region]]] = {}
        for priority, region in regions:
            ranked.setdefault(region.model_id, []).append((priority, region))
        self._regions = tuple(region for of_model in ranked.values() for _, region in of_model)
        self._routers = {model_id: Router(of_model) for model_id, of_model in ranked.items()}
        self._cashier = cashier

    def __iter__(self) -> Iterator[str]:
        return iter(self._routers)

    def regions(self) -> tuple[Region, ...]:
        """All of them."""
        return self._regions

    def candidates(self, model_id: str) -> list[Region]:
        """The regions that serve a model, in the order in which they are tried now.

        Raises ModelNotFound, saying where the names are.
        """
        router = self._routers.get(model_id)
        if router is None:
            raise ModelNotFound("model", f"there is no model {model_id[:200]!r} here; GET /v1/models lists what is served")
        return router.candidates()

    def __getitem__(self, model_id: str) -> Region:
        """The region that a request would be sent to first. Raises ModelNotFound."""
        return self.candidates(model_id)[0]

    async def list_models(self, _request: Request) -> JSONResponse:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [await self._described(model_id) for model_id in self]})

    async def one_model(self, request: Request) -> JSONResponse:
        """GET /v1/models/{id}; a slash in the name may be plain or %2F."""
        if not (model_id := request.path_params["model_id"]):
            # A name that is missing is not the name of a missing model.
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return JSONResponse(await self._described(model_id))

    async def _described(self, model_id: str) -> dict[str, Any]:
        region = self[model_id]
        price = None if self._cashier is None else await self._cashier.price(model_id)
        return _described(region, price)


def _described(region: Region, price: Price | None) -> dict[str, Any]:
    return {
        "id": region.model_id,
        "object": "model",
        "created": region.created,
        "owned_by": "ecocore",
        "context_length": region.context_length,
        "abilities": list(region.abilities),
        # Dollars per million tokens; null where nothing costs anything, or the price is not settled.
        "price": price and {"input": spell_usd(price.input), "output": spell_usd(price.output), "currency": "USD"},
    }
