"""What the GGUF files of a Qwen2.5-VL say, in the words of its folder: the decoder's, and beside it the tower's.

Takes a GGUF checkpoint, gives one whose settings and tensors are called as in `config.json` and safetensors.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from ecocore.errors import InvalidModelFile
from ecocore.model.config import Settings
from ecocore.model.llama_gguf import decoder_config, decoder_tensors
from ecocore.weights.gguf import GgufCheckpoint
from ecocore.weights.retold import Made, RetoldCheckpoint

_PROJECTOR: Final = "qwen2.5vl_merger"
_PLACEHOLDER: Final = "<|image_pad|>"
_NORMS: Final = {"norm1": "ln1", "norm2": "ln2"}
_LINEARS: Final = {"attn.proj": "attn_out", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


class Qwen25VlGguf:
    """How a Qwen2.5-VL is told; without a tower where no file of one is named or found."""

    @staticmethod
    def of(checkpoint: GgufCheckpoint) -> RetoldCheckpoint:
        """Raises InvalidModelFile."""
        config = decoder_config(checkpoint, "qwen2vl")
        config["rope_scaling"] = {"type": "mrope", "mrope_section": _sections(checkpoint)}
        made = dict(decoder_tensors(checkpoint, config, biased=True))
        projector = checkpoint.projector(_PROJECTOR)
        if projector is None:
            return RetoldCheckpoint(checkpoint, config=config, made=made)
        config |= {"vision_config": _tower_config(projector), "image_token_id": checkpoint.token_id(_PLACEHOLDER)}
        made |= _tower_tensors(projector, config["vision_config"]["depth"])
        images = _image_settings(projector, config["vision_config"])
        return RetoldCheckpoint(checkpoint, projector, config=config, made=made, image_settings=images)


def _sections(checkpoint: GgufCheckpoint) -> list[int]:
    """How many pairs turn by time, height and width; the file has a fourth number, which is zero."""
    told = checkpoint.config.get("qwen2vl.rope.dimension_sections")
    if not isinstance(told, list) or len(told) not in (3, 4) or any(told[3:]):
        raise InvalidModelFile(f"GGUF metadata has qwen2vl.rope.dimension_sections {told!r:.80}; it must be three integers and 0")
    return told[:3]


def _tower_config(projector: GgufCheckpoint) -> dict[str, Any]:
    """A `vision_config`. Some of its numbers are fixed in all files of this kind, which need not say them."""
    source = Settings(projector.config, f"GGUF metadata of {projector.path.name}", prefix="clip.vision.")
    depth, cycle = source.integer("block_count"), source.integer("n_wa_pattern")
    if not 0 <= depth <= len(projector.names()) or cycle < 1:
        raise InvalidModelFile(f"{projector.path.name} has {depth} layers, of which every {cycle}th is without windows")
    return {
        "depth": depth,
        "hidden_size": source.integer("embedding_length"),
        "intermediate_size": source.integer("feed_forward_length"),
        "num_heads": source.integer("attention.head_count"),
        "patch_size": source.integer("patch_size"),
        "temporal_patch_size": 2,
        "spatial_merge_size": source.integer("spatial_merge_size", 2),
        "window_size": source.integer("window_size", 112),
        "fullatt_block_indexes": list(range(cycle - 1, depth, cycle)),
        "out_hidden_size": projector.shape("mm.2.weight")[0],
    }


def _image_settings(projector: GgufCheckpoint, tower: dict[str, Any]) -> dict[str, Any]:
    """How images are prepared: the file need not say it."""
    names = {"image_mean": "mean", "image_std": "std", "min_pixels": "min_pixels", "max_pixels": "max_pixels"}
    told = {ours: projector.config.get(f"clip.vision.image_{theirs}") for ours, theirs in names.items()}
    told |= {"patch_size": tower["patch_size"], "merge_size": tower["spatial_merge_size"]}
    return {name: value for name, value in told.items() if value is not None}


def _tower_tensors(projector: GgufCheckpoint, depth: int) -> Iterator[tuple[str, Made]]:
    # Two frames, each with a matrix of its own.
    yield "visual.patch_embed.proj.weight", Made(("v.patch_embd.weight", "v.patch_embd.weight.1"), _frames_together)
    yield "visual.merger.ln_q.weight", Made(("v.post_ln.weight",))
    for index in range(depth):
        for ours, theirs in _NORMS.items():
            yield f"visual.blocks.{index}.{ours}.weight", Made((f"v.blk.{index}.{theirs}.weight",))
    for kind in ("weight", "bias"):
        for number in (0, 2):
            yield f"visual.merger.mlp.{number}.{kind}", Made((f"mm.{number}.{kind}",))
        for index in range(depth):
            yield f"visual.blocks.{index}.attn.qkv.{kind}", _qkv(projector, index, kind)
            for ours, theirs in _LINEARS.items():
                yield f"visual.blocks.{index}.{ours}.{kind}", Made((f"v.blk.{index}.{theirs}.{kind}",))


def _qkv(projector: GgufCheckpoint, index: int, kind: str) -> Made:
    """Converters write the three apart, or as they are."""
    fused = f"v.blk.{index}.attn_qkv.{kind}"
    if fused in projector.names():
        return Made((fused,))
    return Made(tuple(f"v.blk.{index}.attn_{part}.{kind}" for part in "qkv"), _rows_together)


def _frames_together(*frames: Tensor) -> Tensor:
    return torch.stack(frames, dim=2)


def _rows_together(*parts: Tensor) -> Tensor:
    return torch.cat(parts)
