"""What a fair search draws: the ranges of each method's settings, and the trials, which are the same number for each.

All of this, the number of trials, the ranges and the draws, was declared before the first of these runs. A trial draws
the learning rate of the method's last stage that learns by one, and the settings of ``RANGES``, from what the method's
paper or its released code explores or states; all else is the default's. Options that change what a method costs
(experts, their own blocks, widths, a queue) are not drawn: each trial costs what the default costs.
"""

from dataclasses import dataclass
from zlib import crc32

from livt.config import Recipe
from livt.lab.leaderboard import NAMES

TRIALS = 4  # of each method, beside its default
SEED = 100  # of the validation runs, as of earlier choices by validation; no result is of this seed
NOTHING_TO_SEARCH = ("class_means", "nearest_feature", "nearest_pixels")
SEARCHED = tuple(name for name in NAMES if name not in NOTHING_TO_SEARCH)
# Second stages that learn nothing by a learning rate: theirs is the first stage's.
WITHOUT_RATE = ("tau_norm", "aggregation")


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a setting of a recipe, by its dotted path, is drawn from.

    From ``low`` to ``high``, evenly or, with ``log``, evenly on a logarithmic scale; or one of ``choices``. ``times``:
    these are multiples of what the default recipe has. source: who explores the range, or states it.
    """

    path: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[float, ...] = ()
    times: bool = False
    source: str

    def draw(self, u: float, default: Recipe) -> float:
        """Return the value at ``u`` in [0, 1), to three significant digits."""
        if self.choices:
            return self.choices[int(u * len(self.choices))]
        value = self.low * (self.high / self.low) ** u if self.log else self.low + (self.high - self.low) * u
        return float(f"{value * (_number(default, self.path) if self.times else 1):.3g}")

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(f"{value:g}" for value in self.choices)
        unit = " times the default" if self.times else ""
        return f"{self.low:g} to {self.high:g}{unit}{', logarithmic' if self.log else ''}"


def _number(recipe: Recipe, path: str) -> float:
    section, name = path.split(".")
    return float(getattr(getattr(recipe, section), name))


# ---------------------------------------------------------------- the ranges

NO_RANGE = "no range stated: half to twice its value"


def _option(name: str, low: float, high: float, source: str, *, log: bool = False, stage: str = "finetune") -> Range:
    return Range(path=f"{stage}.options.{name}", low=low, high=high, log=log, source=source)


def _around(path: str, value: float) -> Range:
    return Range(path=path, low=value / 2, high=2 * value, log=True, source=NO_RANGE)


def _times(path: str, source: str = NO_RANGE) -> Range:
    return Range(path=path, low=0.5, high=2.0, log=True, times=True, source=source)


TAU = Range(path="finetune.tau", low=0.5, high=2.0, log=True, source=f"1, on Places-LT 1.05 (LiVT); {NO_RANGE}")
BETA = Range(path="finetune.options.beta", choices=(0.9, 0.99, 0.999, 0.9999), source="Cui et al., CVPR 2019")
MARGIN = _around("finetune.options.max_margin", 0.5)
KAPPA = _option("kappa", 0.5, 1.0, "released code: 0.5 on CIFAR, 1 on Places-LT")
LAMBDA = _option("lam", 1.0, 2.0, "released settings: 2, on Places-LT and iNaturalist 1")
DECAY = _times("finetune.weight_decay")
_LADE = "commands of its repository, for four data sets"
_RIDE = "released settings, and the code's default"
_PACO = "released commands, for five data sets"
_MISLAS = "released settings, for five data sets"

RANGES: dict[str, tuple[Range, ...]] = {
    "ce": (),
    "bal_ce": (TAU,),
    "bce": (),
    "bal_bce": (TAU,),
    "focal": (_option("gamma", 0.5, 5.0, "Lin et al., ICCV 2017", log=True),),
    "cb_ce": (BETA,),
    "ldam": (MARGIN, _around("finetune.options.scale", 30.0)),
    "ldam_drw": (MARGIN, BETA),
    "lade": (_option("alpha", 0.005, 0.1, _LADE, log=True), _option("remine_lambda", 0.01, 0.5, _LADE, log=True)),
    "causal": (_option("alpha", 1.0, 3.0, "released settings: 1, 1.5 and 3"),),
    "gcl": (KAPPA,),
    "drw_bal_bce": (TAU, BETA),
    "ride": (_option("diversity", 0.2, 0.45, _RIDE), _option("spread", 0.015, 0.05, _RIDE, log=True)),
    "sade": (LAMBDA,),
    "ncl": (_around("finetune.options.diversity", 0.6), _around("finetune.options.hard_share", 0.3)),
    "paco": (_option("alpha", 0.01, 0.05, _PACO, log=True), _option("temperature", 0.05, 0.2, _PACO, log=True)),
    "bcl": (_around("finetune.options.weight", 0.35), _around("finetune.options.temperature", 0.07)),
    "crt": (),
    "lws": (),
    "tau_norm": (_option("tau", 0.0, 2.0, "released code: 0 to 2 in steps of 0.1", stage="second"),),
    "disalign": (_around("second.options.rho", 1.2),),
    "mislas": (
        _option("head", 0.3, 0.4, _MISLAS, stage="second"),
        _option("tail", 0.0, 0.1, _MISLAS, stage="second"),
        _option("head_rate", 0.05, 0.5, _MISLAS, log=True, stage="second"),
    ),
    "weight_balancing": (DECAY, _times("second.weight_decay"), _around("second.options.max_norm", 0.1)),
    "ce, class sampling": (),
    "ce, square-root sampling": (),
    "ce, mixup": (Range(path="finetune.mixup", low=0.1, high=0.4, source="Zhang et al., ICLR 2018, on ImageNet"),),
    "ce, weight decay x 10": (DECAY,),
    "gcl, balanced head": (KAPPA,),
    "sade, aggregated": (LAMBDA,),
}


# ---------------------------------------------------------------- the draws


def ranges_of(name: str, default: Recipe) -> tuple[Range, ...]:
    """Return what a trial of a method draws: the learning rate first."""
    stage = "finetune" if default.second is None or default.second.method in WITHOUT_RATE else "second"
    return (_times(f"{stage}.base_lr", "of every method: half to twice the suite's"), *RANGES[name])


def trials(name: str, default: Recipe) -> list[dict[str, float]]:
    """Return what each trial of a method changes of its default, by dotted path; always the same.

    A Latin hypercube (McKay et al., 1979): each setting is drawn once in each quarter of its range, in an order of its
    own, so that no method has all of its few draws at one end by bad luck.
    """
    from numpy.random import default_rng  # only here: the names of experiments are asked for more often

    generator = default_rng([SEED, crc32(name.encode())])
    drawn: list[dict[str, float]] = [{} for _ in range(TRIALS)]
    for own in ranges_of(name, default):
        for trial, quarter in zip(drawn, generator.permutation(TRIALS), strict=True):
            trial[own.path] = own.draw((quarter + generator.random()) / TRIALS, default)
    return drawn
