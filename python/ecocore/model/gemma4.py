"""The Gemma 4 architecture, dense: layers with a window and layers without, norms around everything, a cap on the logits.

Only what is Gemma's own stands here: how a layer is wired, what its tensors are called, which layers make values of keys.
"""

from collections.abc import Generator, Sequence
from typing import Final

import torch
from torch import Tensor

from ecocore.errors import InternalError
from ecocore.model.attention import AttentionPlan
from ecocore.model.config import KvLayer
from ecocore.model.gemma4_config import Gemma4Config, RotaryAngles
from ecocore.model.gemma4_vision import Tower
from ecocore.model.layers import GatedMlp, WideRmsNorm
from ecocore.model.rotary import RotaryTable, divided, rotary_frequencies, rotate_
from ecocore.model.sight import Sight, View
from ecocore.model.tensors import TensorLoader

# The whole model keeps its text part under the first; a file of the text part alone has the second.
PREFIXES: Final = ("model.language_model.", "model.")
# Which pairs turn in layers without a window, as GGUF carries it: one divisor per frequency, huge where they stand still.
ROPE_DIVISORS: Final = "rope_freqs.weight"


class Gemma4:
    """A Gemma 4 with its weights. Keeps no state between steps: keys and values are the caller's."""

    def __init__(self, config: Gemma4Config, tensors: TensorLoader, *, num_positions: int) -> None:
        """Takes its tensors from `tensors`; positions 0 to `num_positions` - 1 can be computed. Raises InvalidModelFile."""
        prefix = next((prefix for prefix in PREFIXES if f"{prefix}embed_tokens.weight" in tensors), PREFIXES[0])
        self._cap = config.logit_cap
        self._embedding = tensors.embedding(f"{prefix}embed_tokens.weight", config.vocab_size, config.hidden_size)
        # Rounded to the model's dtype before it multiplies, as it was in training.
        self._embedding_scale = torch.tensor(config.hidden_size**0.5, dtype=tensors.dtype, device=tensors.device)
        self._layers = [_Layer(config, kind, tensors, f"{prefix}layers.{index}.") for index, kind in enumerate(config.kv_layers)]
        self._final_norm = WideRmsNorm(config.rms_norm_eps, tensors.tensor(f"{prefix}norm.weight", config.hidden_size))
        if config.tie_word_embeddings:
            tensors.ignore("lm_head.weight")
            self._head = tensors.tied_head(self._embedding, config.vocab_size)
        else:
            self._head = tensors.head("lm_head.weight", config.vocab_size, config.hidden_size)
        self.looks_around: Final = config.looks_around
        # One rank looks at images, and tells the others what it saw.
        tower = config.tower if tensors.group.rank == 0 else None
        self._tower = None if tower is None else Tower(tower, tensors, out_size=config.hidden_size)
        self.row_bytes: Final = config.hidden_size * tensors.dtype.itemsize
        divisors = _divisors(config, tensors)
        self._rotary = {
            kind.window: RotaryTable(
                _frequencies(kind, config, divisors), num_positions, dtype=tensors.dtype, device=tensors.device
            )
            for kind in dict.fromkeys(config.kv_layers)
        }

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attention: AttentionPlan, sight: Sight | None = None) -> Tensor:
        """`token_ids`, `positions`: (rows,) int64, a padded number. Gives (rows, hidden_size), before the last norm."""
        turns = {window: table.at(positions) for window, table in self._rotary.items()}
        hidden = self._embedding(token_ids).mul_(self._embedding_scale)
        if sight is not None and len(sight.rows):
            # What was seen is not scaled as tokens are.
            hidden.index_copy_(0, sight.rows, sight.embeddings)
        for index, layer in enumerate(self._layers):
            hidden = layer(index, hidden, turns[layer.window], attention)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden`: (rows, hidden_size), a padded number of rows of `hidden_states`. Gives (rows, vocab_size)."""
        logits = self._head(self._final_norm(hidden))
        if self._cap is not None:
            logits.div_(self._cap).tanh_().mul_(self._cap)
        return logits

    def see(self, view: View) -> Generator[None, None, Tensor]:
        """See `SeeingModel`."""
        if self._tower is None:
            raise InternalError("an image was shown to a model without a vision tower")
        return self._tower.see(view.pixels)

    def coordinates(self, views: Sequence[View], length: int) -> None:
        """See `SeeingModel`: positions are numbers here, whatever they show."""


class _Layer:
    """One decoder layer."""

    def __init__(self, config: Gemma4Config, kind: KvLayer, tensors: TensorLoader, prefix: str) -> None:
        hidden, heads, kv_heads, dim = config.hidden_size, config.num_heads, kind.num_kv_heads, kind.head_dim
        self.window: Final = kind.window
        self._num_heads, self._num_kv_heads = (len(tensors.group.part(count)) for count in (heads, kv_heads))
        self._head_dim = dim
        # Layers that see everything may do without a matrix of values: theirs are the keys as they were before norm and turn.
        self._keys_are_values = config.keys_are_values and kind.window is None

        def matrix(name: str, out_features: int, units: int | None = None) -> Tensor:
            return tensors.column(f"{prefix}{name}.weight", out_features, hidden, units=units)

        def norm(name: str, width: int = hidden) -> WideRmsNorm:
            return WideRmsNorm(config.rms_norm_eps, tensors.tensor(f"{prefix}{name}.weight", width))

        values = [] if self._keys_are_values else [matrix("self_attn.v_proj", kv_heads * dim, kv_heads)]
        self._qkv = tensors.linear(
            matrix("self_attn.q_proj", heads * dim, heads), matrix("self_attn.k_proj", kv_heads * dim, kv_heads), *values
        )
        self._output = tensors.row(f"{prefix}self_attn.o_proj.weight", hidden, heads * dim, units=heads)
        self._query_norm, self._key_norm = norm("self_attn.q_norm", dim), norm("self_attn.k_norm", dim)
        self._value_norm = WideRmsNorm(config.rms_norm_eps)
        self._mlp = GatedMlp(
            tensors.linear(matrix("mlp.gate_proj", config.intermediate_size)),
            tensors.linear(matrix("mlp.up_proj", config.intermediate_size)),
            tensors.row(f"{prefix}mlp.down_proj.weight", hidden, config.intermediate_size),
            "gelu_tanh",
        )
        self._before_attention, self._after_attention = norm("input_layernorm"), norm("post_attention_layernorm")
        self._before_mlp, self._after_mlp = norm("pre_feedforward_layernorm"), norm("post_feedforward_layernorm")
        self._scalar = tensors.tensor(f"{prefix}layer_scalar", 1)

    def __call__(self, index: int, hidden: Tensor, turn: tuple[Tensor, Tensor], attention: AttentionPlan) -> Tensor:
        hidden = hidden + self._after_attention(self._attended(index, self._before_attention(hidden), turn, attention))
        hidden = hidden.add_(self._after_mlp(self._mlp(self._before_mlp(hidden))))
        return hidden.mul_(self._scalar)

    def _attended(self, index: int, rows: Tensor, turn: tuple[Tensor, Tensor], attention: AttentionPlan) -> Tensor:
        heads, kv_heads = self._num_heads, self._num_kv_heads
        parts = self._qkv(rows).view(len(rows), -1, self._head_dim)
        queries, keys = self._query_norm(parts[:, :heads]), parts[:, heads : heads + kv_heads]
        values = keys if self._keys_are_values else parts[:, heads + kv_heads :]
        keys_values = torch.cat((self._key_norm(keys), self._value_norm(values)), dim=1)
        rotate_(queries, turn)
        rotate_(keys_values[:, :kv_heads], turn)
        attended = rows.new_zeros((len(rows), heads, self._head_dim))
        attention.attend(index, queries, keys_values, attended, scale=1.0)
        return self._output(attended.flatten(1))


def _divisors(config: Gemma4Config, tensors: TensorLoader) -> Tensor | None:
    width = next((kind.head_dim for kind in config.kv_layers if kind.window is None), 2)
    return tensors.tensor(ROPE_DIVISORS, width // 2, dtype=torch.float32).cpu() if ROPE_DIVISORS in tensors else None


def _frequencies(kind: KvLayer, config: Gemma4Config, divisors: Tensor | None) -> Tensor:
    """Those of the pairs that turn; the others stand still."""
    angles: RotaryAngles = config.full if kind.window is None else config.sliding
    frequencies = rotary_frequencies(kind.head_dim, angles.theta) / angles.factor
    frequencies[angles.rotated :] = 0
    return frequencies if divisors is None or kind.window is not None else divided(frequencies, divisors)
