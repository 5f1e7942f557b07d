"""Time of one instrument's Spleeter U-Net: XLA's plain convolutions, ours, and PyTorch where it is installed.

    python benchmarks/spleeter_step.py --batch 2 --rounds 5

A step is forward, backward and Adam, on magnitudes, L1, activations ELU, norms as Spleeter trains them
(affine). The candidates take turns, each in all the threads there are, and the best of all rounds counts;
both wall-clock and CPU seconds are printed, since on a machine with other work only the latter compare.
"""

import argparse
import functools
import time
from collections.abc import Sequence
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsep.layers import conv
from jaxsep.models.spleeter import UNet

BINS, CHANNELS = 1024, 2


def jax_candidate(batch: int, frames: int, widths: tuple[int, ...]):
    """(forward, step) of our module, compiled with the convolutions that `jaxsep.layers.conv` has now."""
    net = UNet(widths, "elu")
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.standard_normal((batch, frames, BINS, CHANNELS)), jnp.complex64)
    reference = jnp.abs(jnp.asarray(rng.standard_normal(z.shape), jnp.float32))
    variables = jax.jit(lambda z: net.init(jax.random.key(0), z, None, False))(z)
    adam = optax.adam(1e-4)
    state = {"params": variables["params"], "adam": adam.init(variables["params"])}

    def estimate(params, z):
        logits = net.apply({"params": params, "batch_stats": variables["batch_stats"]}, z, None, False)
        return jax.nn.sigmoid(logits) * jnp.abs(z)

    def update(params, moments, z, reference):
        gradient = jax.grad(lambda p: jnp.abs(estimate(p, z) - reference).mean())(params)
        change, moments = adam.update(gradient, moments, params)
        return optax.apply_updates(params, change), moments

    compiled_forward = jax.jit(estimate).lower(state["params"], z).compile()
    jitted = jax.jit(update, donate_argnums=(0, 1))
    compiled_step = jitted.lower(state["params"], state["adam"], z, reference).compile()

    def forward():
        jax.block_until_ready(compiled_forward(state["params"], z))

    def step():
        state["params"], state["adam"] = compiled_step(state["params"], state["adam"], z, reference)
        jax.block_until_ready(state["params"])

    return forward, step


def plain_candidate(batch: int, frames: int, widths: tuple[int, ...]):
    """The same with every convolution as lax writes it."""
    with mock.patch.multiple(conv, conv2d=conv._conv, conv_transpose2d=conv._conv_transpose):
        return jax_candidate(batch, frames, widths)


def torch_net(widths: Sequence[int], channels: int):
    """The same network in PyTorch: magnitudes [b c n f] to an estimate of one instrument's."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            ins = [2 * width for width in widths[:-1]] + [widths[-1]]
            outs = [1, *widths[:-1]]
            self.convs = nn.ModuleList(nn.Conv2d(i, o, 5, 2) for i, o in zip((channels, *widths), widths, strict=False))
            self.norms = nn.ModuleList(nn.BatchNorm2d(width, 1e-3) for width in widths)
            self.deconvs = nn.ModuleList(nn.ConvTranspose2d(i, o, 5, 2) for i, o in zip(ins, outs, strict=True))
            self.denorms = nn.ModuleList(nn.BatchNorm2d(o, 1e-3) for o in outs)
            self.logits = nn.Conv2d(1, channels, 4, dilation=2, padding=3)

        def forward(self, magnitude):
            x, skips = magnitude, []
            for layer, norm in zip(self.convs, self.norms, strict=True):
                skips.append(layer(nn.functional.pad(x, (1, 2, 1, 2))))
                x = nn.functional.elu(norm(skips[-1]))
            x = skips.pop()
            for layer, norm in reversed(list(zip(self.deconvs, self.denorms, strict=True))):
                x = norm(nn.functional.elu(layer(x)[:, :, 1:-2, 1:-2]))
                x = torch.cat([skips.pop(), x], 1) if skips else x
            return torch.sigmoid(self.logits(x)) * magnitude

    return Net()


def torch_candidate(batch: int, frames: int, widths: tuple[int, ...], channels_last: bool):
    """(forward, step) of the same network in PyTorch."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = torch_net(widths, CHANNELS).eval().to(memory_format=layout)
    adam = torch.optim.Adam(net.parameters(), 1e-4)
    magnitude, reference = (
        torch.rand(batch, CHANNELS, frames, BINS).contiguous(memory_format=layout) for _ in range(2)
    )

    def forward():
        with torch.no_grad():
            net(magnitude)

    def step():
        adam.zero_grad()
        (net(magnitude) - reference).abs().mean().backward()
        adam.step()

    return forward, step


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="+", default=(16, 32, 64, 128, 256, 512))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.batch, arguments.frames, tuple(arguments.widths)
    makers = {
        "jax, plain convolutions": functools.partial(plain_candidate, *size),
        "jaxsep": functools.partial(jax_candidate, *size),
        "torch": functools.partial(torch_candidate, *size, False),
        "torch, channels last": functools.partial(torch_candidate, *size, True),
    }
    candidates = {}
    for name, make in makers.items():
        try:
            candidates[name] = make()
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error}")
    best = {}
    for _ in range(arguments.rounds + 1):  # the first round warms up; the minimum forgets it
        for name, functions in candidates.items():
            for kind, function in zip(("forward", "step"), functions, strict=True):
                wall, cpu = time.perf_counter(), time.process_time()
                function()
                now = np.array([time.perf_counter() - wall, time.process_time() - cpu])
                best[name, kind] = np.minimum(best.get((name, kind), np.inf), now)
    print(f"{'seconds, wall (CPU)':26}{'forward':>18}{'step':>18}")
    for name in candidates:
        cells = ["{:.3f} ({:.3f})".format(*best[name, kind]) for kind in ("forward", "step")]
        print(f"{name:26}{cells[0]:>18}{cells[1]:>18}")


if __name__ == "__main__":
    main()
