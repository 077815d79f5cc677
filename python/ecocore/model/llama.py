"""The Llama architecture: SmolLM2, Llama 3.x, and with a bias Qwen2. Token ids in, hidden states and logits out.

Only what is Llama's own stands here: how a layer is wired, what its tensors are called.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ecocore.model.attention import AttentionPlan
from ecocore.model.layers import GatedMlp, RmsNorm
from ecocore.model.llama_config import LlamaConfig
from ecocore.model.rotary import RotaryTable, divided, rotary_frequencies, rotate_
from ecocore.model.tensors import TensorLoader


@dataclass(frozen=True)
class TensorNames:
    """What the tensors are called; those of a layer follow `layer`."""

    embedding: str
    final_norm: str
    head: str
    layer: str
    attention_norm: str
    query: str
    key: str
    value: str
    output: str
    mlp_norm: str
    gate: str
    up: str
    down: str


NAMES: Final = TensorNames(
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    layer="model.layers.{}.",
    attention_norm="input_layernorm.weight",
    query="self_attn.q_proj.weight",
    key="self_attn.k_proj.weight",
    value="self_attn.v_proj.weight",
    output="self_attn.o_proj.weight",
    mlp_norm="post_attention_layernorm.weight",
    gate="mlp.gate_proj.weight",
    up="mlp.up_proj.weight",
    down="mlp.down_proj.weight",
)

# llama3 scaling as GGUF carries it: one divisor per frequency.
ROPE_DIVISORS: Final = "rope_freqs.weight"
# Frequencies that some older files store although they follow from the config.
DERIVED: Final = ("rotary_emb.inv_freq", "attn_rot_embd.weight")


class Llama:
    """A Llama with its weights. Keeps no state between steps: keys and values are the caller's."""

    def __init__(
        self, config: LlamaConfig, tensors: TensorLoader, *, num_positions: int, names: TensorNames | None = None
    ) -> None:
        """Takes its tensors from `tensors`; positions 0 to `num_positions` - 1 can be computed. Raises InvalidModelFile.

        `names`: what they are called, if not as usual.
        """
        names = names or NAMES
        self._embedding = tensors.embedding(names.embedding, config.vocab_size, config.hidden_size)
        self._layers = [_Layer(config, tensors, names, index) for index in range(config.num_layers)]
        self._final_norm = RmsNorm(tensors.tensor(names.final_norm, config.hidden_size), config.rms_norm_eps)
        if config.tie_word_embeddings:
            tensors.ignore(names.head)
            self._head = tensors.tied_head(self._embedding, config.vocab_size)
        else:
            self._head = tensors.head(names.head, config.vocab_size, config.hidden_size)
        tensors.ignore(*DERIVED)
        self.rotary: Final = RotaryTable(_frequencies(config, tensors), num_positions, dtype=tensors.dtype, device=tensors.device)

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attention: AttentionPlan) -> Tensor:
        """`token_ids`, `positions`: (rows,) int64, a padded number. Gives (rows, hidden_size), before the last norm."""
        return self.run(self.embedded(token_ids), self.rotary.at(positions), attention)

    def embedded(self, token_ids: Tensor) -> Tensor:
        """What the layers begin with: (rows, hidden_size), in memory of its own."""
        return self._embedding(token_ids)

    def run(self, hidden: Tensor, turn: tuple[Tensor, Tensor], attention: AttentionPlan) -> Tensor:
        """The layers over rows that were embedded; `turn` as `RotaryTable` gives it."""
        for index, layer in enumerate(self._layers):
            hidden = layer(index, hidden, turn, attention)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden`: (rows, hidden_size), a padded number of rows of `hidden_states`. Gives (rows, vocab_size)."""
        return self._head(self._final_norm(hidden))


class _Layer:
    """One decoder layer."""

    def __init__(self, config: LlamaConfig, tensors: TensorLoader, names: TensorNames, index: int) -> None:
        prefix = names.layer.format(index)
        hidden, heads, kv_heads, dim = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim

        def matrix(name: str, heads: int) -> Tensor:
            return tensors.column(prefix + name, heads * dim, hidden, units=heads)

        def norm(name: str) -> RmsNorm:
            return RmsNorm(tensors.tensor(prefix + name, hidden), config.rms_norm_eps)

        self._num_heads, self._num_kv_heads = (len(tensors.group.part(count)) for count in (heads, kv_heads))
        self._head_dim = dim
        query, key, value = matrix(names.query, heads), matrix(names.key, kv_heads), matrix(names.value, kv_heads)
        self._qkv = tensors.linear(query, key, value, bias=_biases(config, tensors, names, prefix))
        self._output = tensors.row(prefix + names.output, hidden, heads * dim, units=heads)
        self._mlp = GatedMlp(
            tensors.linear(tensors.column(prefix + names.gate, config.intermediate_size, hidden)),
            tensors.linear(tensors.column(prefix + names.up, config.intermediate_size, hidden)),
            tensors.row(prefix + names.down, hidden, config.intermediate_size),
        )
        self._attention_norm, self._mlp_norm = norm(names.attention_norm), norm(names.mlp_norm)

    def __call__(self, index: int, hidden: Tensor, turn: tuple[Tensor, Tensor], attention: AttentionPlan) -> Tensor:
        heads, kv_heads = self._num_heads, self._num_kv_heads
        qkv = self._qkv(self._attention_norm(hidden)).view(-1, heads + 2 * kv_heads, self._head_dim)
        rotate_(qkv[:, : heads + kv_heads], turn)
        attended = qkv.new_zeros((len(hidden), heads, self._head_dim))
        attention.attend(index, qkv[:, :heads], qkv[:, heads:], attended)
        hidden = hidden + self._output(attended.flatten(1))
        return hidden.add_(self._mlp(self._mlp_norm(hidden)))


def _biases(config: LlamaConfig, tensors: TensorLoader, names: TensorNames, prefix: str) -> list[Tensor]:
    if not config.qkv_bias:
        return []
    heads = {names.query: config.num_heads, names.key: config.num_kv_heads, names.value: config.num_kv_heads}
    return [
        tensors.column(prefix + name.replace(".weight", ".bias"), count * config.head_dim, units=count)
        for name, count in heads.items()
    ]


def _frequencies(config: LlamaConfig, tensors: TensorLoader) -> Tensor:
    frequencies = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    if ROPE_DIVISORS in tensors:
        return divided(frequencies, tensors.tensor(ROPE_DIVISORS, config.head_dim // 2, dtype=torch.float32).cpu())
    return frequencies
