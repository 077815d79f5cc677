"""Logits to ids: `ecocore.Sampler` beside sorting in torch, the processors of transformers, numpy, and llama.cpp's chain.

Where there is a CUDA device, the kernel runs there beside torch's sort and FlashInfer.

Draws differ by their generators, so the distributions are compared: ecocore's draws must lie inside the
peer's kept set and their frequencies must fit its probabilities. Greedy ids must be equal.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from ctypes import CDLL
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from benches import llama_cpp, workloads
from benches.harness import Absent, Bench, Case, Peer, Settings, same

VOCABULARIES: Final = (49152, 128256)
SEED: Final = 11
DRAWS: Final = 4096
# One false alarm in ten thousand comparisons; the seeds are fixed, so a run repeats.
NORMAL_QUANTILE: Final = 3.719


@dataclass(frozen=True, slots=True)
class Filter:
    """What is kept before the draw."""

    name: str
    top_k: int
    top_p: float


FILTERS: Final = (Filter("top_p 0.9", 0, 0.9), Filter("top_k 50 + top_p 0.9", 50, 0.9))


def cases(settings: Settings) -> Iterator[Case]:
    library = None if settings.peers is None else llama_cpp.library(settings.peers)
    for vocab_size in (1024,) if settings.quick else VOCABULARIES:
        for rows in (1, 8):
            yield _greedy(rows, vocab_size)
        draws = DRAWS // 4 if settings.quick else DRAWS
        for shape, kept, rows in itertools.product(("peaked", "flat"), FILTERS, (1, 8)):
            yield _filtered(rows, vocab_size, shape, kept, draws=draws, library=library)
        for shape, kept, rows in itertools.product(("peaked", "flat"), FILTERS, (1, 64, 256) if _has_cuda() else ()):
            yield _filtered_on_cuda(rows, vocab_size, shape, kept, draws=draws)


def _greedy(rows: int, vocab_size: int) -> Case:
    import torch

    from ecocore import Sampler, SamplingParams

    logits = workloads.logits(rows, vocab_size, "peaked")
    sampler, params = Sampler(vocab_size), [SamplingParams(temperature=0)] * rows
    seeds, positions = [SEED] * rows, list(range(rows))

    def ours() -> Any:
        return sampler.sample(logits, params, seeds=seeds, positions=positions)

    def argmax() -> Any:
        return torch.argmax(logits, dim=-1)

    peer = Peer("torch.argmax", argmax, same(lambda: _ids(ours()), lambda: _ids(argmax())))
    return Case(f"greedy, V={vocab_size}, rows={rows}", "row", rows, ours, (peer,))


def _filtered(rows: int, vocab_size: int, shape: str, kept: Filter, *, draws: int, library: CDLL | None) -> Case:
    logits = workloads.logits(rows, vocab_size, shape)
    ours = _ecocore(vocab_size, kept)
    positions = itertools.count()

    def run() -> Any:
        return ours(logits, [SEED] * rows, [next(positions) for _ in range(rows)])

    @cache
    def drawn() -> Any:
        return _histogram(ours, logits[:1], draws)

    def fits(probabilities: Callable[[Any], Any]) -> Callable[[], bool]:
        return lambda: _fits(drawn(), probabilities(logits[:1])[0])

    peers = (
        _torch_sort(logits, kept, fits),
        _transformers(logits, kept, fits),
        _numpy(logits, kept, fits),
        _llama_cpp(logits, kept, fits, library),
    )
    return Case(f"{kept.name}, {shape}, V={vocab_size}, rows={rows}", "row", rows, run, peers)


def _filtered_on_cuda(rows: int, vocab_size: int, shape: str, kept: Filter, *, draws: int) -> Case:
    """Every contender ends with its ids on the device and the host waiting for nothing else."""
    import torch

    on_cpu = workloads.logits(rows, vocab_size, shape)
    logits, ours, positions = on_cpu.cuda(), _ecocore(vocab_size, kept), itertools.count()

    def run() -> Any:
        return ours(logits, [SEED] * rows, [next(positions) for _ in range(rows)])

    def fits(probabilities: Callable[[Any], Any]) -> Callable[[], bool]:
        def agrees() -> bool:
            names = [SEED] * rows, list(range(rows))
            if _ids(ours(logits, *names)) != _ids(ours(on_cpu, *names)):
                return False
            return _fits(_histogram(ours, logits[:1], draws), probabilities(logits[:1])[0].cpu())

        return agrees

    def waited(peer: Peer | Absent) -> Peer | Absent:
        if isinstance(peer, Absent):
            return peer

        def run_and_wait() -> None:
            peer.run()
            torch.cuda.synchronize()

        return Peer(peer.name, run_and_wait, peer.agrees)

    peers = (waited(_torch_sort(logits, kept, fits)), waited(_flashinfer(logits, kept, draws)))
    return Case(f"{kept.name}, {shape}, V={vocab_size}, rows={rows}, on {torch.cuda.get_device_name()}", "row", rows, run, peers)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


# --- contenders -----------------------------------------------------------------------------------------

Draw = Callable[[Any, list[int], list[int]], Any]
Fits = Callable[[Callable[[Any], Any]], Callable[[], bool]]


def _ecocore(vocab_size: int, kept: Filter) -> Draw:
    from ecocore import Sampler, SamplingParams

    sampler, params = Sampler(vocab_size), SamplingParams(top_k=kept.top_k, top_p=kept.top_p)
    return lambda logits, seeds, positions: sampler.sample(logits, [params] * len(seeds), seeds=seeds, positions=positions)


def _torch_sort(logits: Any, kept: Filter, fits: Fits) -> Peer:
    """Sort, cut, put back: what servers do where no kernel fits."""
    import torch

    def probabilities(logits: Any) -> Any:
        return _sorted_probabilities(logits, kept)

    return Peer("torch sort", lambda: torch.multinomial(probabilities(logits), 1), fits(probabilities))


def _sorted_probabilities(logits: Any, kept: Filter) -> Any:
    import torch

    ordered, order = torch.sort(logits, dim=-1)
    if kept.top_k:
        ordered[..., : -kept.top_k] = -math.inf
    below = torch.cumsum(torch.softmax(ordered, dim=-1), dim=-1) <= 1 - kept.top_p
    below[..., -1] = False
    ordered[below] = -math.inf
    return torch.softmax(torch.empty_like(ordered).scatter_(-1, order, ordered), dim=-1)


def _transformers(logits: Any, kept: Filter, fits: Fits) -> Peer | Absent:
    if not workloads.has("transformers"):
        return Absent("transformers processors")
    import torch
    from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

    warpers = LogitsProcessorList()
    if kept.top_k:
        warpers.append(TopKLogitsWarper(kept.top_k))
    warpers.append(TopPLogitsWarper(kept.top_p))
    no_ids = torch.zeros(len(logits), 1, dtype=torch.int64)

    def probabilities(logits: Any) -> Any:
        return torch.softmax(warpers(no_ids[: len(logits)], logits), dim=-1)

    return Peer("transformers processors", lambda: torch.multinomial(probabilities(logits), 1), fits(probabilities))


def _numpy(logits: Any, kept: Filter, fits: Fits) -> Peer:
    """Sorts by weight; with top_k the k heaviest alone."""
    import numpy as np

    random = np.random.default_rng(SEED)
    rows = logits.numpy()

    def nucleus(row: Any) -> tuple[Any, Any]:
        """Ids, and the sums of their weights so far."""
        ids = np.argpartition(row, -kept.top_k)[-kept.top_k :] if kept.top_k else np.arange(len(row))
        weights = np.exp(row[ids] - row.max())
        order = np.argsort(weights)[::-1]
        sums = np.cumsum(weights[order], dtype=np.float64)
        end = int(np.searchsorted(sums, kept.top_p * sums[-1])) + 1
        return ids[order[:end]], sums[:end]

    def run() -> list[int]:
        drawn = []
        for row in rows:
            ids, sums = nucleus(row)
            drawn.append(int(ids[np.searchsorted(sums, random.random() * sums[-1], side="right")]))
        return drawn

    def probabilities(logits: Any) -> Any:
        ids, sums = nucleus(logits[0].numpy())
        return _spread(logits, ids, np.diff(sums, prepend=0.0) / sums[-1])

    return Peer("numpy", run, fits(probabilities))


def _llama_cpp(logits: Any, kept: Filter, fits: Fits, library: CDLL | None) -> Peer | Absent:
    """Row after row, as its programs do; the array of candidates is copied each time, because the chain sorts it."""
    if library is None:
        return Absent("llama.cpp", "make llama-cpp compiles it")
    import numpy as np

    chain = llama_cpp.Chain.of(library, top_k=kept.top_k, top_p=kept.top_p, seed=SEED)
    filters = llama_cpp.Chain.of(library, top_k=kept.top_k, top_p=kept.top_p, seed=None)
    rows = [llama_cpp.Candidates.of(row) for row in logits.numpy()]

    def probabilities(logits: Any) -> Any:
        left = filters.kept(llama_cpp.Candidates.of(logits[0].numpy()))
        ids, values = np.array([token_id for token_id, _ in left]), np.array([logit for _, logit in left])
        weights = np.exp(values - values.max())
        return _spread(logits, ids, weights / weights.sum())

    return Peer("llama.cpp", lambda: [chain.draw(row) for row in rows], fits(probabilities))


def _spread(logits: Any, ids: Any, probabilities: Any) -> Any:
    """(1, vocab_size): these probabilities at these ids."""
    import torch

    whole = torch.zeros(1, logits.shape[-1], dtype=torch.float64)
    whole[0, torch.from_numpy(ids.copy()).long()] = torch.from_numpy(probabilities)
    return whole


def _flashinfer(logits: Any, kept: Filter, draws: int) -> Peer | Absent:
    """Rejection sampling on the device, one generator for the batch."""
    if not workloads.has("flashinfer"):
        return Absent("FlashInfer")
    import torch
    from flashinfer import sampling

    def draw(logits: Any) -> Any:
        if kept.top_k:
            return sampling.top_k_top_p_sampling_from_logits(logits, kept.top_k, kept.top_p, deterministic=True)
        return sampling.top_p_sampling_from_probs(torch.softmax(logits, dim=-1), kept.top_p, deterministic=True)

    def agrees() -> bool:
        expected = _sorted_probabilities(logits[:1], kept)[0].cpu()
        return _fits(_histogram(lambda rows, *_: draw(rows), logits[:1], draws), expected)

    return Peer("FlashInfer", lambda: draw(logits), agrees)


# --- comparison -----------------------------------------------------------------------------------------


def _ids(token_ids: Any) -> list[int]:
    return [int(token_id) for token_id in token_ids]


def _histogram(draw: Draw, logits: Any, draws: int, batch: int = 64) -> Any:
    """How often each token was drawn, at as many seeds."""
    import numpy as np

    rows = logits.expand(batch, -1).contiguous()
    seeds = range(0, draws, batch)
    ids = [token_id for seed in seeds for token_id in _ids(draw(rows, list(range(seed, seed + batch)), [0] * batch))]
    return np.bincount(ids, minlength=logits.shape[-1])


def _fits(counts: Any, probabilities: Any) -> bool:
    """Whether draws fit a distribution: none outside its support, and chi-square over bins of like mass."""
    import numpy as np

    expected = probabilities.double().numpy()
    if counts[expected == 0].any():
        return False
    order = np.argsort(-expected, kind="stable")
    order = order[expected[order] > 0]
    draws, bins = counts.sum(), min(32, len(order))
    bin_of = np.minimum((np.cumsum(expected[order]) - expected[order]) * bins, bins - 1).astype(int)
    observed = np.bincount(bin_of, counts[order], bins)
    predicted = np.bincount(bin_of, expected[order], bins) * draws
    filled = predicted > 0
    chi_square = float(((observed - predicted)[filled] ** 2 / predicted[filled]).sum())
    freedom = int(filled.sum()) - 1
    return freedom == 0 or chi_square <= _chi_square_bound(freedom)


def _chi_square_bound(freedom: int) -> float:
    """Upper quantile by the approximation of Wilson and Hilferty."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + NORMAL_QUANTILE * math.sqrt(spread)) ** 3


BENCH = Bench("sample", threads=1, cases=cases)
