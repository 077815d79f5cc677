"""What is known of a model before it is loaded: its card, and the memory that it will need.

Takes a path, gives plain values. Reads headers and settings alone, no weight.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ecocore.capacity import Capacity
from ecocore.families import family_of
from ecocore.model.config import KvLayer
from ecocore.model.kv_groups import BLOCK_SIZE, divide, kept_numbers, longest_sequence, sequence_bytes, windows_of
from ecocore.weights.checkpoint import open_checkpoint

ITEM_BYTES: Final = {"exact": 4, "fast": 2}
"""Bytes of a number in each precision, of weights and of the key-value cache."""


@dataclass(frozen=True)
class Card:
    """What the files of a model say. `stored`: the dtype of the weights; `precision`: how it runs unless told otherwise."""

    family: str
    format: Literal["gguf", "safetensors"]
    parameters: int
    stored: str
    precision: Literal["exact", "fast"]
    file_bytes: int
    context_length: int
    vocabulary: int
    layers: int
    heads: int
    windows: tuple[int, ...]
    images: bool
    reasoning: bool
    tool_syntax: str
    has_template: bool
    end_ids: tuple[int, ...]
    largest_tensor: int
    """Numbers in the largest tensor."""
    shared_numbers: int
    """Numbers of an embedding that also is the head, which the processor keeps twice, each in the order it reads fastest."""
    cached_numbers: int
    """Numbers that the key-value cache keeps of one token."""
    windowed_numbers: tuple[int, ...]
    """Those of them that are kept as long as the token is within each of `windows`."""


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes. `loading`: what stands beside the weights while they are read."""

    weights: int
    loading: int
    cache: int
    per_token: int
    """Of the cache, while a token is within all windows."""
    full_context: int
    """What a cache for all of the model's context would take."""
    cached_tokens: int
    """The longest conversation that the cache holds."""

    @property
    def peak(self) -> int:
        """The most at a time; the cache is there before the weights."""
        return self.weights + self.loading + self.cache


def describe(path: Path, mmproj: Path | None = None) -> Card:
    """Reads a `.gguf` file's or a folder's headers. Raises InvalidModelFile, also for what this version cannot run.

    `mmproj`: the file of the part that sees, for a `.gguf` file that it does not lie beside.
    """
    checkpoint = open_checkpoint(path, mmproj)
    family = family_of(checkpoint)
    checkpoint = family.told(checkpoint)
    config, viewer = family.configure(checkpoint), family.look(checkpoint, mmproj)
    sizes = {name: math.prod(checkpoint.shape(name)) for name in checkpoint.names()}
    stored = str(checkpoint.stored_dtype).removeprefix("torch.")
    text = getattr(config, "text", config)
    windows = {layer.window for layer in config.kv_layers if layer.window is not None}
    return Card(
        family=family.name,
        format=checkpoint.format,
        parameters=sum(sizes.values()),
        stored="quantised" if checkpoint.format == "gguf" else stored,
        precision="fast" if checkpoint.format == "safetensors" and stored == "bfloat16" else "exact",
        file_bytes=sum(checkpoint.nbytes(name) for name in checkpoint.names()),
        context_length=config.context_length,
        vocabulary=config.vocab_size,
        layers=len(config.kv_layers),
        heads=config.num_heads,
        windows=tuple(sorted(windows)),
        images=viewer is not None,
        reasoning=family.thinks,
        tool_syntax=family.tool_syntax,
        has_template=checkpoint.chat_template is not None,
        end_ids=tuple(sorted(checkpoint.end_ids)),
        largest_tensor=max(sizes.values(), default=0),
        shared_numbers=text.vocab_size * text.hidden_size if text.tie_word_embeddings else 0,
        cached_numbers=sum(map(kept_numbers, config.kv_layers)),
        windowed_numbers=tuple(
            sum(kept_numbers(layer) for layer in config.kv_layers if layer.window == window)
            for window in windows_of(config.kv_layers)
            if window is not None
        ),
    )


def need(card: Card, *, precision: Literal["exact", "fast"] | None, kv_cache_mb: int, device: str) -> Need:
    """What it takes on a device as settings name them: "auto", "cpu", "cuda" or "cuda:N"."""
    from ecocore.model.runner import kind_of_device

    size = ITEM_BYTES[precision or card.precision]
    cache = kv_cache_mb * 2**20
    step_tokens = Capacity().step_tokens
    layers = _layers(card)
    groups = divide(
        cache, layers=layers, block_size=BLOCK_SIZE, itemsize=size, step_tokens=step_tokens, context_length=card.context_length
    )
    numbers = card.parameters + (card.shared_numbers if kind_of_device(device) == "cpu" else 0)
    return Need(
        weights=numbers * size,
        # A tensor as it was stored, as it is computed with, and as it is put in order.
        loading=card.largest_tensor * (4 + 2 * size),
        cache=cache,
        per_token=card.cached_numbers * size,
        full_context=sequence_bytes(
            card.context_length, layers=layers, block_size=BLOCK_SIZE, itemsize=size, in_flight=2 * step_tokens
        ),
        cached_tokens=longest_sequence(groups, block_size=BLOCK_SIZE, context_length=card.context_length),
    )


def _layers(card: Card) -> list[KvLayer]:
    """Layers that keep as much as the model's: one for each window, and one that keeps everything."""
    numbers: dict[int | None, int] = {None: card.cached_numbers - sum(card.windowed_numbers)}
    numbers |= dict(zip(card.windows, card.windowed_numbers, strict=True))
    return [KvLayer(1, count // 2, window) for window, count in numbers.items() if count]
