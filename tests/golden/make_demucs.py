"""Makes `demucs.npz`: what the authors' Demucs, its resampler and initial values give; `demucs2.th`, `demucs1.th.gz`.

Origin: github.com/facebookresearch/demucs, MIT: version 2 is the package demucs 2.0.3, with julius 0.2.8 (MIT);
version 1 the branch v1, commit 110f8fe. It runs with PyTorch (2.13 was used):

    pip install torch julius diffq tqdm && pip install --no-deps demucs==2.0.3
    git clone -b v1 https://github.com/facebookresearch/demucs demucs1
    python make_demucs.py demucs1

Weights and waves are drawn by `draw` from names, in the tests as here, so the file holds no weights. The two
checkpoints are small nets with drawn weights, saved by the authors' functions.
"""

import argparse
import importlib
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCES = ["drums", "bass", "other", "vocals"]
NARROW = {"channels": 2, "depth": 3}
# kind -> arguments of version 2
KINDS = {
    "plain": {},
    "no-glu": {"glu": False},
    "no-rewrite": {"rewrite": False},
    "no-lstm": {"lstm_layers": 0},
    "no-resample": {"resample": False},
    "context-1": {"context": 1},
    "normalize": {"normalize": True},
    "mono": {"audio_channels": 1, "growth": 1.5},
}
# kind -> arguments of version 1
OLD_KINDS = {"v1": {}, "v1-upsample": {"upsample": True, "stride": 2}}
RATIOS = ((1, 2), (2, 1), (3, 2), (441, 480))
LENGTH = 100  # samples that a narrow net is to yield
SONG = 3000
SEGMENT = 700  # of the checkpoint of version 2
SAMPLES = 1000  # of the full net's output and gradient


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name, float32; activations stay of order one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 1:
        return (0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)
    fan = math.prod(shape[1:]) if name.endswith("weight") or "weight_" in name else 1
    return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(fan))


def sampled(array: np.ndarray) -> np.ndarray:
    """Every so many of the values, and the array's inner products with eight random ones of its shape."""
    flat = np.asarray(array, np.float64).reshape(-1)
    products = [flat @ draw(f"product{i}", (1, flat.size))[0] / math.sqrt(flat.size) for i in range(8)]
    return np.concatenate([flat[:: flat.size // SAMPLES], products]).astype(np.float32)


def drawn(torch, net):
    """The net in evaluation mode with drawn weights."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            tensor.copy_(torch.from_numpy(draw(name, tuple(tensor.shape))))
    return net.eval()


def run(torch, net, golden: dict, kind: str) -> None:
    """Names and shapes of the tensors, output [2 4 c u], gradients of its inner product with a random array."""
    channels = net.audio_channels
    mix = torch.from_numpy(draw("mix", (2, channels, net.valid_length(LENGTH)))).requires_grad_()
    out = net(mix)
    (out * torch.from_numpy(draw("cotangent", tuple(out.shape)))).sum().backward()
    golden[f"{kind}/tensors"] = json.dumps({name: tuple(t.shape) for name, t in net.state_dict().items()})
    golden[f"{kind}/output"] = out.detach().numpy()
    golden[f"{kind}/gradient"] = mix.grad.numpy()
    if kind == "plain":
        golden["plain/gradients"] = np.concatenate([p.grad.numpy().ravel() for p in net.parameters()])


def products(torch, net) -> dict[str, float]:
    """The inner product of each parameter's gradient with a random array."""
    directions = {name: torch.from_numpy(draw(f"{name}.direction", p.shape)) for name, p in net.named_parameters()}
    return {name: float((p.grad * directions[name]).sum()) for name, p in net.named_parameters()}


def separated(torch, utils, net, length: int = SONG, **options) -> np.ndarray:
    """The authors' `apply_model` on a drawn song, [4 c t], of which every fifth sample."""
    song = torch.from_numpy(draw("song", (net.audio_channels, SONG)))[:, :length]
    return utils.apply_model(net, song, **options).numpy()[..., ::5]


def resampled(torch, golden: dict) -> None:
    """Short and long waves [2 1 t] at other rates."""
    import julius

    for old, new in RATIOS:
        for length in (3, 500):
            wave = torch.from_numpy(draw("wave", (2, 1, length)))
            golden[f"resample/{old}-{new}-{length}"] = julius.resample_frac(wave, old, new).numpy()


def version2(torch, golden: dict) -> None:
    """Everything of the package 2.0.3."""
    from demucs import model, utils

    for kind, changes in KINDS.items():
        run(torch, drawn(torch, model.Demucs(SOURCES, **(NARROW | changes))), golden, kind)
    net = drawn(torch, model.Demucs(SOURCES, segment_length=SEGMENT, **NARROW))
    for length in (SONG, 50):
        golden[f"apply/split-{length}"] = separated(torch, utils, net, length, split=True)
        golden[f"apply/whole-{length}"] = separated(torch, utils, net, length)
    options = argparse.Namespace(diffq=0, qat=None, q_min_size=1, models=Path("models"))
    utils.save_model(net, None, options, HERE / "demucs2.th")
    torch.manual_seed(0)
    wide = model.Demucs(SOURCES)
    convs = {name: p for name, p in wide.named_parameters() if name.startswith(("encoder", "decoder"))}
    golden["rescale/names"] = json.dumps(list(convs))
    golden["rescale/deviations"] = np.array([float(p.detach().std()) for p in convs.values()], np.float32)
    golden["full/tensors"] = json.dumps({name: tuple(t.shape) for name, t in wide.state_dict().items()})
    wide = drawn(torch, wide).double()  # in single precision, ReLUs near their kink turn some gradients by 1e-2
    mix = torch.from_numpy(draw("mix", (1, 2, wide.valid_length(44100)))).double().requires_grad_()
    out = wide(mix)
    (out * torch.from_numpy(draw("cotangent", tuple(out.shape)))).sum().backward()
    golden["full/shape"], golden["full/output"] = np.array(out.shape), sampled(out.detach().numpy())
    golden["full/gradient"], golden["full/products"] = sampled(mix.grad.numpy()), json.dumps(products(torch, wide))


def version1(torch, golden: dict, checkout: str) -> None:
    """Everything of the branch v1, in place of the package."""
    for name in [name for name in sys.modules if name.split(".")[0] == "demucs"]:
        del sys.modules[name]
    sys.path.insert(0, checkout)
    model, utils = importlib.import_module("demucs.model"), importlib.import_module("demucs.utils")
    for kind, changes in OLD_KINDS.items():
        run(torch, drawn(torch, model.Demucs(**(NARROW | changes))), golden, kind)
    net = drawn(torch, model.Demucs(4, 1, 2, depth=3))
    golden["apply/v1"] = separated(torch, utils, net, split=True)
    # As PyTorch did when version 1 was published.
    save = torch.save
    torch.save = lambda package, file: save(package, file, _use_new_zipfile_serialization=False)
    utils.save_model(net, HERE / "demucs1.th.gz")


def main(checkout: str) -> None:
    """Writes the three files beside this one."""
    import torch

    golden: dict[str, np.ndarray] = {}
    resampled(torch, golden)
    version2(torch, golden)
    version1(torch, golden, checkout)
    np.savez_compressed(HERE / "demucs.npz", **golden)


if __name__ == "__main__":
    main(sys.argv[1])
