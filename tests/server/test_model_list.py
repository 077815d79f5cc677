"""Which regions run a model, and in which order they are tried."""

import pytest

from ecocore.errors import ModelNotFound
from ecocore.regions.local import LocalRegion
from ecocore.runtime import Runtime
from ecocore.server.model_list import ModelList


def test_regions_of_one_model_are_tried_in_their_order_and_the_dead_last() -> None:
    with Runtime.mock("a") as ended, Runtime.mock("a") as lives, Runtime.mock("b") as other:
        regions = [LocalRegion(runtime) for runtime in (ended, lives, other)]
        models = ModelList((priority, region) for priority, region in zip((0, 1, 0), regions, strict=True))
        assert list(models) == ["a", "b"]
        assert list(models.regions()) == regions
        assert models.candidates("a") == regions[:2]
        ended.close()
        assert models.candidates("a") == [regions[1], regions[0]]
        assert models["a"] is regions[1]
        with pytest.raises(ModelNotFound, match="GET /v1/models"):
            models.candidates("c")
        for region in regions:
            region.close()
