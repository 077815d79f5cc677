"""What is refused before a weight is read: tokens that the model has no row for, a part that sees for a model that does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import MODEL_ARCH
from tests.golden.converted import convert_decoder
from tests.golden.tiny_models import MODELS, SEEING, TinyCheckpoint

from ecocore import cli
from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.runtime import Runtime

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyCheckpoint(SEEING["gemma4"], tmp_path_factory.mktemp("tiny")).folder


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(tiny, tmp_path / "folder"))


def change(path: Path, how: Change) -> None:
    settings = json.loads(path.read_text("utf-8")) if path.exists() else {}
    how(settings)
    path.write_text(json.dumps(settings), "utf-8")


def add_token(tokenizer: dict[str, Any]) -> None:
    added = tokenizer["added_tokens"]
    next_id = 1 + max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added))
    added.append(added[-1] | {"id": next_id, "content": "<|late|>"})


@pytest.mark.parametrize(
    ("file", "how", "said"),
    [
        ("tokenizer.json", add_token, r"its tokenizer has tokens up to (\d+), but the model knows \1 tokens"),
        ("config.json", lambda config: config.update(image_token_id=9001), "an image has tokens up to 9001"),
        ("config.json", lambda config: config.update(boi_token_id=9002), "an image has tokens up to 9002"),
        ("config.json", lambda config: config.update(eoi_token_id=9003), "an image has tokens up to 9003"),
        ("generation_config.json", lambda config: config.update(eos_token_id=[1, 9004]), "an answer ends with tokens up to 9004"),
    ],
)
def test_tokens_that_the_model_has_no_row_for_are_refused(folder: Path, file: str, how: Change, said: str) -> None:
    change(folder / file, how)
    with pytest.raises(InvalidModelFile, match=said):
        Runtime.load(folder, kv_cache_mb=4, progress=False)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_angles_that_would_be_no_numbers_are_refused(folder: Path, part: str) -> None:
    def how(config: dict[str, Any]) -> None:
        rope = config[part]["rope_parameters"]
        rope.get("full_attention", rope)["rope_theta"] = 1e-320

    change(folder / "config.json", how)
    with pytest.raises(InvalidModelFile, match="infinite or not a number"):
        Runtime.load(folder, kv_cache_mb=4, progress=False)


def test_half_a_character_in_a_template_for_tools_is_refused(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").unlink()
    told = [{"name": "default", "template": template}, {"name": "tool_use", "template": "\ud800"}]
    change(folder / "tokenizer_config.json", lambda config: config.update(chat_template=told))
    with pytest.raises(InvalidModelFile, match="half a character"):
        Runtime.load(folder, kv_cache_mb=4, progress=False)


@pytest.mark.parametrize("verb", ["show", "fit"])
def test_a_part_that_sees_is_refused_for_models_that_do_not(tmp_path: Path, verb: str) -> None:
    path = convert_decoder(TinyCheckpoint(MODELS["qwen2 tied"], tmp_path), tmp_path / "text.gguf", MODEL_ARCH.QWEN2)
    with pytest.raises(InvalidParameter, match="mmproj: is for models that see images"):
        cli.app([verb, str(path), "--mmproj", "/nonexistent"], standalone_mode=False)
