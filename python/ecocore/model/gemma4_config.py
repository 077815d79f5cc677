"""What a Gemma 4's files say about its shape, as one checked value: two kinds of layers, each with its own keys and angles.

Takes `config.json`, gives a config. A feature that is switched on and not implemented is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from ecocore.errors import InvalidModelFile
from ecocore.model.config import KvLayer, Settings, refuse_other_sizes

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint

SLIDING: Final = "sliding_attention"
FULL: Final = "full_attention"
# What a config without a list of layers means: every sixth sees everything.
_CYCLE: Final = 6
# Each of these changes the numbers, and what is absent here means off, but for the first.
_SWITCHES: Final = {
    "hidden_size_per_layer_input": 256,
    "enable_moe_block": False,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "attention_bias": False,
}
# What layers may differ in.
_OF_A_LAYER: Final = {"head_dim", "num_key_value_heads"}


@dataclass(frozen=True)
class RotaryAngles:
    """Rotation of one kind of layers: of each head, the first `rotated` pairs turn, slowed by `factor`."""

    theta: float
    rotated: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.theta <= 0 or self.factor <= 0 or self.rotated < 0:
            raise InvalidModelFile(f"the rotary angles make no sense: {self}")


@dataclass(frozen=True)
class TowerConfig:
    """The shape of the vision tower. `pool`: patches of a token, each way; `places`: rows and columns that have a place."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    patch: int
    pool: int
    places: int
    eps: float
    theta: float
    standardized: bool

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "patch", "pool", "places"):
            if getattr(self, name) < 1:
                raise InvalidModelFile(f"{name} of vision_config is {getattr(self, name)}; it must be at least 1")
        if self.num_heads % self.num_kv_heads or self.head_dim % 4:
            raise InvalidModelFile(
                f"a vision tower cannot have {self.num_heads} heads of {self.head_dim} dimensions over {self.num_kv_heads} keys"
            )


