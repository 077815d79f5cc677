"""Rotary embedding against complex numbers in float64, and its scaling against the definition, wave by wave."""

import math

import numpy as np
import pytest
import torch

from ecocore.errors import InvalidModelFile
from ecocore.model.config import WavelengthScaling
from ecocore.model.rotary import RotaryTable, divided, rotary_frequencies, rotate_

SCALING = WavelengthScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def scaled(frequency: float, scaling: WavelengthScaling) -> float:
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return frequency
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return frequency / scaling.factor
    blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return (1 - blend) * frequency / scaling.factor + blend * frequency


@pytest.mark.parametrize("scaling", [None, SCALING])
def test_frequencies_follow_the_definition(scaling: WavelengthScaling | None) -> None:
    plain = [500000.0 ** (-2 * index / 128) for index in range(64)]
    expected = plain if scaling is None else [scaled(frequency, scaling) for frequency in plain]
    np.testing.assert_allclose(rotary_frequencies(128, 500000.0, scaling).numpy(), expected, rtol=2e-6)


def test_scaling_leaves_short_waves_slows_long_ones_and_blends_between() -> None:
    ratio = (rotary_frequencies(128, 500000.0) / rotary_frequencies(128, 500000.0, SCALING)).tolist()
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(8.0)
    assert any(1.5 < value < 7.5 for value in ratio)


def test_a_head_turns_like_complex_numbers() -> None:
    frequencies = rotary_frequencies(16, 10000.0)
    table = RotaryTable(frequencies, 50, dtype=torch.float32, device=torch.device("cpu"))
    positions = torch.tensor([0, 7, 49])
    heads = torch.randn((3, 2, 16), generator=torch.Generator().manual_seed(0))
    before = heads.double().numpy()
    rotate_(heads, table.at(positions))
    angles = positions.double().numpy()[:, None] * frequencies.double().numpy()
    turned = (before[..., :8] + 1j * before[..., 8:]) * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(heads.numpy(), np.concatenate([turned.real, turned.imag], axis=-1), atol=1e-5)


# The first makes frequencies infinite, the second angles of late positions.
@pytest.mark.parametrize("theta", [1e-320, 1e-38])
def test_angles_that_are_no_numbers_are_refused(theta: float) -> None:
    with pytest.raises(InvalidModelFile, match="infinite or not a number"):
        RotaryTable(rotary_frequencies(64, theta), 131072, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("divisor", [0.0, -1.0, math.nan])
def test_divisors_that_cannot_divide_are_refused(divisor: float) -> None:
    with pytest.raises(InvalidModelFile, match="must be above 0"):
        divided(torch.ones(3), torch.tensor([1.0, divisor, 1e30]))
    assert divided(torch.ones(2), torch.tensor([2.0, 1e30])).tolist() == pytest.approx([0.5, 1e-30])
