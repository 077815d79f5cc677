"""What the GGUF files of a Gemma 4 say, in the words of its folder: the decoder's, and beside it the tower's.

Takes a GGUF checkpoint, gives one whose settings and tensors are called as in `config.json` and safetensors. A feature
that is switched on and not implemented is refused by name.
"""

from collections.abc import Iterator
from typing import Any, Final

from torch import Tensor

from ecocore.errors import InvalidModelFile
from ecocore.model.config import Settings
from ecocore.model.gemma4 import PREFIXES, ROPE_DIVISORS
from ecocore.model.gemma4_config import FULL, SLIDING
from ecocore.model.gemma4_vision import PROJECTION, TOWER
from ecocore.model.llama_gguf import refuse_scaling
from ecocore.weights.gguf import GgufCheckpoint
from ecocore.weights.retold import Made, RetoldCheckpoint

_PROJECTOR: Final = "gemma4v"
_IMAGE_TOKENS: Final = {"boi_token_id": "<|image>", "image_token_id": "<|image|>", "eoi_token_id": "<image|>"}
# Each of these changes the numbers, and what is absent means off.
_SWITCHES: Final = ("embedding_length_per_layer_input", "attention.shared_kv_layers", "expert_count")
_LAYER: Final = {
    "input_layernorm.weight": "attn_norm",
    "post_attention_layernorm.weight": "post_attention_norm",
    "pre_feedforward_layernorm.weight": "ffn_norm",
    "post_feedforward_layernorm.weight": "post_ffw_norm",
    "self_attn.q_proj.weight": "attn_q",
    "self_attn.k_proj.weight": "attn_k",
    "self_attn.o_proj.weight": "attn_output",
    "self_attn.q_norm.weight": "attn_q_norm",
    "self_attn.k_norm.weight": "attn_k_norm",
    "mlp.gate_proj.weight": "ffn_gate",
    "mlp.up_proj.weight": "ffn_up",
    "mlp.down_proj.weight": "ffn_down",
    "layer_scalar": "layer_output_scale",
}
_TOWER_LAYER: Final = {
    "input_layernorm": "ln1",
    "post_attention_layernorm": "attn_post_norm",
    "pre_feedforward_layernorm": "ln2",
    "post_feedforward_layernorm": "ffn_post_norm",
    "self_attn.q_proj.linear": "attn_q",
    "self_attn.k_proj.linear": "attn_k",
    "self_attn.v_proj.linear": "attn_v",
    "self_attn.o_proj.linear": "attn_out",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj.linear": "ffn_gate",
    "mlp.up_proj.linear": "ffn_up",
    "mlp.down_proj.linear": "ffn_down",
}
# Bounds of the input and the output of a matrix.
_CLIPS: Final = (".input_min", ".input_max", ".output_min", ".output_max")


class Gemma4Gguf:
    """How a Gemma 4 is told; without a tower where no file of one is named or found."""

    @staticmethod
    def of(checkpoint: GgufCheckpoint) -> RetoldCheckpoint:
        """Raises InvalidModelFile."""
        text = _text_config(checkpoint)
        made = dict(_text_tensors(text))
        projector = checkpoint.projector(_PROJECTOR)
        if projector is None:
            return RetoldCheckpoint(checkpoint, config={"text_config": text}, made=made)
        config: dict[str, Any] = {"text_config": text, "vision_config": _tower_config(projector)}
        config |= {name: checkpoint.token_id(token) for name, token in _IMAGE_TOKENS.items()}
        made |= _tower_tensors(projector, config["vision_config"]["num_hidden_layers"])
        images = {name: config["vision_config"][name] for name in ("patch_size", "pooling_kernel_size")}
        return RetoldCheckpoint(checkpoint, projector, config=config, made=made, image_settings=images)


def _text_config(checkpoint: GgufCheckpoint) -> dict[str, Any]:
    metadata, names = checkpoint.config, checkpoint.names()
    source = Settings(metadata, "GGUF metadata", prefix="gemma4.")
    for switch in _SWITCHES:
        if metadata.get(f"gemma4.{switch}"):
            raise InvalidModelFile(f"gemma4.{switch} is set, which this version does not implement")
    refuse_scaling(source)
    if ROPE_DIVISORS not in names:
        raise InvalidModelFile(
            f"{checkpoint.path.name}: has no tensor {ROPE_DIVISORS}, which says what turns in layers without window"
        )
    num_layers = source.integer("block_count")
    if not 0 <= num_layers <= len(names):
        raise InvalidModelFile(f"gemma4.block_count is {num_layers}, more than the file has tensors; fetch the file anew")
    sliding = _of_each_layer(metadata, "attention.sliding_window_pattern", num_layers, bool)
    kv_heads = _of_each_layer(metadata, "attention.head_count_kv", num_layers, int)
    widths = {True: source.integer("attention.key_length_swa"), False: source.integer("attention.key_length")}
    for window, ending in {True: "_swa", False: ""}.items():
        for key in (f"attention.value_length{ending}", f"rope.dimension_count{ending}"):
            if source.integer(key, widths[window]) != widths[window]:
                raise InvalidModelFile(f"gemma4.{key} is not the length of a key, which this version does not implement")
    valued = {f"blk.{index}.attn_v.weight" in names for index in range(num_layers) if not sliding[index]}
    if len(valued) > 1:
        raise InvalidModelFile("some layers without window have a matrix of values and others none, which is not implemented")
    return {
        "vocab_size": checkpoint.shape("token_embd.weight")[0],
        "hidden_size": source.integer("embedding_length"),
        "intermediate_size": source.integer("feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": source.integer("attention.head_count"),
        "num_key_value_heads": kv_heads[0] if kv_heads else 1,
        "per_layer_config": {
            str(index): {"head_dim": widths[sliding[index]], "num_key_value_heads": kv_heads[index]}
            for index in range(num_layers)
        },
        "layer_types": [SLIDING if window else FULL for window in sliding],
        "attention_k_eq_v": valued == {False},
        "sliding_window": source.integer("attention.sliding_window"),
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": source.number("rope.freq_base_swa", 1e4)},
            # Which pairs turn is not said here but by the divisors of the frequencies.
            FULL: {"rope_type": "default", "rope_theta": source.number("rope.freq_base", 1e6)},
        },
        "max_position_embeddings": source.integer("context_length"),
        "rms_norm_eps": source.number("attention.layer_norm_rms_epsilon"),
        "final_logit_softcapping": metadata.get("gemma4.final_logit_softcapping"),
        "hidden_size_per_layer_input": 0,
        "tie_word_embeddings": "output.weight" not in names,
        # The file does not say it: models without embeddings of each layer all look so.
        "use_bidirectional_attention": "vision",
    }


