"""The registry of families: found by what a checkpoint calls itself, without importing torch."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ecocore._core import OutputStreams, Tokenizer
from ecocore.errors import InvalidModelFile
from ecocore.families import FAMILIES, family_of


@dataclass
class Described:
    format: Literal["gguf", "safetensors"]
    config: dict[str, Any]


def test_both_formats_lead_to_the_same_row() -> None:
    folder = Described("safetensors", {"architectures": ["LlamaForCausalLM"]})
    file = Described("gguf", {"general.architecture": "llama"})
    assert family_of(folder) is family_of(file) is FAMILIES[0]


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (Described("safetensors", {"architectures": ["MambaForCausalLM"]}), "architectures is 'MambaForCausalLM'"),
        (Described("safetensors", {"architectures": []}), "architectures is an empty list"),
        (Described("safetensors", {}), "architectures is None"),
        (Described("safetensors", {"architectures": ["llama"]}), "LlamaForCausalLM, "),
        (Described("gguf", {"general.architecture": "mamba"}), "general.architecture is 'mamba'"),
        (Described("gguf", {"general.architecture": ["llama"]}), "it runs llama, "),
    ],
)
def test_an_unknown_architecture_is_named_with_the_known_ones(checkpoint: Described, said: str) -> None:
    with pytest.raises(InvalidModelFile, match="which this version cannot run") as raised:
        family_of(checkpoint)
    assert said in str(raised.value)


def test_every_row_names_classes_that_exist() -> None:
    for family in FAMILIES:
        assert callable(family.model_class())
        assert family.model_class().__name__ == family.model.split(":")[1]


def test_reading_the_registry_imports_no_torch() -> None:
    code = "import sys, ecocore.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_family_writes_calls_in_a_syntax_that_can_be_read() -> None:
    streams = OutputStreams(Tokenizer.bytes_only())
    for number, family in enumerate(FAMILIES):
        streams.open(number, request_id=1, choice=0, prompt_tokens=1, max_tokens=1, tool_syntax=family.tool_syntax)
