"""Tiny random checkpoints of each family as transformers itself writes them, and what transformers answers on them.

No download: a few hundred kilobytes each, weights large enough that every part of a model matters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tests.golden import tiny_templates, tiny_tokenizers
from tests.golden.cases import CALLS, IMAGES, TEXT, THINKING, TOOLS, TOOLS_AND_IMAGES, Case, Messages
from tests.golden.seeing import GEMMA_IMAGES, GEMMA_TOKENS, QWEN_IMAGES, Seen, seen_by_gemma, seen_by_qwen
from transformers import (
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

STEPS: Final = 24
TOP: Final = 5
# Below this gap in log-probability two right implementations may disagree on the winner.
TIE: Final = 3e-4


@dataclass(frozen=True)
class TinyModel:
    """A checkpoint to make: `build` gives transformers' model for a tokenizer."""

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    template: str
    build: Callable[[PreTrainedTokenizerFast], Any]
    cases: Mapping[str, Case]
    """What is put to it."""
    hub_form: bool = False
    """config.json as the hub has it: rope_theta and rope_scaling at the top, torch_dtype."""
    shard_size: str = "1GB"
    seed: int = 0
    tool_template: str | None = None
    """Of the tokenizer, where `template` is the processor's: in the places of the hub."""
    images: dict[str, Any] | None = None
    """Contents of preprocessor_config.json, for models that see."""
    calm: bool = False
    """Weights as calm as trained ones, and numbers that bfloat16 has."""
    look: Callable[[PreTrainedTokenizerFast, Sequence[int], Sequence[str]], Seen] | None = None
    """How transformers' processor looks at a prompt's pictures."""


def llama3(tokenizer: PreTrainedTokenizerFast, *, tied: bool = False) -> Any:
    """Scaled waves, an odd number of heads that share keys, a head wider than its share."""
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaForCausalLM(
        LlamaConfig(
            **_shape(tokenizer, heads=9, kv_heads=3, hidden=72, head_dim=12),
            rope_parameters=scaling,
            tie_word_embeddings=tied,
            rms_norm_eps=1e-5,
        )
    )


def qwen2(tokenizer: PreTrainedTokenizerFast, *, tied: bool = False) -> Any:
    """Biases, seven heads to a key, logits wider than the vocabulary."""
    shape = _shape(tokenizer, heads=7, kv_heads=1, hidden=56, head_dim=8)
    shape["vocab_size"] += 13
    return Qwen2ForCausalLM(
        Qwen2Config(
            **{key: value for key, value in shape.items() if key != "head_dim"},
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=tied,
            rms_norm_eps=1e-6,
        )
    )


def gemma4_text(tokenizer: PreTrainedTokenizerFast, *, window: int = 70, k_eq_v: bool = True) -> Any:
    """Three cycles of sliding and full layers of two shapes, a cap that bends, values that are keys."""
    return Gemma4ForCausalLM(Gemma4TextConfig(**_gemma4_shape(tokenizer, window=window, k_eq_v=k_eq_v)))


def _gemma4_shape(tokenizer: PreTrainedTokenizerFast, *, window: int, k_eq_v: bool) -> dict[str, Any]:
    return _shape(tokenizer, heads=6, kv_heads=3, hidden=60, head_dim=12) | {
        "num_hidden_layers": 9,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 3,
        "global_head_dim": 16,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": k_eq_v,
        "sliding_window": window,
        "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": 6.0,
        "use_bidirectional_attention": "vision",
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e4},
        },
        "rms_norm_eps": 1e-3,
    }


def qwen2_5_vl(tokenizer: PreTrainedTokenizerFast, *, full_layers: tuple[int, ...] = (1,)) -> Any:
    """A text part that turns three ways, a tower of layers with windows and `full_layers` without."""
    text = _shape(tokenizer, heads=4, kv_heads=2, hidden=64, head_dim=16) | {
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 500.0},
        # The tower has another, which is fixed.
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    del text["head_dim"]
    vision = {
        "depth": 4,
        "hidden_size": 48,
        "intermediate_size": 84,
        "num_heads": 3,
        "out_hidden_size": 64,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": list(full_layers),
        "tokens_per_second": 2,
    }
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def gemma4(
    tokenizer: PreTrainedTokenizerFast, *, bidirectional: str | None = "vision", window: int = 40, tower_keys: int = 3
) -> Any:
    """The text part with a window smaller than an image, and a tower that looks at three by three patches.

    `tower_keys`: how many heads of keys its three heads share.
    """
    vision = {
        "hidden_size": 36,
        "intermediate_size": 50,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": tower_keys,
        "head_dim": 12,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 256,
        "standardize": True,
    }
    ids = {name: tokenizer.convert_tokens_to_ids(text) for name, text in zip(("boi", "image", "eoi"), GEMMA_TOKENS, strict=True)}
    own = {"use_bidirectional_attention": bidirectional, "pad_token_id": 0}
    text = _gemma4_shape(tokenizer, window=window, k_eq_v=True) | own
    return Gemma4ForConditionalGeneration(
        Gemma4Config(
            text_config=text,
            vision_config=vision,
            audio_config=None,
            **{f"{name}_token_id": token_id for name, token_id in ids.items()},
        )
    )


