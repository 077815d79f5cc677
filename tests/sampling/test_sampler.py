"""The sampler against numpy, float64 and transformers; see reference.py for the slow and obvious one."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.sampling import reference
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from ecocore import _core
from ecocore.errors import InvalidParameter
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import BatchSampler, Sampler

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 1.7},
    "greedy": {"temperature": 0.0},
    "nearly greedy": {"temperature": 9e-6},
    "one": {"top_k": 1},
    "top_k": {"top_k": 50},
    "top_k above the vocabulary": {"top_k": 2**31 - 1},
    "nucleus": {"top_p": 0.9},
    "small nucleus": {"top_p": 0.05},
    "no nucleus": {"top_p": 0.0},
    "top_k and nucleus": {"top_k": 40, "top_p": 0.8},
    "min_p": {"min_p": 0.05},
    "nucleus and min_p": {"top_p": 0.95, "min_p": 0.01, "temperature": 1.3},
    "typical": {"typical_p": 0.6},
    "nucleus and typical": {"top_p": 0.9, "typical_p": 0.5},
    "everything": {"temperature": 0.8, "top_k": 100, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
}


def rows(count: int, vocab: int, *, seed: int, peaked: bool = False) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.2 if peaked else 1, (count, vocab)).astype(np.float32)
    if peaked:
        for row in logits:
            row[rng.integers(0, vocab, 1 + vocab // 100)] += 9
    return logits


def draw(logits: Any, params: Any, *, seed: int = 11, first: int = 0) -> list[int]:
    """One id per row; row i has the seed `seed` and the position `first` + i."""
    count = len(logits)
    each = list(params) if isinstance(params, list) else [params] * count
    sampler = Sampler(logits.shape[1])
    ids: list[int] = sampler.sample(logits, each, seeds=[seed] * count, positions=range(first, first + count)).tolist()
    return ids


# --- which token ------------------------------------------------------------------------------------------


def test_reference_generator_gives_the_published_answers() -> None:
    assert reference.philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert reference.philox(pi, (0xA4093822, 0x299F31D0)) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("vocab", "count"), [(2, 60), (3, 60), (65, 40), (1000, 30), (49152, 3)])
def test_each_token_is_that_of_a_full_sort(setting: str, vocab: int, count: int) -> None:
    params = SamplingParams(**SETTINGS[setting])
    for peaked in (False, True):
        logits = rows(count, vocab, seed=vocab, peaked=peaked)
        expected = [reference.choose(row, params, 11, position) for position, row in enumerate(logits)]
        assert draw(logits, params) == expected


@pytest.mark.parametrize("setting", ["plain", "nucleus", "everything", "typical"])
def test_the_largest_vocabulary_is_drawn_from_like_any_other(setting: str) -> None:
    logits = rows(2, 262144, seed=3)
    params = SamplingParams(**SETTINGS[setting])
    assert draw(logits, params) == [reference.choose(row, params, 11, position) for position, row in enumerate(logits)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_ties_go_to_the_lower_id(setting: str) -> None:
    params = SamplingParams(**SETTINGS[setting])
    logits = np.random.default_rng(5).integers(-3, 3, (60, 200)).astype(np.float32)
    logits[::2] *= -0.0
    assert draw(logits, params) == [reference.choose(row, params, 11, position) for position, row in enumerate(logits)]


def test_penalties_bias_and_mask_act_in_the_documented_order() -> None:
    rng = np.random.default_rng(9)
    logits = rows(80, 300, seed=9)
    params = [
        SamplingParams(
            temperature=float(rng.choice([0.0, 0.7, 1.0])),
            top_p=0.9,
            repetition_penalty=float(rng.uniform(0.7, 2)),
            frequency_penalty=float(rng.uniform(-2, 2)),
            presence_penalty=float(rng.uniform(-2, 2)),
            logit_bias={int(token): float(rng.uniform(-5, 5)) for token in rng.integers(0, 300, 8)},
            history=tuple(int(token) for token in rng.integers(0, 40, 60)),
            prompt=rng.integers(20, 60, 30),
            mask=rng.random(300) < 0.5,
        )
        for _ in logits
    ]
    expected = [reference.choose(row, one, 11, position) for position, (row, one) in enumerate(zip(logits, params, strict=True))]
    assert draw(logits, params) == expected
    assert expected != draw(logits, SamplingParams(top_p=0.9))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_a_bias_of_a_hundred_forces_or_bans(temperature: float) -> None:
    logits = rows(50, 64, seed=2)
    best = logits.argmax(axis=1)
    banned = [SamplingParams(temperature=temperature, logit_bias={int(token): -100.0}) for token in best]
    assert all(token != drawn for token, drawn in zip(best, draw(logits, banned), strict=True))
    assert draw(logits, SamplingParams(temperature=temperature, logit_bias={7: 100.0})) == [7] * 50


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_the_prompt_does_not_count_for_frequency_and_presence(penalty: str) -> None:
    logits = np.array([[3.0, 2.0, 0.0]], np.float32)
    strict: dict[str, Any] = {"temperature": 0.0, penalty: 2.0}
    assert draw(logits, SamplingParams(**strict, prompt=(0, 0))) == [0]
    assert draw(logits, SamplingParams(**strict, history=(0,))) == [1]


# --- how often --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.5}, {"top_k": 12}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.7}, {"typical_p": 0.7}],
    ids=str,
)
def test_two_hundred_thousand_draws_follow_the_distribution(fields: dict[str, Any]) -> None:
    vocab, draws = 40, 200_000
    row = rows(1, vocab, seed=21)[0]
    params = SamplingParams(**fields)
    tokens = np.array(draw(torch.from_numpy(row).expand(draws, vocab), params, seed=77))

    expected = draws * reference.softmax(_transformers_scores(row, params))
    counts = np.bincount(tokens, minlength=vocab)
    assert counts[expected == 0].sum() == 0
    likely = expected > 0
    chi_square = float(((counts[likely] - expected[likely]) ** 2 / expected[likely]).sum())
    freedom = int(likely.sum()) - 1
    assert chi_square < freedom + 3.5 * (2 * freedom) ** 0.5 + 3.5


def _transformers_scores(row: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """What transformers makes of a row in float64: -inf where a token is not kept."""
    steps = LogitsProcessorList()
    if params.repetition_penalty != 1:
        steps.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1:
        steps.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(hf.TopKLogitsWarper(min(params.top_k, len(row))))
    if params.top_p < 1:
        steps.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        steps.append(hf.MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        steps.append(hf.TypicalLogitsWarper(params.typical_p))
    seen = [*(() if params.prompt is None else params.prompt), *(() if params.history is None else params.history)]
    scores = torch.from_numpy(row.astype(np.float64))[None]
    ids: Any = torch.tensor([seen], dtype=torch.int64)
    result: NDArray[np.float64] = steps(ids, scores)[0].numpy()
    return result


@pytest.mark.parametrize("setting", [name for name in SETTINGS if "greedy" not in name and name != "no nucleus"])
@pytest.mark.parametrize(("vocab", "count"), [(50, 150), (2000, 100)])
def test_transformers_keeps_the_same_tokens(setting: str, vocab: int, count: int) -> None:
    """In float64, drawn at the same point. Only a point next to the border of two tokens may differ."""
    rng = np.random.default_rng(vocab)
    logits = rows(count, vocab, seed=vocab + 1, peaked=True)
    fields = SETTINGS[setting]
    params = [
        SamplingParams(repetition_penalty=1.3, prompt=rng.integers(0, vocab, 20), history=rng.integers(0, vocab, 20), **fields)
        for _ in logits
    ]
    ids = draw(logits, params)
    compared = 0
    for position, (row, one, token) in enumerate(zip(logits, params, ids, strict=True)):
        running = np.cumsum(reference.softmax(_transformers_scores(row, one)))
        point = reference.random_bits(11, position) / 2**64
        if np.abs(running - point).min() > 1e-5:
            compared += 1
            assert token == int(np.searchsorted(running, point, side="right"))
    assert compared > 0.9 * count


# --- what does not matter -----------------------------------------------------------------------------------


def _mixed(count: int, vocab: int) -> tuple[NDArray[np.float32], list[SamplingParams], list[int], list[int]]:
    rng = np.random.default_rng(4)
    names = list(SETTINGS)
    params = [SamplingParams(**SETTINGS[names[index % len(names)]]) for index in range(count)]
    seeds = [int(seed) for seed in rng.integers(0, 2**63, count)]
    return rows(count, vocab, seed=8), params, seeds, [int(position) for position in rng.integers(0, 2**32, count)]


def test_rows_draw_the_same_alone_in_a_batch_and_in_any_order() -> None:
    logits, params, seeds, positions = _mixed(34, 20_000)
    sampler = Sampler(20_000)
    together = sampler.sample(logits, params, seeds=seeds, positions=positions)
    order = np.random.default_rng(1).permutation(34)
    shuffled = sampler.sample(
        logits[order], [params[i] for i in order], seeds=np.array(seeds)[order], positions=np.array(positions)[order]
    )
    assert shuffled.tolist() == together[order].tolist()
    for index in range(34):
        alone = sampler.sample(logits[index : index + 1], [params[index]], seeds=[seeds[index]], positions=[positions[index]])
        assert alone.tolist() == [together[index]]


def test_logits_are_never_written_to() -> None:
    logits, params, seeds, positions = _mixed(34, 5000)
    params = [
        SamplingParams(
            **SETTINGS["everything"], logit_bias={3: 9.0}, mask=np.arange(5000) % 2 == 1, repetition_penalty=2.0, history=(1, 3)
        )
        if index % 2
        else one
        for index, one in enumerate(params)
    ]
    logits[0, 0] = np.inf
    logits[1, 1] = np.nan
    before = logits.tobytes()
    logits.flags.writeable = False
    Sampler(5000).sample(logits, params, seeds=seeds, positions=positions)
    assert logits.tobytes() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_as_its_float32(dtype: torch.dtype) -> None:
    logits, params, seeds, positions = _mixed(34, 3000)
    half = torch.from_numpy(logits).to(dtype)
    sampler = Sampler(3000)
    drawn = sampler.sample(half, params, seeds=seeds, positions=positions)
    assert drawn.tolist() == sampler.sample(half.float(), params, seeds=seeds, positions=positions).tolist()


def test_slices_of_larger_tensors_are_read_in_place() -> None:
    wide = torch.from_numpy(rows(12, 700, seed=6))
    params = [SamplingParams()] * 6
    seeds, positions = list(range(6)), list(range(6))
    view = wide[1::2, 100:600]
    sampler = Sampler(500)
    expected = sampler.sample(view.contiguous(), params, seeds=seeds, positions=positions).tolist()
    assert sampler.sample(view, params, seeds=seeds, positions=positions).tolist() == expected
    assert sampler.sample(view.numpy(), params, seeds=seeds, positions=positions).tolist() == expected
    assert sampler.sample(view[:1].expand(6, 500), params, seeds=[0] * 6, positions=[0] * 6).tolist() == [expected[0]] * 6


def test_seeds_are_taken_modulo_two_to_the_sixty_four() -> None:
    logits = rows(4, 1000, seed=1)
    sampler, params = Sampler(1000), [SamplingParams()] * 4

    def ids(seeds: Any) -> list[int]:
        drawn: list[int] = sampler.sample(logits, params, seeds=seeds, positions=[5, 6, 7, 8]).tolist()
        return drawn

    assert ids([-1] * 4) == ids([2**64 - 1] * 4) == ids([2**65 - 1] * 4) == ids(np.full(4, -1)) == ids(torch.full((4,), -1))
    assert ids([-(2**63)] * 4) == ids(np.full(4, 2**63, np.uint64)) == ids([2**63] * 4)
    assert ids([3] * 4) == ids([3 + 2**200] * 4) == ids([np.int8(3)] * 4)
    assert len({tuple(ids([seed] * 4)) for seed in range(20)}) == 20


def test_parameters_that_are_kept_between_calls_are_those_of_their_row() -> None:
    logits, sampler = rows(2, 50, seed=21), Sampler(50)

    def draws(each: list[SamplingParams]) -> list[int]:
        ids: list[int] = sampler.sample(logits[: len(each)], each, seeds=[3] * len(each), positions=[0] * len(each)).tolist()
        return ids

    greedy, hot = SamplingParams(temperature=0), SamplingParams(temperature=2.0)
    expected = [[draw(logits[:1], params, seed=3)[0] for params in (greedy, hot)] for _ in range(3)]
    found = [[draws([params])[0] for params in (greedy, hot)] for _ in range(3)]
    assert found == expected
    assert draws([hot, greedy])[0] == expected[0][1]
    # The dict of a bias can be changed, and then counts as it is.
    for bias in ({7: 100.0}, {9: 100.0}, {}):
        greedy.logit_bias.clear()
        greedy.logit_bias.update(bias)
        assert draws([greedy]) == [next(iter(bias), expected[0][0])]
    # Parameters that are made for one call may lie where those of the last call lay.
    assert [draws([SamplingParams(logit_bias={token_id: 100.0})]) for token_id in range(5)] == [
        [token_id] for token_id in range(5)
    ]
    assert [draws([SamplingParams(temperature=0 if turn % 2 else 2.0)])[0] for turn in range(6)] == [
        expected[0][1],
        expected[0][0],
    ] * 3


def test_ids_come_back_in_the_library_of_the_logits() -> None:
    logits = rows(3, 10, seed=1)
    params = [SamplingParams()] * 3
    array = Sampler(10).sample(logits, params, seeds=[1] * 3, positions=[0] * 3)
    tensor = Sampler(10).sample(torch.from_numpy(logits), params, seeds=[1] * 3, positions=[0] * 3)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.int64
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.int64
    assert Sampler(10).sample(logits[:0], [], seeds=[], positions=[]).shape == (0,)


def test_sampling_numpy_rows_does_not_import_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from ecocore import Sampler, SamplingParams\n"
        "Sampler(5).sample(np.zeros((1, 5), np.float32), [SamplingParams()], seeds=[1], positions=[0])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- numbers that are none, and refusals --------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_nan_and_minus_infinity_are_never_drawn_and_infinity_is_the_maximum(setting: str) -> None:
    params = SamplingParams(**SETTINGS[setting])
    broken = np.array([[np.nan, -np.inf, 1.0, np.nan, 0.9]] * 20, np.float32)
    assert set(draw(broken, params)) <= {2, 4}
    assert set(draw(np.array([[0.0, np.inf, 3.0, -np.inf]] * 20, np.float32), params)) == {1}


def _sample(logits: Any = None, vocab: int = 5, seeds: Any = (1,), positions: Any = (0,), **fields: Any) -> None:
    logits = np.zeros((1, 5), np.float32) if logits is None else logits
    Sampler(vocab).sample(logits, [SamplingParams(**fields)], seeds=seeds, positions=positions)


@pytest.mark.parametrize(
    ("param", "arguments"),
    [
        ("logits", {"logits": [[0.0] * 5]}),
        ("logits", {"logits": np.zeros(5, np.float32)}),
        ("logits", {"logits": np.zeros((1, 1, 5), np.float32)}),
        ("logits", {"logits": np.zeros((1, 5), np.float64)}),
        ("logits", {"logits": np.zeros((1, 5), ">f4")}),
        ("logits", {"logits": torch.zeros(1, 5, dtype=torch.int32)}),
        ("logits", {"logits": torch.zeros(1, 5, device="meta")}),
        ("logits", {"logits": torch.zeros(1, 5).to_sparse()}),
        ("logits", {"logits": torch.zeros(1, 10)[:, ::2]}),
        ("logits", {"logits": np.zeros((2, 5), np.float32)[::-1]}),
        ("logits", {"logits": np.zeros((1, 6), np.float32)}),
        ("logits", {"logits": np.zeros((1, 0), np.float32), "vocab": 1}),
        ("logits", {"logits": np.frombuffer(b"\0" * 21, np.uint8)[1:].view(np.float32)[None]}),
        ("logits", {"logits": np.full((1, 5), np.nan, np.float32)}),
        ("logits", {"logits": np.full((1, 5), -np.inf, np.float32), "temperature": 0.0}),
        ("vocab_size", {"vocab": 0}),
        ("vocab_size", {"vocab": None}),
        ("vocab_size", {"vocab": 5.0}),
        ("params", {"logits": np.zeros((2, 5), np.float32), "seeds": [1, 2], "positions": [0, 1]}),
        ("seeds", {"seeds": [1, 2], "positions": [0, 1]}),
        ("seeds", {"seeds": [0.5]}),
        ("seeds", {"seeds": 7}),
        ("positions", {"positions": []}),
        ("positions", {"positions": [-1]}),
        ("positions", {"positions": [2**32]}),
        ("mask", {"mask": np.zeros(5, bool)}),
        ("mask", {"mask": np.ones(4, bool)}),
        ("mask", {"mask": np.ones((1, 5), bool)}),
        ("history", {"history": [5]}),
        ("history", {"history": np.array([-1])}),
        ("history", {"history": np.array([0.5])}),
        ("prompt", {"prompt": [0, 2**70]}),
        ("prompt", {"prompt": [2**32]}),
        ("logit_bias", {"logit_bias": {5: 1.0}}),
        ("logit_bias", {"logit_bias": {-1: 1.0}}),
        ("logit_bias", {"logit_bias": {2**32: 1.0}}),
    ],
)
def test_what_cannot_be_drawn_from_is_refused_by_name(param: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _sample(**arguments)
    assert caught.value.param == param


def test_a_vocabulary_is_as_large_as_numpy_says() -> None:
    logits = np.array([[0.0, 2.0, 1.0]], np.float32)
    sampler = Sampler(np.int64(3))  # type: ignore[arg-type]
    assert sampler.sample(logits, [SamplingParams(temperature=0.0)], seeds=[1], positions=[0]).tolist() == [1]


@pytest.mark.parametrize("params", [None, SamplingParams(), [None], [{}], [SamplingParams(), "greedy"]])
def test_what_is_no_list_of_params_is_refused(params: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"^params(\[[01]\])?: must be") as caught:
        Sampler(5).sample(np.zeros((1, 5), np.float32), params, seeds=[1], positions=[0])
    assert caught.value.param == "params"


def test_what_was_drawn_may_be_the_history_as_it_is() -> None:
    logits = np.array([[1.0, 1.5, 0.0]], np.float32)
    for drawn in (np.array([1, 1]), [np.int64(1), np.uint8(1)], torch.tensor([1, 1]), list(torch.tensor([1, 1])), (1, 1)):
        params = SamplingParams(temperature=0.0, frequency_penalty=0.5, history=drawn)
        assert draw(logits, params) == [0]
    for mask in (np.array([False, False, True]), torch.tensor([False, False, True])):
        assert draw(logits, SamplingParams(mask=mask)) == [2]
    wrong: list[Any] = [[1.0], ["1"], [True], [np.True_], [torch.tensor(1.0)], [torch.tensor([1, 2])], [None], 1, "1", {1}]
    for history in wrong:
        with pytest.raises(InvalidParameter, match=r"^history"):
            SamplingParams(history=history)
    with pytest.raises(InvalidParameter, match=r"^mask: must be a numpy array or tensor"):
        SamplingParams(mask=[True])


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty"])
def test_the_core_refuses_numbers_that_are_none(name: str) -> None:
    for value in (float("nan"), float("inf")):
        fields: dict[str, Any] = {name: value}
        with pytest.raises(InvalidParameter) as caught:
            _core.SamplerParams(**fields)
        assert caught.value.param == name


# --- log-probabilities and the engine's door ------------------------------------------------------------------


def test_log_probabilities_are_of_the_raw_distribution() -> None:
    logits = rows(30, 2000, seed=13, peaked=True)
    logits[0, :1990] = -np.inf
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.7, "logit_bias": {4: 20.0}}
    params = [_core.SamplerParams(**fields, top_logprobs=count % 21) for count in range(30)]
    masks = [np.arange(2000) % 3 > 0] * 30
    tokens = _core.sample_rows(logits, params, [5] * 30, range(30), [None] * 30, [None] * 30, masks)
    truth = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).clamp(min=-9999)
    for row, token in enumerate(tokens.token_ids.tolist()):
        told = tokens.logprobs(row)
        assert told is not None
        chosen, top = told
        assert chosen == pytest.approx(truth[row, token].item(), abs=1e-6)
        values, ids = torch.sort(truth[row], descending=True, stable=True)
        assert [token for token, _ in top] == ids[: row % 21].tolist()
        assert [log for _, log in top] == pytest.approx(values[: row % 21].tolist(), abs=1e-6)


def test_exactly_the_asked_number_of_likeliest_tokens_is_told() -> None:
    logits = np.array([[-np.inf, np.nan, 2.0, -np.inf]], np.float32)
    tokens = _core.sample_rows(logits, [_core.SamplerParams(top_logprobs=20)], [1], [0], [None], [None], [None])
    assert tokens.logprobs(0) == (0.0, [(2, 0.0), (0, -9999.0), (1, -9999.0), (3, -9999.0)])
    silent = _core.sample_rows(logits, [_core.SamplerParams()], [1], [0], [None], [None], [None])
    assert silent.logprobs(0) is None
    with pytest.raises(InvalidParameter):
        silent.logprobs(1)


def _first_batch(prompts: dict[int, list[int]]) -> _core.Batch:
    scheduler = _core.Scheduler(num_blocks=16, block_size=8)
    for sequence_id, prompt in prompts.items():
        scheduler.submit(sequence_id, np.array(prompt, np.uint32), 8)
    batch = scheduler.schedule()
    assert batch is not None
    return batch


def test_the_engine_draws_the_tokens_of_the_public_sampler() -> None:
    prompts = {5: [1, 2, 3], 9: [4, 4]}
    params = {5: SamplingParams(top_p=0.8, repetition_penalty=1.7), 9: SamplingParams(logprobs=True, top_logprobs=2)}
    sampler = BatchSampler(100)
    for sequence_id, prompt in prompts.items():
        sampler.open(sequence_id, params[sequence_id], -sequence_id, 0, np.array(prompt, np.uint32))
    logits = rows(2, 100, seed=17)
    batch = _first_batch(prompts)
    tokens = sampler.sample(torch.from_numpy(logits), sampler.prepare(batch))
    assert tokens.sequence_ids.tolist() == [5, 9]
    rows_params = [params[5].model_copy(update={"prompt": (1, 2, 3)}), params[9]]
    expected = Sampler(100).sample(logits, rows_params, seeds=[-5, -9], positions=[0, 0])
    assert tokens.token_ids.tolist() == expected.tolist()
    assert tokens.logprobs(0) is None
    told = tokens.logprobs(1)
    assert told is not None
    assert len(told[1]) == 2


def test_a_sequence_closed_in_flight_draws_token_zero() -> None:
    sampler = BatchSampler(10)
    for sequence_id in (1, 2):
        sampler.open(sequence_id, SamplingParams(temperature=0.0, logprobs=True), 0, 0, np.array([1], np.uint32))
    inputs = sampler.prepare(_first_batch({1: [1], 2: [1]}))
    sampler.close(1)
    sampler.close(77)
    tokens = sampler.sample(np.eye(10, dtype=np.float32)[[3, 4]], inputs)
    assert tokens.token_ids.tolist() == [0, 4]
    assert tokens.logprobs(0) is None


def test_opening_refuses_ids_outside_the_vocabulary() -> None:
    sampler = BatchSampler(10)
    with pytest.raises(InvalidParameter) as caught:
        sampler.open(1, SamplingParams(logit_bias={10: 1.0}), 0, 0, np.array([1], np.uint32))
    assert caught.value.param == "logit_bias"
    with pytest.raises(InvalidParameter) as caught:
        sampler.open(1, SamplingParams(), 0, 0, np.array([10], np.uint32))
    assert caught.value.param == "prompt"
