"""Each family on a device: transformers' answers and log-probabilities, in company and alone with the same bits."""

import asyncio

import pytest
from tests.golden.known import Knows, knowing
from tests.golden.tiny_models import ALL

from ecocore.completion import Completion
from ecocore.runtime import Runtime

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Knows:
    return knowing(tmp_path_factory)


@pytest.mark.parametrize("name", ALL)
def test_answers_are_those_of_transformers(known: Knows, name: str) -> None:
    check(known, name, device="cuda")


@pytest.mark.parametrize("name", ALL)
def test_two_devices_answer_as_one(known: Knows, name: str) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device, and NCCL wants two")
    check(known, name, device="cuda", tensor_parallel=2)


def check(known: Knows, name: str, *, device: str, tensor_parallel: int = 1) -> None:
    """Every case at once, then one by one."""
    model = known(name)
    with Runtime.load(model.folder, device=device, kv_cache_mb=64, tensor_parallel=tensor_parallel, progress=False) as runtime:

        async def together() -> list[Completion]:
            return await asyncio.gather(*(runtime.achat(**model.ask(case)) for case in model.cases))

        crowd = dict(zip(model.cases, asyncio.run(together()), strict=True))
        for case, completion in crowd.items():
            model.check(completion, case)
            assert runtime.chat(**model.ask(case)).logprobs == completion.logprobs, case
