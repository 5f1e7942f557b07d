"""Makes `dccrn.npz`: outputs and gradients of two public DCCRNs, and `dccrn.pth`, a file of the first one's weights.

Origins: github.com/huyanxin/DeepComplexCRN, commit 2e20e122d4b752cd8299450dae5181ff2bd3c29d, Apache-2.0, whose module
`show` only prints and is replaced; `DCCRNet` of asteroid 0.7.0 with asteroid-filterbanks 0.4.0, MIT, of which what it
imports besides is replaced by stand-ins, and whose product of sizes is made a Python int, as PyTorch (2.13 was used)
wants it:

    git clone https://github.com/huyanxin/DeepComplexCRN && git -C ... checkout 2e20e12
    pip install torch scipy packaging && pip install --no-deps asteroid==0.7.0 asteroid-filterbanks==0.4.0
    python make_dccrn.py DeepComplexCRN

Weights and waves are drawn by `draw` from the tensors' names, in the tests as here, so `dccrn.npz` holds no weights.
Both nets run in float64.
"""

import json
import math
import sys
import unittest.mock
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STAND_INS = (
    *("filelock", "huggingface_hub", "julius", "librosa", "pandas", "pb_bss_eval", "pytorch_lightning", "requests"),
    *("show", "soundfile", "torch_optimizer", "torch_stoi", "torchmetrics"),
)

SAMPLES = 600  # 50 hops of the narrow STFT
NARROW = {"rnn_units": 6, "win_len": 48, "win_inc": 12, "fft_len": 64, "kernel_num": [4, 6, 8]}
FULL = {"rnn_units": 256, "kernel_num": [32, 64, 128, 256, 256, 256]}
KINDS = {
    "cl": {"use_clstm": True},
    "cl-c": {"use_clstm": True, "masking_mode": "C"},
    "cl-r": {"use_clstm": True, "masking_mode": "R"},
    "cl-whitened": {"use_clstm": True, "use_cbn": True},
    "e": {},
}
WITH_PARAMETERS = ("cl-whitened", "e")
ASTEROID = {"architecture": "mini", "stft_n_filters": 32, "stft_kernel_size": 24, "stft_stride": 6, "n_src": 2}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name, float32; activations stay of order one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 1:
        noise = 0.3 * rng.uniform(-1, 1, shape)
        around = 1 if name.endswith(("running_var", "weight", "Wrr", "Wii", "RVrr", "RVii")) else 0
        return (around + noise).astype(np.float32)
    if "conv" in name or "output_layer" in name:  # of a transposed convolution the second axis is its output
        inputs = shape[0] if "deco" in name or "output_layer" in name else shape[1]
        fan = 10 * inputs
    else:
        fan = 1 if name in ("wave", "weight") else math.prod(shape[1:])
    return (rng.standard_normal(shape) / math.sqrt(fan)).astype(np.float32)


def wave(samples: int, loudness: float = 0.05) -> np.ndarray:
    """Two waves, [2 samples]."""
    return loudness * draw("wave", (2, samples))


def fill(torch, net):
    """The net in float64 and evaluation mode with drawn weights and statistics; buffers of the STFT stay."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and "stft" not in name and "filterbank" not in name:
                tensor.copy_(torch.from_numpy(draw(name, tuple(tensor.shape))))
    return net.double().eval()


def run(torch, net, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Output [2 ...], and the gradients of its inner product with a drawn array, for the wave and the parameters."""
    wave_ = torch.from_numpy(x).double().requires_grad_()
    out = net(wave_)
    out = out[1] if isinstance(out, tuple) else out
    (out * torch.from_numpy(draw("weight", tuple(out.shape)))).sum().backward()
    gradients = {name: p.grad.numpy().astype(np.float32) for name, p in net.named_parameters()}
    return out.detach().numpy().astype(np.float32), wave_.grad.numpy().astype(np.float32), gradients


def joined(key: str, arrays: dict[str, np.ndarray]) -> dict:
    """Many small arrays as one, and their shapes as JSON."""
    shapes = {name: array.shape for name, array in arrays.items()}
    return {f"{key}/shapes": json.dumps(shapes), key: np.concatenate([array.ravel() for array in arrays.values()])}


def parted(golden, key: str) -> dict[str, np.ndarray]:
    """The inverse of `joined`."""
    shapes = json.loads(str(golden[f"{key}/shapes"]))
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    return {n: part.reshape(s) for (n, s), part in zip(shapes.items(), np.split(golden[key], ends), strict=True)}


def shapes(net) -> str:
    """The tensors that `draw` makes: name -> shape, as JSON."""
    state = net.state_dict().items()
    return json.dumps({n: tuple(t.shape) for n, t in state if t.is_floating_point() and "filterbank" not in n})


def main(checkout: str) -> None:
    """Writes both files beside this one."""
    import torch

    for name in STAND_INS:
        sys.modules[name] = unittest.mock.MagicMock()
    product = np.prod
    np.prod = lambda *args, **options: (lambda p: int(p) if np.ndim(p) == 0 else p)(product(*args, **options))
    sys.path.insert(0, checkout)
    from asteroid.models import DCCRNet
    from dc_crn import DCCRN

    golden = {}
    for kind, options in KINDS.items():
        net = fill(torch, DCCRN(**NARROW, **options))
        golden[f"{kind}/tensors"] = shapes(net)
        golden[f"{kind}/output"], golden[f"{kind}/gradient"], gradients = run(torch, net, wave(SAMPLES))
        if kind in WITH_PARAMETERS:
            golden |= joined(f"{kind}/parameters", gradients)
    golden["clamped/output"] = run(torch, fill(torch, DCCRN(**NARROW, **KINDS["cl-c"])), wave(SAMPLES, 0.5))[0]
    for kind in ("cl", "cl-whitened"):
        net = fill(torch, DCCRN(**NARROW, **KINDS[kind])).train()
        golden[f"{kind}/train/output"], golden[f"{kind}/train/gradient"], _ = run(torch, net, wave(SAMPLES))
        for name, tensor in net.state_dict().items():
            if name.startswith("encoder.1.1.") and "running_var" not in name:  # PyTorch's is unbiased, ours is not
                golden[f"{kind}/train/{name}"] = tensor.numpy().astype(np.float32)
    net = fill(torch, DCCRNet(**ASTEROID))
    golden["asteroid/tensors"] = shapes(net)
    golden["asteroid/output"], golden["asteroid/gradient"], gradients = run(torch, net, wave(SAMPLES)[:, None])
    golden |= joined("asteroid/parameters", {name: g for name, g in gradients.items() if g.size <= 400})
    for name, net in (("full", DCCRN(use_clstm=True, **FULL)), ("asteroid/full", DCCRNet("DCCRN-CL"))):
        fill(torch, net)
        golden[f"{name}/tensors"] = shapes(net)
        x = wave(1600) if name == "full" else wave(1600)[:, None]
        golden[f"{name}/output"], golden[f"{name}/gradient"], _ = run(torch, net, x)
    np.savez_compressed(HERE / "dccrn.npz", **golden)
    net = fill(torch, DCCRN(**NARROW, **KINDS["cl-whitened"])).float()
    torch.save(net.state_dict(), HERE / "dccrn.pth")


if __name__ == "__main__":
    main(sys.argv[1])
