"""Hybrid Demucs against the authors' package: golden outputs made by `golden/make_hdemucs.py`."""

import hybrid_parity as parity
import pytest


@pytest.mark.parametrize("case", ["hybrid", "decoder", "old", "medium"])
def test_equal_to_the_authors_code(case):
    """To 1e-5 of the largest value, all weights random: LSTM, attention, norms, both padding rules, both time strides."""
    assert parity.output_error("hdemucs", case) < 1e-5


def test_gradients_are_equal_to_those_of_the_authors_code():
    wave, parameters = parity.gradient_errors("hdemucs", "hybrid")
    assert wave < 1e-4 and parameters < 1e-4


@pytest.mark.full
def test_full_width_is_equal_to_the_authors_code():
    assert parity.output_error("hdemucs", "full", parity.make.FULL_LENGTH) < 1e-4
