"""Prompt and pixels as transformers' image processors make them; only the resizing is torch's own, as there."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from numpy.typing import NDArray
from tests.golden.pictures import SIZES, picture
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil, get_aspect_ratio_preserving_size
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

# Contents of preprocessor_config.json.
GEMMA_IMAGES: Final = {"patch_size": 16, "pooling_kernel_size": 3, "max_soft_tokens": 70}
QWEN_IMAGES: Final = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 3136, "max_pixels": 28 * 28 * 90}
# What stands before an image of Gemma's, for each of its tokens, and after it.
GEMMA_TOKENS: Final = ("<|image>", "<|image|>", "<image|>")
QWEN_TOKEN: Final = "<|image_pad|>"

Seen = tuple[list[int], dict[str, Any]]
"""The prompt with its images in place, and what the first step sees beside it."""


def seen_by_qwen(tokenizer: PreTrainedTokenizerFast, prompt_ids: Sequence[int], names: Sequence[str]) -> Seen:
    limits = {name: QWEN_IMAGES[name] for name in ("min_pixels", "max_pixels")}
    images = [_resized(name, *smart_resize(*SIZES[name], 28, **limits)) for name in names]
    told = Qwen2VLImageProcessorPil(**QWEN_IMAGES)(images=images, do_resize=False, return_tensors="pt")
    pad = tokenizer.convert_tokens_to_ids(QWEN_TOKEN)
    counts: Iterator[int] = iter((told["image_grid_thw"].prod(-1) // 4).tolist())
    prompt = [one for token in prompt_ids for one in ([token] * next(counts) if token == pad else [token])]
    return prompt, _extras(prompt, pad, told, "image_grid_thw")


def seen_by_gemma(tokenizer: PreTrainedTokenizerFast, prompt_ids: Sequence[int], names: Sequence[str]) -> Seen:
    patches = GEMMA_IMAGES["max_soft_tokens"] * 9
    images = [_resized(name, *get_aspect_ratio_preserving_size(*SIZES[name], 16, patches, 3)) for name in names]
    told = Gemma4ImageProcessorPil(**GEMMA_IMAGES)(images=images, do_resize=False, return_tensors="pt")
    begin, pad, end = tokenizer.convert_tokens_to_ids(list(GEMMA_TOKENS))
    counts = iter([int(count) for count in told["num_soft_tokens_per_image"]])
    prompt = [one for token in prompt_ids for one in ([begin, *[token] * next(counts), end] if token == pad else [token])]
    return prompt, _extras(prompt, pad, told, "image_position_ids")


def _resized(name: str, height: int, width: int) -> NDArray[Any]:
    image = torch.from_numpy(picture(name)).permute(2, 0, 1)[None].contiguous()
    resized = torch.nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    pixels: NDArray[Any] = resized[0].permute(1, 2, 0).numpy()
    return pixels


def _extras(prompt: list[int], pad: int, told: Any, places: str) -> dict[str, Any]:
    return {
        "pixel_values": told["pixel_values"].float(),
        places: told[places],
        "mm_token_type_ids": torch.tensor([[int(token == pad) for token in prompt]]),
    }
