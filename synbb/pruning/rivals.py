"""Rivals of Budgeted Broadcast: a rival is its score, or what it drops and grows, on the same pruner.

Every rival keeps its connections in the same layers, by the same schedule and to the same budget, so that what differs
is the choice alone. Sources stand with each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from synbb.errors import SynbbError
from synbb.pruning.actuators import keep_in_rows, keep_strongest
from synbb.pruning.masks import check_masks, shuffled
from synbb.pruning.pruner import Pruner, SparseFromStart
from synbb.pruning.schedule import exchanged

if TYPE_CHECKING:
    from synbb.pruning.balance import Floats
    from synbb.pruning.evidence import Evidence, Need

Score = Callable[["Evidence"], np.ndarray]


class Scored(Pruner):
    """Keeps the connections with the largest scores, in each layer or over the network.

    Args:
        density: as in :class:`Pruner`.
        score: a function of one's own from :class:`Evidence` to a number for each connection; finite.
        options: those of :class:`Pruner`.
    """

    method = "scored"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradients", "inputs"})

    def __init__(self, density: float, *, score: Score, **options: Any) -> None:
        super().__init__(density, **options)
        self._score = score

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """The best by score, ties by index.

        Raises:
            SynbbError: the score is not one finite number for each connection.
        """
        scores = np.asarray(self._score(evidence), dtype=np.float64)
        if scores.shape != (self.table.count,) or not np.isfinite(scores).all():
            raise SynbbError(
                f"pruning score {getattr(self._score, '__name__', self._score)!r} must return one finite number for "
                f"each of {self.table.count} connections; it returned shape {scores.shape}"
            )
        return _strongest(self, scores, share, evidence)


class Magnitude(Pruner):
    """Gradual magnitude pruning (Zhu and Gupta 2017): the largest norms stay, in each layer or over the network."""

    method = "magnitude"

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """The largest weights."""
        return _strongest(self, evidence.weights, share, evidence)


class RandomMask(Pruner):
    """A fixed random order of the connections, a serious rival: which survive owes nothing to weight or activity."""

    method = "random"

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """The first connections of the random order, so that masks are nested over the ramp."""
        order = np.random.default_rng(self.seed).random(self.table.count)
        return _strongest(self, order, share, evidence)


class RandomFromStart(SparseFromStart, RandomMask):
    """A random mask from before the first step on, never changed."""

    method = "random-from-start"

    def __init__(self, density: float, **options: Any) -> None:
        super().__init__(density, **{**options, "warmup": 0, "ramp": 0})


class Snip(SparseFromStart):
    """SNIP (Lee et al. 2019): connection sensitivity |w dL/dw| of the initial weights on the first batch, once."""

    method = "snip"
    needs = frozenset({"gradients"})
    needs_a_step = True

    def __init__(self, density: float, **options: Any) -> None:
        super().__init__(density, **{**options, "warmup": 0, "ramp": 0})

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """The most sensitive."""
        return _strongest(self, evidence.saliency, share, evidence)


class Taylor(Pruner):
    """First-order Taylor pruning (Molchanov et al. 2017): |sum of w dL/dw|, averaged over the last steps.

    What is cut stays cut while the budget falls: the score is the loss of a removal, which says little of putting a
    connection back. Where a budget rises again, cut ones come back by the same score.
    """

    method = "taylor"
    needs = frozenset({"gradients"})

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """Those whose loss would hurt most."""
        beyond = 1.0 + float(evidence.saliency.max(initial=0.0))
        scores = np.where(evidence.live, evidence.saliency, evidence.saliency - beyond)
        return _strongest(self, scores, share, evidence)


class Wanda(Pruner):
    """Wanda (Sun et al. 2024): |w| times the norm of the input it reads, compared within each output channel."""

    method = "wanda"
    needs = frozenset({"inputs"})

    def __init__(self, density: float, **options: Any) -> None:
        super().__init__(density, **options)
        if self.currency != "density":
            raise SynbbError(
                f"pruning budget {self.currency!r} is not for wanda, which keeps the same share of every output's "
                "connections: use 'density'"
            )

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """The same share of every output's connections."""
        scores = evidence.weights * evidence.inputs
        return keep_in_rows(
            self.table, scores, self.budget(share, evidence), self.table.target, eligible=evidence.eligible(scores)
        )


class ActivityRank(Pruner):
    """Connections ranked by the on-rate of the unit they leave, by weight among equals; its sign says which stay."""

    reads_rates = True
    sign: ClassVar[float]

    def judged(self) -> np.ndarray:
        """Units that masked layers read."""
        return np.unique(self.table.out_pairs[1])

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """Whole audiences go, one unit after the other, whatever their size."""
        rates = self.table.source_rates(evidence.rates)
        order = np.lexsort((evidence.weights, self.sign * rates))
        scores = np.empty(self.table.count)
        scores[order] = np.arange(self.table.count)
        return _strongest(self, scores, share, evidence)


