"""The model families that ecocore serves, one row each.

Takes what a checkpoint calls its architecture, gives the row. Modules are named as strings: this file imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from ecocore.errors import InvalidModelFile, InvalidParameter


class DescribedCheckpoint(Protocol):
    """The part of a checkpoint that tells its architecture."""

    @property
    def path(self) -> Path:
        """What it was opened by."""

    @property
    def format(self) -> Literal["gguf", "safetensors"]:
        """Which of the two vocabularies `config` speaks."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of config.json, or the GGUF metadata."""


@dataclass(frozen=True)
class Family:
    """One model family: what its checkpoints call it and where its code is ("module:name")."""

    name: str
    hf_architectures: tuple[str, ...]
    gguf_architectures: tuple[str, ...]
    model: str
    config: str
    gguf: str
    """What tells its GGUF files in the words of its folders."""
    tool_syntax: Literal["llama", "hermes", "gemma"]
    """How it writes tool calls, unless its template shows another way."""
    thinks: bool = False
    """Whether its models may think aloud before they answer."""
    thoughts: tuple[str, ...] = ("<think>", "<think>\n")
    """How its templates open a thought that the model is to go on with."""
    viewer: str | None = None
    """How its models look at images; None if they see none."""
    gguf_begins: tuple[str, ...] = ("llama-bpe",)
    """Kinds of vocabularies whose texts begin with a token where a GGUF file does not say whether they do."""
    gguf_ends: tuple[str, ...] = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>")
    """Tokens that end an answer wherever a vocabulary of its models has them. GGUF files name few, where folders list all."""

    def model_class(self) -> Any:
        """The class that computes this family; imports torch."""
        return _named(self.model)

    def told(self, checkpoint: Any) -> Any:
        """A checkpoint of this family in the words of a folder, whatever its format. Raises InvalidModelFile."""
        if checkpoint.format == "safetensors":
            return checkpoint
        checkpoint.begin_with(self.gguf_begins)
        checkpoint.end_with(self.gguf_ends)
        return _named(self.gguf).of(checkpoint)

    def configure(self, checkpoint: DescribedCheckpoint) -> Any:
        """The config of a checkpoint as `told`. Raises InvalidModelFile."""
        return _named(self.config).of(checkpoint)

    def look(self, checkpoint: DescribedCheckpoint, mmproj: Path | None = None) -> Any:
        """How a checkpoint as `told` looks at images, or None. Raises InvalidModelFile.

        `mmproj`: the part that sees, if one was named. Raises InvalidParameter where there is nothing that it could see for.
        """
        viewer = None if self.viewer is None else _named(self.viewer).of(checkpoint)
        if mmproj is not None and viewer is None:
            raise InvalidParameter("mmproj", f"is for models that see images, and {checkpoint.path.name} is none")
        return viewer


FAMILIES = (
    Family(
        name="llama",
        hf_architectures=("LlamaForCausalLM",),
        gguf_architectures=("llama",),
        model="ecocore.model.llama:Llama",
        config="ecocore.model.llama_config:LlamaConfig",
        gguf="ecocore.model.llama_gguf:LlamaGguf",
        tool_syntax="llama",
    ),
    Family(
        name="qwen2",
        hf_architectures=("Qwen2ForCausalLM",),
        gguf_architectures=("qwen2",),
        model="ecocore.model.llama:Llama",
        config="ecocore.model.qwen2_config:Qwen2Config",
        gguf="ecocore.model.llama_gguf:Qwen2Gguf",
        tool_syntax="hermes",
    ),
    Family(
        name="qwen2.5-vl",
        hf_architectures=("Qwen2_5_VLForConditionalGeneration",),
        gguf_architectures=("qwen2vl",),
        model="ecocore.model.qwen2_5_vl:Qwen25Vl",
        config="ecocore.model.qwen2_5_vl_config:Qwen25VlConfig",
        gguf="ecocore.model.qwen2_5_vl_gguf:Qwen25VlGguf",
        tool_syntax="hermes",
        viewer="ecocore.prompt.images.qwen2_5_vl:Qwen25VlViewer",
    ),
    Family(
        name="gemma4",
        hf_architectures=("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"),
        gguf_architectures=("gemma4",),
        model="ecocore.model.gemma4:Gemma4",
        config="ecocore.model.gemma4_config:Gemma4Config",
        gguf="ecocore.model.gemma4_gguf:Gemma4Gguf",
        tool_syntax="gemma",
        thinks=True,
        thoughts=("<|channel>thought\n",),
        viewer="ecocore.prompt.images.gemma4:Gemma4Viewer",
        gguf_ends=("<turn|>", "<|tool_response>"),
    ),
)


def family_of(checkpoint: DescribedCheckpoint) -> Family:
    """The family of a checkpoint. Raises InvalidModelFile naming an unknown architecture and the known ones."""
    if checkpoint.format == "gguf":
        key = "general.architecture"
        names = [checkpoint.config.get(key)]
        known = {name: family for family in FAMILIES for name in family.gguf_architectures}
    else:
        key = "architectures"
        listed = checkpoint.config.get(key)
        names = list(listed) if isinstance(listed, list | tuple) else [listed]
        known = {name: family for family in FAMILIES for name in family.hf_architectures}
    for name in names:
        if isinstance(name, str) and name in known:
            return known[name]
    found = ", ".join(f"{name!r:.80}" for name in names[:3]) or "an empty list"
    raise InvalidModelFile(f"{key} is {found}, which this version cannot run; it runs {', '.join(sorted(known))}")


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
