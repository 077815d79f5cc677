"""The runner: what a sequence computes never depends on its company, and what the runner tells about itself."""

from typing import Any

import pytest
import torch
from tests.model.checkpoints import TINY, VOCAB, MemoryCheckpoint, tiny_prompt, tiny_tensors
from tests.model.driver import Driver, Line, runner_of

from ecocore.errors import InvalidConfiguration
from ecocore.model import runner as runner_module
from ecocore.model.invariance import HEAD_ROWS
from ecocore.model.kv_groups import KvGroup
from ecocore.model.layers import Linear
from ecocore.model.runner import ModelRunner


def tiny(config: dict[str, Any] = TINY, *, seed: int = 0, stored: torch.dtype = torch.float32) -> MemoryCheckpoint:
    return MemoryCheckpoint(tiny_tensors(config, seed=seed), config, stored_dtype=stored)


@pytest.fixture(scope="module", params=["exact", "fast"])
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    return runner_of(tiny(), precision=request.param)


def prompt(length: int, start: int = 0) -> list[int]:
    return tiny_prompt(start + length)[start:]


def greedy_alone(runner: ModelRunner, ids: list[int], count: int) -> tuple[list[int], list[torch.Tensor]]:
    line = Line.of(ids)
    logits = Driver(runner).greedy([line], count)[0]
    return line.token_ids, logits


LENGTHS = [1, 15, 16, 17, 40, 64, 100]


def test_rows_are_asked_up_to_the_largest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(runner_module, "settle", lambda linears, largest: asked.append(largest))
    runner_of(tiny(), step_tokens=785)
    assert asked == [788]


def test_the_head_sees_no_more_rows_than_it_was_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    # Decode rows of 70 sequences, whose tokens are drawn from two calls.
    runner = runner_of(tiny())
    prompts = [prompt(2 + index % 5, index % 30) for index in range(70)]
    alone = [greedy_alone(runner, ids, 2) for ids in prompts]
    seen: list[int] = []
    compute = runner._model.logits

    def noting(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return compute(rows)

    monkeypatch.setattr(runner._model, "logits", noting)
    lines = [Line.of(ids) for ids in prompts]
    together = Driver(runner, seed=3).greedy(lines, 2)
    assert max(seen) == HEAD_ROWS < 70
    for line, logits, (token_ids, expected) in zip(lines, together, alone, strict=True):
        assert line.token_ids == token_ids
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(logits, expected, strict=True))


def test_company_changes_no_bit(runner: ModelRunner) -> None:
    prompts = [prompt(length, index) for index, length in enumerate(LENGTHS)]
    alone = [greedy_alone(runner, ids, 20) for ids in prompts]
    lines = [Line.of(ids) for ids in prompts]
    together = Driver(runner, seed=1).greedy(lines, 20)
    for line, logits, (token_ids, expected) in zip(lines, together, alone, strict=True):
        assert line.token_ids == token_ids
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(logits, expected, strict=True))


def test_prefill_beside_decode_changes_no_bit(runner: ModelRunner) -> None:
    expected = greedy_alone(runner, prompt(40), 3)[1]
    driver, line, other = Driver(runner), Line.of(prompt(40)), Line.of(prompt(90, 7))
    steps = [
        driver.step(other.part(0, 32), line.prompt)[1],
        _after(driver, line, lambda: driver.step(line.last, other.part(32, 64))[0], expected[0]),
        _after(driver, line, lambda: driver.step(other.part(64, 90), line.last)[1], expected[1]),
    ]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(steps, expected, strict=True))


def _after(driver: Driver, line: Line, step: Any, logits: torch.Tensor) -> torch.Tensor:
    line.token_ids.append(int(logits.argmax()))
    result: torch.Tensor = step()
    return result


@pytest.mark.parametrize("chunk", [16, 32, 48])
def test_chunks_of_a_prompt_change_no_bit(runner: ModelRunner, chunk: int) -> None:
    whole = greedy_alone(runner, prompt(100), 5)[1]
    line = Line.of(prompt(100))
    chunked = Driver(runner, seed=2).greedy([line], 5, chunk=chunk)[0]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(chunked, whole, strict=True))


def test_a_prefix_hit_changes_no_bit(runner: ModelRunner) -> None:
    expected = greedy_alone(runner, prompt(70), 1)[1][0]
    driver, first = Driver(runner), Line.of(prompt(70)[:50] + prompt(9, 3))
    driver.step(first.prompt)
    second = Line.of(prompt(70))
    second.blocks = first.blocks[:3]
    assert torch.equal(driver.step(second.part(48, 70))[0], expected)


