"""Records what transformers computes, for the tests to hold ecocore to. Needs transformers, torch and gguf.

    python -m tests.golden.record

Writes tiny_llama.json and smollm2_greedy.json beside this file; README.md there tells what is in them.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from tests.golden.prompts import PROMPTS, TIE_MARGIN, TOKENS
from tests.model.checkpoints import GGUF_NAMES, TINY_CASES, tiny_prompt, tiny_tensors
from transformers import LlamaConfig, LlamaForCausalLM

from ecocore import Tokenizer
from ecocore.prompt.template import ChatTemplate
from ecocore.weights.checkpoint import open_checkpoint
from ecocore.weights.embedded import embedded_model_path

HERE = Path(__file__).parent


def record_tiny() -> None:
    """Last logits of tiny random models that differ in one fact each."""
    cases = {}
    for name, config in TINY_CASES.items():
        model = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in config.items() if key != "architectures"}))
        tensors = tiny_tensors(config)
        if config["tie_word_embeddings"]:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.float().eval().load_state_dict(tensors)
        with torch.no_grad():
            logits = model(torch.tensor([tiny_prompt()])).logits[0, -1]
        cases[name] = [round(value, 6) for value in logits.tolist()]
    _write("tiny_llama.json", {"logits": cases})


def record_smollm2() -> None:
    """Greedy continuations of the embedded model, with the margin by which each token won."""
    path = embedded_model_path()
    model = _llama_of(path)
    checkpoint = open_checkpoint(path)
    tokenizer, template = Tokenizer.from_file(path), ChatTemplate(checkpoint.chat_template or "", checkpoint.special_tokens)
    cases = []
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer.encode(prompt if isinstance(prompt, str) else template.render(prompt))
        case = _greedy(model, prompt_ids)
        print(f"{name:12} {len(prompt_ids):4} tokens, least margin {min(case['margins']):.5f}")  # noqa: T201
        if min(case["margins"]) < TIE_MARGIN:
            raise SystemExit(f"{name}: that margin is a tie; pick another prompt")
        cases.append({"name": name, "prompt_ids": prompt_ids} | case)
    _write("smollm2_greedy.json", {"cases": cases})


def _llama_of(path: Path) -> LlamaForCausalLM:
    """transformers' model with the weights of a GGUF file, read and dequantised by the gguf package.

    transformers could read the file itself, but only with one package more.
    """
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=fields["llama.rope.freq_base"],
        tie_word_embeddings=True,
    )
    weights = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            count = heads if "attn_q" in tensor.name else kv_heads
            weight = torch.stack([head for matrix in weight.chunk(count) for head in (matrix[0::2], matrix[1::2])]).flatten(0, 1)
        weights[_hf_name(tensor.name)] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).float().eval()
    model.load_state_dict(weights)
    return model


def _hf_name(name: str) -> str:
    for theirs, ours in sorted(GGUF_NAMES.items(), key=lambda pair: -len(pair[1])):  # "output_norm" before "output"
        name = name.replace(ours, theirs)
    return name


@torch.no_grad()
def _greedy(model: Any, prompt_ids: list[int]) -> dict[str, Any]:
    token_ids, logprobs, margins = [], [], []
    inputs, cache = torch.tensor([prompt_ids]), None
    for _ in range(TOKENS):
        output = model(inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].log_softmax(-1).topk(2)
        token_ids.append(int(best.indices[0]))
        logprobs.append(round(float(best.values[0]), 6))
        margins.append(round(float(best.values[0] - best.values[1]), 6))
        inputs = best.indices[:1].view(1, 1)
    return {"token_ids": token_ids, "logprobs": logprobs, "margins": margins}


def _write(name: str, content: dict[str, Any]) -> None:
    made_with = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = json.dumps({"made_with": made_with} | content, indent=1)
    # A list of numbers belongs on one line: the file is read by people too.
    lines = re.sub(r"\[\s+([-\d.,\se]+?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", lines)
    (HERE / name).write_text(lines + "\n", "utf-8")


if __name__ == "__main__":
    record_tiny()
    record_smollm2()
