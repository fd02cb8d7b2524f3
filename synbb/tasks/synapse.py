"""Synapse detection in EM volumes: annotated volumes in, a 3D U-Net's loss and scores out."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synbb.datasets import check_fetched
from synbb.errors import SynbbError
from synbb.evaluation.voxels import ScoreHistogram
from synbb.inference.block_work import quantise
from synbb.inference.region import region_blocks
from synbb.models.receptive_field import receptive_field
from synbb.models.unet import build_unet, total_stride
from synbb.tasks.annotated import AnnotatedVolume, VolumeSettings
from synbb.tasks.augment import augmentation, augmented
from synbb.tasks.base import Batch, HeldOut, Validation
from synbb.tasks.held_out import HeldOutCounts
from synbb.tasks.object_choice import LARGEST, ObjectSearch, RegionOfObjects, choose_rules
from synbb.tasks.positives import MAX_POSITIVES
from synbb.tasks.sampling import Patch, PatchSampler, fitting_sampler
from synbb.tasks.synapse_settings import SynapseData, UnetSettings
from synbb.tasks.volumes_apart import Part, check_named_once, check_splits_apart, missing_guards
from synbb.volumes import Box
from synbb.volumes.opening import is_there
from synbb.volumes.statistics import Normalisation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from synbb.volumes.box import Triple

FOREGROUND_PRIOR = 0.01
"""Share of foreground that an untrained network expects: synapses take about one voxel in a hundred."""
SMALLEST_OBJECT = 0.1
"""Predicted objects below this share of the median annotated object's volume are left out by ``synbb segment``."""
HALO_LIMIT: Triple = (10, 48, 48)
HELD_OUT_SEED = 0
"""Places of held-out patches do not depend on the run's seed: runs are compared on the same ones."""


