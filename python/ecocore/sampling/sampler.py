"""Token ids from logits: `Sampler` for anybody's loop, `BatchSampler` for the engine's.

Takes logits as the model left them and checked `SamplingParams`; gives drawn ids. The work is done in Rust, or by
a kernel where the logits lie on a CUDA device, and the logits are never written to. The order of the steps: docs/sampling.md.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ecocore import _core
from ecocore.errors import InvalidParameter
from ecocore.request import SamplingParams

Tensor: TypeAlias = Any
"""A tensor of torch or a numpy array."""


class Sampler:
    """Draws one token for each row of logits, reproducibly: a row's token depends on nothing but that row.

    The random number of a draw is a function of its seed and position alone, so the same sequence draws the
    same tokens whatever else is in the batch, in whatever order.
    """

    def __init__(self, vocab_size: int) -> None:
        """`vocab_size`: columns of the logits, 1 to 2^31. Raises InvalidParameter."""
        if not isinstance(vocab_size, int | np.integer) or not 1 <= vocab_size <= 2**31:
            raise InvalidParameter("vocab_size", "must be an integer between 1 and 2147483648")
        self.vocab_size = int(vocab_size)
        self._last: dict[int, tuple[SamplingParams, _core.SamplerParams]] = {}

    def sample(
        self,
        logits: Tensor,
        params: Sequence[SamplingParams],
        *,
        seeds: Sequence[SupportsIndex] | NDArray[Any],
        positions: Sequence[SupportsIndex] | NDArray[Any],
    ) -> Tensor:
        """One id per row: an int64 tensor of torch on the device of `logits` if that is one, else an int64 numpy array.

        `logits`: tensor or numpy array (rows, vocab_size) of float32, float16 or bfloat16 with contiguous
        rows; read in place, never written to. NaN counts as -inf. On a CUDA device a kernel draws, the same tokens as the CPU.
        `params`: one per row. Their `history` (ids drawn so far), `prompt` (for the repetition penalty) and
        `mask` (allowed ids) belong to that row; their `seed` is not looked at.
        `seeds`: one integer per row, taken modulo 2^64. `positions`: how many tokens the row's sequence drew
        before, 0 to 2^32 - 1; a seed draws anew at each position.

        Raises InvalidParameter: a wrong shape, dtype or device, an id outside the vocabulary, a mask of another
        length or without an allowed token, a row whose allowed logits are all -inf or NaN. KernelUnavailable: `logits` is on a
        CUDA device that the kernel cannot be made for.
        """
        logits = self._checked(logits)
        rows = (
            self._core_params_of(params),
            seeds,
            positions,
            [self._ids("prompt", row.prompt) for row in params],
            [self._ids("history", row.history) for row in params],
            [self._mask(row.mask) for row in params],
        )
        if _is_on_cuda(logits):
            return _draw_on_cuda(logits, _core.pack_rows(self.vocab_size, *rows))
        return _like(logits, _core.sample_rows(logits, *rows).token_ids)

    def _core_params_of(self, params: Sequence[SamplingParams]) -> list[_core.SamplerParams]:
        """As the core has them; those of the last call are kept, because a loop sends the same ones for each token."""
        if isinstance(params, SamplingParams) or not isinstance(params, Iterable):
            raise InvalidParameter("params", "must be a list of SamplingParams, one for each row")
        last = self._last
        self._last, cores = {}, []
        for row in params:
            if not isinstance(row, SamplingParams):
                place = f"[{len(cores)}]"
                raise InvalidParameter("params", f"must be SamplingParams, not {type(row).__name__}", place=place)
            known = last.get(id(row))
            if row.logit_bias:  # the one thing that can change in parameters
                core = _core_params(row, tell_logprobs=False)
            else:
                core = known[1] if known else _core_params(row, tell_logprobs=False)
                # With its parameters, so that their id stays theirs.
                self._last[id(row)] = row, core
            cores.append(core)
        return cores

    def _checked(self, logits: Tensor) -> Tensor:
        shape: Any = getattr(logits, "shape", ())
        if len(shape) == 2 and shape[1] != self.vocab_size:
            raise InvalidParameter("logits", f"has {shape[1]} columns, the vocabulary {self.vocab_size} tokens")
        return logits

    def _ids(self, name: str, ids: Sequence[int] | NDArray[Any] | None) -> NDArray[np.uint32] | None:
        if ids is None or len(ids) == 0:
            return None
        array = np.asarray(ids)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            found = f"{array.dtype} of shape {array.shape}"
            raise InvalidParameter(name, f"must be a sequence of ids from 0 to {self.vocab_size - 1}, not {found}")
        outside = array[(array < 0) | (array >= self.vocab_size)]
        if len(outside):
            raise InvalidParameter(name, f"holds token {outside[0]}; ids go from 0 to {self.vocab_size - 1}")
        return np.ascontiguousarray(array, np.uint32)

    def _mask(self, mask: NDArray[Any] | None) -> NDArray[np.bool_] | None:
        if mask is None:
            return None
        if mask.dtype != np.bool_ or mask.shape != (self.vocab_size,):
            found = f"{mask.dtype} of shape {mask.shape}"
            raise InvalidParameter("mask", f"must be a bool array of shape ({self.vocab_size},), not {found}")
        return np.ascontiguousarray(mask)


class BatchSampler:
    """The engine's door to the sampler: remembers parameters, seed and drawn tokens of each running sequence."""

    def __init__(self, vocab_size: int) -> None:
        """`vocab_size`: columns of the logits, 1 to 2^31. Raises InvalidParameter."""
        self._state = _core.SamplerState(vocab_size)

    def open(
        self,
        sequence_id: int,
        params: SamplingParams,
        seed: int,
        choice: int,
        prompt: NDArray[np.uint32],
        *,
        grammar: _core.Grammar | None = None,
        end_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        """Starts a sequence. `seed` is taken modulo 2^64; `prompt` counts for the repetition penalty only.

        `grammar`: what the answer has to be. `end_ids` are not drawn before `min_tokens` other tokens, unless the
        grammar allows nothing else.
        Raises InvalidParameter for an id of `prompt`, `end_ids` or `params.logit_bias` outside the vocabulary.
        """
        core_params = _core_params(params, tell_logprobs=params.logprobs)
        self._state.open(sequence_id, core_params, seed, choice, prompt, grammar=grammar, end_ids=end_ids, min_tokens=min_tokens)

    def close(self, sequence_id: int) -> None:
        """Forgets a sequence; unknown ids are ignored."""
        self._state.close(sequence_id)

    def late(self) -> list[int]:
        """Sequences whose grammar may take long to say what their next token may be: a step would have to wait for it."""
        return self._state.late()

    def prepare(self, batch: _core.Batch) -> _core.SamplerInputs:
        """Collects what the draws of `batch` need, while the model computes."""
        return self._state.prepare(batch)

    def sample(self, logits: Tensor, inputs: _core.SamplerInputs) -> _core.SampledTokens:
        """One token per sampled row; `logits`: tensor (batch.num_logits, vocab_size), never written to.

        A row without a usable logit fails its own sequence: one broken row does not end the batch.
        """
        return self._state.sample(logits, inputs)


def _core_params(params: SamplingParams, *, tell_logprobs: bool) -> _core.SamplerParams:
    return _core.SamplerParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        typical_p=params.typical_p,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        logit_bias=params.logit_bias,
        top_logprobs=params.top_logprobs if tell_logprobs else None,
    )


def _is_on_cuda(logits: Tensor) -> bool:
    # Not by its device, which torch makes an object of and numpy has, too.
    return bool(getattr(logits, "is_cuda", False))


def _draw_on_cuda(logits: Tensor, packed: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]) -> Tensor:
    """Uploads the rows, draws, and waits to see whether every row had a token."""
    from ecocore.kernels.sample import Rows, kernel_for

    drawn = kernel_for(logits).draw(logits, Rows.upload(packed, logits.device))
    impossible = (drawn.possible == 0).nonzero()
    if len(impossible):
        row = int(impossible[0])
        raise InvalidParameter("logits", f"leaves no token to draw: in row {row} every allowed logit is -inf or NaN")
    return drawn.ids


def _like(logits: Tensor, ids: NDArray[np.int64]) -> Tensor:
    """The ids in the library of the logits; a tensor shows that torch is loaded."""
    if isinstance(logits, np.ndarray):
        return ids
    return sys.modules["torch"].from_numpy(ids)
