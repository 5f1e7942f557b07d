"""A random Open-Unmix, saved by openunmix itself: separated by openunmix and, imported by the command line, by jaxsep.

    pip install -e '.[parity-torch]'
    jaxsep data example data/excerpt
    python benchmarks/openunmix_parity.py data/excerpt/test/*/

openunmix 1.3.0 makes full-width nets with random weights (the running statistics, too) and writes them as its training
does: `<target>.pth`, `<target>.json`, `separator.json`. `jaxsep weights import openunmix` makes a run folder of them,
`jaxsep separate` separates the sum of the stems in the folder, and openunmix's Separator the same samples, with one
iteration of the Wiener filter in excerpts of 300 frames: once with four targets, and once with vocals only, where both
let what vocals leave of the mixture stand in for the rest. Printed is max |a - b| / max |b| per stem; more than
1e-4 is exit status 1.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from imported import difference, mixture, separate_by_jaxsep
from openunmix.model import OpenUnmix
from openunmix.utils import bandwidth_to_max_bin, load_separator

TARGETS = ("vocals", "drums", "bass", "other")
STFT = {"sample_rate": 44100, "nfft": 4096, "nhop": 1024, "nb_channels": 2}
TOLERANCE = 1e-4


def save_random(folder: Path, target: str, hidden: int, bandwidth: int) -> None:
    """A net as it is initialised, its norms and statistics moved at random, so that masks differ by source."""
    max_bin = int(bandwidth_to_max_bin(STFT["sample_rate"], STFT["nfft"], bandwidth))
    net = OpenUnmix(STFT["nfft"] // 2 + 1, STFT["nb_channels"], hidden, max_bin=max_bin)
    with torch.no_grad():
        for name, values in net.state_dict().items():
            if name.endswith("running_var") or name in ("input_scale", "output_scale"):
                values.uniform_(0.5, 1.5)
            elif name.endswith(("put_mean", "running_mean")) or (name.startswith("bn") and values.is_floating_point()):
                values.add_(0.5 * torch.randn_like(values))
    torch.save(net.state_dict(), folder / f"{target}.pth")
    args = STFT | {"hidden_size": hidden, "bandwidth": bandwidth, "target": target}
    (folder / f"{target}.json").write_text(json.dumps({"args": args}))


def separate_by_openunmix(folder: Path, targets: tuple[str, ...], mix: np.ndarray) -> dict[str, np.ndarray]:
    """Stems [t c] by target."""
    single = len(targets) == 1
    separator = load_separator(str(folder), targets=list(targets), niter=1, residual=single, wiener_win_len=300)
    separator.freeze()
    with torch.no_grad():
        estimates = separator(torch.tensor(mix).T[None].contiguous())[0]
    return {target: estimate.T.numpy() for target, estimate in zip(targets, estimates, strict=False)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, help="folder with the stems of a song at 44.1 kHz, in stereo")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--bandwidth", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        song = folder / "mixture.wav"
        mix = mixture(args.song, TARGETS, song)
        (folder / "separator.json").write_text(json.dumps(STFT))
        for target in TARGETS:
            save_random(folder, target, args.hidden, args.bandwidth)
        for targets in (TARGETS, TARGETS[:1]):
            theirs = separate_by_openunmix(folder, targets, mix)
            files = [folder / f"{target}.pth" for target in targets]
            ours = separate_by_jaxsep("openunmix", files, song, folder / f"jaxsep{len(targets)}")
            for target in targets:
                error = difference(ours[target], theirs[target])
                print(f"{len(targets)} target(s), {target}: {error:.2e}")
                worst = max(worst, error)
    print(f"largest difference {worst:.2e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
