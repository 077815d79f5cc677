"""The embedded API: one model, loaded once, answering many requests that share its batch.

Builds the rooms and connects them: prompt -> scheduler -> model -> sampler -> output. Knows no HTTP.
"""

import asyncio
import itertools
import queue
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack, cast

from ecocore._core import EventBatch, OutputStreams, Scheduler
from ecocore.capacity import Capacity
from ecocore.completion import Completion, Told, gathered
from ecocore.errors import InvalidParameter, failure
from ecocore.events import Event, Failed, Finished
from ecocore.executor import Executor
from ecocore.loading import Parts, load_parts, mock_parts
from ecocore.loop import Eyes, StepLoop, Submission
from ecocore.output.stream import event_of
from ecocore.prompt.build import PromptBuilder
from ecocore.prompt.plain import PlainPrompts
from ecocore.prompt.prompt import AnswerForm, Prompt
from ecocore.request import MAX_CHOICES, ChatParams, ChatRequest, SamplingParams
from ecocore.sampling.grammar import Grammars
from ecocore.sampling.sampler import BatchSampler

if TYPE_CHECKING:
    from ecocore.model.workers import Workers

Messages = str | Sequence[Mapping[str, Any]]


class Runtime:
    """A loaded model. Any number of threads and event loops may use one at the same time."""

    def __init__(self, parts: Parts) -> None:
        """Use `ecocore.load`."""
        self.model_id: Final = parts.model_id
        self.created: Final = int(time.time())
        self.context_length: Final = parts.context_length
        self.fingerprint: Final = parts.fingerprint
        self.tokenizer: Final = parts.tokenizer
        self._end_ids = parts.end_ids
        self.accepts_images: Final = parts.image_text is not None
        extras = {"images": self.accepts_images, "reasoning": parts.thinks}
        self.abilities: Final = ("text", "json", "tools", *(name for name, can in extras.items() if can))
        self._builder = PromptBuilder(
            parts.tokenizer,
            parts.template,
            context_length=parts.context_length,
            vocab_size=parts.vocab_size,
            image_text=parts.image_text,
            viewer=parts.viewer,
            tool_template=parts.tool_template,
            thoughts=parts.thoughts,
        )
        self.plain: Final = PlainPrompts(
            parts.tokenizer, start_ids=parts.start_ids, context_length=parts.context_length, vocab_size=parts.vocab_size
        )
        self._sampling = parts.sampling
        self._tool_syntax = self._builder.tool_syntax(parts.tool_syntax)
        self._thinks = parts.thinks
        self._grammars = Grammars(parts.tokenizer, parts.vocab_size, parts.end_ids)
        capacity, sampler = parts.capacity, BatchSampler(parts.vocab_size)
        self._loop = StepLoop(
            Scheduler(
                groups=parts.groups,
                block_size=parts.block_size,
                max_sequences=capacity.running + capacity.reserved,
                reserved_sequences=capacity.reserved,
                max_batch_tokens=capacity.step_tokens,
                # The loop's capacity is the one bound: what it let in must find room here, also before the first step.
                max_waiting=capacity.running + capacity.waiting,
            ),
            Executor(parts.model, sampler, depth=parts.depth, cores=parts.cores),
            sampler,
            OutputStreams(parts.tokenizer),
            capacity=capacity,
            eyes=None if parts.viewer is None else cast("Eyes", parts.model),
        )
        self._request_ids = itertools.count(1)
        self._mailboxes: dict[int, Callable[[Event], None]] = {}
        # The engine's thread holds no runtime, so that one which nobody holds ends like one that was closed.
        self._loop.subscribe(_routed_weakly(weakref.WeakMethod(self._route)))
        self._workers = parts.workers
        self._end = weakref.finalize(self, _ended, self._loop, parts.workers)
        self._loop.start()

    # --- making one -------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        precision: Literal["exact", "fast"] | None = None,
        kv_cache_mb: int = 256,
        generation_config: Literal["model"] | None = None,
        tensor_parallel: int = 1,
        capacity: Capacity | None = None,
        mmproj: str | Path | None = None,
        model_id: str | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Loads a model; see `ecocore.load`. `capacity`: answers at once."""
        parts = load_parts(
            model,
            device=device,
            precision=precision,
            kv_cache_mb=kv_cache_mb,
            generation_config=generation_config,
            tensor_parallel=tensor_parallel,
            capacity=capacity or Capacity(),
            mmproj=mmproj,
            model_id=model_id,
            progress=progress,
        )
        with ExitStack() as stack:
            if parts.workers is not None:
                stack.enter_context(closing(parts.workers))
            runtime = cls(parts)
            stack.pop_all()
        return runtime

    @classmethod
    def mock(
        cls,
        model_id: str = "mock",
        *,
        tokens_per_second: float = 0.0,
        context_length: int = 8192,
        images: bool = True,
        capacity: Capacity | None = None,
        depth: int = 1,
    ) -> Self:
        """An engine without weights: a byte tokenizer and an endless readable text.

        It obeys every parameter, so the whole server can be tried and measured without torch. Unless `images` is
        False it takes images too: they are checked, and what they show is ignored. `tokens_per_second`: of each stream; 0 is
        as fast as it can. `depth`: steps in flight, as a device that runs ahead has them. `capacity`: answers at once.
        """
        return cls(
            mock_parts(
                model_id,
                tokens_per_second=tokens_per_second,
                context_length=context_length,
                images=images,
                capacity=capacity or Capacity(),
                depth=depth,
            )
        )

    # --- asking -----------------------------------------------------------------------------------------

    def chat(self, messages: Messages, **params: Unpack[ChatParams]) -> Completion:
        """The whole answer. `messages`: a list as the API spells it, or a string as the one user message.

        `params`: the API's parameters by name. Raises InvalidRequest and its kinds, Overloaded, EngineFailure,
        RuntimeClosed; TypeError for an unknown parameter.
        """
        return gathered(self.stream(messages, **params))

    def stream(self, messages: Messages, **params: Unpack[ChatParams]) -> Iterator[Told]:
        """Events of the answer as they happen, `Finished` the last of each choice. Closing the iterator stops the work."""
        request = self._request(messages, params)
        return self._events(self._prepare_whole(request), request)

    async def achat(self, messages: Messages, **params: Unpack[ChatParams]) -> Completion:
        """`chat` for asyncio. Cancelling the task stops the work."""
        return gathered([event async for event in self.astream(messages, **params)])

    async def astream(self, messages: Messages, **params: Unpack[ChatParams]) -> AsyncIterator[Told]:
        """`stream` for asyncio."""
        request = self._request(messages, params)
        prompt = await asyncio.to_thread(self._prepare_whole, request)
        loop = asyncio.get_running_loop()
        mailbox: asyncio.Queue[Event] = asyncio.Queue()
        request_id = self._post(prompt, request, lambda event: _post_to(loop, mailbox, event))
        running = request.n
        try:
            while running:
                event = _checked(await mailbox.get())
                yield event
                running -= isinstance(event, Finished)
        finally:
            self._leave(request_id)

    def _events(self, prompt: Prompt, request: ChatRequest) -> Iterator[Told]:
        mailbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        request_id = self._post(prompt, request, mailbox.put)
        running = request.n
        try:
            while running:
                event = _checked(mailbox.get())
                yield event
                running -= isinstance(event, Finished)
        finally:
            self._leave(request_id)

    def _request(self, messages: Messages, params: ChatParams) -> ChatRequest:
        unknown = params.keys() - ChatParams.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown parameter {min(unknown)!r}; known are {', '.join(sorted(ChatParams.__annotations__))}")
        if isinstance(messages, bytes | Mapping) or not isinstance(messages, Iterable):
            raise InvalidParameter("messages", "must be a string or a list of messages", "invalid_type")
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return ChatRequest.parse({"model": self.model_id, "messages": turns, **params})

    def _prepare_whole(self, request: ChatRequest) -> Prompt:
        prompt = self.prepare(request)
        if not request.images:
            return prompt
        # Half of the packages that this brings in are for fetching, which a text model never needs.
        from ecocore.prompt.images.loader import load_images

        return prompt.showing(load_images(request.images))

    def _post(self, prompt: Prompt, request: ChatRequest, mailbox: Callable[[Event], None]) -> int:
        request_id = self.new_request_id()
        self._mailboxes[request_id] = mailbox
        try:
            self.submit(prompt, self.sampling(request), request_id=request_id, n=request.n, priority=request.priority)
        except BaseException:
            del self._mailboxes[request_id]
            raise
        return request_id

    def _leave(self, request_id: int) -> None:
        del self._mailboxes[request_id]
        self.cancel(request_id)

    def _route(self, events: EventBatch) -> None:
        """Called on the engine thread: hands events to embedded callers."""
        if not self._mailboxes:
            return
        for row in events.rows():
            mailbox = self._mailboxes.get(row.request_id)
            if mailbox is not None:
                mailbox(event_of(row))

    # --- the door for a server: the same in pieces ------------------------------------------------------

    def new_request_id(self) -> int:
        """A number that no other request of this runtime has."""
        return next(self._request_ids)

    def prepare(self, request: ChatRequest) -> Prompt:
        """Template, token ids, and the grammar of the answer if it has to have a form. Raises InvalidRequest kinds.

        Costs CPU time with the prompt's length, and up to 2 s for a new schema; any thread.
        The prompt of a request with images is for `submit` once it is `showing` them, as `ImageLoader` gives them.
        """
        prompt, form = self._builder.build(request), self._form(request)
        # What a grammar holds from its first character goes on with no thought.
        free = form.grammar is None or (form.tool_syntax is not None and not form.forced_tool and not request.wants_json)
        return replace(prompt, form=form, in_thought=prompt.in_thought and form.reasoning and free)

    def _form(self, request: ChatRequest) -> AnswerForm:
        choice = request.tool_choice
        if choice.mode == "none":
            return AnswerForm(grammar=self._grammars.response(request.response_format), reasoning=self._thinks)
        once = choice.mode == "named" or not request.parallel_tool_calls
        return AnswerForm(
            grammar=self._grammars.calls(
                self._tool_syntax, request.tools, choice, request.parallel_tool_calls, request.response_format
            ),
            tool_syntax=self._tool_syntax,
            tool_names=choice.names,
            forced_tool=choice.mode in ("required", "named"),
            max_tool_calls=1 if once else None,
            reasoning=self._thinks,
        )

    def sampling(self, request: ChatRequest) -> SamplingParams:
        """How its tokens are drawn, for `submit`. What it leaves open is the API's default, or the model's if so loaded."""
        return request.sampling(self._sampling)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: int,
        n: int = 1,
        first_choice: int = 0,
        salt: bytes = b"",
        key: int = 0,
        priority: int = 0,
    ) -> None:
        """Starts a prepared request; its events go to the subscribers. Raises Overloaded and its kinds, RuntimeClosed.

        `n`: how many answers to it, numbered from `first_choice` on; at most 8 for one request. All start or none.
        `salt` separates tenants in the prefix cache; requests of one `key` share its turns where others wait too, but a lower
        `priority` goes first.
        """
        seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
        form = prompt.form
        # A grammar knows where its answer ends, and says so with the model's own end.
        own_ends = () if params.ignore_eos and form.grammar is None else self._end_ids
        output = {
            "stop": params.stop,
            "logprobs": params.logprobs,
            "tool_syntax": form.tool_syntax,
            "tool_names": form.tool_names,
            "forced_tool": form.forced_tool,
            "max_tool_calls": form.max_tool_calls,
            "reasoning": form.reasoning,
            "in_thought": prompt.in_thought,
        }
        self._loop.submit(
            *(
                Submission(
                    sequence_id=request_id * MAX_CHOICES + choice,
                    request_id=request_id,
                    choice=choice,
                    token_ids=prompt.token_ids,
                    max_tokens=prompt.max_tokens,
                    min_tokens=min(params.min_tokens, prompt.max_tokens),
                    end_ids=(*own_ends, *params.stop_token_ids),
                    params=params,
                    seed=seed,
                    grammar=form.grammar,
                    output=output,
                    scores=prompt.scores,
                    views=prompt.views,
                    whole=prompt.whole,
                    # All choices look at the same pixels.
                    shown_bytes=sum(view.pixels.nbytes for view in prompt.views) // n,
                    key=key,
                    priority=priority,
                    salt=b"\0".join((salt, prompt.cache_salt, prompt.image_digest)),
                )
                for choice in range(first_choice, first_choice + n)
            )
        )

    def cancel(self, request_id: int) -> None:
        """Stops all choices of a request without an event; an unknown or ended one is ignored."""
        self._loop.cancel(range(request_id * MAX_CHOICES, (request_id + 1) * MAX_CHOICES))

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """Calls `callback` on the engine thread once per step; the returned function ends that."""
        return self._loop.subscribe(callback)

    def stats(self) -> dict[str, int]:
        """Counts for tests and metrics: open, running and waiting sequences, blocks, prefix hits."""
        return self._loop.stats()

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken."""
        return self._loop.is_alive and (self._workers is None or self._workers.is_alive)

    # --- ending -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the engine; requests still open raise RuntimeClosed. May be called twice."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    precision: Literal["exact", "fast"] | None = None,
    kv_cache_mb: int = 256,
    generation_config: Literal["model"] | None = None,
    tensor_parallel: int = 1,
    max_sequences: int = Capacity.running,
    max_waiting: int = Capacity.waiting,
    mmproj: str | Path | None = None,
    model_id: str | None = None,
    progress: bool | None = None,
) -> Runtime:
    """Loads a model and starts its engine.

    `model`: a GGUF file or a Hugging Face folder with safetensors; None is the embedded SmolLM2-135M-Instruct.
    `device`: "cpu", "cuda", "cuda:N" or "auto". `precision`: "exact" computes in float32, "fast" in bfloat16; None chooses
    "fast" for bfloat16 folders. `kv_cache_mb`: memory for keys and values, MiB; where it holds fewer tokens than the model's
    context, it is the context. `tensor_parallel`: how many processes share the model, its cache and the work of each step; on
    CUDA each has a device of its own, on a processor they share its threads. `generation_config`: "model" takes temperature,
    top_p and the like from the model's generation_config.json where a request leaves them open; None takes the API's defaults.
    `max_sequences`: answers that are computed at once, as memory allows; `max_waiting`: answers that may wait beyond them, before
    more raise QueueFull. `mmproj`: the GGUF file of the part that sees images; None takes the only one whose name has mmproj in
    it, beside the model. `progress`: whether to show a bar while loading; None shows it on a terminal. Raises InvalidModelFile,
    InvalidParameter, InvalidConfiguration, and EngineFailure if one of the processes cannot start.
    """
    return Runtime.load(
        model,
        device=device,
        precision=precision,
        kv_cache_mb=kv_cache_mb,
        generation_config=generation_config,
        tensor_parallel=tensor_parallel,
        capacity=Capacity(running=max_sequences, waiting=max_waiting),
        mmproj=mmproj,
        model_id=model_id,
        progress=progress,
    )


def _ended(loop: StepLoop, workers: "Workers | None") -> None:
    loop.close()
    if workers is not None:
        workers.close()


def _routed_weakly(route: weakref.WeakMethod[Callable[[EventBatch], None]]) -> Callable[[EventBatch], None]:
    def hear(events: EventBatch) -> None:
        if (receiver := route()) is not None:
            receiver(events)

    return hear


def _checked(event: Event) -> Told:
    if isinstance(event, Failed):
        raise failure(event.code, event.message)
    return event


def _post_to(loop: asyncio.AbstractEventLoop, mailbox: asyncio.Queue[Event], event: Event) -> None:
    try:
        loop.call_soon_threadsafe(mailbox.put_nowait, event)
    except RuntimeError:
        # The caller's event loop is closed: nobody is left to tell.
        return
