"""The script around guidellm: its tokenizer is ours, and it passes only what was answered whole. The tool itself is not run."""

from pathlib import Path
from typing import Any

import pytest
from benches.with_guidellm import OUTPUT_TOKENS, all_answered, save_tokenizer

from ecocore import Tokenizer
from ecocore.weights.embedded import embedded_model_path


@pytest.mark.weights
def test_the_folder_holds_the_tokenizer_of_the_embedded_model(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    made, ours = Tokenizer.from_file(tmp_path / "tokenizer.json"), Tokenizer.from_file(embedded_model_path())
    for text in ("Hello, world!", "Zürich  in\n\nwinter: 数学 \N{OWL}", "<|im_start|>user\nhi<|im_end|>"):
        assert made.encode(text) == ours.encode(text)


def figures(successful: int = 8, errored: int = 0, incomplete: int = 0, shortest: int = OUTPUT_TOKENS) -> Any:
    return {
        "request_totals": {"successful": successful, "errored": errored, "incomplete": incomplete},
        "output_token_count": {"successful": {"min": shortest, "max": OUTPUT_TOKENS}},
    }


def test_only_a_run_without_any_fault_passes() -> None:
    assert all_answered(figures(), 8)
    assert not all_answered(figures(successful=7, errored=1), 8)
    assert not all_answered(figures(successful=7, incomplete=1), 8)
    assert not all_answered(figures(successful=7), 8)
    assert not all_answered(figures(shortest=OUTPUT_TOKENS - 1), 8)
