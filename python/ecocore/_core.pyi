"""The Rust extension. This file is its manual; tests hold it to the binary.

Arrays are numpy arrays of the stated shape and dtype. "Tensor" means a CPU tensor of torch or a numpy
array, read in place: it is never copied and never written to unless the text says so. Errors are those of
`ecocore.errors`. The GIL is released around every call whose cost grows with text, vocabulary or batch.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Self, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Batch",
    "ChunkDecoder",
    "EventBatch",
    "EventDecoder",
    "EventRow",
    "GgufFile",
    "Grammar",
    "GrammarCompiler",
    "OutputStreams",
    "RequestMeter",
    "SampledTokens",
    "SamplerInputs",
    "SamplerParams",
    "SamplerState",
    "Scheduler",
    "SseWriter",
    "TextStream",
    "TokenStream",
    "Tokenizer",
    "__version__",
    "cuda_sources",
    "json_shape",
    "mock_logits",
    "pack_rows",
    "read_gguf",
    "read_safetensors_header",
    "resize_rgb",
    "sample_rows",
]

__version__: str

# --- text -----------------------------------------------------------------------------------------------

@final
class Tokenizer:
    """A tokenizer, exact to Hugging Face `tokenizers` 0.23."""

    @staticmethod
    def from_file(path: str | PathLike[str]) -> Tokenizer:
        """Opens a `tokenizer.json` or the vocabulary inside a GGUF file.

        Raises InvalidModelFile where the file is broken or its pre-tokenizer unknown.
        """

    @staticmethod
    def from_json(json: bytes) -> Tokenizer:
        """Reads the contents of a `tokenizer.json`."""

    @staticmethod
    def bytes_only() -> Tokenizer:
        """A tokenizer whose ids 0 to 255 are the bytes themselves and 256 is the (special) end token `<|end|>`."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""

    @property
    def backend(self) -> str:
        """What does the work: "ecocore" for the pipelines that it knows, "tokenizers" for others, or "bytes"."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Adds no special token; added tokens in the text are recognised.

        Raises InvalidParameter for a lone surrogate.
        """

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` as an array: no integer of Python's is touched, which takes a third of the time of a long text."""

    def encode_chat(self, text: str) -> NDArray[np.uint32]:
        """`encode` of the prompt of a chat, as an array.

        ecocore's own tokenizer remembers the texts between its added tokens, and the beginnings of the last sixteen long chats,
        so that a prompt that grew by a turn costs that turn.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, over all cores."""

    def decode(self, ids: Sequence[int] | NDArray[Any], skip_special_tokens: bool = False) -> str:
        """Text of `ids`; bytes that form no character become U+FFFD. Raises InvalidParameter for an unknown id."""

    def stream(self, skip_special_tokens: bool = False) -> TokenStream:
        """An incremental `decode`."""

    def token_bytes(self, id: int) -> bytes:
        """Bytes that the token stands for. Raises InvalidParameter for an unknown id."""

    def token_to_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, or None."""

    def is_special(self, id: int) -> bool:
        """Whether `decode(skip_special_tokens=True)` leaves the token out."""

@final
class TokenStream:
    """Ids to text, one id at a time. Never stalls: an invalid byte becomes U+FFFD at once."""

    def push(self, id: int) -> str:
        """The text that became final with this token; may be empty."""

    def finish(self) -> str:
        """What was held: an unfinished character becomes U+FFFD."""

@final
class TextStream:
    """Many streams at once: ids to text with stop strings, one call per step.

    A stream holds back only what may still become a stop string or a character.
    """

    def __new__(cls, tokenizer: Tokenizer) -> Self: ...
    def open(self, stop: Sequence[str] = (), skip_special_tokens: bool = True) -> int:
        """Opens a stream and gives its handle. Raises InvalidParameter for an empty stop string,
        more than 16 of them or one of more than 1024 bytes."""

    def push(self, handles: Sequence[int] | NDArray[Any], ids: Sequence[int] | NDArray[Any]) -> tuple[list[str], list[bool]]:
        """One id for each handle: the text that became final, and whether a stop string ended the stream."""

    def finish(self, handle: int) -> str:
        """Ends a stream, forgets its handle and gives what was held (empty after a stop string)."""

# --- images ---------------------------------------------------------------------------------------------

def resize_rgb(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """`pixels` (height, width, 3) at another size: bit for bit torch's bicubic interpolation of bytes with antialiasing.

    Raises InvalidParameter for a side of 0, for pixels that are not contiguous, and for a size that does not fit into memory.
    """

# --- choice ---------------------------------------------------------------------------------------------

@final
class SamplerParams:
    """Validated sampling parameters of one sequence; the neutral value switches a step off."""

    def __new__(
        cls,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        top_logprobs: int | None = None,
    ) -> Self:
        """`top_logprobs`: None takes no log-probabilities; 0 to 20 take the chosen token's and that many more.

        Raises InvalidParameter naming the field.
        """

def sample_rows(
    logits: Any,
    params: Sequence[SamplerParams],
    seeds: Sequence[SupportsIndex] | NDArray[Any],
    positions: Sequence[SupportsIndex] | NDArray[Any],
    prompts: Sequence[NDArray[np.uint32] | None],
    histories: Sequence[NDArray[np.uint32] | None],
    masks: Sequence[NDArray[np.bool_] | None],
) -> SampledTokens:
    """Draws one token for each row of `logits` (rows, vocab; float32, float16 or bfloat16 tensor).

    A row's result depends on that row alone. `histories` are the tokens drawn so far, `prompts` the prompt
    (for repetition_penalty), `masks` the allowed tokens. Seeds are taken modulo 2^64.
    """

def pack_rows(
    vocab_size: int,
    params: Sequence[SamplerParams],
    seeds: Sequence[SupportsIndex] | NDArray[Any],
    positions: Sequence[SupportsIndex] | NDArray[Any],
    prompts: Sequence[NDArray[np.uint32] | None],
    histories: Sequence[NDArray[np.uint32] | None],
    masks: Sequence[NDArray[np.bool_] | None],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]:
    """What `sample_rows` takes beside the logits, checked and packed as `cuda/sample.cuh` reads it: inputs, changes, masks."""

def cuda_sources() -> list[tuple[str, str]]:
    """The files of `cuda/`: name and text."""

@final
class GrammarCompiler:
    """Makes grammars for one model. Takes a moment: it builds a trie of the vocabulary."""

    def __new__(cls, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> Self:
        """`vocab_size`: columns of the logits. `end_ids`: the tokens that end an answer, at least one.

        Raises InvalidParameter.
        """

    def json_object(self) -> Grammar:
        """Any JSON object, on one line."""

    def json_schema(self, schema: str, *, strict: bool = False) -> Grammar:
        """JSON that fits `schema`, with its keys in that order. `strict`: every object is closed.

        Raises InvalidParameter("response_format", ..., "invalid_json_schema") for a schema that is wrong, takes
        more than 2 s, or asks for what no grammar can keep; QueueFull while too many grammars are compiled.
        """

    def tool_calls(
        self,
        syntax: str,
        tools: Sequence[tuple[str, str, bool]],
        *,
        mode: Literal["required", "named", "auto"],
        max_calls: int,
        answer: tuple[str | None, bool] = (None, False),
    ) -> Grammar:
        """An answer that calls tools, each a name, the JSON schema of its arguments ("" for none) and `strict`.

        `syntax`: llama, hermes or gemma. `mode`: required, 1 to `max_calls` calls and nothing else; named, one call
        of the one tool and nothing else; auto, any text, and a call that has begun must fit. `answer`: a schema
        ("": any object) and `strict`; under auto an answer is then calls or such JSON.
        Raises InvalidParameter("tools", ..., "invalid_json_schema") as `json_schema` does.
        """

@final
class Grammar:
    """What an answer may be. Immutable, and shared by all sequences that follow it."""

    @property
    def num_bytes(self) -> int:
        """About how much memory it holds."""

@final
class SamplerState:
    """What the sampler remembers of each running sequence: parameters, seed, counts of drawn tokens."""

    def __new__(cls, vocab_size: int) -> Self: ...
    def open(
        self,
        sequence_id: int,
        params: SamplerParams,
        seed: int,
        choice: int,
        prompt: NDArray[np.uint32],
        *,
        grammar: Grammar | None = None,
        end_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        """Starts a sequence. `end_ids` are not drawn before `min_tokens` others, unless a grammar allows nothing else.

        Raises InvalidParameter for an id outside the vocabulary ("logit_bias", "prompt", "end_ids") and for a
        grammar of another vocabulary.
        """

    def close(self, sequence_id: int) -> None:
        """Forgets a sequence; unknown ids are ignored."""

    def late(self) -> list[int]:
        """Sequences whose next mask is not there yet and may take long; a step with one of them may have to wait for it."""

    def prepare(self, batch: Batch) -> SamplerInputs:
        """Collects what the draws of this batch need; done while the model computes."""

    def sample(self, logits: Any, inputs: SamplerInputs) -> SampledTokens:
        """One token per sampled row of the batch; `logits` is a tensor (batch.num_logits, vocab).

        Rows of sequences closed meanwhile draw token 0 and are ignored downstream. Counts are updated. The next
        masks of grammars are computed on the Rust pool from here on; this call waits for those not there yet.
        """

@final
class SamplerInputs:
    """The parameters of one batch, gathered by `SamplerState.prepare`."""

@final
class SampledTokens:
    """One token per sampled row, with the log-probabilities that were asked for."""

    @property
    def sequence_ids(self) -> NDArray[np.uint64]: ...
    @property
    def token_ids(self) -> NDArray[np.int64]: ...
    @property
    def failed(self) -> list[int]:
        """Sequences whose grammar could not be followed any further; `OutputStreams.push` ends them."""

    def logprobs(self, row: int) -> tuple[float, list[tuple[int, float]]] | None:
        """Raw log-probability of the row's token and the likeliest tokens, or None if not asked for."""

    def __len__(self) -> int: ...

# --- bookkeeping ----------------------------------------------------------------------------------------

@final
class Batch:
    """What the model computes in one step. Token-wise arrays have `num_tokens` entries, row-wise `num_rows`."""

    @property
    def ticket(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of prompts among `num_tokens`."""

    @property
    def num_samples(self) -> int:
        """Rows that draw a token."""

    @property
    def num_logits(self) -> int:
        """Length of `sample_indices`: rows that draw, and positions that score."""

    @property
    def sequence_ids(self) -> NDArray[np.uint64]: ...
    @property
    def starts(self) -> NDArray[np.int64]:
        """First position of each row."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Positions of each row, at least 1."""

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        """Positions below it are prefill, in cells of `block_size` counted from 0; each from it on is a
        decode row of its own. Attention of a position is a function of (position, prompt length) alone."""

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """-1 where the token is still being drawn by a step in flight."""

    @property
    def positions(self) -> NDArray[np.int64]: ...
    @property
    def slots(self) -> NDArray[np.int64]:
        """(groups, num_tokens): KV slot of each token in each group of layers, block * block_size + offset."""

    @property
    def block_tables(self) -> NDArray[np.int64]:
        """(groups, num_rows, widest); entries that are unused, or lie behind the group's window, are -1."""

    @property
    def sample_indices(self) -> NDArray[np.int64]:
        """Indices on the token axis of the positions whose logits are needed.

        First the last token of each row that draws, in order; then positions that score prompt tokens, mostly none.
        """

    def filled(self, drawn: Sequence[SampledTokens]) -> Batch:
        """The batch with the tokens that were still being drawn when it was made.

        `drawn`: the draws of the steps in flight before it, the newest last. Tokens of sequences that ended meanwhile read 0.
        """

@final
class Scheduler:
    """Continuous batching over pools of KV blocks. Knows no tensors and no clock."""

    def __new__(
        cls,
        *,
        num_blocks: int | None = None,
        groups: Sequence[tuple[int, int | None]] | None = None,
        block_size: int = 64,
        max_sequences: int = 64,
        max_batch_tokens: int = 512,
        max_waiting: int = 256,
        prefix_caching: bool = True,
        reserved_sequences: int = 0,
    ) -> Self:
        """`groups`: of each kind of layers how many blocks they have, and their window: how many positions a position
        attends to, itself included; blocks behind it are given back. Layers that keep everything have none, and come first.
        `num_blocks`: of layers that all keep everything, instead of `groups`.
        `max_batch_tokens`: the token budget of a step; prefill chunks end on multiples of `block_size` or
        at the end of the prompt. `reserved_sequences`: so many of `max_sequences` only for keys that run fewer. Raises
        InvalidParameter."""

    def submit(
        self,
        sequence_id: int,
        prompt: NDArray[np.uint32],
        max_tokens: int,
        salt: bytes = b"",
        scores: bool = False,
        *,
        key: int = 0,
        priority: int = 0,
        whole: Sequence[tuple[int, int]] = (),
        shown: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """Queues a sequence. `salt` separates tenants in the prefix cache.

        Keys are served in proportion, and within a `key` the first to come goes first; a lower `priority` goes before both.
        `scores`: the steps ask for the log-probabilities of its prompt, of which nothing then comes from the cache.
        `whole`: spans of the prompt, in order and apart, that no step computes in part. `shown`: where images begin, and the
        digest of each: the prefix cache finds what stands before one whatever it is.
        Raises QueueFull; ContextLengthExceeded if prompt + max_tokens, or a window and what cannot be cut, never fit the
        pools.
        """

    def cancel(self, sequence_id: int) -> bool:
        """Ends a sequence; its blocks are free once no step in flight uses them. False if unknown."""

    def schedule(self, *, prompt_tokens: int | None = None, held: Sequence[int] = ()) -> Batch | None:
        """The next step, or None if nothing can run. May be called with steps in flight.

        `prompt_tokens`: most tokens of prompts in it, but never less than a block. `held`: sequences that are left out.
        """

    def commit(self, batch: Batch, tokens: SampledTokens, ended: Sequence[int]) -> None:
        """Takes a step's tokens, and the sequences that ended with them. Steps are committed in their order."""

    def finish(self, events: EventBatch) -> None:
        """Ends `events.finished_sequences`; those that ended already are ignored."""

    def abandon(self, batch: Batch) -> None:
        """Gives back a step that failed: its sequences end and their blocks are freed."""

    def num_waiting_of(self, key: int) -> int:
        """Sequences of this key in the queue."""

    def has_work(self) -> bool: ...
    def stats(self) -> dict[str, int]:
        """waiting, running, free_blocks, cached_blocks (free but still holding a prefix), total_blocks,
        windowed_free_blocks and windowed_total_blocks (those of layers with a window), prefix_queries,
        prefix_hits (tokens), preemptions, blocked (1 if somebody waits for blocks or a place)."""

    def check_integrity(self) -> None:
        """Raises InternalError if any count, reference or table is inconsistent."""

# --- output ---------------------------------------------------------------------------------------------

@final
class OutputStreams:
    """Tokens to events: text, stop strings, end tokens, limits, usage."""

    def __new__(cls, tokenizer: Tokenizer) -> Self: ...
    def open(
        self,
        sequence_id: int,
        *,
        request_id: int,
        choice: int,
        prompt_tokens: int,
        max_tokens: int,
        stop: Sequence[str] = (),
        end_ids: Sequence[int] = (),
        logprobs: bool = False,
        min_tokens: int = 0,
        tool_syntax: Literal["llama", "hermes", "gemma"] | None = None,
        tool_names: Sequence[str] = (),
        forced_tool: bool = False,
        max_tool_calls: int | None = None,
        reasoning: bool = False,
        in_thought: bool = False,
    ) -> None:
        """Starts a choice. `end_ids` end it and are no text, but count as completion tokens.

        `min_tokens`: stop strings are looked for in the text that becomes final after so many tokens.
        `tool_syntax`: how the model writes calls of `tool_names`; None looks for none. `forced_tool`: the answer is a
        call from its first character. `max_tool_calls`: the call after so many ends the answer, untold.
        `reasoning`: whether a thought before the answer is told as such; else it is text. `in_thought`: the prompt has
        opened one, which the answer goes on with.

        Raises InvalidParameter.
        """

    def close(self, sequence_id: int) -> None:
        """Forgets a choice without an event; unknown ids are ignored."""

    def ended(self, tokens: SampledTokens) -> list[int]:
        """Sequences that end with these tokens whatever their text reads: with an end token, or because they got none.

        Quick, so that the next step can begin without them; `push` tells their end.
        """

    def push(self, batch: Batch, tokens: SampledTokens) -> EventBatch:
        """The events of one step. Finished choices are forgotten."""

    def fail(self, sequence_ids: Sequence[int] | NDArray[Any], code: str, message: str) -> EventBatch:
        """A Failed event for each choice that is open, which is then forgotten."""

@final
class EventBatch:
    """Everything one step has to tell."""

    @property
    def finished_sequences(self) -> list[int]: ...
    @property
    def num_tokens(self) -> int:
        """Tokens that were drawn for open choices, whatever they told."""

    def request_ids(self) -> list[int]:
        """Requests that have an event, each once."""

    def rows(self) -> list[EventRow]:
        """The events one by one, for embedded use; the serving path hands the batch to `SseWriter` instead."""

    def __len__(self) -> int: ...

@final
class EventRow:
    """One event of one choice."""

    @property
    def kind(self) -> Literal["prompt", "text", "reasoning", "tool_call", "tool_arguments", "finished", "failed"]: ...
    @property
    def request_id(self) -> int: ...
    @property
    def choice(self) -> int: ...
    @property
    def text(self) -> str:
        """Of a text, reasoning or tool-arguments event; else empty."""

    @property
    def index(self) -> int:
        """Of a tool-call or tool-arguments event: which call of the choice; else 0."""

    @property
    def id(self) -> str:
        """Of a tool-call event: "call_" and 24 letters and digits; else empty."""

    @property
    def name(self) -> str:
        """Of a tool-call event: the tool; else empty."""

    @property
    def logprobs(self) -> list[tuple[int, bytes, float, list[tuple[int, bytes, float]]]]:
        """Of a text event: token id, bytes, log-probability and the likeliest (id, bytes, log-probability)."""

    @property
    def reason(self) -> str:
        """Of a finished event: "stop", "length" or "tool_calls"; else empty."""

    @property
    def usage(self) -> tuple[int, int, int, int]:
        """Of a finished event: prompt, cached, completion and reasoning tokens; else zeros."""

    @property
    def code(self) -> str:
        """Of a failed event; else empty."""

    @property
    def message(self) -> str:
        """Of a failed event; else empty."""

@final
class EventDecoder:
    """Events of one request from the bytes that another process made of them with `SseWriter.open(form="events")`.

    Whatever arrives is an event or an error; memory is in proportion to the bytes that came.
    """

    def __new__(cls, request_id: int, choices: int) -> Self:
        """The events will carry `request_id`, whichever they had there; the request has so many choices."""

    def push(self, piece: bytes) -> EventBatch:
        """The events that became whole with this piece. Raises InternalError for what are no events, and ever after."""

    @property
    def is_complete(self) -> bool:
        """Whether every choice ended, and nothing came behind that."""

    def fail(self, code: str, message: str) -> EventBatch:
        """A failed event for each choice that did not end; afterwards all have ended."""

@final
class ChunkDecoder:
    """Events of one request from the stream of any OpenAI-compatible server: chunks of chats or of completions.

    Whatever arrives is an event or an error; memory is in proportion to the bytes that came, of which no more than 4 MiB
    wait for the end of their event. Ends of choices are held until the usage of them all is there, or the end.
    """

    def __new__(cls, request_id: int, choices: int, *, prompt_tokens: int = 0) -> Self:
        """The events will carry `request_id`. `prompt_tokens`: what is told where the stream tells no usage."""

    def push(self, piece: bytes) -> EventBatch:
        """The events that became whole with this piece. Raises InternalError for what is no such stream, and ever after."""

    @property
    def is_complete(self) -> bool:
        """Whether the end of every choice was told; what comes behind that is not looked at."""

    @property
    def usage(self) -> tuple[int, int, int, int] | None:
        """Prompt, cached, completion and reasoning tokens of all choices together, once the stream told them."""

    def fail(self, code: str, message: str) -> EventBatch:
        """Nothing more will come: a finished event for each choice whose end was held, a failed one for the others."""

@final
class SseWriter:
    """Events to the bytes of HTTP answers, streamed or plain, without a Python object per token.

    Rendered bytes gather in a buffer per request until its connection takes them.
    """

    def __new__(cls) -> Self: ...
    def open(
        self,
        request_id: int,
        *,
        completion_id: str,
        created: int,
        model: str,
        system_fingerprint: str,
        stream: bool,
        choices: int = 1,
        include_usage: bool = False,
        logprobs: bool = False,
        form: Literal["chat", "completion", "response", "events"] = "chat",
        service_tier: str | None = None,
        prompts: int = 1,
        echo: Sequence[str] = (),
        echo_hidden: int = 0,
        prompt_only: bool = False,
        fields: str = "",
    ) -> None:
        """Starts an answer: server-sent events if `stream`, else one JSON object when the last choice ended.

        `service_tier`: what the request asked; unless None the answer says "default", the one tier there is.
        `prompts`: how many the choices answer, each as many of them; see `join`. For completions, `echo`: texts of the
        prompts if they come before the answers; `echo_hidden`: leading tokens of each that are no part of its text;
        `prompt_only`: nothing that is drawn is told. For responses, `fields`:
        members of the answer that the request settled, as JSON text with a comma before each. The form "events" is for
        `EventDecoder`: an answer that fails ends with that event, and `failure` stays None.
        """

    def join(self, request_id: int, into: int, first_choice: int) -> None:
        """From now on the events of `request_id` belong to the answer of `into`, as its choices from `first_choice` on."""

    def close(self, request_id: int) -> None:
        """Forgets an answer and its buffer; unknown ids are ignored."""

    def push(self, events: EventBatch) -> list[int]:
        """Renders the events of open answers; gives the requests whose empty buffer now holds something."""

    def take(self, request_id: int) -> bytes:
        """All bytes rendered so far, which leaves the buffer empty; b"" if there are none."""

    def buffered(self, request_id: int) -> int:
        """Bytes waiting in the buffer."""

    def backlog(self, request_id: int) -> int:
        """Bytes waiting because nobody takes them: without those of the largest single event, and none once the answer ended."""

    def is_finished(self, request_id: int) -> bool:
        """Whether nothing more will be rendered (also for an unknown id)."""

    def failure(self, request_id: int) -> tuple[str, str] | None:
        """(code, message) of an answer that failed before any byte of it was taken; else None."""

    def delivered(self, request_id: int) -> int:
        """Tokens of all choices whose bytes were taken: what an answer that ends in the middle has delivered."""

    def usage(self, request_id: int) -> tuple[int, int, int, int] | None:
        """Prompt, cached, completion and reasoning tokens once the answer finished."""

@final
class RequestMeter:
    """How long requests take and what they use, from the events of each step. The clock is the caller's."""

    def __new__(cls) -> Self: ...
    def open(self, request_id: int, choices: int, now: float) -> None:
        """A request of `choices` choices begins at `now` (seconds)."""

    def close(self, request_id: int) -> None:
        """A request is left: what did not end counts as "abort". Unknown ids are ignored."""

    def push(self, events: EventBatch, now: float) -> None:
        """Takes the events of one step, which happened at `now`. Requests that are not open are ignored."""

    def ended(self) -> dict[str, int]:
        """How many choices ended, by "stop", "length", "tool_calls", "error" or "abort"."""

    def histograms(self) -> dict[str, tuple[list[tuple[float, int]], float]]:
        """By name: (upper bound, observations up to it) with the last bound infinite, and the sum.

        time_to_first_token_seconds, inter_token_latency_seconds (between two events of a choice),
        e2e_request_latency_seconds, request_prompt_tokens, request_generation_tokens.
        """

# --- model files ----------------------------------------------------------------------------------------

def read_gguf(path: str | PathLike[str]) -> GgufFile:
    """Opens a GGUF file; every count, offset, shape and type is checked against the file's length.

    Tensors are read when asked for, not mapped: a file that is cut meanwhile is an error, not a crash.

    Raises InvalidModelFile.
    """

@final
class GgufFile:
    """A checked GGUF file."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Key to value; long arrays (over 1024 entries) are left out."""

    def value(self, key: str) -> Any:
        """One value of the metadata, long arrays included, or None if there is no such key."""

    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name to (type such as "Q4_1", shape with the slowest dimension first)."""

    def nbytes(self, name: str) -> int:
        """Bytes of the tensor in the file. Raises InvalidModelFile if there is no such tensor."""

    def dequantize(self, name: str, out: Any) -> None:
        """Writes the tensor as float32 into `out`, a contiguous float32 tensor of its shape.

        Raises InvalidModelFile for a missing tensor, a type that cannot be read, or a scale that is no number.
        """

def read_safetensors_header(path: str | PathLike[str]) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Name to (dtype, shape, first byte, end byte) with offsets counted from the start of the file.

    Raises InvalidModelFile where header, offsets, shapes or dtypes disagree with each other or the file's length.
    """

# --- texts from strangers ---------------------------------------------------------------------------------

def json_shape(body: bytes) -> tuple[int, int, int]:
    """How deep a JSON text nests, how many arrays and objects it has, and how many commas; without those in strings.

    One pass over any bytes, without the GIL. What is no JSON has at least the shape that a parser meets before it fails.
    """

# --- tests and front-end benchmarks -----------------------------------------------------------------------

def mock_logits(batch: Batch, out: NDArray[np.float32]) -> None:
    """Writes logits (batch.num_samples, vocab) of the mock model: a readable text that depends on the last
    token and its position alone."""
