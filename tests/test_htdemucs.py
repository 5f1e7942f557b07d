"""Hybrid Transformer Demucs against the authors' package: golden outputs made by `golden/make_hdemucs.py`."""

import hybrid_parity as parity
import pytest


@pytest.mark.parametrize("case", ["default", "trained", "segment"])
def test_equal_to_the_authors_code(case):
    """To 1e-5 of the largest value, all weights random: self- and cross-attention, both widths, a padded segment."""
    assert parity.output_error("htdemucs", case) < 1e-5


def test_gradients_are_equal_to_those_of_the_authors_code():
    wave, parameters = parity.gradient_errors("htdemucs", "trained")
    assert wave < 1e-4 and parameters < 1e-4


@pytest.mark.full
def test_full_width_is_equal_to_the_authors_code():
    assert parity.output_error("htdemucs", "full", parity.make.FULL_LENGTH) < 1e-4
    wave, parameters = parity.gradient_errors("htdemucs", "full", parity.make.FULL_LENGTH)
    assert wave < 1e-4 and parameters < 1e-4
