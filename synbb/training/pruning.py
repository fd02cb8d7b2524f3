"""The pruning settings of a run, and the pruner they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from synbb.plugins import load_named
from synbb.pruning import FixedMask, Pruner, Scored, load_masks
from synbb.pruning.methods import CONNECTIONS, UNITS, find_method
from synbb.pruning.schedule import waypoints
from synbb.schema import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class PruningSettings(Settings):
    """How the network is pruned; docs/budgeted_broadcast.md says what each choice does.

    Attributes:
        method: ``bb`` (Budgeted Broadcast), one of its controls or rivals by name (docs/budgeted_broadcast.md lists
            them), ``my_package.module:my_score`` for a score of one's own, or ``none``.
        density: share of the budget that is left at the end; 1 trains the dense control.
        budget: what is counted: ``density`` (live connections in the masked layers), ``traffic`` or ``macs``.
        actuator: Budgeted Broadcast prunes a unit's ``fan_out``, its ``fan_in``, the intersection of ``both``, or
            both ``matched``.
        connection: a ``kernel`` slice, a single ``weight``, or whole ``unit``s.
        scope: meet the budget in each ``layer`` or over the ``network``.
        allocation: of a budget met in each layer: ``uniform``, ``erk``, or moved by the ``loss``.
        pattern: ``"2:4"`` and the like for linear layers.
        beta: log-odds that one unit of relative degree is worth; ``scaled`` to the budget, or ``auto``.
        minimum: least connections of a unit within a scope.
        act: on all units by the ``law``, or only on those ``over_budget``.
        tau: local budget of relative traffic instead of a density, which is left out then; for ``bb`` and its kin.
        statistic: of the on-rates: ``sign``, ``treves_rolls``, ``above_mean`` or ``auto``.
        gate: standard deviation of on-rates within layers below which nothing is cut by activity.
        from_start: whether the law holds its budget from the first step on, as ``set`` and ``rigl`` do.
        regrowth: ``natural``, by ``gradient`` or at ``random``.
        drop: share of live connections exchanged at the first refresh (``set``, ``rigl``, regrowth by gradient or at
            random); it falls to 0 by a cosine.
        threshold_shift: extension, off at 0: how far the thresholds of units over budget move at a refresh.
        few_above: on-rate above which ``two-thresholds`` gives few connections.
        many_below: on-rate below which it gives many.
        least_units: units that every group keeps where whole units are pruned.
        warmup: share of ``training.steps`` that is dense.
        ramp: share of ``training.steps`` over which the budget falls; the masks are final after it. Methods that are
            sparse from the start change their masks until then.
        schedule: budget over the run, [[share of the steps, density], ...], instead of warm-up and ramp.
        refresh: steps between two choices of masks.
        layers: patterns of the layers to mask, instead of all but the first layers and the head.
        exclude: patterns of layers to leave unmasked.
        per_consumer: patterns of layers whose inputs count as units of their own.
        masks_from: masks of another run (``RUN/masks.safetensors``), for method ``fixed``.
        shuffle: whether ``fixed`` keeps only the layer densities of those masks.
        masks: with ``training.start_from``, what becomes of the masks of that run: ``keep`` (as without the key) holds
            them, ``reopen`` starts with them and lets refreshes choose anew, ``dense`` drops them. A run that was not
            pruned has none.
    """

    method: str = "bb"
    density: Annotated[float, Field(gt=0, le=1)] = 0.25
    budget: Literal["density", "traffic", "macs"] = "density"
    actuator: Literal["fan_in", "fan_out", "both", "matched"] = "fan_in"
    connection: Literal["kernel", "weight", "unit"] = "kernel"
    scope: Literal["layer", "network"] = "layer"
    allocation: Literal["uniform", "erk", "loss"] = "uniform"
    pattern: str | None = None
    beta: Annotated[float, Field(gt=0)] | Literal["scaled", "auto"] = 6.67
    minimum: Annotated[int, Field(ge=0)] = 1
    act: Literal["law", "over_budget"] = "law"
    tau: Annotated[float, Field(gt=0, le=1)] | None = None
    statistic: Literal["sign", "treves_rolls", "above_mean", "auto"] = "sign"
    gate: Annotated[float, Field(ge=0, lt=0.5)] = 0.03
    from_start: bool = False
    regrowth: Literal["natural", "gradient", "random"] = "natural"
    drop: Fraction = 0.3
    threshold_shift: Annotated[float, Field(ge=0)] = 0.0
    few_above: Fraction = 0.7
    many_below: Fraction = 0.3
    least_units: Positive = 1
    warmup: Fraction = 0.15
    ramp: Fraction = 0.45
    schedule: tuple[tuple[Fraction, Annotated[float, Field(gt=0, le=1)]], ...] | None = None
    refresh: Positive = 25
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    per_consumer: tuple[str, ...] = ()
    masks_from: str | None = None
    shuffle: bool = False
    masks: Literal["keep", "reopen", "dense"] | None = None

    @model_validator(mode="after")
    def _check(self) -> PruningSettings:
        if self.warmup + self.ramp > 1:
            raise ValueError(
                f"warmup {self.warmup} + ramp {self.ramp} is beyond the end of training; keep it at most 1"
            )
        target, end = ("density", self.density) if self.tau is None else ("tau", self.tau)
        if self.schedule and self.schedule[-1][1] != end:
            raise ValueError(
                f"schedule ends at {self.schedule[-1][1]}, which contradicts {target} {end}: make them equal"
            )
        if ":" in self.method and self.connection == "unit":
            raise ValueError(
                f"a score of one's own ({self.method}) is of kernels or weights, not of whole units: give connection: "
                "kernel or weight"
            )
        own = _own_options(self)
        if self.tau is not None and self.method != "none":
            if "tau" not in own:
                raise ValueError(f"tau {self.tau} is for method bb and its kin, and method is {self.method}: remove it")
            if self.density not in (type(self).model_fields["density"].default, 1):  # what a stored config repeats
                raise ValueError(
                    f"density {self.density} contradicts tau {self.tau}, which settles the density itself: leave "
                    "density out"
                )
        if self.method == "fixed" and self.masks_from is None:
            raise ValueError("method fixed needs masks_from: the masks.safetensors of another run")
        if self.masks_from is not None and self.method != "fixed":
            raise ValueError(f"masks_from is for method fixed, and method is {self.method}")
        return self


def _own_options(settings: PruningSettings) -> tuple[str, ...]:
    """Keys of ``pruning`` that only some methods read, and the one of these settings does."""
    if settings.method == "none" or ":" in settings.method:
        return ()
    return find_method(settings.method, units=settings.connection == "unit")[1]


def without_effect(settings: PruningSettings, keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that other methods read, and the one of these settings does not."""
    of_some = {name for table in (CONNECTIONS, UNITS) for _, own in table.values() for name in own}
    return [key for key in keys if key in of_some - {*_own_options(settings)}]


