"""Runs a model: a batch in, logits out. Owns the weights, the key-value cache and the device.

Leaves to others which sequence runs when, and what is made of the logits.
"""

import hashlib
import logging
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ecocore import __version__
from ecocore.errors import InternalError, InvalidConfiguration
from ecocore.model.attention import AttentionPlan, Spans, masks_for
from ecocore.model.batch import ComputedBatch, Integers
from ecocore.model.config import ModelConfig
from ecocore.model.invariance import HEAD_ROWS, LARGEST, decodes_stand_alone, settle
from ecocore.model.kv_cache import KvCache
from ecocore.model.kv_groups import longest_sequence
from ecocore.model.layers import Linear, padded
from ecocore.model.parallel import Group
from ecocore.model.sight import Progress, SeeingModel, Sight, Sights, View, uncut_tokens
from ecocore.model.tensors import TensorLoader
from ecocore.model.workers import Step, Workers

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint

Precision = Literal["exact", "fast"]

logger = logging.getLogger(__name__)


class Model(Protocol):
    """What the runner needs a model family's class to compute."""

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attention: AttentionPlan) -> Tensor:
        """(rows, hidden_size) of `token_ids` and `positions` (rows,)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, vocab_size) of rows of `hidden_states`."""


class ModelThatSees(Model, SeeingModel, Protocol):
    """A family's class whose models see images."""

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attention: AttentionPlan, sight: Sight | None = None) -> Tensor:
        """`sight`: what the step sees of images."""


