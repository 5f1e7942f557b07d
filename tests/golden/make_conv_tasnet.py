"""Makes `conv_tasnet.npz`: outputs and gradients of three public Conv-TasNets and a TasNet, and two files as theirs.

Origins, all run with PyTorch (2.13 was used) and unchanged:

- asteroid 0.7.0 with asteroid-filterbanks 0.4.0, MIT: ConvTasNet and LSTMTasNet;
- demucs 2.0.3, MIT, the sdist's demucs/tasnet.py (diffq is not needed: replaced by a stand-in);
- torchaudio 2.11.0, BSD-2-Clause: models/conv_tasnet.py, loaded by its path.

    pip install --no-deps --target ASTEROID asteroid==0.7.0 asteroid-filterbanks==0.4.0
    pip download --no-deps --no-binary :all: demucs==2.0.3 && tar xzf demucs-2.0.3.tar.gz
    python make_conv_tasnet.py ASTEROID demucs-2.0.3 .../site-packages/torchaudio/models/conv_tasnet.py

What asteroid imports beside PyTorch is replaced by stand-ins: only nets are used. Weights and inputs are drawn by
`draw` from the tensors' names, in the tests as here, so the file holds only shapes. `asteroid_tasnet.pth` and
`demucs_tasnet.th` are what asteroid's and demucs' own code saves of two of these nets, `apply` what demucs' apply_model
makes of `song()`.
"""

import argparse
import importlib.util
import json
import math
import sys
import unittest.mock
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STAND_INS = ("diffq", "huggingface_hub", "julius", "pytorch_lightning", "requests", "soundfile", "tqdm")
SAMPLES = 500  # kept of a full net's output and gradient

A = {"n_src": 2, "n_filters": 12, "kernel_size": 8, "stride": 4, "bn_chan": 6, "hid_chan": 10, "skip_chan": 7}
A |= {"n_blocks": 2, "n_repeats": 2, "sample_rate": 16000}
B = {"N": 12, "L": 10, "B": 6, "H": 10, "X": 2, "R": 2, "samplerate": 8000, "segment_length": 300}
T = {"num_sources": 2, "enc_kernel_size": 8, "enc_num_feats": 12, "msk_num_feats": 6, "msk_num_hidden_feats": 10}
T |= {"msk_num_layers": 2, "msk_num_stacks": 2}
LSTM = {"n_src": 2, "n_filters": 12, "kernel_size": 8, "stride": 4, "hid_size": 5, "n_layers": 2, "dropout": 0.0}
SOURCES = ["drums", "bass", "other", "vocals"]
# name -> (family, arguments, shape of the input [b c t])
CASES = {
    "asteroid": ("asteroid", A | {"mask_act": "relu"}, (2, 1, 301)),
    "asteroid-relu": ("asteroid", A | {"mask_act": "softmax", "encoder_activation": "relu"}, (2, 1, 301)),
    "asteroid-no-skips": ("asteroid", A | {"skip_chan": 0, "mask_act": "sigmoid"}, (2, 1, 301)),
    "asteroid-causal": ("asteroid", A | {"causal": True, "norm_type": "cLN", "mask_act": "linear"}, (2, 1, 301)),
    "asteroid-cumulative": ("asteroid", A | {"causal": True, "norm_type": "cgLN", "mask_act": "relu"}, (2, 1, 301)),
    "lstm": ("lstm", LSTM | {"mask_act": "relu"}, (2, 1, 301)),
    "lstm-causal": ("lstm", LSTM | {"bidirectional": False}, (2, 1, 301)),
    "demucs": ("demucs", B, (1, 2, 203)),
    "demucs-softmax": ("demucs", B | {"mask_nonlinear": "softmax"}, (1, 2, 203)),
    "demucs-causal": ("demucs", B | {"causal": True, "norm_type": "cLN"}, (1, 2, 203)),
    "torchaudio": ("torchaudio", T, (2, 1, 301)),
    "torchaudio-odd": ("torchaudio", T | {"enc_kernel_size": 9, "msk_activate": "relu"}, (2, 1, 302)),
    "full-speech": ("asteroid", {"n_src": 2, "mask_act": "relu"}, (1, 1, 8000)),
    "full-torchaudio": ("torchaudio", {}, (1, 1, 8001)),
    "full-music": ("demucs", {"X": 10}, (1, 2, 80_000)),
}
# Of these, which are others but for masks and frames, the gradients for the parameters are left out.
OTHER_MASKS = ("asteroid-relu", "demucs-softmax", "torchaudio-odd")