def make_pruner(settings: PruningSettings, steps: int, seed: int) -> Pruner | None:
    """The pruner that the settings ask for; None for method ``none``.

    Raises:
        SynbbError: settings that contradict each other, masks or a score of one's own that cannot be read.
    """
    if settings.method == "none":
        return None
    units = settings.connection == "unit"
    warmup = round(settings.warmup * steps)
    options: dict[str, Any] = {
        "warmup": warmup,
        "ramp": min(round(settings.ramp * steps), steps - warmup),  # both may be rounded up
        "refresh": settings.refresh,
        "connection": "kernel" if units else settings.connection,
        "budget": settings.budget,
        "scope": settings.scope,
        "allocation": settings.allocation,
        "pattern": settings.pattern,
        "layers": settings.layers,
        "exclude": settings.exclude,
        "per_consumer": settings.per_consumer,
        "statistic": settings.statistic,
        "seed": seed,
    }
    if settings.schedule is not None:
        options["schedule"] = waypoints(settings.schedule, steps, settings.refresh)
    if ":" in settings.method:
        return Scored(settings.density, score=load_named(settings.method, "pruning.method"), **options)
    kind, own = find_method(settings.method, units=units)
    if settings.method == "fixed":
        assert settings.masks_from is not None, "checked with the settings"
        return FixedMask(load_masks(Path(settings.masks_from)), shuffle=settings.shuffle, **options)
    if settings.allocation == "uniform" and settings.method == "bb-auto":
        del options["allocation"]  # its own is by the loss
    options |= {name: getattr(settings, name) for name in own}
    return kind(1.0 if settings.tau is not None else settings.density, **options)
