"""Makes `hdemucs.npz` and `htdemucs.npz`: outputs, input and parameter gradients of the authors' hybrid Demucs nets.

And `hybrid/`: files as the package saves them, a bag, and in `stems.npz` what its `apply_model` makes of a song.

Origin: demucs 4.1.0 of PyPI (github.com/facebookresearch/demucs), MIT; torchaudio 2.11.0 (MIT) for `medium`, which
the package cannot make. With PyTorch 2.13:

    pip install demucs==4.1.0 omegaconf
    python make_hdemucs.py

Weights and inputs are drawn by `draw` from the tensors' names, in the tests as here, so the files hold no weights.
"""

import importlib.util
import json
import math
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCES = ["drums", "bass", "other", "vocals"]
LENGTH = 8_000  # of a narrow net's input: the time branch and the frames of 8 samples ... are not full
FULL_LENGTH = 50_000
SAMPLES = 2_000

HYBRID = {
    "channels": 8,
    "nfft": 256,
    "depth": 4,
    "norm_starts": 2,
    "norm_groups": 2,
    "dconv_lstm": 2,
    "dconv_attn": 2,
    "dconv_comp": 2,
}
TRANSFORMER = {
    "channels": 8,
    "nfft": 512,
    "depth": 2,
    "norm_starts": 1,
    "norm_groups": 2,
    "dconv_comp": 2,
    "t_heads": 2,
}
# system -> case -> arguments of the package's class
CASES = {
    "hdemucs": {
        "hybrid": HYBRID,
        "decoder": HYBRID | {"dconv_mode": 3, "dconv_lstm": 9, "dconv_depth": 1, "growth": 3, "freq_emb": 0.5},
        "old": HYBRID | {"hybrid_old": True, "dconv_mode": 0},
        "medium": {"nfft": 2048, "channels": 4},
        "full": {},
    },
    "htdemucs": {
        "default": TRANSFORMER | {"t_layers": 3},
        "trained": TRANSFORMER | {"t_layers": 2, "dconv_mode": 3, "bottom_channels": 12},
        "segment": TRANSFORMER | {"t_layers": 1, "segment": Fraction(9_000, 44_100), "use_train_segment": True},
        "full": {"dconv_mode": 3, "bottom_channels": 512, "segment": Fraction(FULL_LENGTH, 44_100)},
    },
}
TINY = {"channels": 4, "nfft": 256, "depth": 2, "dconv_depth": 1, "dconv_comp": 2, "t_heads": 2, "t_layers": 2}
TINY |= {"segment": Fraction(1_200, 44_100), "bottom_channels": 8, "dconv_mode": 3}
# file -> (system, arguments)
FILES = {
    "aaaa": ("htdemucs", TINY | {"use_train_segment": True}),
    "bbbb": ("htdemucs", TINY | {"use_train_segment": True}),
    "cccc": ("hdemucs", HYBRID | {"channels": 4, "dconv_depth": 1, "segment": Fraction(1_200, 44_100)}),
}
BAG = [[1.0, 0.0, 0.5, 3.0], [0.0, 1.0, 0.5, 1.0]]
SONG = 1_500  # samples: a segment and a short one
ALWAYS = {"htdemucs": {"use_train_segment": False, "segment": 1}, "hdemucs": {}}
GRADIENTS = ("hybrid", "trained", "full")  # cases whose gradients are kept


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name, float32; activations stay of order one, scales of residual branches are not small."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("weight", "scale")) and len(shape) == 1:
        return (1 + 0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)
    if len(shape) == 1:
        return (0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)
    fan = 1 if name in ("wave", "weight") or "emb" in name else math.prod(shape[1:])
    return (rng.standard_normal(shape) / math.sqrt(fan)).astype(np.float32)