@dataclass(frozen=True)
class Gemma4Config:
    """The shape of a dense Gemma 4. Lengths are in elements; `context_length` is in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    kv_layers: tuple[KvLayer, ...]
    keys_are_values: bool
    """Whether layers without a window make their values of the keys' matrix."""
    sliding: RotaryAngles
    full: RotaryAngles
    context_length: int
    rms_norm_eps: float
    logit_cap: float | None
    tie_word_embeddings: bool
    tower: TowerConfig | None
    """None for a file of the text part alone."""
    looks_around: bool
    """Whether the tokens of an image see all of each other in layers with a window."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_heads", "context_length"):
            if getattr(self, name) < 1:
                raise InvalidModelFile(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.kv_layers:
            raise InvalidModelFile("the model has no layers")
        for layer in self.kv_layers:
            if layer.num_kv_heads < 1 or self.num_heads % layer.num_kv_heads:
                raise InvalidModelFile(
                    f"{self.num_heads} attention heads cannot share {layer.num_kv_heads} key-value heads evenly"
                )
            if layer.head_dim < 2 or layer.head_dim % 2:
                raise InvalidModelFile(f"head_dim is {layer.head_dim}; rotary embedding needs an even number")
            if layer.window is not None and layer.window < 1:
                raise InvalidModelFile(f"sliding_window is {layer.window}; it must be at least 1")
        if self.rms_norm_eps <= 0 or (self.logit_cap is not None and self.logit_cap <= 0):
            raise InvalidModelFile(f"rms_norm_eps ({self.rms_norm_eps}) and final_logit_softcapping must be positive")

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> Self:
        """Reads a `config.json`, of the whole model or of its text part alone. Raises InvalidModelFile."""
        whole, where = checkpoint.config, checkpoint.settings_name
        text = whole.get("text_config", whole)
        if not isinstance(text, Mapping):
            raise InvalidModelFile(f"{where} has text_config {text!r:.80}; it must be an object")
        _refuse(whole, text, where)
        source = Settings(text, where)
        kinds = _layer_types(text, source.layers("num_hidden_layers"), where)
        overrides = _overrides(text, len(kinds), where)
        layers = tuple(_kv_layer(text, source, index, kind, overrides) for index, kind in enumerate(kinds))
        cap = text.get("final_logit_softcapping")
        return cls(
            vocab_size=source.integer("vocab_size"),
            hidden_size=source.integer("hidden_size"),
            intermediate_size=source.integer("intermediate_size"),
            num_heads=source.integer("num_attention_heads"),
            kv_layers=layers,
            keys_are_values=bool(text.get("attention_k_eq_v", False)),
            sliding=_angles(source, SLIDING, layers, kinds),
            full=_angles(source, FULL, layers, kinds),
            context_length=source.integer("max_position_embeddings"),
            rms_norm_eps=source.number("rms_norm_eps", 1e-6),
            logit_cap=None if cap is None else source.number("final_logit_softcapping"),
            tie_word_embeddings=bool(whole.get("tie_word_embeddings", text.get("tie_word_embeddings", True))),
            tower=_tower(whole.get("vision_config"), checkpoint.image_settings, where),
            looks_around=text.get("use_bidirectional_attention") == "vision",
        )


def _tower(values: Any, images: Mapping[str, Any], where: str) -> TowerConfig | None:
    if not isinstance(values, Mapping):
        return None
    for switch in ("use_clipped_linears", "attention_bias"):
        if values.get(switch):
            raise InvalidModelFile(f"vision_config switches on {switch}, which this version does not implement")
    if (activation := values.get("hidden_activation", "gelu_pytorch_tanh")) != "gelu_pytorch_tanh":
        raise InvalidModelFile(
            f"vision_config has hidden_activation {activation!r:.80}; this version implements 'gelu_pytorch_tanh'"
        )
    rope = values.get("rope_parameters")
    rope = Settings(rope if isinstance(rope, Mapping) else {}, "rope_parameters of vision_config")
    if (kind := rope.values.get("rope_type", "axial")) not in ("axial", "default"):
        raise InvalidModelFile(f"vision_config has rope_type {kind!r:.80}; this version implements 'axial'")
    source = Settings(values, f"vision_config of {where}")
    heads = source.integer("num_attention_heads", 12)
    tower = TowerConfig(
        num_layers=source.integer("num_hidden_layers", 16),
        hidden_size=source.integer("hidden_size", 768),
        intermediate_size=source.integer("intermediate_size", 3072),
        num_heads=heads,
        num_kv_heads=source.integer("num_key_value_heads", heads),
        head_dim=source.integer("head_dim", 64),
        patch=source.integer("patch_size", 16),
        pool=source.integer("pooling_kernel_size", 3),
        places=source.integer("position_embedding_size", 10240),
        eps=source.number("rms_norm_eps", 1e-6),
        theta=rope.number("rope_theta", 100.0),
        standardized=bool(values.get("standardize", False)),
    )
    refuse_other_sizes(images, patch_size=(tower.patch, 16), pooling_kernel_size=(tower.pool, 3))
    return tower


def _refuse(whole: Mapping[str, Any], text: Mapping[str, Any], where: str) -> None:
    for switch, default in _SWITCHES.items():
        if text.get(switch, default):
            raise InvalidModelFile(f"{where} switches on {switch}, which this version does not implement")
    for part in ("audio_config", "quantization_config"):
        if whole.get(part):
            raise InvalidModelFile(f"{where} has a {part}, which this version does not implement")
    if (activation := text.get("hidden_activation", "gelu_pytorch_tanh")) != "gelu_pytorch_tanh":
        raise InvalidModelFile(f"{where} has hidden_activation {activation!r:.80}; this version implements 'gelu_pytorch_tanh'")
    if text.get("rope_scaling"):
        raise InvalidModelFile(f"{where} has rope_scaling {text['rope_scaling']!r:.80}, which this version does not implement")
    rope = text.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or not rope.keys() <= {SLIDING, FULL}:
        raise InvalidModelFile(f"{where} has rope_parameters {rope!r:.80}; this version implements those of each kind of layers")
    if (direction := text.get("use_bidirectional_attention")) not in (None, "vision"):
        raise InvalidModelFile(
            f"{where} has use_bidirectional_attention {direction!r:.80}; this version implements null and 'vision'"
        )


def _layer_types(text: Mapping[str, Any], count: int, where: str) -> list[str]:
    kinds = text.get("layer_types")
    if kinds is None:
        kinds = [FULL if index % _CYCLE == _CYCLE - 1 else SLIDING for index in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count:
        raise InvalidModelFile(f"{where} has {count} layers and layer_types {kinds!r:.80}; it must be a list of as many")
    for kind in kinds:
        if kind not in (SLIDING, FULL):
            raise InvalidModelFile(f"{where} has a layer of type {kind!r:.80}, which this version does not implement")
    # The makers' code sees to it that the last layer sees everything.
    return [*kinds[:-1], FULL]


def _overrides(text: Mapping[str, Any], count: int, where: str) -> Mapping[str, Settings] | None:
    """What single layers differ in, by their number; None in files that tell it of all layers without a window."""
    told = text.get("per_layer_config")
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise InvalidModelFile(f"{where} has per_layer_config {told!r:.80}; it must be an object")
    overrides = {}
    layers = {str(index) for index in range(count)}
    for index, own in told.items():
        if index not in layers:
            raise InvalidModelFile(f"{where} has a per_layer_config of layer {index!r:.80}; it has {count} layers")
        here = f"per_layer_config of layer {index} in {where}"
        if not isinstance(own, Mapping):
            raise InvalidModelFile(f"{here} is {own!r:.80}; it must be an object")
        for key in own.keys() - _OF_A_LAYER:
            # What is the same for all layers may be said of each.
            if own[key] != text.get(key):
                raise InvalidModelFile(f"{here} sets {key!r:.80}, which this version does not implement")
        overrides[index] = Settings(own, here)
    return overrides


def _kv_layer(
    text: Mapping[str, Any], source: Settings, index: int, kind: str, overrides: Mapping[str, Settings] | None
) -> KvLayer:
    """Newer files tell what single layers differ in, older ones tell it of all layers without a window."""
    heads, width = source.integer("num_key_value_heads"), source.integer("head_dim", 256)
    if overrides is not None:
        if (own := overrides.get(str(index))) is not None:
            heads, width = own.integer("num_key_value_heads", heads), own.integer("head_dim", width)
    elif kind == FULL:
        width = source.integer("global_head_dim", 512)
        if text.get("attention_k_eq_v"):
            heads = source.integer("num_global_key_value_heads", heads)
    return KvLayer(heads, width, window=source.integer("sliding_window") if kind == SLIDING else None)


def _angles(text: Settings, kind: str, layers: tuple[KvLayer, ...], kinds: list[str]) -> RotaryAngles:
    values, where = (text.values.get("rope_parameters") or {}).get(kind), text.where
    if values is None:
        proportional = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
        values = {"rope_type": "default", "rope_theta": 1e4} if kind == SLIDING else proportional
    if not isinstance(values, Mapping):
        raise InvalidModelFile(f"{where} has rope_parameters of {kind} {values!r:.80}; they must be an object")
    source = Settings(values, f"rope_parameters of {kind} in {where}")
    widths = {layer.head_dim for layer, own in zip(layers, kinds, strict=True) if own == kind}
    if len(widths) > 1:
        raise InvalidModelFile(f"{where} gives layers of type {kind} heads of different widths, which is not implemented")
    pairs = max(widths, default=2) // 2
    name = values.get("rope_type", "default")
    if name == "default":
        return RotaryAngles(source.number("rope_theta", 1e4), pairs)
    if name != "proportional":
        raise InvalidModelFile(f"{source.where} has rope_type {name!r:.80}; this version implements 'default' and 'proportional'")
    share = source.number("partial_rotary_factor", 1.0)
    if share > 1:
        raise InvalidModelFile(f"{source.where} has partial_rotary_factor {share}; it must be at most 1")
    rotated = int(share * 2 * pairs // 2)
    return RotaryAngles(source.number("rope_theta", 1e4), rotated, source.number("factor", 1.0))
