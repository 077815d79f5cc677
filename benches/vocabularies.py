"""Vocabularies of real models as `tokenizers.Tokenizer`, put together from GGUF files.

SmolLM2's is installed. Those of Llama 3, Qwen2 and Gemma 4 lie in the source package of llama-cpp-python, which `fetch` gets from
the package index by name and hash; only the vocabularies are taken out of it.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benches import workloads

_PACKAGE: Final = "llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e\n"
_FILES: Final = {"Llama 3": "ggml-vocab-llama-bpe.gguf", "Qwen2": "ggml-vocab-qwen2.gguf", "Gemma 4": "ggml-vocab-gemma-4.gguf"}
NAMES: Final = ("SmolLM2", *_FILES)

# Types of tokens in a GGUF vocabulary: recognised in text, the first kind left out of decoded text.
_CONTROL, _USER_DEFINED = 3, 4

_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def fetch(folder: Path) -> None:
    """Gets the files that `folder` lacks."""
    if all((folder / name).is_file() for name in _FILES.values()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(_PACKAGE, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--no-binary", "llama-cpp-python", "-r", requirements, "-d", scratch], check=True)
        (package,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(package) as files:
            for member in files:
                name = Path(member.name).name
                if name in _FILES.values() and (content := files.extractfile(member)) is not None:
                    (folder / name).write_bytes(content.read())


def oracles(folder: Path | None) -> Iterator[tuple[str, Any]]:
    """Name and tokenizer of each vocabulary that is there: SmolLM2, and what `fetch` put into `folder`."""
    yield "SmolLM2", oracle(workloads.model_path())
    for name, file in _FILES.items():
        if folder is not None and (folder / file).is_file():
            yield name, oracle(folder / file)


def oracle(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a GGUF file's vocabulary."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models

    fields = GGUFReader(path).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    pre = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else ""
    vocab = {token: number for number, token in enumerate(tokens)}
    if fields["tokenizer.ggml.model"].contents() == "gemma4":
        tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        replace, unite = decoders.Replace("\u2581", " "), decoders.Fuse()
        tokenizer.decoder = decoders.Sequence([replace, decoders.ByteFallback(), unite])
    else:
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe"))
        tokenizer.decoder = decoders.ByteLevel()
    _cut(tokenizer, pre)
    typed = list(zip(tokens, kinds, strict=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in typed if kind == _CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token, kind in typed if kind == _USER_DEFINED])
    return tokenizer


def _cut(tokenizer: Any, pre: str) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "smollm")
    if pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    elif pre in ("llama-bpe", "qwen2"):
        pattern = _WORDS.replace("@", "{1,3}" if pre == "llama-bpe" else "")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])
        if pre == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
