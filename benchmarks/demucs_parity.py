"""Random nets, saved by the demucs package itself: separated by it and, imported by the command line, by jaxsep.

    pip install -e '.[parity-demucs2]'    # version 2; or, in another environment, '.[parity-torch]': versions 3 and 4
    jaxsep data example data/excerpt
    python benchmarks/demucs_parity.py data/excerpt/test/*/

| package | nets, with the published sizes |
|---|---|
| demucs 2.0.3 | Demucs (64 channels) and Conv-TasNet, in segments of 2 s |
| demucs 4.1.0 | HTDemucs in segments of 7.8 s, a bag of two of them in segments of 3.9 s, HDemucs in segments of 2 s |

The package makes the nets with random weights (norms, biases and scales of residual branches, too) and writes them as
its training does. `jaxsep weights import demucs` makes run folders of them, `jaxsep separate` separates the sum of the
stems in the folder, and the package's `apply_model` the same samples as its command does: standardised, a quarter of
each segment shared, shifts off. Printed is max |a - b| / max |b| per stem; more than 1e-4 is exit status 1.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from imported import difference, mixture, separate_by_jaxsep

SOURCES = ["drums", "bass", "other", "vocals"]
RATE = 44100
TOLERANCE = 1e-4
TRAINED = {"dconv_mode": 3, "bottom_channels": 512, "use_train_segment": True}  # the published HTDemucs
BAG = [[1.0, 0.0, 0.5, 3.0], [0.0, 1.0, 0.5, 1.0]]
Case = tuple[str, list[Path], Callable[[torch.Tensor], torch.Tensor]]  # name, files, mixture [c t] -> stems [s c t]


def moved(net: torch.nn.Module) -> torch.nn.Module:
    """The net as it is initialised, but for vectors: norms, biases, and scales that would hide residual branches."""
    with torch.no_grad():
        for name, values in net.named_parameters():
            if name.endswith("scale"):
                values.uniform_(0.1, 0.3)
            elif values.dim() == 1:
                values.add_(0.1 * torch.randn_like(values))
    return net.eval()


def version2(folder: Path) -> Iterator[Case]:
    """Of demucs 2.0.3."""
    from demucs.model import Demucs
    from demucs.tasnet import ConvTasNet
    from demucs.utils import apply_model, save_model

    for make, options in ((Demucs, {}), (ConvTasNet, {"X": 10})):
        net, file = moved(make(SOURCES, segment_length=2 * RATE, **options)), folder / f"{make.__name__}.th"
        save_model(net, None, argparse.Namespace(), file)
        yield make.__name__, [file], lambda mix, net=net: apply_model(net, mix, shifts=0, split=True, overlap=0.25)


def version4(folder: Path) -> Iterator[Case]:
    """Of demucs 4: files in half precision, which the package reads again, as jaxsep does."""
    from demucs.apply import BagOfModels, apply_model
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs
    from demucs.states import load_model, save_with_checksum, serialize_model
    from omegaconf import OmegaConf

    def save(name: str, net: torch.nn.Module) -> Path:
        save_with_checksum(serialize_model(moved(net), OmegaConf.create({"seed": 0})), folder / f"{name}.th")
        return next(folder.glob(f"{name}-*.th"))

    def apply(net: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda mix: apply_model(net, mix[None], shifts=0, split=True, overlap=0.25)[0]

    for name, make, options in (
        ("HTDemucs", HTDemucs, TRAINED | {"segment": Fraction(39, 5)}),
        ("HDemucs", HDemucs, {"segment": 2}),
    ):
        file = save(name, make(SOURCES, **options))
        yield name, [file], apply(load_model(file))
    files = [save(name, HTDemucs(SOURCES, **TRAINED, segment=Fraction(39, 10))) for name in ("aaaa", "bbbb")]
    bag = folder / "bag.yaml"
    bag.write_text(f"models: ['aaaa', 'bbbb']\nweights: {BAG}\n")
    yield "bag of 2 HTDemucs", [bag, *files], apply(BagOfModels([load_model(file) for file in files], BAG))


def separate_by_demucs(apply: Callable[[torch.Tensor], torch.Tensor], mix: np.ndarray) -> dict[str, np.ndarray]:
    """Stems [t c] by name."""
    wave = torch.from_numpy(mix.T.copy())
    mean, deviation = wave.mean(0).mean(), wave.mean(0).std()
    with torch.no_grad():
        stems = apply((wave - mean) / deviation) * deviation + mean
    return {name: stem.T.numpy() for name, stem in zip(SOURCES, stems, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, help="folder with the stems of a song at 44.1 kHz, in stereo")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    cases = version4 if importlib.util.find_spec("demucs.htdemucs") else version2
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        song = folder / "mixture.wav"
        mix = mixture(args.song, SOURCES, song)
        for number, (label, files, apply) in enumerate(cases(folder)):
            theirs = separate_by_demucs(apply, mix)
            ours = separate_by_jaxsep("demucs", files, song, folder / str(number))
            assert sorted(ours) == sorted(theirs)
            for stem in SOURCES:
                error = difference(ours[stem], theirs[stem])
                print(f"{label}, {stem}: {error:.2e}", flush=True)
                worst = max(worst, error)
    print(f"largest difference {worst:.2e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