class ModelRunner:
    """A model on its device, ready to compute batches. `forward` belongs to one thread at a time."""

    def __init__(
        self, model: Model, config: ModelConfig, cache: KvCache, group: Group, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Use `ModelRunner.load`."""
        self.vocab_size: Final = config.vocab_size
        self.groups: Final = cache.groups
        self.block_size: Final = cache.block_size
        self.model_context_length: Final = config.context_length
        self._uncut_tokens = _uncut_tokens(config, cache.block_size)
        self.context_length: Final = longest_sequence(
            cache.groups,
            block_size=cache.block_size,
            context_length=config.context_length,
            uncut_tokens=self._uncut_tokens,
        )
        self.device: Final = device
        # A device of its own computes while the next step is scheduled; the cores of this process cannot do both.
        self.depth: Final = 2 if device.type == "cuda" else 1
        self.fingerprint = ""
        self._model = model
        self._cache = cache
        self._group = group
        self._workers: Workers | None = None
        self._masks = masks_for(cache, dtype=dtype, device=device)
        self._decode_alone = False
        self._sights = Sights(cast("ModelThatSees", model), device=device) if hasattr(model, "see") else None

    @classmethod
    def load(
        cls,
        model_class: Callable[..., Model],
        config: ModelConfig,
        checkpoint: "Checkpoint",
        *,
        precision: Precision | None = None,
        device: str = "auto",
        kv_cache_bytes: int = 256 * 2**20,
        block_size: int = 64,
        step_tokens: int = LARGEST,
        progress: Callable[[int, int], None] | None = None,
        group: Group | None = None,
    ) -> Self:
        """Loads the weights and takes the cache's memory; of a `group`, this rank's part, before `lead` or `follow`.

        `precision`: "exact" computes in float32, "fast" in bfloat16, the cache included; None is "fast" for
        folders stored in bfloat16, else "exact". `device`: "auto", "cpu", "cuda" or "cuda:N". `step_tokens`: most positions
        that a step computes. `progress` hears (bytes done, bytes in all). Raises InvalidModelFile, InvalidConfiguration.
        """
        group = group or Group()
        target = group.device(_device(device))
        kv_layers = group.kv_layers(config)
        dtype = {"exact": torch.float32, "fast": torch.bfloat16}[precision or _default_precision(checkpoint)]
        with torch.inference_mode():
            cache = KvCache(
                kv_cache_bytes // group.size,
                layers=kv_layers,
                block_size=block_size,
                dtype=dtype,
                device=target,
                step_tokens=step_tokens,
                context_length=config.context_length,
                uncut_tokens=_uncut_tokens(config, block_size),
            )
            tensors = TensorLoader(checkpoint, dtype=dtype, device=target, progress=progress, group=group)
            num_positions = longest_sequence(
                cache.groups,
                block_size=block_size,
                context_length=config.context_length,
                uncut_tokens=_uncut_tokens(config, block_size),
            )
            model = model_class(config, tensors, num_positions=num_positions)
            identity = tensors.finish()
            runner = cls(model, config, cache, group, device=target, dtype=dtype)
            runner.fingerprint = _fingerprint(config, identity, dtype, target, block_size)
            runner._watch_rows(config, tensors.linears, step_tokens)
        return runner

    def lead(self, workers: Workers) -> None:
        """Makes this the rank that tells the others each step. Raises EngineFailure if one has not come so far."""
        identities = workers.ready()
        self._group.connect(workers.meeting, self.device)
        workers.watch(self._group.abort)
        self._workers = workers
        self.fingerprint = "fp_" + hashlib.blake2b(repr((self.fingerprint, identities)).encode(), digest_size=8).hexdigest()

    def follow(self, steps: Iterable[Step], meeting: Path) -> None:
        """Computes this rank's part of each step that it is told."""
        self._group.connect(meeting, self.device)
        for step in steps:
            with torch.inference_mode():
                sight = step.sight and step.sight.to(self.device)
                self._computed(step.batch, self._plan(step.batch, step.spans), sight)

    @torch.inference_mode()
    def forward(self, batch: ComputedBatch) -> Tensor:
        """Logits (batch.num_logits, vocab_size) float32 on the CPU; stores the step's keys and values.

        A row's logits are a function of its sequence alone: no other row, chunk boundary on the grid, prefix hit
        or recomputation changes a bit. Raises EngineBroken once another rank is lost.
        """
        spans = self._sights.spans(batch) if self._sights else []
        plan = self._plan(batch, spans)
        sight = self._sights.of(batch) if self._sights else None
        if self._workers is None:
            return self._computed(batch, plan, sight).float().cpu()
        with self._workers.told(Step(batch, spans, sight)):
            return self._computed(batch, plan, sight).float().cpu()

    def _plan(self, batch: ComputedBatch, spans: Sequence[Spans]) -> AttentionPlan:
        return AttentionPlan(batch, self._cache, self._masks, device=self.device, alone=self._decode_alone, spans=spans)

    def _computed(self, batch: ComputedBatch, attention: AttentionPlan, sight: Sight | None) -> Tensor:
        """Logits on the device."""
        inputs = self._padded(batch.token_ids), self._padded(batch.positions), attention
        if sight is None:
            hidden = self._model.hidden_states(*inputs)
        else:
            hidden = cast("ModelThatSees", self._model).hidden_states(*inputs, sight)
        count = len(batch.sample_indices)
        if not count:
            return hidden.new_empty((0, self.vocab_size))
        drawn = hidden[self._padded(batch.sample_indices)].split(HEAD_ROWS)
        logits = [self._model.logits(rows) for rows in drawn]
        return (logits[0] if len(logits) == 1 else torch.cat(logits))[:count]

    def show(self, sequence_id: int, views: Sequence[View], prompt_length: int) -> None:
        """Says what a sequence's prompt shows, before its first step. For models that see; any thread."""
        if self._sights is None:
            raise InternalError("images were shown to a model that sees none")
        self._sights.open(sequence_id, views, prompt_length)

    def look(self, sequence_id: int) -> Progress:
        """Computes a part of what a sequence shows, less than a layer of the tower; "all" once it may enter a step.

        On the thread of `forward`, between two steps.
        """
        if self._sights is None:
            return "all"
        with torch.inference_mode():
            progress = self._sights.look(sequence_id)
        if self.device.type == "cuda":
            # Whoever counts the time means that of computing.
            torch.cuda.synchronize(self.device)
        return progress

    def seen_bytes(self, views: Sequence[View]) -> int:
        """What is kept of images until their sequence is hidden, beside their pixels."""
        row_bytes = cast("SeeingModel", self._model).row_bytes if self._sights else 0
        return sum(view.rows * view.columns for view in views) * row_bytes

    def hide(self, sequence_id: int) -> None:
        """Forgets what a sequence showed, if anything; any thread."""
        if self._sights is not None:
            self._sights.close(sequence_id)

    def _watch_rows(self, config: ModelConfig, linears: list[Linear], step_tokens: int) -> None:
        """Takes slower ways where this machine's kernels would let a row depend on others."""
        dtype = linears[0].dtype
        if dependent := settle(linears, largest=padded(step_tokens + self._uncut_tokens)):
            logger.warning("rows of matrix products depend on each other on this machine: computing them in tiles")
            logger.info("%d of %d matrices are computed in tiles", len(dependent), len(linears))
        self._decode_alone = not all(
            decodes_stand_alone(kind, num_heads=len(self._group.part(config.num_heads)), dtype=dtype, device=self.device)
            for kind in dict.fromkeys(self._cache.layers)
        )
        if self._decode_alone:
            logger.warning("rows of attention depend on each other on this machine: computing sequences one by one")

    def _padded(self, indices: Integers) -> Tensor:
        """As a tensor on the device, with zeros up to a number of rows that are independent."""
        tensor = torch.from_numpy(indices)
        return pad(tensor, (0, padded(len(tensor)) - len(tensor))).to(self.device)


def kind_of_device(name: str) -> Literal["cpu", "cuda"]:
    """What a setting of a device comes to on this machine."""
    return "cuda" if name.startswith("cuda") or (name == "auto" and torch.cuda.is_available()) else "cpu"


def _uncut_tokens(config: ModelConfig, block_size: int) -> int:
    return uncut_tokens(looks_around=getattr(config, "looks_around", False), block_size=block_size)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = kind_of_device(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InvalidConfiguration(f"device is {name!r}; it must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidConfiguration(f"device is {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def _default_precision(checkpoint: "Checkpoint") -> Precision:
    return "fast" if checkpoint.format == "safetensors" and checkpoint.stored_dtype == torch.bfloat16 else "exact"


def _fingerprint(config: ModelConfig, identity: str, dtype: torch.dtype, device: torch.device, block_size: int) -> str:
    """Changes with everything that may change a bit of the logits: weights, arithmetic, versions, kind of processor."""
    processor = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    threads = torch.get_num_threads()
    facts = (config, identity, dtype, block_size, __version__, torch.__version__, processor, threads)
    return "fp_" + hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()
