"""A model's files, or none at all, made into the parts that a runtime is built around.

Takes a path and options, gives `Parts`. What answers requests with them is the runtime.
"""

import hashlib
import itertools
import json
import logging
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ecocore import __version__
from ecocore._core import Tokenizer
from ecocore.capacity import Capacity
from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.executor import Model
from ecocore.model.kv_groups import BLOCK_SIZE
from ecocore.progress import loading_bar
from ecocore.prompt.images.view import Viewer
from ecocore.prompt.template import ChatTemplate
from ecocore.request import SamplingParams
from ecocore.worker import Share

if TYPE_CHECKING:
    from ecocore.model.parallel import ThreadShare
    from ecocore.model.workers import Workers
    from ecocore.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

# One step computes at a time in this process: two models that both use every core would only slow each other.
_CORES = threading.Lock()

_MOCK_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


@dataclass(frozen=True, slots=True)
class Parts:
    """What distinguishes one model from another; everything else is built around it."""

    model_id: str
    tokenizer: Tokenizer
    template: ChatTemplate
    model: Model
    vocab_size: int
    context_length: int
    groups: tuple[tuple[int, int | None], ...]
    """Blocks of each group of layers that keep equally much, and its window."""
    block_size: int
    end_ids: tuple[int, ...]
    fingerprint: str
    cores: Any
    capacity: Capacity
    depth: int = 1
    start_ids: tuple[int, ...] = ()
    tool_syntax: str = "hermes"
    thinks: bool = False
    thoughts: tuple[str, ...] = ()
    image_text: str | None = None
    viewer: Viewer | None = None
    tool_template: ChatTemplate | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    workers: "Workers | None" = None


def load_parts(
    model: str | Path | None,
    *,
    device: str,
    precision: Literal["exact", "fast"] | None,
    kv_cache_mb: int,
    generation_config: Literal["model"] | None,
    tensor_parallel: int,
    capacity: Capacity,
    mmproj: str | Path | None,
    model_id: str | None,
    progress: bool | None,
) -> Parts:
    """Loads a model; see `ecocore.load`. Whoever takes the parts ends their `workers`."""
    _check_options(precision, kv_cache_mb, tensor_parallel, generation_config)
    # Torch comes in here and not above: importing it takes seconds, and the mock engine does without.
    from ecocore.families import family_of
    from ecocore.model.parallel import Group, ThreadShare
    from ecocore.model.runner import ModelRunner
    from ecocore.weights.checkpoint import open_checkpoint
    from ecocore.weights.embedded import EMBEDDED_MODEL_ID, embedded_model_path

    if model is None:
        model, model_id = embedded_model_path(), model_id or EMBEDDED_MODEL_ID
    model, mmproj = Path(model), None if mmproj is None else Path(mmproj)
    checkpoint = open_checkpoint(model, mmproj)
    family = family_of(checkpoint)
    checkpoint = family.told(checkpoint)
    if checkpoint.chat_template is None:
        raise InvalidParameter("model", f"{model.name} brings no chat template, so it cannot take messages")
    viewer = family.look(checkpoint, mmproj)
    sampling = {} if generation_config is None else _makers_sampling(checkpoint.generation_config)
    name = model_id or model.name.removesuffix(".gguf")
    config, group = family.configure(checkpoint), Group(size=tensor_parallel)
    # What is wrong here is said before weights are read.
    template = ChatTemplate(checkpoint.chat_template, checkpoint.special_tokens)
    tool_template = ChatTemplate(checkpoint.tool_template, checkpoint.special_tokens) if checkpoint.tool_template else None
    tokenizer = Tokenizer.from_file(checkpoint.tokenizer_path)
    _check_tokens(checkpoint, tokenizer, viewer, config.vocab_size)
    with ExitStack() as stack:
        workers = None
        if tensor_parallel > 1:
            # What can be refused at once is, before processes are started.
            group.kv_layers(config)
            threads = ThreadShare(tensor_parallel)
            stack.callback(threads.close)
            share = Share(
                model=str(model.absolute()),
                mmproj=None if mmproj is None else str(mmproj.absolute()),
                rank=0,
                size=tensor_parallel,
                device=device,
                precision=precision,
                kv_cache_bytes=kv_cache_mb * 2**20,
                block_size=BLOCK_SIZE,
                step_tokens=capacity.step_tokens,
                threads=threads.threads,
            )
            workers = stack.enter_context(closing(_workers(share, threads)))
        with loading_bar(f"loading {name}", show=progress) as advance:
            runner = ModelRunner.load(
                family.model_class(),
                config,
                checkpoint,
                precision=precision,
                device=device,
                kv_cache_bytes=kv_cache_mb * 2**20,
                block_size=BLOCK_SIZE,
                step_tokens=capacity.step_tokens,
                progress=advance,
                group=group,
            )
            if workers is not None:
                runner.lead(workers)
        if runner.context_length < runner.model_context_length:
            log.info(
                "%s could use %d tokens of context; a key-value cache of %d MB holds %d",
                name,
                runner.model_context_length,
                kv_cache_mb,
                runner.context_length,
            )
        parts = Parts(
            model_id=name,
            tokenizer=tokenizer,
            template=template,
            model=runner,
            vocab_size=runner.vocab_size,
            context_length=runner.context_length,
            groups=tuple((group.num_blocks, group.window) for group in runner.groups),
            block_size=runner.block_size,
            end_ids=tuple(sorted(checkpoint.end_ids)),
            fingerprint=_fingerprint(
                runner.fingerprint, checkpoint.chat_template + (checkpoint.tool_template or ""), checkpoint.tokenizer_path
            ),
            # A device has cores of its own.
            cores=_CORES if runner.device.type == "cpu" else nullcontext(),
            capacity=capacity,
            depth=runner.depth,
            start_ids=checkpoint.start_ids,
            tool_syntax=family.tool_syntax,
            thinks=family.thinks,
            thoughts=family.thoughts,
            image_text=None if viewer is None else viewer.image_text,
            viewer=viewer,
            tool_template=tool_template,
            sampling=sampling,
            workers=workers,
        )
        stack.pop_all()
    return parts


