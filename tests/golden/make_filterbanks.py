"""Golden outputs of asteroid-filterbanks 0.4.0 and nnAudio 0.3.4, for tests/test_{filterbanks,learnable_stft}.py.

    pip install torch asteroid-filterbanks==0.4.0 nnAudio==0.3.4
    python tests/golden/make_filterbanks.py

`filterbanks.npz` holds for each bank its filters [n k], the coefficients [n t] of a wave, the wave that a second bank
of its kind makes of them, and that which the pseudo-inverse does; `initial` are the first frequencies of `param_sinc`.
Of asteroid's STFT of 64 samples every 16 it has the filters and coefficients; of nnAudio's trainable one both kernels
before training, and the spectrum [f n] by kernels that have moved. Parameters and wave are drawn by name (`draw`). Made
with PyTorch 2.14.1. The Hilbert transform of the analytic bank is the package's own for PyTorch
before 1.7; for later ones it has a complex conjugate in its place.
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
    from nnAudio import features

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
    with torch.no_grad():
        stft = banks.STFTFB(64, 64, stride=16)
        golden["stft/filters"] = stft.filters().numpy()[:, 0]
        golden["stft/coefficients"] = banks.Encoder(stft)(wave).numpy()[0]
        trainable = features.STFT(n_fft=64, hop_length=16, trainable=True, output_format="Complex", verbose=False)
        for key in ("wcos", "wsin"):
            kernel = getattr(trainable, key)
            golden[f"nnaudio/{key}"] = kernel.numpy()[:, 0].copy()
            kernel += torch.from_numpy(0.1 * draw(f"nnaudio/{key}", tuple(kernel.shape)))
        real, imaginary = trainable(wave[0]).numpy()[0].transpose(2, 0, 1)
        golden["nnaudio/spectrum"] = real + 1j * imaginary
    np.savez_compressed(HERE / "filterbanks.npz", **golden)


if __name__ == "__main__":
    main()
