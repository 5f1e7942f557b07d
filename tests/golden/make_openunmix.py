"""Makes openunmix.npz and openunmix/: what the public Open-Unmix computes with weights drawn from a numpy seed.

Reference: openunmix 1.3.0 (github.com/sigsep/open-unmix-pytorch, MIT), PyTorch on the CPU:

    pip install openunmix==1.3.0
    python tests/golden/make_openunmix.py

`openunmix.npz` has the outputs of the net (whole at reduced width, sampled at full width), the gradient of a weighted
sum of them for the input, and two separations of a short wave; `openunmix/` the reduced net of two sources as
openunmix writes it to disk: `<target>.pth`, `<target>.json`, `separator.json`. Inputs and weights are drawn again by
the test, with the functions of this file, which needs PyTorch in `main` only.
"""

import json
import math
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FRAME, HOP, RATE = 64, 16, 8000
SIZES = {  # bins, channels, hidden units, bins looked at, input (examples, frames)
    "reduced": (33, 2, 12, 25, (3, 20)),
    "full": (2049, 2, 512, 1487, (1, 24)),
}
SAMPLES = 4000  # of the full-width arrays
TARGETS = {"drums": 1, "vocals": 2}  # seeds


def shapes(bins, channels, hidden, seen):
    """Tensors of the state dict, in its order."""
    dense = {"fc1": (hidden, seen * channels), "fc2": (hidden, 2 * hidden), "fc3": (bins * channels, hidden)}
    made = dict.fromkeys(("input_mean", "input_scale"), (seen,)) | dict.fromkeys(
        ("output_scale", "output_mean"), (bins,)
    )
    for number, (name, shape) in enumerate(dense.items(), 1):
        made[f"{name}.weight"] = shape
        for key in ("weight", "bias", "running_mean", "running_var"):
            made[f"bn{number}.{key}"] = shape[:1]
    for layer in range(3):
        for suffix in ("", "_reverse"):
            for kind, shape in (("weight_ih", (2 * hidden, hidden)), ("weight_hh", (2 * hidden, hidden // 2))):
                made[f"lstm.{kind}_l{layer}{suffix}"] = shape
            made |= {f"lstm.{kind}_l{layer}{suffix}": (2 * hidden,) for kind in ("bias_ih", "bias_hh")}
    return made


def draw(seed, *sizes):
    """Random tensors by name: products keep the order of one, masks come out between 0 and about 2."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in sorted(shapes(*sizes).items()):
        values = rng.standard_normal(shape)
        if len(shape) == 2:
            values *= 1 / math.sqrt(shape[1])
        elif name.endswith(("running_var", "scale")) or (name.startswith("bn") and name.endswith(".weight")):
            values = 0.5 + rng.uniform(size=shape)
        else:
            values *= 0.3
        tensors[name] = values.astype(np.float32)
    tensors["bn3.weight"] *= np.float32(0.5)
    tensors["output_mean"] += np.float32(0.7)
    return tensors


def spectrum(seed, bins, channels, shape):
    """Magnitudes [b n f c] and weights of the sum whose gradient is taken."""
    rng = np.random.default_rng(seed)
    size = (*shape, bins, channels)
    return np.abs(rng.standard_normal(size)).astype(np.float32), rng.standard_normal(size).astype(np.float32)


def sampled(array, seed=9):
    """Some values of a large array."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.random.default_rng(seed).choice(len(flat), SAMPLES, replace=False)]


def wave(seed=5, length=5400):
    """Two channels [t c]: more than 300 frames, loud enough that the Wiener filter scales it."""
    rng = np.random.default_rng(seed)
    envelope = np.abs(np.sin(np.arange(length) / 900))[:, None]
    return (2 * envelope * rng.standard_normal((length, 2)) @ np.array([[1.0, 0.5], [-0.3, 0.8]])).astype(np.float32)


def main():
    import torch
    from openunmix.model import OpenUnmix
    from openunmix.utils import load_separator

    def net(tensors, bins, channels, hidden, seen):
        made = OpenUnmix(bins, channels, hidden, max_bin=seen)
        state = made.state_dict()
        named = {name: torch.tensor(values) for name, values in tensors.items()}
        assert {name: tuple(v.shape) for name, v in state.items() if "num_batches" not in name} == {
            name: tuple(v.shape) for name, v in named.items()
        }
        made.load_state_dict(named, strict=False)
        return made.eval()

    golden = {}
    for name, (*sizes, shape) in SIZES.items():
        reference = net(draw(0, *sizes), *sizes)
        assert name != "full" or sum(p.numel() for p in reference.parameters()) == 8_893_348
        magnitude, weight = (torch.tensor(x).permute(0, 3, 2, 1) for x in spectrum(7, *sizes[:2], shape))
        magnitude.requires_grad_()
        output = reference(magnitude)
        (output * weight).sum().backward()
        keep = sampled if name == "full" else np.asarray
        golden[f"{name}/output"] = keep(output.detach().permute(0, 3, 2, 1).numpy())
        golden[f"{name}/gradient"] = keep(magnitude.grad.permute(0, 3, 2, 1).numpy())

    folder = HERE / "openunmix"
    folder.mkdir(exist_ok=True)
    *sizes, _ = SIZES["reduced"]
    args = {"nfft": FRAME, "nhop": HOP, "nb_channels": sizes[1], "hidden_size": sizes[2], "bandwidth": 3000}
    stft = {"sample_rate": RATE, "nfft": FRAME, "nhop": HOP, "nb_channels": sizes[1]}
    (folder / "separator.json").write_text(json.dumps(stft) + "\n")
    for target, seed in TARGETS.items():
        torch.save(net(draw(seed, *sizes), *sizes).state_dict(), folder / f"{target}.pth")
        (folder / f"{target}.json").write_text(json.dumps({"args": args | {"target": target}}) + "\n")
    audio = torch.tensor(wave()).T[None]
    with torch.no_grad():
        for name, targets, residual in (("both", list(TARGETS), False), ("vocals", ["vocals"], True)):
            separator = load_separator(str(folder), targets=targets, niter=1, residual=residual)
            separator.freeze()
            golden[f"separated/{name}"] = separator(audio)[0].permute(0, 2, 1).numpy()[: len(targets)]
    np.savez_compressed(HERE / "openunmix.npz", **golden)


if __name__ == "__main__":
    main()
