"""What the contenders work on: short texts, weights, logits. Seeded, so that every run measures the same."""

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

SHORT: Final = "What is the capital of France?"
CHAT_BYTES: Final = 255
DOCUMENT_BYTES: Final = 32_000

_CONVERSATION = (
    "Could you tell me how a bicycle stays upright when nobody steers it? My daughter asked, and I had no answer. ",
    "Rewrite this politely, please: the invoice of 17 March (no. 20931) is unpaid, and I won't wait any longer!\n",
    "```python\ndef area(width: float, height: float) -> float:\n    return width * height\n```\nWhat does it do?\n",
    "Merci beaucoup, c'était très clair. Et pour les élèves de 8 à 10 ans, comment l'expliquer en 3 phrases ? ",
    "日本の首都はどこですか。短く答えてください。 ",
    "Сколько будет 128 * 46? Покажи шаги. ",
    "Nice \N{PARTY POPPER}\N{PARTY POPPER} thanks!! one more: which is heavier, 1 kg of iron or 1 kg of feathers? ",
    "ما هي عاصمة مصر؟ ",
)


def has(*packages: str) -> bool:
    """Whether all of these can be imported."""
    return all(find_spec(package) is not None for package in packages)


def model_path() -> Path:
    """The embedded model's GGUF file, whose vocabulary and weights the contenders share."""
    from ecocore.weights.embedded import embedded_model_path

    return embedded_model_path()


# --- texts ----------------------------------------------------------------------------------------------


def chat_messages(count: int, seed: int = 1, *, english: bool = False) -> list[str]:
    """Messages of about 255 bytes in several languages or in one, no two alike."""
    rng = random.Random(seed)
    said = [sentence for sentence in _CONVERSATION if sentence.isascii() or not english]
    return [_message(rng, said, f"({number}) ") for number in range(count)]


def documents(count: int, size: int = DOCUMENT_BYTES) -> list[str]:
    """English prose with code, `size` bytes each: the language reference that comes with this Python."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    whole = text * (1 + count * size // len(text))
    return [whole[start : start + size].decode("ascii") for start in range(0, count * size, size)]


def _message(rng: random.Random, said: list[str], text: str) -> str:
    while len(text.encode()) < CHAT_BYTES:
        text += rng.choice(said)
    return text.encode()[:CHAT_BYTES].decode(errors="ignore")


# --- weights --------------------------------------------------------------------------------------------


def transformers_model() -> Any:
    """The embedded model as a float32 `LlamaForCausalLM`, its weights dequantised by the `gguf` package."""
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = GGUFReader(model_path())
    config = LlamaConfig(**_llama_config(reader.fields))
    weights = {}
    for tensor in reader.tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(tensor.name.split(".")[-2])
        weights[_llama_name(tensor.name)] = values if heads is None else _halves(values, heads)
    model: Any = LlamaForCausalLM(config)
    model.eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), "the head is the embedding"
    return model


def _llama_config(fields: Any) -> dict[str, Any]:
    def of(key: str) -> Any:
        return fields[key].contents()

    return {
        "vocab_size": of("llama.vocab_size"),
        "hidden_size": of("llama.embedding_length"),
        "intermediate_size": of("llama.feed_forward_length"),
        "num_hidden_layers": of("llama.block_count"),
        "num_attention_heads": of("llama.attention.head_count"),
        "num_key_value_heads": of("llama.attention.head_count_kv"),
        "max_position_embeddings": of("llama.context_length"),
        "rms_norm_eps": of("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": of("llama.rope.freq_base")},
        "eos_token_id": of("tokenizer.ggml.eos_token_id"),
        "tie_word_embeddings": True,
    }


_LLAMA_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _llama_name(name: str) -> str:
    """GGUF's name of a tensor as transformers spells it: blk.3.attn_q.weight, token_embd.weight."""
    *block, part, kind = name.split(".")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{_LLAMA_NAMES[part]}.{kind}"


def _halves(weight: Any, heads: int) -> Any:
    """GGUF keeps the pairs that rotate together side by side; transformers keeps them half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


# --- logits ---------------------------------------------------------------------------------------------


def logits(rows: int, vocab_size: int, shape: str, seed: int = 3) -> Any:
    """A float32 tensor (rows, vocab_size).

    "peaked" looks like a language model's: N(0, 2.2) and 60 tokens at +7 to +14. "flat" is N(0, 1), whose
    nucleus holds more than half of the vocabulary.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    if shape == "flat":
        return torch.randn(rows, vocab_size, generator=generator)
    made = torch.randn(rows, vocab_size, generator=generator) * 2.2
    for row in made:
        row[torch.randperm(vocab_size, generator=generator)[:60]] += 7 + 7 * torch.rand(60, generator=generator)
    return made
