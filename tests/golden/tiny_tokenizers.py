"""Tokenizers of a few hundred tokens, built as those of the families are built: the same steps, the same special tokens."""

import json
import re
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

_CORPUS = (
    "The lighthouse keeper wrote down every ship that passed the harbour of Ness, and the wind came from the north. "
    "Count from 1 to 10. What is the weather in Paris? It is 21 degrees and sunny there. You are a helpful assistant. "
    'def area(width, height):\n    return width * height\n\n{\'name\': \'get_weather\', "parameters": {"city": "Oslo"}}\n'
    "Der Wind weht vom Meer her über die Dächer. 長城 is a wall. What do you see in this picture? A red square, a blue one."
)
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, numbers in threes, a post-processor that adds the beginning token."""
    tokenizer = _byte_level(digits=3, ignore_merges=True)
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    tokenizer.add_special_tokens([f"<|{name}|>" for name in names])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                special_tokens=[("<|begin_of_text|>", begin)],
            ),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, single digits, normalised; the tags of calls are added tokens that stay in the text."""
    tokenizer = _byte_level(digits=1, ignore_merges=False)
    tokenizer.normalizer = normalizers.NFC()
    names = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
    tokenizer.add_special_tokens([f"<|{name}|>" for name in names])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<tool_call>", "</tool_call>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Spaces are a letter of their own, merges cross words, and what is in no vocabulary falls back to bytes."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=specials, show_progress=False, max_token_length=12)
    trained.train_from_iterator([_CORPUS[:600]], trainer)
    vocab = trained.get_vocab()
    merges = [tuple(pair) for pair in _merges_of(trained)]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = ["<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>', "<|think|>"]
    names += ["<|channel>", "<channel|>", "<|turn>", "<turn|>", "<|image>", "<|image|>", "<image|>"]
    tokenizer.add_special_tokens(specials + names)
    begin = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def bytes_of(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """What each token adds to a text."""
    added = tokenizer.get_added_vocab().values()
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    spaced = "<0x00>" in tokenizer.get_vocab()

    def of(token: str, token_id: int) -> bytes:
        if token_id in added:
            return token.encode()
        if not spaced:
            return bytes(byte_of[letter] for letter in token)
        byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
        return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()

    return {token_id: of(token, token_id) for token, token_id in tokenizer.get_vocab().items()}


def _byte_level(*, digits: int, ignore_merges: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LETTERS % digits), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([_CORPUS], trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def _merges_of(tokenizer: Tokenizer) -> list[Any]:
    merges: list[Any] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges
