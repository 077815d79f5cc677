"""How often each token is drawn, against float64: Pearson's chi-square, parameters of every kind, vocabularies of 2 to 262144.

Seeds are fixed, so a run that passes passes again. What would be noticed is told by the last tests: parameters that are a
little off, on the same draws, must fail.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.sampling import reference

from ecocore import _core
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import _core_params

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "cold": {"temperature": 0.4},
    "hot": {"temperature": 1.8},
    "top_p": {"top_p": 0.9},
    "small top_p": {"top_p": 0.3},
    "large top_p, hot": {"top_p": 0.995, "temperature": 1.3},
    "top_k": {"top_k": 50},
    "top_k of two": {"top_k": 2, "temperature": 2.0},
    "top_k and top_p": {"top_k": 40, "top_p": 0.8},
    "min_p": {"min_p": 0.05},
    "small min_p, hot": {"min_p": 0.001, "temperature": 1.5},
    "top_p and min_p": {"top_p": 0.95, "min_p": 0.02},
    "typical_p": {"typical_p": 0.7},
    "top_p and typical_p": {"top_p": 0.9, "typical_p": 0.6},
    "all filters": {"temperature": 0.8, "top_k": 100, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9},
    "repetition": {"repetition_penalty": 1.5, "seen": True},
    "rewarded repetition": {"repetition_penalty": 0.8, "seen": True, "top_p": 0.9},
    "frequency": {"frequency_penalty": 0.7, "seen": True},
    "presence": {"presence_penalty": 1.2, "seen": True, "top_k": 60},
    "all penalties": {"repetition_penalty": 1.2, "frequency_penalty": -0.4, "presence_penalty": 0.5, "seen": True, "top_p": 0.9},
    "bias": {"bias": True},
    "bias and top_p": {"bias": True, "top_p": 0.8, "temperature": 0.7},
    "mask": {"masked": True},
    "mask and top_p": {"masked": True, "top_p": 0.9},
    "mask, top_k and min_p": {"masked": True, "top_k": 30, "min_p": 0.02},
    "everything": {
        "temperature": 0.9,
        "top_k": 200,
        "top_p": 0.97,
        "min_p": 0.002,
        "typical_p": 0.95,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.1,
        "seen": True,
        "bias": True,
        "masked": True,
    },
}
# How many draws of each vocabulary; what a large row costs leaves fewer of them.
DRAWS: Final = {2: 5000, 3: 5000, 17: 10_000, 1000: 20_000, 32_000: 2000, 128_256: 600, 262_144: 400}
# One in a million that any of them all fails by chance.
THRESHOLD: Final = 1e-6 / (len(SETTINGS) * len(DRAWS))
LEAST_EXPECTED: Final = 5


@dataclass(frozen=True)
class Fit:
    """Whether draws follow a distribution."""

    p_value: float
    impossible: int
    """Draws of tokens that cannot be drawn."""
    expected: NDArray[np.float64]
    """Draws in each cell."""

    @property
    def holds(self) -> bool:
        return self.p_value >= THRESHOLD and self.impossible == 0


def logits_of(vocab: int, shape: str) -> NDArray[np.float32]:
    """Like a language model's: noise and a few likely tokens; or noise alone."""
    rng = np.random.default_rng(vocab)
    if shape == "flat":
        return rng.normal(0, 1, vocab).astype(np.float32)
    logits = rng.normal(0, 2.2, vocab)
    likely = rng.permutation(vocab)[: min(60, vocab // 8)]
    logits[likely] += np.linspace(7, 14, len(likely))
    return logits.astype(np.float32)


def params_of(setting: dict[str, Any], logits: NDArray[np.float32]) -> SamplingParams:
    """The setting for this row: what it has seen, its bias and its mask are about tokens that matter."""
    rng = np.random.default_rng(5)
    fields = {name: value for name, value in setting.items() if name not in ("seen", "bias", "masked")}
    best = np.argsort(-logits)[:40]
    if "seen" in setting:
        fields |= {"history": rng.choice(best, 30), "prompt": rng.choice(best, 10)}
    if "bias" in setting:
        tokens = rng.choice(best, min(len(best), 12), replace=False)
        fields["logit_bias"] = {int(token): float(rng.uniform(-3, 3)) for token in tokens}
    if "masked" in setting:
        fields["mask"] = rng.random(len(logits)) < 0.6
        fields["mask"][best[0]] = True
    return SamplingParams(**fields)


def drawn(logits: NDArray[np.float32], params: SamplingParams, draws: int) -> NDArray[np.int64]:
    """How often each token came, over several seeds and positions."""
    # The parameters are made ready once: this is about the draws, and what is ready for each row costs more than they do.
    core = _core_params(params, tell_logprobs=False)
    prompt, history = (None if ids is None else np.asarray(ids, np.uint32) for ids in (params.prompt, params.history))
    rows = torch.from_numpy(logits).expand(draws, len(logits))
    number = np.arange(draws)
    every = [core] * draws, 1000 + number // 500, number % 500, [prompt] * draws, [history] * draws, [params.mask] * draws
    return np.bincount(_core.sample_rows(rows, *every).token_ids, minlength=len(logits))


def fit(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Fit:
    """Pearson's test. Tokens of about the same probability are pooled until at least five draws of them are expected."""
    possible = np.flatnonzero(probabilities)
    order = possible[np.argsort(-probabilities[possible], kind="stable")]
    expected, observed = counts.sum() * probabilities[order], counts[order]
    running = np.cumsum(expected)
    starts = [0]
    # The next cell starts where this one is full; too few at the end stay with the last.
    while running[-1] - (before := running[starts[-1]] - expected[starts[-1]]) >= 2 * LEAST_EXPECTED:
        full = int(np.searchsorted(running, before + LEAST_EXPECTED)) + 1
        if running[-1] - running[full - 1] < LEAST_EXPECTED:
            break
        starts.append(full)
    pooled, seen = np.add.reduceat(expected, starts), np.add.reduceat(observed, starts)
    statistic = float(((seen - pooled) ** 2 / pooled).sum())
    return Fit(_upper_tail(statistic, len(starts) - 1), int(counts.sum() - observed.sum()), pooled)


def _upper_tail(statistic: float, freedom: int) -> float:
    """The probability of at least this chi-square."""
    if freedom == 0:
        return 1.0
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.parametrize("vocab", DRAWS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_draws_follow_the_distribution(setting: str, vocab: int) -> None:
    logits = logits_of(vocab, "peaked")
    params = params_of(SETTINGS[setting], logits)
    found = fit(drawn(logits, params, DRAWS[vocab]), reference.distribution(logits, params))
    assert found.holds, found


@pytest.mark.parametrize(
    ("setting", "vocab"), [(setting, 1000) for setting in SETTINGS] + [("plain", 128_256), ("top_p", 128_256), ("top_k", 128_256)]
)
def test_draws_of_flat_rows_follow_it_too(setting: str, vocab: int) -> None:
    logits = logits_of(vocab, "flat")
    params = params_of(SETTINGS[setting], logits)
    found = fit(drawn(logits, params, DRAWS[vocab]), reference.distribution(logits, params))
    assert found.holds, found


def test_cells_are_full_and_none_is_lost() -> None:
    for vocab in (1, 2, 3, 100, 5000):
        probabilities = reference.softmax(logits_of(vocab, "peaked").astype(np.float64))
        counts = np.random.default_rng(1).multinomial(2000, probabilities)
        found = fit(counts, probabilities)
        assert found.holds
        assert found.expected.min() >= LEAST_EXPECTED
        assert found.expected.sum() == pytest.approx(2000)


# --- what would be noticed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "shape", "wrong"),
    [
        ("plain", "peaked", {"temperature": 1.03}),
        ("plain", "flat", {"top_p": 0.99}),
        ("top_p", "flat", {"top_p": 0.91}),
        ("top_p", "flat", {"top_p": 0.89}),
        ("top_k", "flat", {"top_k": 49}),
        ("top_k", "flat", {"top_k": 51}),
        ("min_p", "flat", {"min_p": 0.052}),
        ("typical_p", "flat", {"typical_p": 0.71}),
        ("repetition", "peaked", {"repetition_penalty": 1.53}),
        ("frequency", "peaked", {"frequency_penalty": 0.73}),
        ("presence", "peaked", {"presence_penalty": 1.3}),
        ("bias", "peaked", {"logit_bias": {}}),
        ("mask", "flat", {"mask": None}),
    ],
    ids=str,
)
def test_parameters_that_are_a_little_off_are_noticed(setting: str, shape: str, wrong: dict[str, Any]) -> None:
    logits = logits_of(1000, shape)
    params = params_of(SETTINGS[setting], logits)
    counts = _many_draws(setting, shape)
    assert fit(counts, reference.distribution(logits, params)).holds
    assert not fit(counts, reference.distribution(logits, params.model_copy(update=wrong))).holds


@cache
def _many_draws(setting: str, shape: str) -> NDArray[np.int64]:
    logits = logits_of(1000, shape)
    return drawn(logits, params_of(SETTINGS[setting], logits), 200_000 if shape == "peaked" else 50_000)


@pytest.mark.parametrize("vocab", [128_256, 262_144])
def test_few_draws_of_a_large_row_notice_less_but_something(vocab: int) -> None:
    logits = logits_of(vocab, "peaked")
    counts = drawn(logits, SamplingParams(), DRAWS[vocab])
    for wrong in ({"temperature": 1.3}, {"temperature": 0.8}, {"top_p": 0.9}):
        assert not fit(counts, reference.distribution(logits, SamplingParams(**wrong))).holds
