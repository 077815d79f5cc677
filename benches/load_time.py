"""What it takes to load a model of a size: time, memory at its peak, the first token and those after it.

    python -m benches.load_time --shape llama-3.1-8b [--precision exact] [--folder DIR] [--json]

Writes a folder as the hub has it (random weights in bfloat16, shards of 5 GB, a vocabulary of numbered tokens), loads it in
a process of its own and asks it one question. Never holds more than a part of a tensor while it writes. The weights of the
8B shape take 16 GB on the disk and as much in memory; `--folder` says where, and needs room for them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

import ecocore
from ecocore.events import Finished, TextDelta

ROOT: Final = Path(__file__).parents[1]
DRAWN: Final = 2**22
"""Weights that are drawn; a tensor repeats them from a place of its own."""
SPECIAL: Final = ("<|begin_of_text|>", "<|start|>", "<|end|>")
TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "<|start|>assistant\n"
)
QUESTION: Final = "How long does it take to load a model, and where does the time go?"


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama. `shard_bytes`: how large a file may grow."""

    vocab: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    shard_bytes: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order in which the hub's files have them."""
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for index in range(self.layers):
            layer = f"model.layers.{index}."
            yield layer + "input_layernorm.weight", (self.hidden,)
            yield layer + "mlp.down_proj.weight", (self.hidden, self.mlp)
            yield layer + "mlp.gate_proj.weight", (self.mlp, self.hidden)
            yield layer + "mlp.up_proj.weight", (self.mlp, self.hidden)
            yield layer + "post_attention_layernorm.weight", (self.hidden,)
            for name, heads in (("k", self.kv_heads), ("q", self.heads), ("v", self.kv_heads)):
                yield layer + f"self_attn.{name}_proj.weight", (heads * self.head_dim, self.hidden)
            yield layer + "self_attn.o_proj.weight", (self.hidden, self.heads * self.head_dim)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)

    def shards(self) -> list[list[tuple[str, tuple[int, ...]]]]:
        """The tensors of each file."""
        shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
        size = 0
        for name, shape in self.tensors():
            if size and size + nbytes(shape) > self.shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append((name, shape))
            size += nbytes(shape)
        return shards

    def config(self) -> dict[str, Any]:
        """Contents of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        }


SHAPES: Final = {
    "tiny": Shape(vocab=600, hidden=64, mlp=128, layers=2, heads=4, kv_heads=2, head_dim=16, shard_bytes=10**5),
    # 0.6 GB in five shards.
    "small": Shape(vocab=32_000, hidden=1024, mlp=4096, layers=16, heads=16, kv_heads=8, head_dim=64, shard_bytes=15 * 10**7),
    # 16 GB in four shards.
    "llama-3.1-8b": Shape(
        vocab=128_256, hidden=4096, mlp=14336, layers=32, heads=32, kv_heads=8, head_dim=128, shard_bytes=5 * 10**9
    ),
}


def nbytes(shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in bfloat16."""
    return 2 * torch.Size(shape).numel()


def write(folder: Path, shape: Shape) -> None:
    """Writes the whole folder."""
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(torch.bfloat16)
    shards = shape.shards()
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys((tensor for tensor, _ in tensors), name)
        _write_shard(folder / name, tensors, drawn)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), "utf-8")
    (folder / "config.json").write_text(json.dumps(shape.config()), "utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": shape.vocab - 1}), "utf-8")
    settings = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(shape.vocab)), "utf-8")


def _write_shard(path: Path, tensors: list[tuple[str, tuple[int, ...]]], drawn: torch.Tensor) -> None:
    header, end = {}, 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (end, end := end + nbytes(shape))}
    text = json.dumps(header).encode()
    ones = torch.ones(DRAWN, dtype=torch.bfloat16)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (_, shape) in enumerate(tensors):
            left, start = torch.Size(shape).numel(), 7919 * number % DRAWN
            source = ones if len(shape) == 1 else drawn
            while left:
                piece = source[start % len(source) :][:left]
                file.write(piece.view(torch.uint8).numpy().data)
                left, start = left - len(piece), 0


def _tokenizer(vocab: int) -> dict[str, Any]:
    """Bytes, special tokens, and numbered tokens for the rest: every token that random weights may draw is a text."""
    words = [*_byte_letters(), *(f"#{number}" for number in range(256, vocab - len(SPECIAL)))]
    added = [
        {"id": vocab - len(SPECIAL) + index, "content": text, "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for index, text in enumerate(SPECIAL)
    ]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": bytes_,
        "decoder": bytes_,
        "model": {"type": "BPE", "vocab": {word: index for index, word in enumerate(words)}, "merges": []},
    }