def test_recomputation_after_preemption_changes_no_bit(runner: ModelRunner) -> None:
    token_ids, logits = greedy_alone(runner, prompt(21), 30)
    driver, other = Driver(runner, seed=3), Line.of(prompt(30, 5))
    line = Line(token_ids[:-1], 21)
    # The prompt and all tokens drawn so far are computed again at once, in other blocks and beside another sequence.
    assert torch.equal(driver.step(other.prompt, line.part(0, 50))[1], logits[-1])
    driver.release(line)
    driver.step(line.part(0, 16), other.part(0, 16))
    driver.step(line.part(16, 33))
    assert torch.equal(driver.step(line.part(33, 50))[0], logits[-1])


def test_released_blocks_leave_nothing_behind(runner: ModelRunner) -> None:
    expected = greedy_alone(runner, prompt(20), 15)[1]
    driver, poison = Driver(runner), Line.of(prompt(runner.context_length))
    driver.step(poison.prompt)
    with torch.inference_mode():
        for layer in runner._cache._layers:
            layer.fill_(float("nan"))
    driver.release(poison)
    logits = driver.greedy([Line.of(prompt(20))], 15)[0]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(logits, expected, strict=True))


def test_logits_come_as_float32_for_rows_that_sample_alone(runner: ModelRunner) -> None:
    driver, first, second = Driver(runner), Line.of(prompt(32)), Line.of(prompt(5))
    batch = driver.batch(first.part(0, 16), second.prompt)
    batch = type(batch)(**{name: getattr(batch, name) for name in batch.__slots__} | {"sample_indices": batch.sample_indices[1:]})
    logits = runner.forward(batch)
    assert (logits.shape, logits.dtype, logits.device.type) == ((1, VOCAB), torch.float32, "cpu")
    assert torch.equal(logits[0], greedy_alone(runner, prompt(5), 1)[1][0])


def test_a_step_without_samples_gives_no_rows(runner: ModelRunner) -> None:
    driver, line = Driver(runner), Line.of(prompt(32))
    batch = driver.batch(line.part(0, 16))
    batch = type(batch)(**{name: getattr(batch, name) for name in batch.__slots__} | {"sample_indices": batch.sample_indices[:0]})
    assert runner.forward(batch).shape == (0, VOCAB)


def test_dependent_rows_are_cured_by_slower_ways(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    product = Linear._product
    monkeypatch.setattr(Linear, "_product", lambda self, rows: product(self, rows) * (1 + len(rows) * 1e-4))
    monkeypatch.setattr(runner_module, "decodes_stand_alone", lambda *_, **geometry: False)
    runner = runner_of(tiny())
    assert [record.message.split(":")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "rows of matrix products depend on each other on this machine",
        "rows of attention depend on each other on this machine",
    ]
    expected = greedy_alone(runner, prompt(17), 4)[1]
    lines = [Line.of(prompt(17)), *(Line.of(prompt(length)) for length in (3, 30, 18, 50, 1))]
    together = Driver(runner).greedy(lines, 4)[0]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(together, expected, strict=True))


# --- what it tells about itself --------------------------------------------------------------------------


def test_the_context_is_what_model_and_pool_both_hold() -> None:
    block = 2 * 16 * 2 * 2 * 16 * 4
    small, large = runner_of(tiny(), kv_cache_bytes=5 * block), runner_of(tiny(), kv_cache_bytes=99 * block)
    assert (small.groups, small.block_size, small.context_length, small.vocab_size) == ((KvGroup(5, None),), 16, 80, VOCAB)
    assert (large.groups, large.context_length) == ((KvGroup(99, None),), 512)


@pytest.mark.parametrize(
    ("stored", "precision", "bits"),
    [
        (torch.float32, None, 32),
        (torch.bfloat16, None, 16),
        (torch.bfloat16, "exact", 32),
        (torch.float32, "fast", 16),
    ],
)
def test_precision_follows_the_folder_unless_told(stored: torch.dtype, precision: str | None, bits: int) -> None:
    runner = runner_of(tiny(stored=stored), precision=precision)
    assert runner._cache.block_bytes(0) == 16 * 2 * 2 * 16 * bits // 8


def test_the_fingerprint_changes_with_whatever_changes_the_answer() -> None:
    same = [runner_of(tiny()).fingerprint for _ in range(2)]
    other = [
        runner_of(tiny(seed=1)).fingerprint,
        runner_of(tiny(TINY | {"rope_theta": 500.0})).fingerprint,
        runner_of(tiny(), precision="fast").fingerprint,
        runner_of(tiny(), block_size=32).fingerprint,
    ]
    assert same[0] == same[1]
    assert same[0].startswith("fp_")
    assert len({same[0], *other}) == 5


@pytest.mark.parametrize("device", ["tpu", "mps", "gpu0", "cuda:99"])
def test_an_unusable_device_is_refused_by_name(device: str) -> None:
    with pytest.raises(InvalidConfiguration, match=device):
        ModelRunner.load(lambda *_, **__: None, None, tiny(), device=device)  # type: ignore[arg-type]
