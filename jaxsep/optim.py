"""Optimisers and learning-rate schedules, as optax chains and plain functions of the step.

An optimiser turns gradients into directions; the learning rate is applied by the training step, where it is
logged and where the plateau rule, which follows the validation and not the step, multiplies it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float32, Int, PyTree

from jaxsep.config import Config, choose
from jaxsep.errors import JaxsepError
from jaxsep.parts import Parts, parse_parts

# Gradients that float16 rounds to 0 leave Adam second moments that are noise, and it would divide by their root.
FLOAT16_EPS = 1e-4

Schedule = Callable[[Int[Array, ""]], Float32[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How parameters move: `params - learning_rate(step) * scale * directions`, those of the front end times `front`.

    Parts may have rates of their own, see `parts.py`.

    Attributes:
        directions: clips gradients by their global norm and turns them into directions.
        learning_rate: by the number of finished steps, before the plateau rule.
        front: what the front end's learning rate is multiplied by, alike.
        parts: what the learning rates of parts are multiplied by.
    """

    directions: optax.GradientTransformation
    learning_rate: Schedule
    front: Schedule = lambda step: jnp.float32(1)
    parts: Parts = dataclasses.field(default_factory=Parts)

    def moved(
        self, params: Mapping[str, PyTree], directions: Mapping[str, PyTree], step: Array, scale: Array
    ) -> PyTree:
        """The parameters, by part of the separator, after a step.

        Args:
            params: before it.
            directions: for them.
            step: finished steps.
            scale: of all learning rates.
        """
        rate = self.learning_rate(step) * scale

        def move(path: str, factor: float, param: Array, direction: Array) -> Array:
            own = rate * self.front(step) if path.startswith("front/") else rate
            return param - own * factor * direction

        return self.parts.map(move, params, directions)


def _adam(optim: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015). Weight decay joins the gradient, as in PyTorch's Adam."""
    return optax.chain(optax.add_decayed_weights(optim.weight_decay), _adam_directions(optim))


def _adamw(optim: Config) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019): weight decay is added to the direction."""
    return optax.chain(_adam_directions(optim), optax.add_decayed_weights(optim.weight_decay))


def _adam_directions(optim: Config) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps)


def _rmsprop(optim: Config) -> optax.GradientTransformation:
    """RMSprop (Tieleman & Hinton 2012) with decay b2."""
    return optax.chain(optax.add_decayed_weights(optim.weight_decay), optax.scale_by_rms(decay=optim.b2, eps=optim.eps))


def _sgd(optim: Config) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum b1."""
    return optax.chain(optax.add_decayed_weights(optim.weight_decay), optax.trace(decay=optim.b1))


OPTIMISERS = {"adam": _adam, "adamw": _adamw, "rmsprop": _rmsprop, "sgd": _sgd}


def _constant(optim: Config, steps: int) -> Schedule:
    return lambda step: jnp.float32(optim.learning_rate)


def _milestones(optim: Config, steps: int) -> Schedule:
    """Times `factor` at each milestone, or each time `every` steps have passed (halving: factor 0.5)."""
    spec = optim.schedule
    marks = tuple(spec.milestones)
    if bool(marks) == bool(spec.every):
        raise JaxsepError(
            f"optim.schedule: milestones={marks}, every={spec.every}; schedule milestones takes one of the two"
        )
    if spec.every < 0 or list(marks) != sorted(set(marks)) or any(mark < 1 for mark in marks):
        raise JaxsepError(
            f"optim.schedule: milestones={marks}, every={spec.every}; expected rising step numbers from 1"
        )

    def rate(step: Int[Array, ""]) -> Float32[Array, ""]:
        passed = step // spec.every if spec.every else jnp.sum(step >= jnp.array(marks))
        return jnp.float32(optim.learning_rate) * jnp.float32(spec.factor) ** passed.astype(jnp.float32)

    return rate