SEEING: Final[dict[str, TinyModel]] = {
    "qwen2.5-vl": TinyModel(
        tiny_tokenizers.qwen_tokenizer,
        tiny_templates.QWEN_VISION,
        qwen2_5_vl,
        IMAGES,
        images=QWEN_IMAGES,
        look=seen_by_qwen,
        shard_size="100KB",
        seed=1,
    ),
    "qwen2.5-vl, hub": TinyModel(
        tiny_tokenizers.qwen_tokenizer,
        tiny_templates.QWEN_VISION,
        qwen2_5_vl,
        IMAGES | TOOLS | CALLS,
        tool_template=tiny_templates.QWEN_TOOLS,
        images=QWEN_IMAGES,
        look=seen_by_qwen,
        hub_form=True,
        seed=1,
    ),
    "gemma4": TinyModel(
        tiny_tokenizers.gemma_tokenizer,
        tiny_templates.GEMMA,
        gemma4,
        IMAGES | TOOLS | TOOLS_AND_IMAGES,
        images=GEMMA_IMAGES,
        look=seen_by_gemma,
        shard_size="100KB",
        seed=2,
    ),
    "gemma4 that looks back alone, hub": TinyModel(
        tiny_tokenizers.gemma_tokenizer,
        tiny_templates.GEMMA,
        lambda tokenizer: gemma4(tokenizer, bidirectional=None, window=90, tower_keys=1),
        IMAGES,
        images=GEMMA_IMAGES,
        look=seen_by_gemma,
        hub_form=True,
        seed=2,
    ),
}
MODELS: Final[dict[str, TinyModel]] = {
    "llama3 sharded, hub": TinyModel(
        tiny_tokenizers.llama_tokenizer, tiny_templates.LLAMA, llama3, TEXT | TOOLS, hub_form=True, shard_size="100KB"
    ),
    "llama3 tied": TinyModel(
        tiny_tokenizers.llama_tokenizer, tiny_templates.LLAMA, lambda tokenizer: llama3(tokenizer, tied=True), TEXT | TOOLS
    ),
    "qwen2 sharded, hub": TinyModel(
        tiny_tokenizers.qwen_tokenizer,
        tiny_templates.QWEN_TOOLS,
        qwen2,
        TEXT | TOOLS | CALLS,
        hub_form=True,
        shard_size="100KB",
    ),
    "qwen2 tied": TinyModel(
        tiny_tokenizers.qwen_tokenizer, tiny_templates.QWEN_TOOLS, lambda tokenizer: qwen2(tokenizer, tied=True), TEXT | TOOLS
    ),
    "gemma4 text sharded": TinyModel(
        tiny_tokenizers.gemma_tokenizer,
        tiny_templates.GEMMA,
        gemma4_text,
        TEXT | TOOLS | CALLS | THINKING,
        shard_size="100KB",
        seed=2,
    ),
    "gemma4 text with values, window of whole blocks": TinyModel(
        tiny_tokenizers.gemma_tokenizer,
        tiny_templates.GEMMA,
        lambda tokenizer: gemma4_text(tokenizer, window=128, k_eq_v=False),
        TEXT,
        hub_form=True,
        seed=4,
    ),
}
ALL: Final = MODELS | SEEING


@dataclass(frozen=True)
class Reference:
    """What transformers does with a conversation: its prompt, the tokens it likes best, the likeliest of each step."""

    prompt_ids: list[int]
    token_ids: list[int]
    top: list[dict[int, float]]
    margin: float