class Apoz(ActivityRank):
    """Average percentage of zeros (Hu et al. 2016): units seldom on lose their connections first."""

    method = "apoz"
    sign = 1.0


class ActivityOnly(ActivityRank):
    """Control: the busiest units lose their connections first, whatever their audience: a alone, not a k."""

    method = "activity-only"
    sign = -1.0


class DropAndGrow(SparseFromStart):
    """Sparse from the first step: at each refresh the weakest live connections are exchanged for cut ones.

    The share exchanged falls with a cosine from ``drop`` to 0 at the last refresh (Evci et al. 2020). What was just
    dropped is not grown back in the same refresh; grown connections begin at zero.

    Args:
        density: as in :class:`Pruner`.
        drop: share of each layer's live connections exchanged at the first refresh.
        options: those of :class:`Pruner`; masks keep changing for ``warmup + ramp`` steps.
    """

    revives = "zero"

    def __init__(self, density: float, *, drop: float = 0.3, **options: Any) -> None:
        super().__init__(density, **options)
        if not 0 <= drop <= 1:
            raise SynbbError(f"pruning drop {drop} must lie in [0, 1]")
        self.drop = drop

    @abstractmethod
    def growth(self, evidence: Evidence) -> Floats:
        """How much each cut connection deserves to grow."""

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """Drop by weight, grow by :meth:`growth`, each scope to its budget: as many as were dropped where it stands."""
        budget = self.budget(share, evidence)
        if evidence.live.all() and not evidence.step:
            order = evidence.rng.random(self.table.count)
            return keep_strongest(self.table, order, budget, eligible=evidence.eligible(order))
        growth = self.growth(evidence)
        # Who stays comes before who grows, and who was just dropped last: it returns where there is nobody else.
        order = np.empty(self.table.count)
        for members, _ in budget.parts(self.table):
            live = members[evidence.live[members]]
            weakest = live[np.argsort(evidence.weights[live], kind="stable")]
            count = round(self.fraction(evidence.step) * len(live))
            cut = members[~evidence.live[members]]
            grown = cut[np.argsort(-growth[cut], kind="stable")]
            order[np.concatenate([weakest[count:][::-1], grown, weakest[:count][::-1]])] = -np.arange(len(members))
        return keep_strongest(self.table, order, budget, eligible=evidence.eligible(order))

    def fraction(self, step: int) -> float:
        """Share of the live connections that is exchanged after ``step``."""
        return exchanged(self.drop, step, self.schedule.end)


class Set(DropAndGrow):
    """Sparse evolutionary training (Mocanu et al. 2018): grows at random."""

    method = "set"

    def growth(self, evidence: Evidence) -> Floats:
        """Random numbers."""
        return evidence.rng.random(self.table.count)


class RigL(DropAndGrow):
    """RigL (Evci et al. 2020): grows where the gradient is largest."""

    method = "rigl"
    needs = frozenset({"gradients"})

    def growth(self, evidence: Evidence) -> Floats:
        """Norm of the dense gradient."""
        return evidence.gradients


class FixedMask(SparseFromStart):
    """A mask from elsewhere, held from the first step on: another run's final one, or its layer densities alone.

    Args:
        masks: layer name to mask, as :func:`synbb.pruning.load_masks` reads them.
        shuffle: move the live connections of each layer to random places.
        seed: of the shuffle.
        options: those of :class:`Pruner`, without density and schedule, which the masks decide.
    """

    method = "fixed"

    def __init__(self, masks: Mapping[str, Tensor], *, shuffle: bool = False, seed: int = 0, **options: Any) -> None:
        moved = dict(zip(masks, shuffled(masks.values(), seed), strict=True)) if shuffle else dict(masks)
        total = sum(mask.numel() for mask in moved.values())
        density = sum(int(mask.sum()) for mask in moved.values()) / max(total, 1)
        if density == 0:
            raise SynbbError("pruning masks cut everything: nothing could be trained")
        super().__init__(density, seed=seed, **{**options, "warmup": 0, "ramp": 0})
        self._given = moved

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:  # noqa: ARG002  nothing is left to choose
        """The mask that was given.

        Raises:
            SynbbError: it is of another architecture.
        """
        check_masks(
            self._given, {name: tuple(mask.shape) for name, mask in self.weights.masks.items()}, "pruning masks"
        )
        return np.concatenate([self._given[layer.name].cpu().numpy().ravel() for layer in self.layers])


def _strongest(pruner: Pruner, scores: Floats, share: float, evidence: Evidence) -> np.ndarray:
    budget = pruner.budget(share, evidence)
    return keep_strongest(pruner.table, scores, budget, eligible=evidence.eligible(scores))
