"""Cards and needs of models, against what a loaded one takes."""

import json
from pathlib import Path

import pytest
import torch
from tests.golden.tiny_models import MODELS, SEEING, TinyCheckpoint

from ecocore import cli
from ecocore.capacity import Capacity
from ecocore.describing import describe, need
from ecocore.families import family_of
from ecocore.model.runner import ModelRunner
from ecocore.weights.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyCheckpoint(SEEING["gemma4"], tmp_path_factory.mktemp("tiny")).folder


def test_a_card_tells_what_the_model_is(folder: Path) -> None:
    card = describe(folder)
    assert (card.family, card.format, card.stored, card.precision) == ("gemma4", "safetensors", "float32", "exact")
    assert (card.layers, card.heads, card.windows, card.images, card.reasoning) == (9, 6, (40,), True, True)
    assert card.cached_numbers == 6 * 2 * 3 * 12 + 3 * 2 * 2 * 16
    assert card.windowed_numbers == (6 * 2 * 3 * 12,)
    assert card.file_bytes == 4 * card.parameters


def test_a_need_is_what_the_cache_and_the_context_take(folder: Path) -> None:
    card = describe(folder)
    told = need(card, precision=None, kv_cache_mb=1, device="cpu")
    checkpoint = open_checkpoint(folder)
    family = family_of(checkpoint)
    runner = ModelRunner.load(
        family.model_class(),
        family.configure(checkpoint),
        checkpoint,
        device="cpu",
        kv_cache_bytes=2**20,
        step_tokens=Capacity().step_tokens,
    )
    assert told.cached_tokens == runner.context_length
    kept, windowed = card.cached_numbers - card.windowed_numbers[0], card.windowed_numbers[0]
    most = -(-(40 + 2 * Capacity().step_tokens) // 64) + 1
    assert told.full_context == 4 * (kept * card.context_length + windowed * min(64 * most, card.context_length))
    assert need(card, precision="fast", kv_cache_mb=1, device="cpu").weights * 2 == told.weights
    # The tied head is in memory twice, but not on a device.
    assert told.weights - need(card, precision=None, kv_cache_mb=1, device="cuda").weights == 4 * card.shared_numbers > 0


def test_the_verbs_print_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(["show", str(folder)], standalone_mode=False)
    assert "gemma4" in capsys.readouterr().out
    cli.app(["show", str(folder), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["windows"] == [40]
    cli.app(["fit", str(folder), "--kv-cache-mb", "1", "--device", "cpu"], standalone_mode=False)
    assert "which holds" in capsys.readouterr().out
    cli.app(["fit", str(folder), "--json", "--precision", "fast"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["peak"] == told["weights"] + told["loading"] + told["cache"]


def test_a_device_is_counted_where_it_would_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(*options: str) -> int:
        cli.app(["fit", str(folder), "--json", *options], standalone_mode=False)
        return int(json.loads(capsys.readouterr().out)["peak"])

    told = {}
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        told[has] = [peak(*options) for options in ((), ("--device", "auto"), ("--device", "cpu"), ("--device", "cuda:1"))]
    on_processor, on_device = told[False][2:]
    assert on_processor > on_device
    assert told == {
        False: [on_processor, on_processor, on_processor, on_device],
        True: [on_device, on_device, on_processor, on_device],
    }


def test_a_folder_without_a_family_is_refused(tmp_path: Path) -> None:
    folder = TinyCheckpoint(MODELS["qwen2 tied"], tmp_path).folder
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}), "utf-8")
    with pytest.raises(Exception, match="MambaForCausalLM"):
        cli.app(["show", str(folder)], standalone_mode=False)
