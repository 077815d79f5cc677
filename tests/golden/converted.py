"""GGUF files of tiny checkpoints, as converters write them: names by the `gguf` package's own tables, rows of queries and
keys where they go, a vocabulary in the metadata, the part that sees in a file of its own.

The weights of transformers' model become what the file holds, so that both answer alike.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH, TokenType
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from tests.golden.seeing import QWEN_IMAGES
from tests.golden.tiny_models import TinyCheckpoint
from torch import Tensor

PRE: Final = {MODEL_ARCH.LLAMA: "llama-bpe", MODEL_ARCH.QWEN2: "qwen2", MODEL_ARCH.QWEN2VL: "qwen2"}
_SUFFIXES: Final = (".weight", ".bias")
# Of the types that the package reads and does not write, where in a block the scale lies, and where the minimum.
_SCALES: Final[dict[Kind, tuple[int, ...]]] = {
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
    Kind.IQ4_NL: (0,),
    Kind.IQ4_XS: (0,),
}


def convert_decoder(
    checkpoint: TinyCheckpoint,
    path: Path,
    architecture: MODEL_ARCH,
    *,
    kind: Callable[[str], Kind] = lambda _: Kind.F32,
    extra: Callable[[gguf.GGUFWriter, Any], None] = lambda _, __: None,
) -> Path:
    """`kind`: how a matrix is stored, by its name in the file."""
    model = checkpoint.model
    config = model.config.get_text_config()
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture is not MODEL_ARCH.GEMMA4:
        writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if "rope_theta" in config.rope_parameters:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if architecture is MODEL_ARCH.LLAMA:
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    extra(writer, config)
    if architecture in PRE:
        add_byte_level_vocabulary(writer, checkpoint, PRE[architecture], config.vocab_size)
    writer.add_chat_template(checkpoint.tokenizer.chat_template)

    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {}
    if architecture is MODEL_ARCH.LLAMA:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in text_tensors(model).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        # What has no suffix is given one, as a converter does.
        told = file_name(names, name if name.endswith(_SUFFIXES) else f"{name}.weight")
        count = heads.get(name.split(".")[-2])
        add_tensor(writer, told, tensor, kind(told), None if count is None else interleaved(count, tensor.shape))
    finish(writer)
    return path


def convert_qwen_tower(checkpoint: TinyCheckpoint, path: Path, *, kind: Kind = Kind.F32, fused: bool = False) -> Path:
    """`fused`: queries, keys and values stay together."""
    model = checkpoint.model
    vision = model.config.vision_config
    writer = tower_writer(
        path, vision, "qwen2.5vl_merger", heads=vision.num_heads, layers=vision.depth, out=vision.out_hidden_size
    )
    writer.add_vision_use_silu(True)
    (first, *others) = vision.fullatt_block_indexes
    assert all(at % (first + 1) == first for at in others), "a converter refuses other patterns"
    writer.add_vision_n_wa_pattern(first + 1)
    writer.add_vision_image_mean([0.48145466, 0.4578275, 0.40821073])
    writer.add_vision_image_std([0.26862954, 0.26130258, 0.27577711])
    writer.add_vision_min_pixels(QWEN_IMAGES["min_pixels"])
    writer.add_vision_max_pixels(QWEN_IMAGES["max_pixels"])
    names = gguf.get_tensor_name_map(MODEL_ARCH.MMPROJ, vision.depth)
    for full_name, tensor in model.state_dict().items():
        name = full_name.removeprefix("model.")
        if not name.startswith("visual."):
            continue
        if name == "visual.patch_embed.proj.weight":
            add_tensor(writer, "v.patch_embd.weight", tensor[:, :, 0], kind)
            add_tensor(writer, "v.patch_embd.weight.1", tensor[:, :, 1], kind)
        elif ".qkv." in name and not fused:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                add_tensor(writer, file_name(names, name.replace("qkv", part)), rows, kind)
        else:
            add_tensor(writer, file_name(names, name), tensor, kind)
    finish(writer)
    return path


def convert_gemma_decoder(checkpoint: TinyCheckpoint, path: Path, *, kind: Callable[[str], Kind] = lambda _: Kind.F32) -> Path:
    """What is told of sliding and of full layers apart, the scale of each layer, which pairs turn."""
    tensors = text_tensors(checkpoint.model)

    def extra(writer: gguf.GGUFWriter, config: Any) -> None:
        sliding = [kind == "sliding_attention" for kind in config.layer_types]
        widths = [len(tensors[f"model.layers.{index}.self_attn.k_norm.weight"]) for index in range(len(sliding))]
        rows = [len(tensors[f"model.layers.{index}.self_attn.k_proj.weight"]) for index in range(len(sliding))]
        full, narrow = widths[sliding.index(False)], widths[sliding.index(True)]
        writer.add_key_length(full)
        writer.add_value_length(full)
        writer.add_rope_dimension_count(full)
        writer.add_key_length_swa(narrow)
        writer.add_value_length_swa(narrow)
        writer.add_rope_dimension_count_swa(narrow)
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(sliding)
        writer.add_head_count_kv([row // width for row, width in zip(rows, widths, strict=True)])
        writer.add_shared_kv_layers(0)
        writer.add_embedding_length_per_layer_input(0)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        turns = {name: config.rope_parameters[f"{name}_attention"] for name in ("sliding", "full")}
        writer.add_rope_freq_base(turns["full"]["rope_theta"])
        writer.add_rope_freq_base_swa(turns["sliding"]["rope_theta"])
        rotated = int(full * turns["full"]["partial_rotary_factor"] / 2)
        divisors = np.array([1.0] * rotated + [1e30] * (full // 2 - rotated), np.float32)
        writer.add_tensor("rope_freqs.weight", divisors)
        add_gemma_vocabulary(writer, checkpoint)

    return convert_decoder(checkpoint, path, MODEL_ARCH.GEMMA4, kind=kind, extra=extra)


def convert_gemma_tower(checkpoint: TinyCheckpoint, path: Path, *, kind: Kind = Kind.F32) -> Path:
    """Without a word of how large images are looked at."""
    model = checkpoint.model
    vision = model.config.vision_config
    layers = vision.num_hidden_layers
    out = model.config.get_text_config().hidden_size
    writer = tower_writer(path, vision, "gemma4v", heads=vision.num_attention_heads, layers=layers, out=out)
    names = gguf.get_tensor_name_map(MODEL_ARCH.MMPROJ, layers)
    for name, tensor in model.state_dict().items():
        if "vision" not in name:
            continue
        told = name.replace("model.vision_tower.encoder.", "vision_model.model.").replace(".linear.weight", ".weight")
        if name.endswith("input_proj.weight"):
            add_tensor(writer, file_name(names, told), tensor, kind, colours_first(vision.patch_size, tensor.shape))
        else:
            table = told.endswith("position_embedding_table")
            add_tensor(writer, file_name(names, f"{told}.weight" if table else told), tensor, Kind.F32 if table else kind)
    finish(writer)
    return path


def tower_writer(path: Path, vision: Any, projector: str, *, heads: int, layers: int, out: int) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(projector)
    writer.add_vision_projection_dim(out)
    writer.add_vision_image_size(224)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(heads)
    writer.add_vision_attention_layernorm_eps(1e-6)
    return writer


def file_name(names: gguf.TensorNameMap, name: str) -> str:
    told = names.get_name(name, try_suffixes=_SUFFIXES)
    assert told is not None, name
    return told


def text_tensors(model: Any) -> dict[str, Tensor]:
    """The decoder's own tensors by the names that converters start from."""
    prefixes = {"model.language_model.": "model.", "model.": "model.", "lm_head.": "lm_head."}
    told = {}
    for name, tensor in model.state_dict().items():
        if "visual." in name or "vision" in name:
            continue
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        told[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    return told


@dataclass(frozen=True)
class Order:
    """How a tensor is put into a file, and taken out."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def interleaved(heads: int, shape: torch.Size) -> Order:
    """Rows in the order for a rotation of neighbours."""
    return Order(
        lambda rows: rows.view(heads, 2, -1, shape[1]).transpose(1, 2).reshape(shape),
        lambda rows: rows.view(heads, -1, 2, shape[1]).transpose(1, 2).reshape(shape),
    )


def colours_first(patch: int, shape: torch.Size) -> Order:
    """As a convolution has it."""
    return Order(
        lambda rows: rows.view(-1, patch, patch, 3).permute(0, 3, 1, 2), lambda rows: rows.permute(0, 2, 3, 1).reshape(shape)
    )


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: Kind, order: Order | None = None) -> None:
    """Writes a tensor, and makes of it what was written."""
    values = tensor if order is None else order.there(tensor)
    array: NDArray[np.float32] = values.detach().float().contiguous().numpy()
    if array.ndim == 1 or array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = Kind.F32
    data = random_blocks(kind, array) if kind in _SCALES else gguf.quantize(array, kind)
    # A copy: the tensor is overwritten before the file is.
    writer.add_tensor(name, data.copy(), raw_dtype=kind)
    stored = torch.from_numpy(np.array(gguf.dequantize(data, kind), np.float32)).view(values.shape)
    with torch.no_grad():
        tensor.copy_(stored if order is None else order.back(stored))


def random_blocks(kind: Kind, like: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of any bytes whose weights have mean zero and the size of those of `like`."""
    length, size = gguf.GGML_QUANT_SIZES[kind]
    seed = int(np.abs(like).sum() * 1000)
    data = np.random.default_rng(seed).integers(0, 256, (like.size // length, size), np.uint8)
    places = _SCALES[kind]

    def weights(*scales: float) -> NDArray[np.float32]:
        for at, scale in zip(places, scales, strict=True):
            data[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
        return np.asarray(gguf.dequantize(data, kind), np.float32)

    scales = [1.0]
    if len(places) > 1:
        scales.append(-float(weights(1, 0).mean() / weights(0, 1).mean()))
    factor = float(like.std() / weights(*scales).std())
    weights(*(scale * factor for scale in scales))
    return data.reshape(*like.shape[:-1], -1)


def add_byte_level_vocabulary(writer: gguf.GGUFWriter, checkpoint: TinyCheckpoint, pre: str, vocab_size: int) -> None:
    tokenizer = checkpoint.tokenizer
    texts = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = {
        token_id: TokenType.CONTROL if added[token_id].special else TokenType.USER_DEFINED
        for token_id in texts
        if token_id in added
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([texts.get(token_id, f"[PAD{token_id}]") for token_id in range(vocab_size)])
    writer.add_token_types(
        [kinds.get(token_id, TokenType.NORMAL if token_id in texts else TokenType.UNUSED) for token_id in range(vocab_size)]
    )
    add_merges(writer, checkpoint)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)


def add_gemma_vocabulary(writer: gguf.GGUFWriter, checkpoint: TinyCheckpoint) -> None:
    """As the package reads a folder; what parsers must see is called user defined."""
    visible = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}
    tokens = [(text.decode(), kind) for text, _, kind in gguf.LlamaHfVocab(checkpoint.folder).all_tokens()]
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([TokenType.USER_DEFINED if text in visible else kind for text, kind in tokens])
    add_merges(writer, checkpoint)
    tokenizer = checkpoint.tokenizer
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)


def add_merges(writer: gguf.GGUFWriter, checkpoint: TinyCheckpoint) -> None:
    merges = json.loads(checkpoint.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
