"""The settings of a study: which methods are compared, at which densities, with which seeds, on which data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from synbb.errors import SynbbError
from synbb.schema import Settings, nearest, validated
from synbb.training.config import Seed, read_mapping, set_key

Density = Annotated[float, Field(gt=0, le=1)]
UNASKED = 1.0
"""Density in the rows of methods that none is asked of: unpruned ones, and those with a local budget."""


class MethodSettings(Settings, extra="allow"):
    """One method: keys of ``pruning``, and where its masks come from.

    Attributes:
        after: name of another method, whose final masks of the same fold, density and seed this one trains with.
    """

    after: str | None = None

    @property
    def pruning(self) -> dict[str, Any]:
        """The keys of ``pruning``."""
        return dict(self.__pydantic_extra__ or {})


class StudySettings(Settings):
    """A study: methods x densities x seeds x folds.

    Attributes:
        base: path of a run's config that ``run`` changes; none when ``run`` is complete.
        run: settings of every run: task, data, model, training, pruning.
        folds: name → changes of the run's settings by dotted keys; each holds out other data.
        methods: name → keys of ``pruning``; ``{method: none}`` is run once for all densities, and so is what has a
            ``density`` or a ``tau`` of its own.
        densities: at which the methods are compared.
        seeds: of weights and data order; the same for all methods, so that differences are paired.
        reference: the method that all others are compared with.
        table: CSV of finished runs, small enough to be committed; DIR/runs.csv by default.
        screened: table of an earlier study with methods of the same names, two seeds of each at least: ``--dry-run``
            takes the spread between seeds from it, to say before the first run which difference this study can find.
        keep: what stays of a scored run beside settings, metrics and masks: nothing more (``none``), its ``weights``,
            or ``all``, checkpoints and TensorBoard files too.
    """

    base: str | None = None
    run: dict[str, Any] = Field(default_factory=dict)
    folds: Annotated[dict[str, dict[str, Any]], Field(min_length=1, default_factory=lambda: {"all": {}})]
    methods: Annotated[dict[str, MethodSettings], Field(min_length=1)]
    densities: Annotated[tuple[Density, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    reference: str
    table: str | None = None
    screened: str | None = None
    keep: Literal["none", "weights", "all"] = "weights"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values in (("densities", self.densities), ("seeds", self.seeds)):
            double = sorted({value for value in values if values.count(value) > 1})
            if double:
                raise ValueError(f"{name}: {', '.join(map(str, double))} stands more than once")
        if self.reference not in self.methods:
            raise ValueError(
                f"reference {self.reference!r} is none of the methods{nearest(self.reference, [*self.methods])}"
            )
        for name in [*self.methods, *self.folds]:
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
                raise ValueError(f"name {name!r} becomes a folder: use letters, digits, - and _")
        for where, given in (("run", self.run), *((f"folds.{name}", fold) for name, fold in self.folds.items())):
            self._check_overwritten(where, given)
        for name, method in self.methods.items():
            self._check_after(name, method)
        return self

    def _check_overwritten(self, where: str, values: dict[str, Any]) -> None:
        """Refuse what the cells of a study decide; a base may hold it, for it is the config of a run as well."""
        pruning = values.get("pruning")
        density = "pruning.density" in values or (isinstance(pruning, dict) and "density" in pruning)
        for key, given, decided in (("seed", "seed" in values, "seeds"), ("pruning.density", density, "densities")):
            if given:
                raise ValueError(f"{where}: {key} has no effect, as `{decided}` of the study decide it; remove it")

    def _check_after(self, name: str, method: MethodSettings) -> None:
        seen = [name]
        while method.after is not None:
            if method.after not in self.methods:
                raise ValueError(
                    f"methods.{seen[-1]}.after = {method.after!r} is none of the methods"
                    f"{nearest(method.after, [*self.methods])}"
                )
            if method.after in seen:
                raise ValueError(f"methods: {' after '.join([*seen, method.after])} is a circle; one must come first")
            seen.append(method.after)
            before = self.methods[method.after]
            if self.unpruned(method.after):
                raise ValueError(
                    f"methods.{seen[-2]}.after = {seen[-1]!r}: that method prunes nothing, it has no masks"
                )
            method = before
        for one, other in pairwise(seen):
            theirs = self._density_of(other)
            if self._density_of(one) != theirs:
                at, remedy = "each density of the study", f"drop methods.{one}.density"
                if self.tau(other) is not None:
                    at = "what its tau makes of it"
                elif theirs is not None:
                    at, remedy = "a density of its own", f"give methods.{one}.density = {theirs} too"
                raise ValueError(f"methods.{one}.after = {other!r}: that method is run at {at}; {remedy}")

    def _density_of(self, method: str) -> Any:
        """As a method states it, unchecked; None where it is run at each density of the study."""
        return self.methods[method].pruning.get("density", None if self.tau(method) is None else UNASKED)

    def tau(self, method: str) -> float | None:
        """The local budget of a method, or of the one whose masks it takes; None where a density is asked for."""
        settings = self.methods[method]
        return settings.pruning.get("tau") if settings.after is None else self.tau(settings.after)

    def unpruned(self, method: str) -> bool:
        """Whether a method prunes nothing."""
        return self.methods[method].pruning.get("method") == "none"

    def own_density(self, method: str) -> float | None:
        """The density of a method that is run once for all densities (1 when unpruned, or settled by ``tau``).

        None for any other.

        Raises:
            SynbbError: it is no density.
        """
        if self.unpruned(method):
            return UNASKED
        own = self._density_of(method)
        if own is None:
            return None
        if isinstance(own, bool) or not isinstance(own, int | float) or not 0 < own <= 1:
            raise SynbbError(f"methods.{method}.density = {own!r} is no number above 0 and at most 1")
        return float(own)

    def order(self) -> list[str]:
        """Names of the methods, each after the one that it needs masks of."""
        done: list[str] = []

        def put(name: str) -> None:
            after = self.methods[name].after
            if after is not None:
                put(after)
            if name not in done:
                done.append(name)

        for name in self.methods:
            put(name)
        return done


def load_study(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> StudySettings:
    """Read the YAML file of a study; ``base`` is read into ``run``.

    Args:
        path: of the file.
        overrides: ``key=value`` with dotted keys, ``run.training.steps=100`` for example.

    Raises:
        SynbbError: a file is missing or no YAML mapping, or a key or value is wrong.
    """
    values = read_mapping(path, overrides, "run, folds, methods, densities, seeds, reference")
    if "methods" not in values and "data" in values:
        raise SynbbError(
            f"{path} is the config of one run, for synbb train; that of a study names it as base, and lists methods"
        )
    study = validated(StudySettings, values, str(path))
    if study.base is None:
        return study
    run = merged(read_mapping(study.base), study.run)
    return study.model_copy(update={"run": run, "base": None})


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``changes``, nested mappings key by key."""
    out = dict(base)
    for key, value in changes.items():
        inner = out.get(key)
        out[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return out


def changed(values: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    """Set dotted keys in ``values``.

    Raises:
        SynbbError: a key lies below something that holds no keys.
    """
    for key, value in changes.items():
        if not isinstance(key, str):
            raise SynbbError(f"{where}: {key!r} is no key; write dotted keys such as data.volumes")
        set_key(values, key, value, where)