def sampled(array: np.ndarray) -> np.ndarray:
    """Every so many of the values, and the array's inner products with eight random ones of its shape."""
    flat = np.asarray(array, np.float64).reshape(-1)
    products = [flat @ draw(f"weight{i}", (1, flat.size))[0] / math.sqrt(flat.size) for i in range(8)]
    return np.concatenate([flat[:: max(1, flat.size // SAMPLES)], products]).astype(np.float32)


def fill(torch, net):
    """The net with drawn weights, in evaluation mode."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            tensor.copy_(torch.from_numpy(draw(name, tuple(tensor.shape))))
    return net.eval()


def build(torch, system: str, arguments: dict):
    """The package's net."""
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    klass = {"hdemucs": HDemucs, "htdemucs": HTDemucs}[system]
    return fill(torch, klass(SOURCES, **{**ALWAYS[system], **arguments}))


def torchaudio_medium(torch):
    """torchaudio's narrow net for a frame of 2048; its tensors are drawn by the package's names."""
    file = Path(importlib.util.find_spec("torchaudio").origin).parent / "models" / "_hdemucs.py"
    spec = importlib.util.spec_from_file_location("torchaudio_hdemucs", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.HDemucs(SOURCES, nfft=2048, depth=6, channels=4)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            tensor.copy_(torch.from_numpy(draw(package_name(name), tuple(tensor.shape))))
    return net.eval()


def package_name(name: str) -> str:
    """What the package calls a tensor of torchaudio's net."""
    return name.removeprefix("freq_") if name.startswith(("freq_enc", "freq_dec")) else name.replace("time_", "t", 1)


def run(torch, net, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Output [2 4 2 t] and the gradient of its inner product with a random array, for the input; float32."""
    dtype = next(net.parameters()).dtype
    x = torch.from_numpy(draw("wave", (2, 2, length))).to(dtype).requires_grad_()
    y = net(x)
    (y * torch.from_numpy(draw("weight", tuple(y.shape)))).sum().backward()
    return y.detach().numpy(), x.grad.numpy()


def separate(torch, model, song: np.ndarray) -> np.ndarray:
    """Stems [4 2 t] as the package's command makes them, shifts off."""
    from demucs.apply import apply_model

    wave = torch.from_numpy(song)
    mono = wave.mean(0)
    mean, std = mono.mean(), mono.std() + 1e-8
    with torch.no_grad():
        stems = apply_model(model, ((wave - mean) / std)[None], shifts=0, split=True, overlap=0.25)[0]
    return (stems * std + mean).numpy()


def save(torch, system: str, name: str, arguments: dict, folder: Path) -> Path:
    """A net of the package as it saves them: half precision, the start of the sum in the file's name."""
    from demucs.states import save_with_checksum, serialize_model
    from omegaconf import OmegaConf

    net = build(torch, system, arguments)
    with torch.no_grad():
        for tensor_name, tensor in net.state_dict().items():  # no two nets alike
            tensor.copy_(torch.from_numpy(draw(f"{name}.{tensor_name}", tuple(tensor.shape))))
    save_with_checksum(serialize_model(net, OmegaConf.create({"seed": 42})), folder / f"{name}.th")
    (path,) = folder.glob(f"{name}-*.th")
    return path


def files(torch, folder: Path) -> None:
    """The files of `FILES`, the bag of two of them, and stems."""
    from demucs.apply import BagOfModels
    from demucs.states import load_model

    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    song, models = draw("song", (2, SONG)) * 0.1 + 0.02, {}
    stems = {}
    for name, (system, arguments) in FILES.items():
        models[name] = load_model(save(torch, system, name, arguments, folder)).eval()
        stems[name] = separate(torch, models[name], song)
    (folder / "bag.yaml").write_text(f"models: ['aaaa', 'bbbb']\nweights: {BAG}\n".replace("], [", "],\n  ["))
    stems["bag"] = separate(torch, BagOfModels([models["aaaa"], models["bbbb"]], BAG), song)
    np.savez_compressed(folder / "stems.npz", **stems)


def products(torch, net) -> str:
    """Each parameter's gradient, multiplied with a random vector, as JSON."""
    made = {}
    for name, parameter in net.named_parameters():
        weight = torch.from_numpy(draw("weight", (1, parameter.numel()))[0]).double()
        made[name] = float(parameter.grad.flatten().double() @ weight)
    return json.dumps(made)


def main() -> None:
    """Writes both files beside this one."""
    import torch

    for system, cases in CASES.items():
        golden = {}
        for case, arguments in cases.items():
            full = case == "full"
            net = torchaudio_medium(torch) if case == "medium" else build(torch, system, arguments)
            shapes = {package_name(name): tuple(tensor.shape) for name, tensor in net.state_dict().items()}
            golden[f"{case}/tensors"] = json.dumps(shapes)
            output, gradient = run(torch, net.double() if full else net, FULL_LENGTH if full else LENGTH)
            golden[f"{case}/output"] = sampled(output)
            if case in GRADIENTS:
                golden[f"{case}/gradient"] = sampled(gradient)
                golden[f"{case}/parameters"] = products(torch, net)
        np.savez_compressed(HERE / f"{system}.npz", **golden)
    files(torch, HERE / "hybrid")


if __name__ == "__main__":
    main()
