"""Rotary position embedding: frequencies to a table of cosines and sines, and the turn itself.

Everything is computed in float32 and cast to the model's dtype at the end, as the models were trained.
"""

import math

import torch
from torch import Tensor

from ecocore.errors import InvalidModelFile
from ecocore.model.config import WavelengthScaling


def rotary_frequencies(head_dim: int, theta: float, scaling: WavelengthScaling | None = None) -> Tensor:
    """Angle per position of each pair of dimensions: (head_dim // 2,) float32, finite where `RotaryTable` takes them."""
    frequencies = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    if scaling is None:
        return frequencies
    # Waves that turn often within the trained context stay, those that never complete a turn are slowed
    # by the factor, and those between are blended.
    wavelengths = 2 * math.pi / frequencies
    slowed = frequencies / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = (scaling.original_context / wavelengths - low) / (high - low)
    blended = (1 - blend) * slowed + blend * frequencies
    result = torch.where(wavelengths > scaling.original_context / low, slowed, blended)
    return torch.where(wavelengths < scaling.original_context / high, frequencies, result)


def divided(frequencies: Tensor, divisors: Tensor) -> Tensor:
    """Frequencies slowed by what a file has for each: (head_dim // 2,) both. Raises InvalidModelFile for what cannot divide."""
    if not bool((divisors > 0).all()):
        raise InvalidModelFile("the divisors of rotary frequencies must be above 0")
    return frequencies / divisors


def finite_angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """(positions, pairs) of (positions,), the last one the highest, and (pairs,).

    Raises InvalidModelFile where numbers of the file have given one that is infinite or not a number.
    """
    angles = torch.outer(positions, frequencies)
    if not bool(angles[-1:].isfinite().all()):
        raise InvalidModelFile("the rotary settings give angles that are infinite or not a number")
    return angles


class RotaryTable:
    """Cosines and sines of every position, built once."""

    def __init__(self, frequencies: Tensor, num_positions: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """`frequencies`: (head_dim // 2,) float32. Covers the positions 0 to `num_positions` - 1. Raises InvalidModelFile."""
        angles = finite_angles(torch.arange(num_positions, dtype=torch.float32), frequencies)
        cos, sin = angles.cos(), angles.sin()
        # Both halves of a head turn by the same angle; the first half takes the partner's sine negatively,
        # and keeping the sign in the table saves a negation in every layer.
        self._cos = torch.cat((cos, cos), dim=1).to(device, dtype)
        self._sin = torch.cat((-sin, sin), dim=1).to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of `positions` (rows,): two tensors (rows, 1, head_dim) for `rotate_`."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def at_coordinates(self, coordinates: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """As `at`, where pair i turns by `coordinates` (any, rows) number `axes` (head_dim // 2,) i."""
        half = len(axes)
        rows, pairs = coordinates[axes].T, torch.arange(half, device=axes.device)
        cos = self._cos[rows, pairs]
        sin = self._sin[rows, pairs + half]
        return torch.cat((cos, cos), dim=1).unsqueeze(1), torch.cat((-sin, sin), dim=1).unsqueeze(1)


def rotate_(heads: Tensor, turn: tuple[Tensor, Tensor]) -> None:
    """Turns `heads` (rows, heads, head_dim) in place, dimension i together with i + head_dim // 2."""
    cos, sin = turn
    partners = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).add_(partners.mul_(sin))
