"""A slow and obvious sampler: sorts whole rows, in numpy. The second opinion of test_sampler.py."""

import numpy as np
from numpy.typing import NDArray

from ecocore.request import SamplingParams

Floats = NDArray[np.float64]


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One block of Philox 4x32-10."""
    low = 0xFFFFFFFF
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right & low, (left >> 32) ^ d ^ k1, left & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return a, b, c, d


def random_bits(seed: int, position: int, choice: int = 0) -> int:
    """The 64 bits of one draw."""
    seed %= 2**64
    word0, word1, _, _ = philox((position, choice, 0, 0), (seed % 2**32, seed >> 32))
    return word0 | word1 << 32


def penalized(logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float32]:
    """Bias, repetition, frequency and presence, each rounded to float32; then the mask."""
    changed = logits.astype(np.float32).copy()
    for token, bias in params.logit_bias.items():
        changed[token] += np.float32(bias)
    drawn = [] if params.history is None else list(params.history)
    prompt = [] if params.prompt is None else list(params.prompt)
    for token in set(drawn) | set(prompt):
        factor = np.float32(params.repetition_penalty)
        changed[token] = changed[token] / factor if changed[token] > 0 else changed[token] * factor
    for token in set(drawn):
        changed[token] -= np.float32(drawn.count(token)) * np.float32(params.frequency_penalty)
        changed[token] -= np.float32(params.presence_penalty)
    if params.mask is not None:
        changed[~params.mask] = -np.inf
    return changed


def weights(logits: NDArray[np.float32], temperature: float) -> NDArray[np.uint64]:
    """floor(2^31 e^x) by the float32 steps that docs/sampling.md lists."""
    f = np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        x = (logits - logits.max()) * f(1.0 / temperature)
    x = np.where(x > f(-24), x, f(-24))
    n = np.rint(x * f(1.442695))
    r = (x - n * f(0.693359375)) - n * f(-2.1219444e-4)
    q = np.full_like(r, f(0.0013814541))
    for coefficient in (0.008368745, 0.04166839, 0.16666521, 0.49999994):
        q = q * r + f(coefficient)
    e = ((q * r) * r + r) + f(1)
    assert e.dtype == np.float32
    return np.floor(np.ldexp(e.astype(np.float64), n.astype(np.int64) + 31)).astype(np.uint64)


def part_of(mass: int, part: float) -> int:
    """The integer mass that a part of `mass` needs."""
    return max(1, -(-(mass * int(part * 2**32)) // 2**32))


def _fewest(ids: NDArray[np.int64], mass: NDArray[np.uint64], part: float) -> NDArray[np.int64]:
    running = np.cumsum(mass[ids])
    need = part_of(int(running[-1]), part)
    return ids[: int(np.searchsorted(running, np.uint64(need), side="left")) + 1]


def choose(logits: NDArray[np.float32], params: SamplingParams, seed: int, position: int) -> int:
    """The token of one draw, exactly."""
    logits = penalized(logits, params)
    ids = np.lexsort((np.arange(len(logits)), -logits))
    if params.temperature < 1e-5:
        return int(ids[0])
    mass = weights(logits, params.temperature)
    if params.top_k:
        ids = ids[: params.top_k]
    if params.top_p < 1:
        ids = _fewest(ids, mass, params.top_p)
    ids = ids[mass[ids] >= np.ceil(params.min_p * 2**31)]
    if params.typical_p < 1:
        ids = ids[mass[ids] > 0]
        x = (logits - logits.max()) * np.float32(1.0 / params.temperature)
        surprise = [int(-float(v) * 2**20) for v in x[ids]]
        mean = sum(s * int(w) for s, w in zip(surprise, mass[ids], strict=True)) // int(mass[ids].sum())
        deviation = np.array([abs(s - mean) for s in surprise])
        ids = _fewest(ids[np.lexsort((ids, deviation))], mass, params.typical_p)
    ids = np.sort(ids)
    running = np.cumsum(mass[ids])
    target = (random_bits(seed, position) * int(running[-1])) >> 64
    return int(ids[np.searchsorted(running, np.uint64(target), side="right")])


def softmax(logits: Floats) -> Floats:
    """In float64; -inf is impossible."""
    powers = np.exp(logits - logits.max())
    total: Floats = powers / powers.sum()
    return total


def distribution(logits: NDArray[np.float32], params: SamplingParams) -> Floats:
    """The probability of each token in float64, by the steps of docs/sampling.md in real numbers."""
    scores = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    drawn = [] if params.history is None else list(params.history)
    prompt = [] if params.prompt is None else list(params.prompt)
    seen = np.array(sorted({*drawn, *prompt}), np.int64)
    factor = params.repetition_penalty
    scores[seen] = np.where(scores[seen] > 0, scores[seen] / factor, scores[seen] * factor)
    for token in drawn:
        scores[token] -= params.frequency_penalty
    for token in set(drawn):
        scores[token] -= params.presence_penalty
    if params.mask is not None:
        scores[~np.asarray(params.mask)] = -np.inf
    scores /= params.temperature
    if params.top_k:
        scores[np.argsort(-scores, kind="stable")[params.top_k :]] = -np.inf
    scores = _kept(scores, np.argsort(-scores, kind="stable"), params.top_p)
    scores[softmax(scores) < params.min_p * softmax(scores).max()] = -np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(softmax(scores))
        entropy = np.nansum(softmax(scores) * surprise)
    return softmax(_kept(scores, np.argsort(np.abs(surprise - entropy), kind="stable"), params.typical_p))


def _kept(scores: Floats, order: NDArray[np.int64], part: float) -> Floats:
    """The fewest in this order whose probability reaches `part`; the others become impossible."""
    if part == 1:
        return scores
    running = np.cumsum(softmax(scores)[order])
    kept = order[: int(np.searchsorted(running, part * running[-1], side="left")) + 1]
    result = np.full_like(scores, -np.inf)
    result[kept] = scores[kept]
    return result
