"""What a Llama's files say about its shape, as one checked value.

Takes `config.json`, gives a config. A feature that is switched on and not implemented is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ecocore.errors import InvalidModelFile
from ecocore.model.config import KvLayer, Settings, WavelengthScaling

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama. Lengths are in elements; `context_length` is in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: WavelengthScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise InvalidModelFile(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.context_length < 1:
            raise InvalidModelFile(f"the context length is {self.context_length}; it must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise InvalidModelFile(f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads evenly")
        if self.head_dim % 2:
            raise InvalidModelFile(f"head_dim is {self.head_dim}; rotary embedding needs an even number")
        if self.rms_norm_eps <= 0 or self.rope_theta <= 0:
            raise InvalidModelFile(f"rms_norm_eps ({self.rms_norm_eps}) and rope_theta ({self.rope_theta}) must be positive")

    @property
    def kv_layers(self) -> tuple[KvLayer, ...]:
        """Keys and values of all layers, which are alike."""
        return (KvLayer(self.num_kv_heads, self.head_dim),) * self.num_layers

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> Self:
        """Reads the config of a checkpoint. Raises InvalidModelFile."""
        return cls.from_hf(checkpoint.config, checkpoint.settings_name)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json", *, qkv_bias: bool = False) -> Self:
        """Reads a `config.json`, as the hub has it or as transformers 5 writes it. Raises InvalidModelFile.

        `where`: what errors call it. `qkv_bias`: whether queries, keys and values have a bias, which families of this shape
        know of themselves.
        """
        for switch in ("attention_bias", "mlp_bias"):
            if config.get(switch):
                raise InvalidModelFile(f"{where} switches on {switch}, which this version does not implement")
        if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
            raise InvalidModelFile(f"{where} has hidden_act {activation!r:.80}; this version implements 'silu'")
        if config.get("quantization_config"):
            raise InvalidModelFile(f"{where} has a quantization_config, which this version does not implement")
        source = Settings(config, where)
        hidden_size = source.integer("hidden_size")
        num_heads = source.integer("num_attention_heads")
        rope = _rope_of(source)
        return cls(
            vocab_size=source.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=source.integer("intermediate_size"),
            num_layers=source.layers("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=source.integer("num_key_value_heads", num_heads),
            head_dim=source.integer("head_dim", hidden_size // max(num_heads, 1)),
            context_length=source.integer("max_position_embeddings", 2048),
            rms_norm_eps=source.number("rms_norm_eps", 1e-6),
            rope_theta=rope.number("rope_theta", source.number("rope_theta", 10000.0)),
            rope_scaling=_scaling_of(rope, source),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=qkv_bias,
        )


def _rope_of(config: Settings) -> Settings:
    """The rotary settings: `rope_parameters` (transformers 5), else `rope_scaling` (hub)."""
    for key in ("rope_parameters", "rope_scaling"):
        value = config.values.get(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise InvalidModelFile(f"{config.where} has {key} {value!r:.80}; it must be an object")
        return Settings(value, f"{key} of {config.where}")
    return Settings({}, config.where)


def _scaling_of(rope: Settings, config: Settings) -> WavelengthScaling | None:
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    partial = rope.values.get("partial_rotary_factor", config.values.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise InvalidModelFile(f"{config.where} has partial_rotary_factor {partial!r:.80}, which this version does not implement")
    if kind == "default":
        return None
    if kind != "llama3":
        raise InvalidModelFile(f"{rope.where} has rope_type {kind!r:.80}; this version implements 'default' and 'llama3'")
    scaling = WavelengthScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings"),
    )
    if scaling.factor < 1 or not 0 < scaling.low_freq_factor < scaling.high_freq_factor or scaling.original_context < 1:
        raise InvalidModelFile(f"{rope.where} makes no sense: {scaling}")
    return scaling