def _of_each_layer(metadata: Any, key: str, count: int, kind: type) -> list[Any]:
    """A list of as many, or one value for all layers."""
    value = metadata.get(f"gemma4.{key}")
    values = [value] * count if type(value) is kind else value
    if not isinstance(values, list) or len(values) != count or any(type(one) is not kind for one in values):
        raise InvalidModelFile(f"GGUF metadata has gemma4.{key} {value!r:.80}; it must be a list of {count}")
    return values


def _text_tensors(text: dict[str, Any]) -> Iterator[tuple[str, Made]]:
    prefix = PREFIXES[0]
    yield f"{prefix}embed_tokens.weight", Made(("token_embd.weight",))
    yield f"{prefix}norm.weight", Made(("output_norm.weight",))
    if not text["tie_word_embeddings"]:
        yield "lm_head.weight", Made(("output.weight",))
    for index, kind in enumerate(text["layer_types"]):
        for ours, theirs in _LAYER.items():
            yield f"{prefix}layers.{index}.{ours}", Made((f"blk.{index}.{theirs}.weight",))
        if kind == SLIDING or not text["attention_k_eq_v"]:
            yield f"{prefix}layers.{index}.self_attn.v_proj.weight", Made((f"blk.{index}.attn_v.weight",))


def _tower_config(projector: GgufCheckpoint) -> dict[str, Any]:
    """A `vision_config`. Some of its numbers are told by the shapes of tensors alone."""
    source = Settings(projector.config, f"GGUF metadata of {projector.path.name}", prefix="clip.vision.")
    if clipped := next((name for name in projector.names() if name.endswith(_CLIPS)), None):
        raise InvalidModelFile(f"{projector.path.name}: {clipped!r:.80} bounds a matrix, which this version does not implement")
    num_layers = source.integer("block_count")
    if not 1 <= num_layers <= len(projector.names()):
        raise InvalidModelFile(f"{projector.path.name} has {num_layers} layers and {len(projector.names())} tensors")
    (head_dim,) = _dimensions(projector, "v.blk.0.attn_q_norm.weight", 1)
    key_rows, _ = _dimensions(projector, "v.blk.0.attn_k.weight", 2)
    _, places, _ = _dimensions(projector, "v.position_embd.weight", 3)
    return {
        "num_hidden_layers": num_layers,
        "hidden_size": source.integer("embedding_length"),
        "intermediate_size": source.integer("feed_forward_length"),
        "num_attention_heads": source.integer("attention.head_count"),
        "num_key_value_heads": key_rows // head_dim,
        "head_dim": head_dim,
        "patch_size": source.integer("patch_size"),
        "pooling_kernel_size": source.integer("projector.scale_factor", 3),
        "position_embedding_size": places,
        "rms_norm_eps": source.number("attention.layer_norm_epsilon", 1e-6),
        "standardize": "v.std_bias" in projector.names(),
    }


def _dimensions(projector: GgufCheckpoint, name: str, count: int) -> tuple[int, ...]:
    shape = projector.shape(name)
    if len(shape) != count:
        raise InvalidModelFile(f"{projector.path.name}: tensor {name}: has {len(shape)} dimensions; it must have {count}")
    return shape


def _tower_tensors(projector: GgufCheckpoint, num_layers: int) -> Iterator[tuple[str, Made]]:
    yield f"{TOWER}patch_embedder.input_proj.weight", Made(("v.patch_embd.weight",), _colours_last)
    yield f"{TOWER}patch_embedder.position_embedding_table", Made(("v.position_embd.weight",))
    yield PROJECTION, Made(("mm.input_projection.weight",))
    for name in ("std_bias", "std_scale") if "v.std_bias" in projector.names() else ():
        yield f"{TOWER}{name}", Made((f"v.{name}",))
    for index in range(num_layers):
        for ours, theirs in _TOWER_LAYER.items():
            yield f"{TOWER}encoder.layers.{index}.{ours}.weight", Made((f"v.blk.{index}.{theirs}.weight",))


def _colours_last(weight: Tensor) -> Tensor:
    """(hidden, 3, patch, patch), as a convolution has it, to (hidden, patch * patch * 3)."""
    return weight.permute(0, 2, 3, 1).flatten(1)
