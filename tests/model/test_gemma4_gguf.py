"""GGUF files of Gemma 4 in the words of folders: what is refused before anything is read of them."""

from typing import Any

import pytest
from tests.model.checkpoints import MemoryCheckpoint

from ecocore.errors import InvalidModelFile
from ecocore.families import family_of


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embedding_length_per_layer_input": 256}, "gemma4.embedding_length_per_layer_input is set"),
        ({"expert_count": 8}, "gemma4.expert_count is set"),
        ({"rope.scaling.type": "yarn"}, "gemma4.rope.scaling.type is 'yarn'"),
        ({"rope.scaling.factor": 8.0}, "gemma4.rope.scaling.factor is 8.0"),
        ({"rope.scale_linear": 8.0}, "gemma4.rope.scale_linear is 8.0"),
        ({"rope.scaling.factor": 1.0}, "has no tensor rope_freqs.weight"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    metadata = {"general.architecture": "gemma4", **{f"gemma4.{key}": value for key, value in change.items()}}
    checkpoint = MemoryCheckpoint({}, metadata, format="gguf")
    with pytest.raises(InvalidModelFile) as raised:
        family_of(checkpoint).told(checkpoint)
    assert said in str(raised.value)
