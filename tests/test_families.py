"""The registry of families: found by what a checkpoint calls itself, without importing torch."""

import copy
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.golden.tiny_models import MODELS, SEEING, TinyCheckpoint

from ecocore._core import OutputStreams, Tokenizer
from ecocore.errors import InvalidModelFile
from ecocore.families import FAMILIES, family_of
from ecocore.weights.checkpoint import open_checkpoint


@dataclass
class Described:
    format: Literal["gguf", "safetensors"]
    config: dict[str, Any]
    path = Path("described")
    settings_name = "config.json"


@dataclass
class SettingsAlone(Described):
    """A folder's settings without its tensors."""

    image_settings: dict[str, Any]


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
        (Described("gguf", {"general.architecture": ["llama"]}), "it runs gemma4, llama, "),
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


# What stands in settings by mistake or by malice: other types, numbers that are none, too large, below what makes sense.
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 10**9, 2**63, 10**400, -1.5, 0.0, 1e-320, math.nan, math.inf, -math.inf, 1e308]),
    st.sampled_from(
        ["", "x", "default", "llama3", "vision", "full_attention", [], [1], [[1]], ["x"], {}, {"x": 1}, [math.nan, 1, 1]]
    ),
)


@pytest.fixture(scope="module", params=["llama3 sharded, hub", "qwen2 tied", "qwen2.5-vl", "gemma4"])
def settings_of_a_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SettingsAlone:
    model = {**MODELS, **SEEING}[request.param]
    checkpoint = open_checkpoint(TinyCheckpoint(model, tmp_path_factory.mktemp("tiny")).folder)
    return SettingsAlone("safetensors", dict(checkpoint.config), dict(checkpoint.image_settings))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_settings_of_any_value_give_a_config_or_an_error(settings_of_a_model: SettingsAlone, data: st.DataObject) -> None:
    changed = copy.deepcopy(settings_of_a_model)
    family = family_of(changed)
    for _ in range(data.draw(st.integers(1, 3))):
        place: dict[str, Any] = changed.config if data.draw(st.integers(0, 5)) else changed.image_settings
        # Down into an object within, or a member of this one.
        while inner := [key for key in place if isinstance(place[key], dict) and place[key]]:
            if not data.draw(st.booleans()):
                break
            place = place[data.draw(st.sampled_from(sorted(inner)))]
        if place:
            place[data.draw(st.sampled_from(sorted(place)))] = data.draw(HOSTILE)
    try:
        config = family.configure(changed)
        family.look(changed)
    except InvalidModelFile as error:
        assert len(str(error)) < 400  # noqa: PT017 (a message that quotes the file's own text in full)
        return
    assert all(1 <= layer.num_kv_heads <= config.num_heads for layer in config.kv_layers)
    assert config.vocab_size >= 1 <= config.context_length