def draw(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """The tensor of this name, float32; activations stay of order one."""
    rng = np.random.default_rng(zlib.crc32((salt + name).encode()))
    noise = rng.uniform(-1, 1, shape)
    if math.prod(shape) == max(shape, default=1):  # norms, biases, PReLU
        centre = 1.0 if name.endswith("gamma") or (len(shape) == 1 and "weight" in name and shape != (1,)) else 0.0
        return (centre + 0.3 * noise).astype(np.float32)
    fan = shape[-1] if name.endswith("_filters") else math.prod(shape[1:])
    return (1.7 * noise / math.sqrt(fan)).astype(np.float32)


def wave(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Noise [b c t]."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def song() -> np.ndarray:
    """Stereo noise [t c] that swells, three segments and a bit long."""
    noise = wave("song", (2, 830)).T
    return (0.2 * noise * np.linspace(0.1, 1, len(noise))[:, None]).astype(np.float32)


def sampled(array: np.ndarray) -> np.ndarray:
    """Every so many of the values, and inner products with eight random arrays."""
    flat = np.asarray(array, np.float64).reshape(-1)
    products = [flat @ wave(f"product{i}", (flat.size,)) / math.sqrt(flat.size) for i in range(8)]
    return np.concatenate([flat[:: max(1, flat.size // SAMPLES)], products]).astype(np.float32)


def load(path: Path, name: str):
    """A module by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(torch, family: str, arguments: dict, torchaudio: Path):
    """A net with drawn weights, in evaluation mode."""
    if family == "torchaudio":
        net = load(torchaudio, "torchaudio_conv_tasnet").ConvTasNet(**arguments)
    elif family == "demucs":
        from demucs.tasnet import ConvTasNet

        net = ConvTasNet(SOURCES, **arguments)
    else:
        from asteroid.models import ConvTasNet, LSTMTasNet

        net = (ConvTasNet if family == "asteroid" else LSTMTasNet)(**arguments)
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            tensor.copy_(torch.from_numpy(draw(name, tuple(tensor.shape))))
    return net.eval()


def run(torch, net, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Output, and the gradients of its inner product with a random array for the input and the parameters."""
    mix = torch.from_numpy(wave(name, shape)).requires_grad_()
    output = net(mix)
    weight = torch.from_numpy(wave(f"{name}/weight", tuple(output.shape)))
    (output * weight).sum().backward()
    found = {"output": output.detach().numpy(), "input": mix.grad.numpy()}
    if name.startswith("full"):
        return {key: sampled(array) for key, array in found.items()}
    if name in OTHER_MASKS:
        return found
    gradients = []
    for parameter, tensor in net.named_parameters():
        gradient = np.zeros(tensor.shape, np.float32) if tensor.grad is None else tensor.grad.numpy()
        # the tests add the two biases of a gate, whose gradients are equal: one of them is enough
        gradients.append(gradient.ravel() * ("bias_hh" not in parameter))
    return found | {"parameters": np.concatenate(gradients)}


def main(asteroid: str, demucs: str, torchaudio: str) -> None:
    """Writes the files."""
    sys.path[:0] = [asteroid, demucs]
    sys.modules.update({name: unittest.mock.MagicMock() for name in STAND_INS if name not in sys.modules})
    import torch
    from demucs.utils import apply_model, save_model

    golden, shapes = {}, {}
    for name, (family, arguments, shape) in CASES.items():
        net = build(torch, family, arguments, Path(torchaudio))
        shapes[name] = {key: tuple(tensor.shape) for key, tensor in net.named_parameters()}
        golden |= {f"{name}/{key}": array for key, array in run(torch, net, name, shape).items()}
        if name == "asteroid":
            saved = {
                "model_name": type(net).__name__,
                "state_dict": net.state_dict(),
                "model_args": net.get_model_args(),
            }
            torch.save(saved, HERE / "asteroid_tasnet.pth")
        if name == "demucs":
            save_model(net, None, argparse.Namespace(tasnet=True), HERE / "demucs_tasnet.th")
            mix = torch.from_numpy(song().T.copy())
            mean, std = mix.mean(0).mean(), mix.mean(0).std()  # as its separate.py
            separated = apply_model(net, (mix - mean) / std, shifts=0, split=True, overlap=0.25) * std + mean
            golden["apply"] = separated.transpose(1, 2).numpy()
    golden["shapes"] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    np.savez_compressed(HERE / "conv_tasnet.npz", **golden)


if __name__ == "__main__":
    main(*sys.argv[1:])