def _byte_letters() -> list[str]:
    """How byte-level vocabularies spell the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


# --- measuring, in a process of its own ------------------------------------------------------------------


class Memory:
    """What this process has in memory, and the most it had of what is its own (no pages of files)."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stops looking."""
        self._ended.set()
        self._thread.join()

    @staticmethod
    def now(field: str) -> int:
        """Bytes under a name of /proc/self/status."""
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return int(next(line for line in lines if line.startswith(field + ":")).split()[1]) * 1024

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.peak = max(self.peak, self.now("RssAnon"))


def measure(folder: Path, *, precision: Any, device: str, kv_cache_mb: int, tokens: int) -> dict[str, Any]:
    """Loads the model, asks it one question and tells the figures."""
    memory = Memory()
    before = memory.now("RssAnon")
    start = time.perf_counter()
    with ecocore.load(folder, precision=precision, device=device, kv_cache_mb=kv_cache_mb) as runtime:
        loaded, loading_peak, resident = time.perf_counter(), memory.peak, memory.now("RssAnon")
        asked = time.perf_counter()
        times = []
        for event in runtime.stream(QUESTION, max_tokens=tokens, temperature=0):
            if isinstance(event, TextDelta):
                times.append(time.perf_counter())
            if isinstance(event, Finished):
                usage = event.usage
    memory.end()
    return {
        "load_s": loaded - start,
        "anon_before_bytes": before,
        "anon_loading_peak_bytes": loading_peak,
        "anon_loaded_bytes": resident,
        "anon_peak_bytes": memory.peak,
        "hwm_bytes": memory.now("VmHWM"),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "first_token_s": times[0] - asked,
        "tokens_per_s": (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None,
    }


def main() -> None:
    """Writes, measures, tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--precision", choices=("fast", "exact"), default="fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kv-cache-mb", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=16, help="of the answer")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    told = {key: getattr(options, key) for key in ("precision", "device", "kv_cache_mb", "tokens")}
    if options.measure is not None:
        print(json.dumps(measure(options.measure, **told)))
        return
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        start = time.perf_counter()
        write(Path(folder), shape)
        written = time.perf_counter() - start
        again = [f"--{key.replace('_', '-')}={value}" for key, value in told.items()]
        command = [sys.executable, "-m", "benches.load_time", "--measure", folder, *again]
        ran = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    shards = [sum(nbytes(size) for _, size in tensors) for tensors in shape.shards()]
    figures = {"shape": options.shape, **told, "write_s": written, "shard_bytes": shards, **json.loads(ran.stdout)}
    print(json.dumps(figures, indent=2) if options.json else _report(figures))


def _report(figures: dict[str, Any]) -> str:
    def size(count: float) -> str:
        return f"{count / 1e6:,.0f} MB"

    files = sum(figures["shard_bytes"])
    in_memory = files * (2 if figures["precision"] == "exact" else 1)
    spare = figures["anon_loading_peak_bytes"] - figures["anon_before_bytes"] - in_memory - figures["kv_cache_mb"] * 2**20
    shards, cache = figures["shard_bytes"], figures["kv_cache_mb"]
    before, loading, loaded, peak = (figures[f"anon_{when}_bytes"] for when in ("before", "loading_peak", "loaded", "peak"))
    speed = figures["tokens_per_s"]
    lines = [
        f"{figures['shape']}, {figures['precision']}, {figures['device']}",
        f"files: {len(shards)} shards, {size(files)}, the largest {size(max(shards))}; written in {figures['write_s']:.1f} s",
        f"load: {figures['load_s']:.1f} s, {files / figures['load_s'] / 1e9:.2f} GB/s",
        f"memory: {size(before)} before, {size(loading)} at most while loading, {size(loaded)} after it, {size(peak)} in all",
        f"beside weights of {size(in_memory)} and a cache of {cache} MiB, loading took {size(spare)}",
        f"VmHWM, with pages of files: {size(figures['hwm_bytes'])}",
        f"first token of {figures['prompt_tokens']} of prompt: {figures['first_token_s']:.2f} s",
        "then: " + ("nothing" if speed is None else f"{speed:.2f} tokens/s"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
