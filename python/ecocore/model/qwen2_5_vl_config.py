"""What a Qwen2.5-VL's files say about its shape: a Qwen2 that turns by time, height and width, and a tower that sees.

Takes `config.json`, flat as the hub has it or nested as transformers 5 writes it, gives a config.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from ecocore.errors import InvalidModelFile
from ecocore.model.config import KvLayer, Settings, refuse_other_sizes
from ecocore.model.llama_config import LlamaConfig

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint

_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerConfig:
    """The shape of the vision tower. `window`: cells of a window, each way; `merge`: patches of a cell, each way."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch: int
    frames: int
    merge: int
    window: int
    full_layers: frozenset[int]
    out_size: int
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_heads", "patch", "frames", "merge", "window", "out_size"):
            if getattr(self, name) < 1:
                raise InvalidModelFile(f"{name} of vision_config is {getattr(self, name)}; it must be at least 1")
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 4:
            raise InvalidModelFile(
                f"a vision tower of {self.hidden_size} dimensions cannot have {self.num_heads} equal heads of a multiple of 4"
            )
        if len(self.mean) != 3 or len(self.deviation) != 3 or not all(self.deviation):
            raise InvalidModelFile("image_mean and image_std must have a number for each of three colours")


@dataclass(frozen=True)
class Qwen25VlConfig:
    """The shape of a Qwen2.5-VL. `sections`: how many pairs of a head turn by time, by height and by width.

    `tower` is None where the files hold the text part alone.
    """

    text: LlamaConfig
    tower: TowerConfig | None
    sections: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sections or min(self.sections) < 1 or sum(self.sections) != self.text.head_dim // 2:
            raise InvalidModelFile(f"mrope_section is {list(self.sections)}; it must add up to {self.text.head_dim // 2}")
        if self.tower is not None and self.tower.out_size != self.text.hidden_size:
            raise InvalidModelFile(
                f"the vision tower gives {self.tower.out_size} dimensions, the text takes {self.text.hidden_size}"
            )

    @property
    def vocab_size(self) -> int:
        """See `ModelConfig`."""
        return self.text.vocab_size

    @property
    def context_length(self) -> int:
        """See `ModelConfig`."""
        return self.text.context_length

    @property
    def num_heads(self) -> int:
        """See `ModelConfig`."""
        return self.text.num_heads

    @property
    def kv_layers(self) -> tuple[KvLayer, ...]:
        """See `ModelConfig`."""
        return self.text.kv_layers

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> Self:
        """Reads the config of a folder. Raises InvalidModelFile."""
        config, where = checkpoint.config, checkpoint.settings_name
        text = dict(_object(config, "text_config") or config)
        if config.get("quantization_config"):
            raise InvalidModelFile(f"{where} has a quantization_config, which this version does not implement")
        if text.get("use_sliding_window"):
            raise InvalidModelFile(f"{where} switches on use_sliding_window, which this version does not implement here")
        rope = dict(_object(text, "rope_parameters") or _object(text, "rope_scaling"))
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("mrope", "default"):
            raise InvalidModelFile(f"{where} has rope_type {kind!r:.80}; this version implements 'mrope' here")
        sections = rope.get("mrope_section")
        if not isinstance(sections, list) or any(type(section) is not int for section in sections):
            raise InvalidModelFile(f"{where} has mrope_section {sections!r:.80}; it must be a list of integers")
        theta = rope.get("rope_theta", text.get("rope_theta", 1e6))
        text |= {"rope_parameters": {"rope_type": "default", "rope_theta": theta}, "rope_scaling": None}
        text["tie_word_embeddings"] = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        tower = None
        if "vision_config" in config:
            tower = _tower(Settings(_object(config, "vision_config"), f"vision_config of {where}"), checkpoint.image_settings)
        return cls(LlamaConfig.from_hf(text, where, qkv_bias=True), tower, tuple(sections))


def _tower(source: Settings, images: Mapping[str, Any]) -> TowerConfig:
    values = source.values
    if (activation := values.get("hidden_act", "silu")) != "silu":
        raise InvalidModelFile(f"vision_config has hidden_act {activation!r:.80}; this version implements 'silu'")
    if values.get("in_channels", values.get("in_chans", 3)) != 3:
        raise InvalidModelFile("vision_config has other channels than red, green and blue, which is not implemented")
    patch, merge = source.integer("patch_size", 14), source.integer("spatial_merge_size", 2)
    for name, size in (("patch_size", patch), ("spatial_merge_size", merge)):
        if size < 1:
            raise InvalidModelFile(f"vision_config has {name} {size}; it must be at least 1")
    full = values.get("fullatt_block_indexes", [7, 15, 23, 31])
    if not isinstance(full, list) or any(type(index) is not int for index in full):
        raise InvalidModelFile(f"vision_config has fullatt_block_indexes {full!r:.80}; it must be a list of integers")
    frames = source.integer("temporal_patch_size", 2)
    refuse_other_sizes(images, patch_size=(patch, 14), merge_size=(merge, 2), temporal_patch_size=(frames, 2))
    return TowerConfig(
        depth=source.integer("depth", 32),
        hidden_size=source.integer("hidden_size", 1280),
        intermediate_size=source.integer("intermediate_size", 3420),
        num_heads=source.integer("num_heads", 16),
        patch=patch,
        frames=frames,
        merge=merge,
        window=source.integer("window_size", 112) // merge // patch,
        full_layers=frozenset(full),
        out_size=source.integer("out_hidden_size", 3584),
        mean=_colours(images, "image_mean", _MEAN),
        deviation=_colours(images, "image_std", _DEVIATION),
    )


def _colours(images: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = images.get(key) or default
    if not isinstance(values, list | tuple) or not all(type(value) in (int, float) and abs(value) <= 1e6 for value in values):
        raise InvalidModelFile(f"the settings of images have {key} {values!r:.80}; it must be a list of numbers")
    return tuple(values)


def _object(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = settings.get(key)
    return value if isinstance(value, Mapping) else {}
