"""Golden outputs of asteroid-filterbanks 0.4.0, for `tests/test_filterbanks.py`.

    pip install torch asteroid-filterbanks==0.4.0
    python tests/golden/make_filterbanks.py

`filterbanks.npz` holds for each bank its filters [n k], the coefficients [n t] of a wave, the wave that a second bank
of its kind makes of them, and that which the pseudo-inverse does; `initial` are the first frequencies of `param_sinc`.
Parameters and wave are drawn by name (`draw`). Made with PyTorch 2.14.1. The Hilbert transform of the analytic bank is
the package's own for PyTorch before 1.7; for later ones it has a complex conjugate in its place.
"""

import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SAMPLES, RATE = 200, 8000.0
# name -> (filters, kernel, stride)
BANKS = {"free": (24, 16, 8), "analytic_free": (12, 16, 4), "param_sinc": (10, 15, 8)}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of this name, float32: frequencies in Hz, or noise."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("hz_"):
        return rng.uniform(10, 1500, shape).astype(np.float32)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def main() -> None:
    """Writes the file."""
    import asteroid_filterbanks as banks
    import torch
    from asteroid_filterbanks import analytic_free_fb

    analytic_free_fb.conj = lambda spectrum: -1j * spectrum
    golden = {}
    wave = torch.from_numpy(draw("wave", (1, 1, SAMPLES)))
    for name, (filters, kernel, stride) in BANKS.items():
        sides = {}
        for side in ("analysis", "synthesis"):
            bank = banks.get(name)(filters, kernel, stride=stride, sample_rate=RATE)
            with torch.no_grad():
                for key, tensor in bank.named_parameters():
                    if name == "param_sinc":
                        golden[f"initial/{key}"] = tensor.numpy()[:, 0].copy()
                    tensor.copy_(torch.from_numpy(draw(f"{name}/{side}/{key}", tuple(tensor.shape))))
            sides[side] = bank
        with torch.no_grad():
            coefficients = banks.Encoder(sides["analysis"])(wave)
            golden[f"{name}/filters"] = sides["analysis"].filters().numpy()[:, 0]
            golden[f"{name}/coefficients"] = coefficients.numpy()[0]
            golden[f"{name}/wave"] = banks.Decoder(sides["synthesis"])(coefficients).numpy()[0, 0]
            golden[f"{name}/inverse"] = banks.Decoder.pinv_of(sides["analysis"])(coefficients).numpy()[0, 0]
    np.savez_compressed(HERE / "filterbanks.npz", **golden)


if __name__ == "__main__":
    main()
