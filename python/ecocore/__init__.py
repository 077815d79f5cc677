"""A Rust-accelerated runtime for chat models. Importing this package imports neither torch nor a server."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ecocore._core import TextStream, Tokenizer, __version__

if TYPE_CHECKING:
    from ecocore.completion import Choice, Completion, ToolCall
    from ecocore.events import Failed, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, TopLogprob, Usage
    from ecocore.request import SamplingParams
    from ecocore.runtime import Runtime, load
    from ecocore.sampling.sampler import Sampler

__all__ = [
    "Choice",
    "Completion",
    "Failed",
    "Finished",
    "ReasoningDelta",
    "Runtime",
    "Sampler",
    "SamplingParams",
    "TextDelta",
    "TextStream",
    "TokenLogprob",
    "Tokenizer",
    "ToolCall",
    "ToolCallDelta",
    "TopLogprob",
    "Usage",
    "__version__",
    "load",
]

_HOMES = {
    "Choice": "ecocore.completion",
    "Completion": "ecocore.completion",
    "Failed": "ecocore.events",
    "Finished": "ecocore.events",
    "ReasoningDelta": "ecocore.events",
    "Runtime": "ecocore.runtime",
    "Sampler": "ecocore.sampling.sampler",
    "SamplingParams": "ecocore.request",
    "TextDelta": "ecocore.events",
    "TokenLogprob": "ecocore.events",
    "ToolCall": "ecocore.completion",
    "ToolCallDelta": "ecocore.events",
    "TopLogprob": "ecocore.events",
    "Usage": "ecocore.events",
    "load": "ecocore.runtime",
}


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that importing ecocore stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ecocore' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