def _warmup_cosine(optim: Config, steps: int) -> Schedule:
    """Rises linearly over `warmup` steps, then falls along half a cosine towards 0 at the last step."""
    warmup = optim.schedule.warmup
    if not 0 <= warmup < steps:
        raise JaxsepError(f"optim.schedule.warmup={warmup}: expected 0 to steps - 1 = {steps - 1}")

    def rate(step: Int[Array, ""]) -> Float32[Array, ""]:
        rising = (step + 1) / max(warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * (step - warmup) / (steps - warmup)))
        return jnp.float32(optim.learning_rate) * jnp.where(step < warmup, rising, falling)

    return rate


SCHEDULES = {
    "constant": _constant,
    "milestones": _milestones,
    "plateau": _constant,  # times `plateau_scale`
    "warmup_cosine": _warmup_cosine,
}


def _front(front: Config) -> Schedule:
    """`rate` behind the step `first` and up to the step `last`, 0 before and after."""
    for key in ("rate", "first", "last", "reconstruction"):
        if not front[key] >= 0:
            raise JaxsepError(f"optim.front.{key}={front[key]}: expected 0 or more")
    if front.last and front.last <= front.first:
        raise JaxsepError(f"optim.front: it would move from step {front.first} to step {front.last}, never")

    def factor(step: Int[Array, ""]) -> Float32[Array, ""]:
        moves = (step >= front.first) & ((step < front.last) | (not front.last))
        return jnp.where(moves, jnp.float32(front.rate), 0)

    return factor


def build(optim: Config, steps: int, float16: bool = False) -> Optimiser:
    """The optimiser that a config's `optim` block describes.

    Args:
        optim: the block.
        steps: of the run.
        float16: the gradients come from layers in float16: `eps` is at least `FLOAT16_EPS`.

    Raises:
        JaxsepError: an unknown name, or a value out of range.
    """
    schedule = optim.schedule
    positive = {"learning_rate": optim.learning_rate, "eps": optim.eps, "schedule.factor": schedule.factor}
    for key, value in positive.items():
        if not value > 0:
            raise JaxsepError(f"optim.{key}={value}: expected more than 0")
    for key in ("clip", "weight_decay"):
        if not optim[key] >= 0:
            raise JaxsepError(f"optim.{key}={optim[key]}: expected 0 (off) or more")
    for key in ("b1", "b2"):
        if not 0 <= optim[key] < 1:
            raise JaxsepError(f"optim.{key}={optim[key]}: expected 0 <= {key} < 1")
    if any(not 0 <= decay < 1 for decay in optim.ema) or len(set(optim.ema)) < len(optim.ema):
        raise JaxsepError(f"optim.ema={tuple(optim.ema)}: expected decays from 0 to below 1, each once")
    if schedule.name == "plateau" and schedule.patience < 1:
        raise JaxsepError(f"optim.schedule.patience={schedule.patience}: expected 1 or more evaluations")
    if float16:
        optim = optim.copy_and_resolve_references()
        optim.eps = max(optim.eps, FLOAT16_EPS)
    directions = choose(OPTIMISERS, optim.name, "optim.name")(optim)
    clip = optax.clip_by_global_norm(optim.clip) if optim.clip else optax.identity()
    rate = choose(SCHEDULES, schedule.name, "optim.schedule.name")(optim, steps)
    return Optimiser(optax.chain(clip, directions), rate, _front(optim.front), parse_parts(optim.parts))


def plateau_scale(scores: Sequence[float], schedule: Config) -> float:
    """Factor on the learning rate after these validation scores, in their order.

    Each time `patience` scores in a row are no better than the best before, the rate is multiplied by `factor`; the
    next `cooldown` scores are then not counted among those in a row. A function of all scores, so the state of the
    rule is the list of scores, which the checkpoint holds.
    """
    if schedule.name != "plateau":
        return 1.0
    best, waited, rest, scale = -float("inf"), 0, 0, 1.0
    for score in scores:
        if score > best:
            best, waited = score, 0
        else:
            waited += 1
        if rest:
            waited, rest = 0, rest - 1
        if waited == schedule.patience:
            waited, rest, scale = 0, schedule.cooldown, scale * schedule.factor
    return scale


def stalled(scores: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` scores are all no better than the best before them; 0 = never."""
    return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])
