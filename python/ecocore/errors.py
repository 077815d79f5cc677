"""What can go wrong, as one small tree. Rooms raise their own kind and let others pass; HTTP statuses are the server's.

EcocoreError
├── InvalidRequest                 the request is at fault; .param names the field, .code is a short word
│   ├── InvalidParameter           a value is out of range or of the wrong kind (also a ValueError)
│   ├── UnsupportedParameter       a field whose answer this version cannot give
│   ├── ContextLengthExceeded      prompt and answer do not fit the model's context
│   └── ModelNotFound              no model of that name is served
├── InvalidModelFile               a model file is missing, truncated, altered or of an unsupported kind
├── InvalidConfiguration           a setting is wrong; the message names it and where it came from
├── Overloaded                     the engine cannot take the request now; retry
│   ├── QueueFull                  too many requests are waiting
│   └── KeyQueueFull               too many requests of one key are waiting
├── EngineFailure                  a step of the engine failed; the request is lost
│   └── EngineBroken               and so will every other: the engine ends
├── RegionUnavailable              no engine that could run the request runs at the moment; retry
├── RuntimeClosed                  the runtime was closed
├── KernelUnavailable              a CUDA kernel cannot be compiled, loaded or launched here; the message says what is missing
└── InternalError                  a broken rule between our own rooms; please report it
"""

from typing import Final

ENGINE_LOST: Final = "engine_lost"
"""The code of a choice whose engine ended before it did."""


class EcocoreError(Exception):
    """Any error that ecocore raises on purpose."""


class InvalidRequest(EcocoreError):
    """The request is at fault. `param`: the field, `code`: a short word for programs or None.

    `place`: where below the field, as in "[0].content".
    """

    code: str | None = None

    def __init__(self, param: str | None, message: str, code: str | None = None, *, place: str = "") -> None:
        super().__init__(message if param is None else f"{param}{place}: {message}")
        self.param = param
        self.place = place
        self.message = message
        if code is not None:
            self.code = code


class InvalidParameter(InvalidRequest, ValueError):
    """A value is out of range or of the wrong kind."""


class UnsupportedParameter(InvalidRequest):
    """A field whose answer this version cannot give."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """No model of that name is served."""

    code = "model_not_found"


class InvalidModelFile(EcocoreError):
    """A model file is missing, truncated, altered or of an unsupported kind."""


class InvalidConfiguration(EcocoreError):
    """A setting is wrong; the message names it."""


class Overloaded(EcocoreError):
    """The engine cannot take the request now; retry in a moment."""


class QueueFull(Overloaded):
    """Too many requests are waiting."""


class KeyQueueFull(Overloaded):
    """Too many requests of one key are waiting; those of others are taken."""


class EngineFailure(EcocoreError):
    """A step of the engine failed; the request is lost. `code`: a short word for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EngineBroken(EngineFailure):
    """A part of the engine is lost for good: no step can be computed any more."""


class RegionUnavailable(EcocoreError):
    """No engine that could run the request runs at the moment; it is being started again, so retry in a few seconds."""


class RuntimeClosed(EcocoreError):
    """The runtime was closed."""


class KernelUnavailable(EcocoreError):
    """A CUDA kernel cannot be compiled, loaded or launched here; the message says what is missing."""


class InternalError(EcocoreError):
    """A rule between ecocore's own rooms was broken; please report it."""


def failure(code: str, message: str) -> EcocoreError:
    """What the engine told of a failed choice, as an exception."""
    if code == "runtime_closed":
        return RuntimeClosed(message)
    if code == ENGINE_LOST:
        return RegionUnavailable(message)
    if code == "grammar_too_complex":
        # Found while drawing, and yet the fault of the schema: a client that asked again would only see it again.
        return InvalidRequest(None, message, "invalid_json_schema")
    if code == "request_refused":
        # A server elsewhere took it, and then found what is wrong with it.
        return InvalidRequest(None, message)
    return EngineFailure(code, message)
