"""What an answer may be: from `response_format` or tools to a compiled grammar, remembered for the next request.

Takes checked parts of a request, gives grammars for `BatchSampler.open`. Compiling waits up to 2 s without the GIL:
call it from a worker thread, before admission. docs/structured-output.md tells what schemas may hold.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Final, Literal, Protocol

from ecocore import _core
from ecocore.errors import InvalidParameter

MAX_CALLS: Final = 16
"""Tool calls in one answer: a model that loops still ends."""

MAX_CACHE_BYTES: Final = 64 << 20


class JsonSchema(Protocol):
    """A schema that answers must fit; `strict` closes every object of it."""

    @property
    def definition(self) -> dict[str, Any]:
        """The schema."""

    @property
    def strict(self) -> bool:
        """Whether every object is closed."""


class ResponseFormat(Protocol):
    """The form an answer must have."""

    @property
    def type(self) -> Literal["text", "json_object", "json_schema"]:
        """Which form."""

    @property
    def json_schema(self) -> JsonSchema | None:
        """What the answer must fit, if that is the form."""


class Tool(Protocol):
    """A function that may be called; without `parameters` it takes an empty object."""

    @property
    def name(self) -> str:
        """What calls name it."""

    @property
    def parameters(self) -> dict[str, Any] | None:
        """JSON schema of its arguments."""

    @property
    def strict(self) -> bool:
        """Whether every object is closed."""


class ToolChoice(Protocol):
    """Whether and which tools are called."""

    @property
    def mode(self) -> Literal["none", "auto", "required", "named"]:
        """Whether an answer may or must call."""

    @property
    def names(self) -> Sequence[str]:
        """The tools that may be called."""


class Grammars:
    """The grammars of one model. For use by many threads; equal requests share one grammar."""

    def __init__(
        self, tokenizer: _core.Tokenizer, vocab_size: int, end_ids: Sequence[int], *, cache_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        """`vocab_size`: columns of the logits. `end_ids`: what ends an answer; a complete grammar allows nothing else.

        `cache_bytes`: memory for grammars that no request uses at the moment.
        """
        self._vocabulary = (tokenizer, vocab_size, list(end_ids))
        self._compiler: _core.GrammarCompiler | None = None
        self._cache_bytes = cache_bytes
        self._held_bytes = 0
        self._grammars: OrderedDict[Hashable, Future[_core.Grammar]] = OrderedDict()
        self._lock = threading.Lock()
        self._compiler_lock = threading.Lock()

    def response(self, response_format: ResponseFormat | None) -> _core.Grammar | None:
        """The grammar of an answer of that form; None for plain text.

        Raises InvalidParameter("response_format", ..., "invalid_json_schema") for a schema that cannot be kept,
        and QueueFull while too many grammars are compiled.
        """
        schema, strict = _response_schema(response_format)
        if schema is None:
            return None
        if not schema:
            return self._cached(("json_object",), lambda compiler: compiler.json_object())
        return self._cached(("schema", schema, strict), lambda compiler: compiler.json_schema(schema, strict=strict))

    def calls(
        self,
        syntax: str,
        tools: Sequence[Tool],
        tool_choice: ToolChoice,
        parallel: bool,  # noqa: FBT001 - the contract of the request
        response_format: ResponseFormat | None = None,
    ) -> _core.Grammar | None:
        """The grammar of an answer that may or must call; None if it may not. `syntax` is the family's `tool_syntax`.

        `parallel` False: at most one call. `response_format`: under "auto", what an answer without a call has to be.
        Raises InvalidParameter("tools", ..., "invalid_json_schema") and what `response` raises.
        """
        mode = tool_choice.mode
        if mode == "none":
            return None
        chosen = [
            (tool.name, "" if tool.parameters is None else _text("tools", tool.parameters), tool.strict)
            for tool in tools
            if tool.name in tool_choice.names
        ]
        most = MAX_CALLS if parallel else 1
        answer: tuple[str | None, bool] = (None, False)
        if mode == "auto":
            answer = _response_schema(response_format)
        key = ("calls", syntax, tuple(chosen), mode, most, answer)
        return self._cached(key, lambda compiler: compiler.tool_calls(syntax, chosen, mode=mode, max_calls=most, answer=answer))

    @property
    def held_bytes(self) -> int:
        """About how much memory the remembered grammars hold."""
        with self._lock:
            return self._held_bytes

    def _cached(self, key: Hashable, compile_grammar: Callable[[_core.GrammarCompiler], _core.Grammar]) -> _core.Grammar:
        with self._lock:
            known = self._grammars.get(key)
            if known is not None:
                self._grammars.move_to_end(key)
            else:
                mine: Future[_core.Grammar] = Future()
                self._grammars[key] = mine
        if known is not None:
            return known.result()
        try:
            grammar = compile_grammar(self._ready_compiler())
        except BaseException as error:
            # What failed is not remembered: it may have been the load of the machine.
            with self._lock:
                del self._grammars[key]
            mine.set_exception(error)
            raise
        with self._lock:
            self._held_bytes += grammar.num_bytes
        mine.set_result(grammar)
        self._shrink()
        return grammar

    def _shrink(self) -> None:
        """Forgets the longest unused grammars until the rest fits."""
        with self._lock:
            while self._held_bytes > self._cache_bytes:
                done = next((key for key, grammar in self._grammars.items() if grammar.done()), None)
                if done is None:
                    return
                self._held_bytes -= self._grammars.pop(done).result().num_bytes

    def _ready_compiler(self) -> _core.GrammarCompiler:
        """Built with the first grammar: most runtimes never need one."""
        with self._compiler_lock:
            if self._compiler is None:
                self._compiler = _core.GrammarCompiler(*self._vocabulary)
            return self._compiler


def _response_schema(response_format: ResponseFormat | None) -> tuple[str | None, bool]:
    """The schema as text, "" for any object, None for plain text; and whether it is strict."""
    if response_format is None or response_format.type == "text":
        return None, False
    schema = response_format.json_schema
    if response_format.type == "json_object" or schema is None:
        return "", False
    return _text("response_format", schema.definition), schema.strict


def _text(param: str, schema: dict[str, Any]) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidParameter(param, "schema must be plain JSON", "invalid_json_schema") from error
