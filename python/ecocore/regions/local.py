"""The region in this process: the door from asyncio to a runtime."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Final, ParamSpec, TypeVar

from ecocore._core import EventBatch
from ecocore.errors import RuntimeClosed
from ecocore.prompt.images.loader import ImageLoader
from ecocore.prompt.prompt import Prompt
from ecocore.regions.region import Admission, Owner
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime

# Prompts are rendered and tokenized beside the event loop. Two workers keep a long prompt from holding up a
# short one; more would only take cores from the engine.
PREPARE_WORKERS: Final = 2

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class LocalRegion:
    """Runs requests on a runtime, which stays its owner's to close."""

    def __init__(self, runtime: Runtime, images: ImageLoader | None = None) -> None:
        """Takes the name and facts of its model from `runtime`. `images`: shared by all regions of a process."""
        self.model_id: Final = runtime.model_id
        self.created: Final = runtime.created
        self.context_length: Final = runtime.context_length
        self.accepts_images: Final = runtime.accepts_images
        self.fingerprint: Final = runtime.fingerprint
        self.abilities: Final = runtime.abilities
        self._runtime = runtime
        self._images = images or ImageLoader()
        self._workers = ThreadPoolExecutor(PREPARE_WORKERS, thread_name_prefix=f"prepare {runtime.model_id}")

    @property
    def is_alive(self) -> bool:
        """See `Region.is_alive`."""
        return self._runtime.is_alive

    def connected(self) -> AbstractAsyncContextManager[object]:
        """See `Region.connected`; a runtime is there at all times."""
        return nullcontext()

    def stats(self) -> Mapping[str, int]:
        """See `Region.stats`."""
        return self._runtime.stats()

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """See `Region.tokenize`."""
        return await self._work(self._runtime.plain.encode, text, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Region.detokenize`."""
        return await self._work(self._runtime.tokenizer.decode, token_ids)

    async def prepare(self, request: ChatRequest) -> Admission:
        """See `Region.prepare`."""
        return self._admission(await self._prepared(request), request)

    async def prepare_plain(self, request: ChatRequest, prompt: str | Sequence[int], *, scores: bool) -> Admission:
        """See `Region.prepare_plain`."""
        return self._admission(await self._work(self._runtime.plain.build, prompt, request, scores=scores), request)

    def _admission(self, prompt: Prompt, request: ChatRequest) -> Admission:
        request_id = self._runtime.new_request_id()
        params = self._runtime.sampling(request)

        async def start(owner: Owner) -> None:
            self._runtime.submit(
                prompt, params, request_id=request_id, n=request.n, salt=owner.salt, key=owner.key, priority=request.priority
            )

        return Admission(request_id, start, len(prompt.token_ids), request.n * prompt.max_tokens, request.n)

    async def _prepared(self, request: ChatRequest) -> Prompt:
        """The text is judged first: nothing is fetched for a request that would be refused anyway."""
        prompt = await self._work(self._runtime.prepare, request)
        if not request.images:
            return prompt
        async with self._images.load(request.images) as images:
            return await self._work(prompt.showing, images)

    async def _work(self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        # A future in a local variable, and a failure whose traceback holds that variable, would keep each other, and the
        # prompt with them, until the garbage is collected.
        return await self._begun(partial(work, *args, **kwargs))

    def _begun(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._workers, work)
        except RuntimeError:
            raise RuntimeClosed("this region was closed") from None

    def cancel(self, request_id: int) -> None:
        """See `Region.cancel`."""
        self._runtime.cancel(request_id)

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """See `Region.subscribe`."""
        return self._runtime.subscribe(callback)

    def close(self) -> None:
        """Takes no more requests; what is being prepared ends first."""
        self._workers.shutdown(cancel_futures=True)
