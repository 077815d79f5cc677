"""What a GGUF file of a Llama says, in the words of its folder; and of those that are spelled alike, with a bias.

Takes a GGUF checkpoint, gives one whose settings and tensors are called as in `config.json` and safetensors.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor

from ecocore.errors import InvalidModelFile
from ecocore.model.config import Settings
from ecocore.weights.gguf import GgufCheckpoint
from ecocore.weights.retold import Made, RetoldCheckpoint

_LAYER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# What slows the rotary waves, or weighs attention anew: 1 and, as readers of the format have it, 0 mean nothing. The type of a
# scaling need not be said where its factor is.
_SCALINGS: Final = ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.alpha", "rope.scaling.attn_factor")
_BIASED: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class LlamaGguf:
    """How a Llama is told."""

    @staticmethod
    def of(checkpoint: GgufCheckpoint) -> RetoldCheckpoint:
        """Raises InvalidModelFile."""
        config = decoder_config(checkpoint, "llama")
        return RetoldCheckpoint(checkpoint, config=config, made=dict(_interleaved(config, decoder_tensors(checkpoint, config))))


class Qwen2Gguf:
    """How a Qwen2 is told: its rows are in the order of the folder."""

    @staticmethod
    def of(checkpoint: GgufCheckpoint) -> RetoldCheckpoint:
        """Raises InvalidModelFile."""
        config = decoder_config(checkpoint, "qwen2")
        return RetoldCheckpoint(checkpoint, config=config, made=dict(decoder_tensors(checkpoint, config, biased=True)))


def decoder_config(checkpoint: GgufCheckpoint, architecture: str) -> dict[str, Any]:
    """A `config.json` of the metadata. Raises InvalidModelFile for what is missing or cannot be run.

    A llama3 scaling is not in the metadata but in the tensor `rope_freqs.weight`, which the model reads.
    """
    metadata = checkpoint.config
    source = Settings(metadata, "GGUF metadata", prefix=f"{architecture}.")
    refuse_scaling(source)
    if metadata.get(f"{architecture}.expert_count"):
        raise InvalidModelFile(f"{architecture}.expert_count is set; this version does not implement mixtures of experts")
    hidden_size = source.integer("embedding_length")
    num_heads = source.integer("attention.head_count")
    head_dim = source.integer("attention.key_length", hidden_size // max(num_heads, 1))
    rotated = source.integer("rope.dimension_count", head_dim)
    value_length = source.integer("attention.value_length", head_dim)
    if not rotated == value_length == head_dim:
        raise InvalidModelFile(
            f"keys of {head_dim}, values of {value_length} and rotary embedding over {rotated} dimensions:"
            " this version implements equal ones"
        )
    num_layers = source.integer("block_count")
    if num_layers > len(checkpoint.names()):
        raise InvalidModelFile(f"{architecture}.block_count is {num_layers}, more than the file has tensors; fetch the file anew")
    return {
        # The tensor knows it, the metadata need not say it.
        "vocab_size": checkpoint.shape("token_embd.weight")[0],
        "hidden_size": hidden_size,
        "intermediate_size": source.integer("feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": source.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": source.integer("context_length"),
        "rms_norm_eps": source.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": source.number("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in checkpoint.names(),
    }


def refuse_scaling(source: Settings) -> None:
    """Raises InvalidModelFile for a rotary scaling in the metadata."""
    if (kind := source.values.get(f"{source.prefix}rope.scaling.type", "none")) != "none":
        raise InvalidModelFile(f"{source.prefix}rope.scaling.type is {kind!r:.80}, which this version does not implement")
    for key in _SCALINGS:
        if (factor := source.number(key, 1)) not in (0, 1):
            raise InvalidModelFile(f"{source.prefix}{key} is {factor}, which this version does not implement")


def decoder_tensors(checkpoint: GgufCheckpoint, config: Mapping[str, Any], *, biased: bool = False) -> Iterator[tuple[str, Made]]:
    """The tensors of a decoder, in the order of the file."""
    yield "model.embed_tokens.weight", Made(("token_embd.weight",))
    yield "model.norm.weight", Made(("output_norm.weight",))
    if "output.weight" in checkpoint.names():
        yield "lm_head.weight", Made(("output.weight",))
    for index in range(config["num_hidden_layers"]):
        for ours, theirs in _LAYER.items():
            yield f"model.layers.{index}.{ours}.weight", Made((f"blk.{index}.{theirs}.weight",))
        for ours in _BIASED if biased else ():
            yield f"model.layers.{index}.{ours}.bias", Made((f"blk.{index}.{_LAYER[ours]}.bias",))


def _interleaved(config: Mapping[str, Any], tensors: Iterator[tuple[str, Made]]) -> Iterator[tuple[str, Made]]:
    """The same, with the order of query and key rows undone.

    In the file, the rows of a head are interleaved for a rotation of neighbours (2i, 2i + 1); in a folder dimension i
    turns together with i + head_dim // 2.
    """
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, made in tensors:
        count = heads.get(name.split(".")[-2])

        def halves_together(weight: Tensor, count: int = count or 1) -> Tensor:
            return weight.view(count, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)

        yield name, made if count is None else Made(made.parts, halves_together)