class SynapseTask:
    """The task of :class:`synbb.tasks.base.Task` for synapses in EM volumes.

    Args:
        data: volumes and sampling.
        model: the network.
        seed: of the run.
        batch_size: patches of a step, over all ranks.
    """

    DataSettings = SynapseData
    ModelSettings = UnetSettings

    def __init__(self, data: SynapseData, model: UnetSettings, *, seed: int, batch_size: int) -> None:
        self._data, self._model, self._seed, self._batch_size = data, model, seed, batch_size
        self._local = threading.local()
        self._chain = augmentation(data.augment, data.patch)
        self._train: list[AnnotatedVolume] = []
        self._validation: list[AnnotatedVolume] = []
        self._held_out: PatchSampler | None = None

    # ---- data ----

    def begin_with(self, facts: dict[str, Any]) -> None:
        """Nothing: grey values are normalised as these volumes need it."""

    def prepare(self, known: dict[str, Any] | None = None) -> list[str]:
        """Open training and validation volumes, normalise them and index the positives.

        Args:
            known: facts a run stored before; its normalisations are used again.

        Returns:
            Lines for a person: voxel sizes, normalisation, annotated voxels and positives.

        Raises:
            SynbbError: anything about the data that does not fit, named.
        """
        self._check_model()
        wanted = [path for each in self._data.volumes if each.split != "test" for path in each.files]
        check_fetched(self._data.dataset, [path for path in wanted if not is_there(path)])
        stored = {
            fact["name"]: Normalisation.from_dict(fact["normalisation"]) for fact in (known or {}).get("volumes", [])
        }
        lines = []
        for settings in self._data.volumes:
            if settings.split != "test":
                volume = self._open(settings, stored.get(settings.name))
                lines.append(f"{settings.name} ({settings.split}): {volume.view.description}")
                lines.append(f"{settings.name}: grey {volume.normalisation}")
        lines.append(self._index())
        lines.append(self._check_validation())
        _, halo = self._geometry
        parts = [Part.opened(volume) for volume in [*self._train, *self._validation]]
        lines += self._check_test(parts)
        check_splits_apart(parts)
        check_named_once(parts)
        return lines + missing_guards(parts, halo, self._model.voxel_size)

    def _check_test(self, parts: list[Part]) -> list[str]:
        """Open the test entries and close them again: a mistake there must not show after days of training.

        Args:
            parts: where the entries lie; those of the test split are added.
        """
        lines = []
        unread = Normalisation(0.0, 1.0)
        for settings in self._data.volumes:
            if settings.split != "test":
                continue
            missing = [path for path in settings.files if not is_there(path)]
            if missing:
                lines.append(f"{settings.name} (test): {missing[0]} is not there; it is only needed to be scored")
                parts.append(Part.named(settings))
            else:
                size, percentiles = self._model.voxel_size, self._data.percentiles
                volume = AnnotatedVolume(settings, size, percentiles=percentiles, normalisation=unread)
                parts.append(Part.opened(volume))
                volume.close()
        return lines

    def _open(self, settings: VolumeSettings, normalisation: Normalisation | None) -> AnnotatedVolume:
        """Open one entry; grey values of the same part of the same file are measured once."""
        same = (each for each in [*self._train, *self._validation] if each.same_greys(settings))
        training = settings.split == "train"
        volume = AnnotatedVolume(
            settings,
            self._model.voxel_size,
            percentiles=self._data.percentiles,
            normalisation=normalisation or next((each.normalisation for each in same), None),
            cache_bytes=self._data.cache_mib * 2**20 if training else 0,
        )
        (self._train if training else self._validation).append(volume)
        return volume

    def _index(self) -> str:
        """Index the positives of the training volumes."""
        sampled = [volume.sampled() for volume in self._train]
        self._sampler = PatchSampler(
            sampled, self._data.patch, positive_fraction=self._data.positive_fraction, seed=self._seed
        )
        sizes = np.concatenate([volume.object_sizes() for volume in self._train])
        self._min_size = SMALLEST_OBJECT * float(np.median(sizes)) if len(sizes) else 0.0
        voxels = sum(region.size for each in sampled for region in each.regions)
        positives = sum(len(each.positives) for each in sampled)
        many = "more than " if any(len(each.positives) > MAX_POSITIVES // 2 for each in sampled) else ""
        return (
            f"training on {voxels:,} annotated working voxels, {many}{positives:,} of them foreground, "
            f"in {len(sizes)} objects"
        )

    def _check_validation(self) -> str:
        if not self._validation:
            return "no entry has split: validation: nothing is validated and no threshold is chosen"
        if not any(volume.has_foreground() for volume in self._validation):
            names = ", ".join(volume.settings.name for volume in self._validation)
            raise SynbbError(
                f"data.volumes: the validation split ({names}) holds no foreground voxel, so PR-AUC and threshold are "
                "undefined there: choose other validation regions, or none"
            )
        stride, _ = self._geometry  # measured with the model's settings
        regions = [volume.working_regions() for volume in self._validation]
        self._held_out = fitting_sampler(regions, self._data.patch, stride, seed=HELD_OUT_SEED)
        return "validating on " + ", ".join(volume.settings.name for volume in self._validation)

    def _check_model(self) -> None:
        stride, _ = self.geometry(self.build_model())
        if any(p % s for p, s in zip(self._data.patch, stride, strict=True)):
            raise SynbbError(
                f"data.patch {list(self._data.patch)} must be multiples of the network's stride {list(stride)} (z y x)"
            )

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """The patches of a step on a rank; inputs, targets and valid are (batch, 1, z, y, x).

        The whole batch is the same for any number of ranks, which take turns in it.
        """
        drawn = [self._sampler.draw(step, item) for item in range(rank, self._batch_size, world_size)]
        items = [self._cut(patch, augment=True) for patch in drawn]
        images, labels, valid = (torch.stack(each) for each in zip(*items, strict=True))
        return Batch(images, labels, valid)

    def upcoming(self, steps: range, rank: int, world_size: int) -> None:
        """Load the chunks under the patches of ``steps`` ahead of need."""
        boxes: dict[int, list[Box]] = {}
        for step in steps:
            for item in range(rank, self._batch_size, world_size):
                patch = self._sampler.draw(step, item)
                boxes.setdefault(patch.volume, []).append(patch.box)
        for number, each in boxes.items():
            self._train[number].prefetch(each)

    def calibration_batches(self, count: int) -> Iterator[Tensor]:
        """Inputs of uniform, unaugmented patches, the same at every call."""
        for first in range(0, count, self._batch_size):
            items = range(first, max(first + self._batch_size, first + 2))
            yield torch.stack([self._cut(self._sampler.draw_uniform(item), augment=False)[0] for item in items])

    def held_out_batches(self, count: int) -> Iterator[Tensor]:
        """Inputs of ``count`` uniform patches of the validation regions, the same at every call and for every seed.

        Empty when no entry has split ``validation``, or its regions are smaller than the network's stride.
        """
        for first in range(0, count if self._held_out is not None else 0, self._batch_size):
            assert self._held_out is not None
            drawn = [self._held_out.draw_uniform(item) for item in range(first, min(first + self._batch_size, count))]
            images = [self._validation[patch.volume].image(patch.box) for patch in drawn]
            yield torch.stack([torch.from_numpy(image)[None] for image in images])

    def _cut(self, patch: Patch, *, augment: bool) -> tuple[Tensor, Tensor, Tensor]:
        volume = self._train[patch.volume]
        image = volume.image(patch.box)
        label, valid = volume.working_truth(patch.box)
        if augment:
            return augmented(self._own_chain(), image, label, valid, patch.seed)
        return (
            torch.from_numpy(image)[None],
            torch.from_numpy(label.astype(np.float32))[None],
            torch.from_numpy(valid)[None],
        )

    def _own_chain(self) -> Any:
        # MONAI transforms hold their random state: each loader thread needs a chain of its own.
        if not hasattr(self._local, "chain"):
            self._local.chain = copy.deepcopy(self._chain)
        return self._local.chain

    # ---- network and loss ----

    def build_model(self) -> nn.Module:
        """A newly initialised U-Net for the working voxel size."""
        model = self._model
        net: nn.Module = build_unet(
            model.voxel_size,
            levels=model.levels,
            filters=model.filters,
            residual=model.residual,
            norm=model.norm,
            prior=FOREGROUND_PRIOR,
        )
        return net

    def example_inputs(self) -> Tensor:
        """Zeros of the shape of one training patch, batch of one."""
        return torch.zeros(1, 1, *self._data.patch)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the valid voxels of the batch.

        No Dice term: it drives probabilities to 0 and 1, where the 8 bits of an output cannot rank them any more
        (docs/results.md has the figures).
        """
        logits, target = outputs.float(), batch.targets
        valid = batch.valid
        weight = valid.to(target.dtype) if isinstance(valid, Tensor) else torch.ones_like(target)
        entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
        return entropy / weight.sum().clamp(min=1)

    # ---- scores ----

    def validate(self, model: nn.Module, device: Any) -> Validation | None:
        """Voxel PR-AUC on the validation entries at their own resolution; the threshold of the best F1 there.

        With that threshold, the rules of objects that are best there, unless ``data.objects`` is false, or the regions
        are too large to be held.

        Returns:
            None when no entry has split ``validation``.
        """
        if not self._validation:
            return None
        histogram = ScoreHistogram()
        places = [(volume, region) for volume in self._validation for region in volume.regions]
        keep = self._data.objects is not False and sum(region.size for _, region in places) <= LARGEST
        held: list[RegionOfObjects] = []
        for volume, region in places:
            objects = RegionOfObjects.of(volume, region) if keep else None
            self._score(model, volume, region, histogram, objects, device)
            if objects is not None:
                held.append(objects)
        area = histogram.average_precision()
        best = histogram.best_f1()
        assert area is not None, "prepare() found foreground in the validation split"
        assert best is not None
        assert best.f1 is not None
        scores = {"pr_auc": area, "f1": best.f1, "precision": best.precision or 0.0, "recall": best.recall or 0.0}
        decision: dict[str, Any] = {"threshold": max(best.threshold, 1 / 255)}
        search = self._data.objects or ObjectSearch()
        choice = choose_rules(held, search, decision["threshold"], self._min_size / SMALLEST_OBJECT)
        if choice is not None:
            decision["objects"] = choice.to_dict()
            scores["object_f1"] = choice.f1
        return Validation(scores, "pr_auc", decision)

    def _score(
        self,
        model: nn.Module,
        volume: AnnotatedVolume,
        region: Box,
        histogram: ScoreHistogram,
        objects: RegionOfObjects | None,
        device: Any,
    ) -> None:
        stride, halo = self.geometry(model)
        view, greys = volume.view, volume.normalisation
        for block in region_blocks(model, view, greys, region, stride=stride, halo=halo, device=device):
            foreground, valid = volume.truth(block.box)
            histogram.add(quantise(block.probabilities), foreground, valid)
            if objects is not None:
                objects.add(block, region, valid)

    def score(self, model: nn.Module, device: Any, decision: dict[str, Any]) -> HeldOut | None:
        """Voxel PR-AUC, and F1 and recall of voxels and objects at the decided threshold, on the test entries.

        Args:
            model: trained.
            device: where it is.
            decision: ``threshold``, which :meth:`validate` chose.

        Raises:
            SynbbError: no threshold was chosen, or a test volume cannot be opened.
        """
        tests = [settings for settings in self._data.volumes if settings.split == "test"]
        if not tests:
            return None
        if "threshold" not in decision:
            raise SynbbError(
                "data.volumes: the test split cannot be scored without a threshold: add an entry with split: validation"
            )
        stride, halo = self.geometry(model)
        counts = HeldOutCounts(float(decision["threshold"]), self._min_size)
        for settings in tests:
            known = [each.normalisation for each in [*self._train, *self._validation] if each.same_greys(settings)]
            volume = AnnotatedVolume(
                settings,
                self._model.voxel_size,
                percentiles=self._data.percentiles,
                normalisation=known[0] if known else None,
            )
            for region in volume.regions:
                view, greys = volume.view, volume.normalisation
                found = region_blocks(model, view, greys, region, stride=stride, halo=halo, device=device)
                counts.add(volume, region, ((block.box, block.probabilities) for block in found))
            volume.close()
        return counts.held_out()

    def geometry(self, model: nn.Module) -> tuple[Triple, Triple]:
        """Stride and halo (receptive field) of the network, working voxels z y x; measured once.

        Raises:
            SynbbError: the halo is beyond what blockwise prediction is made for.
        """
        if not hasattr(self, "_geometry"):
            stride = total_stride(model)
            halo = receptive_field(copy.deepcopy(model).cpu(), stride)
            if any(h > limit for h, limit in zip(halo, HALO_LIMIT, strict=True)):
                raise SynbbError(
                    f"model: a receptive field of {list(halo)} working voxels (z y x) is beyond {list(HALO_LIMIT)}; "
                    "use fewer levels, or no residual blocks; and see that model.voxel_size "
                    f"{list(self._model.voxel_size)} is nm along z, y, x"
                )
            self._geometry = (stride, halo)
        return self._geometry

    def facts(self) -> dict[str, Any]:
        """Working voxel size, smallest object; of each volume its normalisation, voxel sizes, licence, citation."""
        return {
            "min_size_nm3": self._min_size,
            "working_voxel_size": list(self._model.voxel_size),
            "percentiles": list(self._data.percentiles),
            "volumes": [volume.facts() for volume in [*self._train, *self._validation]],
        }

    def close(self) -> None:
        """Stop the training stream."""
        for volume in [*self._train, *self._validation]:
            volume.close()
