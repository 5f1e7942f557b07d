"""Makes `lasaft.npz`: outputs and input gradients of the authors' LaSAFT nets, and `lasaft.ckpt`, a file as theirs.

Origin: github.com/ws-choi/Conditioned-Source-Separation-LaSAFT, commit 4e1c0609ccd7cab1f992f3078bade313879efdca, MIT.
It runs with PyTorch (2.13 was used); what its modules import besides (Lightning, wandb, ...) is replaced by stand-ins,
because only the nets are used:

    git clone https://github.com/ws-choi/Conditioned-Source-Separation-LaSAFT && git -C ... checkout 4e1c060
    python make_lasaft.py Conditioned-Source-Separation-LaSAFT

Weights and inputs are drawn by `draw` from the tensors' names, in the tests as here, so the file holds no weights.
"""

import importlib
import json
import math
import sys
import unittest.mock
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STAND_INS = (
    *("hydra", "hydra.utils", "museval", "musdb", "omegaconf", "pytorch_lightning", "pytorch_lightning.loggers"),
    *("pytorch_lightning.utilities", "rich", "rich.syntax", "rich.tree", "soundfile", "wandb", "wget"),
)

# 17 bins, 8 frames
NARROW = {
    "n_fft": 32,
    "n_blocks": 5,
    "internal_channels": 4,
    "n_internal_layers": 2,
    "embedding_dim": 4,
    "bn_factor": 4,
    "min_bn_units": 4,
    "num_tdfs": 3,
    "dk": 5,
}
# The small net of the paper: 1,025 bins, 16 frames
FULL = {
    "n_fft": 2048,
    "n_blocks": 7,
    "internal_channels": 24,
    "n_internal_layers": 5,
    "embedding_dim": 32,
    "bn_factor": 16,
    "min_bn_units": 16,
    "num_tdfs": 6,
    "dk": 32,
}
COMMON = {
    "input_channels": 4,
    "first_conv_activation": "relu",
    "last_activation": "identity",
    "t_down_layers": None,
    "f_down_layers": None,
    "kernel_size_t": 3,
    "kernel_size_f": 3,
    "control_vector_type": "embedding",
    "control_input_dim": 4,
    "condition_to": "decoder",
    "control_type": "dense",
    "control_n_layer": 4,
}
BLOCK = {"tfc_tdf_bias": False, "tfc_tdf_activation": "relu"}
GPOCM = {"pocm_type": "matmul", "pocm_norm": "batch_norm"}
FILM = {"film_type": "complex", "gamma_activation": "identity", "beta_activation": "identity"}
# kind -> (module, class, fields of its own)
KINDS = {
    "film": ("film", "FiLM", FILM | {"tfc_activation": "relu"}),
    "film-tdf": ("film_tdf", "FiLM_TDF", FILM | BLOCK),
    "film-lasaft": ("film_lasaft", "FiLM_LaSAFT", FILM | BLOCK),
    "gpocm": ("gpocm", "GPoCM", GPOCM | {"tfc_activation": "relu"}),
    "gpocm-tdf": ("gpocm_tdf", "GPoCM_TDF", GPOCM | BLOCK),
    "gpocm-lasaft": ("gpocm_lasaft", "GPoCM_LaSAFT", GPOCM | BLOCK),
    "gpocm-lightsaft": ("gpocm_lightsaft", "GPoCM_LightSAFT", GPOCM | BLOCK),
    "naive": ("gpocm_lasaft", "GPoCM_LaSAFT", GPOCM | BLOCK | {"pocm_type": "naive"}),
}
SOURCES = (2, 0, 3)  # asked for by the three examples
SAMPLES = 2000  # of the full net's output and gradient


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name, float32; activations stay of order one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("running_var", "weight")) and len(shape) == 1:
        return (1 + 0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)
    if len(shape) == 1:
        return (0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)
    fan = 1 if name.startswith(("embedding", "spectrum", "weight")) else math.prod(shape[1:]) / 2
    return (rng.standard_normal(shape) / math.sqrt(fan)).astype(np.float32)


def sampled(array: np.ndarray) -> np.ndarray:
    """Every so many of the values, and the array's inner products with eight random ones of its shape."""
    flat = np.asarray(array, np.float64).reshape(-1)
    products = [flat @ draw(f"weight{i}", (1, flat.size))[0] / math.sqrt(flat.size) for i in range(8)]
    return np.concatenate([flat[:: flat.size // SAMPLES], products]).astype(np.float32)


def build(torch, kind: str, sizes: dict):
    """The authors' net with drawn weights, in evaluation mode."""
    module, name, changes = KINDS[kind]
    module = importlib.import_module(f"lasaft.source_separation.conditioned.cunet.models.dcun_tfc_{module}")
    made = getattr(module, f"DCUN_TFC_{name}")
    accepted = made.__init__.__code__.co_varnames[: made.__init__.__code__.co_argcount]
    fields = {key: value for key, value in (COMMON | sizes | changes).items() if key in accepted}
    net = made(**fields).eval()
    with torch.no_grad():
        for tensor_name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(draw(tensor_name, tuple(tensor.shape))))
    return net


def run(torch, net, frames: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Output [3 4 frames bins] and the gradient of its inner product with a random array, for the input."""
    shape = (len(SOURCES), 4, frames, bins)
    dtype = next(net.parameters()).dtype
    x = torch.from_numpy(draw("spectrum", shape)).to(dtype).requires_grad_()
    y = net(x, torch.tensor(SOURCES))
    (y * torch.from_numpy(draw("weight", shape))).sum().backward()
    return y.detach().numpy(), x.grad.numpy()


def main(checkout: str) -> None:
    """Writes both files beside this one."""
    import torch

    for name in STAND_INS:
        sys.modules[name] = unittest.mock.MagicMock()
    sys.modules["pytorch_lightning"].LightningModule = torch.nn.Module
    sys.path.insert(0, checkout)

    golden = {}
    for kind in KINDS:
        net = build(torch, kind, NARROW)
        golden[f"{kind}/output"], golden[f"{kind}/gradient"] = run(torch, net, 8, 17)
        tensors = {name: tuple(t.shape) for name, t in net.state_dict().items() if t.is_floating_point()}
        golden[f"{kind}/tensors"] = json.dumps(tensors)
    trained = build(torch, "gpocm-lasaft", NARROW).train()
    for module in trained.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    golden["train/output"], _ = run(torch, trained, 8, 17)
    # In float64: of ten million ReLUs, rounding decides some in float32, and each moves the gradient.
    full = build(torch, "gpocm-lasaft", FULL).double()
    golden["full/tensors"] = json.dumps({n: tuple(t.shape) for n, t in full.state_dict().items() if t.dim()})
    golden["full/output"], golden["full/gradient"] = map(sampled, run(torch, full, 16, 1025))
    net = build(torch, "gpocm-lightsaft", NARROW | {"n_blocks": 3})
    golden["ckpt/output"], _ = run(torch, net, 8, 17)
    np.savez_compressed(HERE / "lasaft.npz", **golden)
    state = {f"spec2spec.{name}": tensor for name, tensor in net.state_dict().items()}
    state["stft.stft.window"] = torch.hann_window(32)
    hyper = {"n_fft": 32, "hop_length": 8, "num_frame": 64, "min_bn_units": 4, "pocm_type": "matmul"}
    torch.save({"epoch": 7, "state_dict": state, "hyper_parameters": hyper}, HERE / "lasaft.ckpt")


if __name__ == "__main__":
    main(sys.argv[1])