class TinyCheckpoint:
    """A model in its folder, and transformers' own copy of it in memory."""

    def __init__(self, model: TinyModel, folder: Path) -> None:
        self.folder = folder
        self._made = model
        self.tokenizer = model.tokenizer()
        self.tokenizer.chat_template = model.template
        self.tokenizer.save_pretrained(folder)
        if model.tool_template is not None:
            (folder / "chat_template.jinja").unlink()
            (folder / "chat_template.json").write_text(json.dumps({"chat_template": model.template}), "utf-8")
            settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
            (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": model.tool_template}), "utf-8")
        self.model = model.build(self.tokenizer).float().eval()
        (_calm if model.calm else _randomize)(self.model, model.seed)
        self.bytes_of = tiny_tokenizers.bytes_of(self.tokenizer)
        added = set(self.tokenizer.get_added_vocab().values())
        everything = range(self.model.get_output_embeddings().out_features)
        # Not drawn: added tokens, which have a meaning beyond text; what is beyond the vocabulary and has no text; and parts of
        # characters, since what may hold calls must be text.
        self.banned = [one for one in everything if one in added or not _is_text(self.bytes_of.get(one, b""))]
        # Random answers should not end early.
        self.model.generation_config.eos_token_id = None
        self.model.save_pretrained(folder, max_shard_size=model.shard_size)
        if model.images is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(model.images), "utf-8")
        if model.hub_form:
            _to_hub_form(folder / "config.json")

    def answer(self, case: Case) -> Reference:
        """Greedy decoding of `STEPS` tokens."""
        ids = self.prompt_ids(case)
        if case.images:
            assert self._made.look is not None
            return self.continued(*self._made.look(self.tokenizer, ids, case.images))
        if hasattr(self.model.model, "rope_deltas"):
            # What it remembers of the images of the conversation before.
            self.model.model.rope_deltas = None
        return self.continued(ids, {})

    def prompt_ids(self, case: Case) -> list[int]:
        """The prompt, each image one token."""
        # Where the model has a template for tools, they need it.
        own = {"chat_template": self._made.tool_template} if case.tools and self._made.tool_template else {}
        ids = self.tokenizer.apply_chat_template(
            parsed(case.messages),
            tools=case.tools,
            add_generation_prompt=True,
            return_dict=False,
            tokenize=True,
            **own,
            **case.switches,
        )
        return [int(token) for token in ids]

    @torch.no_grad()
    def continued(self, prompt_ids: list[int], extras: dict[str, Any]) -> Reference:
        """`extras`: what the first step sees beside the tokens."""
        inputs, cache = {"input_ids": torch.tensor([prompt_ids]), **extras}, None
        token_ids: list[int] = []
        top: list[dict[int, float]] = []
        margin = float("inf")
        for step in range(STEPS):
            if step:
                position = torch.tensor([len(prompt_ids) + step - 1])
                inputs = {"input_ids": torch.tensor([token_ids[-1:]]), "cache_position": position}
            output = self.model(**inputs, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logprobs = output.logits[0, -1].float().log_softmax(-1)
            best = logprobs.topk(TOP)
            top.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            logprobs[self.banned] = float("-inf")
            best = logprobs.topk(2)
            token_ids.append(int(best.indices[0]))
            margin = min(margin, float(best.values[0] - best.values[1]))
        return Reference(prompt_ids, token_ids, top, margin)


def _shape(tokenizer: PreTrainedTokenizerFast, *, heads: int, kv_heads: int, hidden: int, head_dim: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _randomize(model: Any, seed: int) -> None:
    """Weights that keep a stream's size, and norms, biases and scalars that are not what they are by default."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if name.endswith("bias"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            elif tensor.ndim < 2 or "norm" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif "embed_tokens" in name or name.endswith("table"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel() ** 0.5))
    model.tie_weights()


def _calm(model: Any, seed: int) -> None:
    """Weights that do what trained ones do: each layer adds little to the stream, no token is looked at alone, and logits spread
    so that the likeliest token has about a third of the probability."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    added = (2 * model.config.get_text_config().num_hidden_layers) ** -0.5
    # Gemma's layers norm what they add.
    normed = any("pre_feedforward_layernorm" in name for name in state)
    with torch.no_grad():
        for name, tensor in state.items():
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith("bias"):
                drawn *= 0.1
            elif tensor.ndim < 2 or "norm" in name:
                drawn = 1 + 0.1 * drawn.clamp(-2, 2)
                # Queries and keys that have norms of their own are not scaled afterwards.
                drawn *= added if normed and "layernorm" in name and ".post_" in name else 1
                drawn *= 0.5 if "q_norm" in name or "k_norm" in name else 1
            elif "embed_tokens" in name or "lm_head" in name:
                drawn *= 1.6 / tensor.shape[1] ** 0.5
            else:
                drawn *= (added if "o_proj" in name or "down_proj" in name else 1) / tensor[0].numel() ** 0.5
            tensor.copy_(drawn.bfloat16())
    model.tie_weights()


def _to_hub_form(path: Path) -> None:
    config = json.loads(path.read_text("utf-8"))
    config["torch_dtype"] = config.pop("dtype")
    told = config.get("text_config", config)
    if overrides := told.pop("per_layer_config", None):
        # Newer than the hub: there, what full layers differ in is told once.
        (full,) = {tuple(layer.items()) for layer in overrides.values()}
        told |= {f"global_{key}" if key == "head_dim" else f"num_global_{key[4:]}": value for key, value in full}
    if "vision_config" in config and "sliding_attention" not in told.get("layer_types", ()):
        # There, what the text is like stands at the top.
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        config = {**text, **config, "rope_theta": rope["rope_theta"]}
        config["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        vision = config["vision_config"]
        vision["in_chans"] = vision.pop("in_channels", 3)
        vision.pop("rope_parameters", None)
        path.write_text(json.dumps(config), "utf-8")
        return
    if "sliding_attention" in told.get("layer_types", ()):
        path.write_text(json.dumps(config), "utf-8")
        return
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope.get("rope_type") != "default" else None
    path.write_text(json.dumps(config), "utf-8")


def parsed(messages: Messages) -> Messages:
    """As templates want them: arguments as objects, images without what they show."""
    parsed = []
    for message in messages:
        turn = {**message, "content": _bare(message["content"])}
        if turn.get("tool_calls"):
            turn["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
                for call in turn["tool_calls"]
            ]
        parsed.append(turn)
    return parsed


def _bare(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [{"type": "image"} if piece["type"] == "image_url" else piece for piece in content]


def _is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False
