"""How tokens are drawn: the ranges of the sampling fields, and `SamplingParams` for one sequence."""

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from ecocore.request.faults import fault, named_errors
from ecocore.request.json_object import HALF_A_PAIR, AsTuple, NullIsAbsent, either, is_text

MAX_STOPS: Final = 16
MAX_STOP_BYTES: Final = 1024
MAX_STOP_TOKEN_IDS: Final = 64
MAX_LOGIT_BIAS: Final = 1024


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value)


def _within_bounds(stops: tuple[str, ...]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise fault("array_above_max_length", f"must hold at most {MAX_STOPS} strings")
    for text in stops:
        if not text:
            raise fault("invalid_value", "must not hold an empty string")
        if not is_text(text):
            raise fault("invalid_value", HALF_A_PAIR)
        if len(text.encode()) > MAX_STOP_BYTES:
            raise fault("string_above_max_length", f"must hold strings of at most {MAX_STOP_BYTES} bytes")
    return stops


def _token_ids(value: Any) -> Any:
    """JSON spells ids as strings where they are names."""
    if not isinstance(value, Mapping):
        return value
    biases = {_token_id(key): bias for key, bias in value.items()}
    if len(biases) != len(value):
        raise fault("invalid_value", "names a token twice")
    return biases


def _token_id(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10:
        return int(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    raise fault("invalid_value", f"keys must be token ids, not {str(key)[:40]!r}")


Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
TypicalP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
LogitBias = Annotated[dict[int, Bias], Field(max_length=MAX_LOGIT_BIAS), BeforeValidator(_token_ids), NullIsAbsent]
TokenLimit = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_STOP: Final = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES}
Stops = Annotated[
    tuple[str, ...],
    AfterValidator(_within_bounds),
    BeforeValidator(_one_or_many),
    either("a string or an array of strings", str, list, tuple),
    WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]}),
]
TokenIds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...], Field(max_length=MAX_STOP_TOKEN_IDS), AsTuple]


def _plain_ids(value: Any) -> Any:
    """Integers of numpy and torch become Python's, so that what a sampler gave can be its next history."""
    if not isinstance(value, list | tuple):
        return _plain_array(value)
    if set(map(type, value)) <= {int}:
        return value
    return [item if isinstance(item, bool | np.bool_) or not hasattr(item, "__index__") else _index(item) for item in value]


def _index(item: Any) -> Any:
    try:
        return operator.index(item)
    except TypeError:  # a tensor of floats, or of more than one element
        return item


def _plain_array(value: Any) -> Any:
    """A tensor of the CPU as numpy's array of the same memory."""
    is_tensor = hasattr(value, "__array__") and getattr(getattr(value, "device", None), "type", "") == "cpu"
    return np.asarray(value) if is_tensor else value


def _ids_kind(value: Any) -> str:
    return "#array" if isinstance(value, np.ndarray) else "#ids"


Ids = Annotated[
    Annotated[tuple[int, ...], Tag("#ids")] | Annotated[NDArray[Any], Tag("#array")],
    Discriminator(_ids_kind),
    AsTuple,
    either("a list, an array or a tensor (CPU) of ids", list, tuple, np.ndarray),
    BeforeValidator(_plain_ids),
]
Mask = Annotated[NDArray[np.bool_], either("a numpy array or tensor (CPU) of bool", np.ndarray), BeforeValidator(_plain_array)]


class SamplingParams(BaseModel):
    """How tokens are drawn, for one sequence. Defaults are neutral but for temperature 1.

    `history`, `prompt` (ids) and `mask` (bool array over the vocabulary, True is allowed) are for
    `ecocore.Sampler`; a runtime keeps them itself. `stop`, `max_tokens`, `min_tokens`, `ignore_eos` and
    `stop_token_ids` say when a runtime's answer ends. Order of the steps: docs/sampling.md.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True)

    temperature: Temperature = 1.0
    top_k: Count = 0
    top_p: Fraction = 1.0
    min_p: Fraction = 0.0
    typical_p: TypicalP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: LogitBias = Field(default_factory=dict)
    seed: Seed | None = None
    stop: Stops = ()
    stop_token_ids: TokenIds = ()
    max_tokens: TokenLimit | None = None
    min_tokens: Count = 0
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: TopLogprobs = 0

    history: Ids | None = None
    prompt: Ids | None = None
    mask: Mask | None = None

    def __init__(self, **fields: Any) -> None:
        with named_errors():
            super().__init__(**fields)