def mock_parts(
    model_id: str, *, tokens_per_second: float, context_length: int, images: bool, capacity: Capacity, depth: int
) -> Parts:
    """Those of an engine without weights; see `Runtime.mock`."""
    from ecocore.model.mock import MockModel

    tokenizer = Tokenizer.bytes_only()
    return Parts(
        model_id=model_id,
        tokenizer=tokenizer,
        template=ChatTemplate(_MOCK_TEMPLATE, {}),
        model=MockModel(tokenizer.vocab_size, max_sequences=capacity.running, tokens_per_second=tokens_per_second),
        vocab_size=tokenizer.vocab_size,
        context_length=context_length,
        groups=((capacity.running * context_length // BLOCK_SIZE, None),),
        block_size=BLOCK_SIZE,
        end_ids=(tokenizer.vocab_size - 1,),
        fingerprint=f"fp_mock_{__version__}",
        cores=nullcontext(),
        capacity=capacity,
        depth=depth,
        image_text="<image>" if images else None,
    )


# Fields of generation_config.json that are called there as here.
_DRAWN: Final = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


def _makers_sampling(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a generation_config.json says of drawing. Raises InvalidModelFile where it is nothing that could be asked for."""
    fields = {name: told[name] for name in _DRAWN if told.get(name) is not None}
    if told.get("do_sample") is False:
        fields["temperature"] = 0.0
    try:
        SamplingParams(**fields)
    except InvalidParameter as error:
        raise InvalidModelFile(f"generation_config.json: {error}; correct it, or load without generation_config") from None
    return fields


def _check_options(precision: object, kv_cache_mb: int, tensor_parallel: int, generation_config: object) -> None:
    if precision not in (None, "exact", "fast"):
        raise InvalidParameter("precision", f"is {precision!r}; it must be 'exact' or 'fast'")
    if generation_config not in (None, "model"):
        raise InvalidParameter("generation_config", f"is {generation_config!r}; it must be 'model' or None")
    if kv_cache_mb < 1:
        raise InvalidParameter("kv_cache_mb", "must be at least 1")
    if tensor_parallel < 1:
        raise InvalidParameter("tensor_parallel", "must be at least 1")


def _check_tokens(checkpoint: "Checkpoint", tokenizer: Tokenizer, viewer: Viewer | None, vocab_size: int) -> None:
    """Raises InvalidModelFile for tokens that the model has no row for: every request that spells one would fail."""
    told = {
        "its tokenizer has tokens": (tokenizer.vocab_size - 1,),
        "a text begins with tokens": checkpoint.start_ids,
        "an answer ends with tokens": checkpoint.end_ids,
        "an image has tokens": () if viewer is None else (viewer.placeholder, *itertools.chain(*viewer.around)),
    }
    for what, ids in told.items():
        if (highest := max(ids, default=0)) >= vocab_size:
            raise InvalidModelFile(f"{checkpoint.path.name}: {what} up to {highest}, but the model knows {vocab_size} tokens")


def _workers(share: Share, threads: "ThreadShare") -> "Workers":
    """Starts the ranks beside the one whose share this is, which then load theirs."""
    from ecocore.model.workers import Workers

    shares = (replace(share, rank=rank) for rank in range(1, share.size))
    # -P: what lies in the folder that this process was started in is not for importing.
    return Workers([[sys.executable, "-P", "-m", "ecocore", "rank", json.dumps(one.told())] for one in shares], threads)


def _fingerprint(computed: str, template: str, tokenizer: Path) -> str:
    """What the model's own covers, and what makes its prompt. The tokenizer inside a GGUF file goes by its weights."""
    facts = hashlib.blake2b(f"{computed}\0{template}".encode(), digest_size=8)
    if tokenizer.suffix == ".json":
        facts.update(tokenizer.read_bytes())
    return f"fp_{facts.hexdigest()}"
