"""Face identification and verification: images of people in, a ResNet's embeddings, and who is who out.

Three protocols. *identification*: everybody of the validation and test images was trained on, other images of them;
the gallery is the mean embedding of each identity's training images. *open_set*: likewise, but strangers come by, who
should be named by nobody. *verification*: people never seen in training; are two images of one person?
"""

from __future__ import annotations

import copy
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from synbb.datasets import check_fetched, credit
from synbb.datasets.face_folders import list_images
from synbb.errors import SynbbError
from synbb.evaluation.verification import mean_by_identity
from synbb.models.face_resnet import FaceNet, build_face_resnet, cosine_margin_loss
from synbb.schema import Settings
from synbb.tasks.base import Batch, HeldOut, Table, Validation
from synbb.tasks.epochs import Epochs
from synbb.tasks.face_images import (
    Chosen,
    FaceAugmentation,
    FaceFolder,
    FaceReader,
    PositiveInt,
    Several,
    changed,
    choose,
    face_augmentation,
    listed_pairs,
    standardised,
    told,
)
from synbb.tasks.face_light import Evening
from synbb.tasks.face_scores import FaceScores, check_pairs, score_gallery, score_pairs
from synbb.tasks.splits import check_files_apart, evenly, left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Floats = NDArray[np.float64]
EMBEDDED_AT_ONCE = 64


class FaceData(Settings):
    """Where the images are.

    Attributes:
        images: folders, each with its split.
        dataset: entry of ``data_manifest.yaml`` that they come from; pipelines fetch it when it is missing.
        protocol: ``identification``, ``open_set`` or ``verification``.
        pairs: list of pairs of the test split in the layout of LFW's pairs.txt (verification); all pairs without it.
        size: y, x of what the network sees; other images are resampled.
        evening: done first, against uneven light: ``none``, ``clahe`` or ``tan_triggs``.
        on_bad: whether an image that does not decode, or the only one of its identity, is an ``error`` or left out
            with a count and a list (``skip``).
        augment: random changes of training images.
        cache_mib: memory for decoded images.
    """

    images: Annotated[tuple[FaceFolder, ...], Field(min_length=1)]
    dataset: str | None = None
    protocol: Literal["identification", "open_set", "verification"] = "identification"
    pairs: str | None = None
    size: tuple[PositiveInt, PositiveInt] = (112, 96)
    evening: Evening = "none"
    on_bad: Literal["error", "skip"] = "error"
    augment: FaceAugmentation = FaceAugmentation()
    cache_mib: PositiveInt = 512

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(entry.split == "train" for entry in self.images):
            raise ValueError("no entry of images has split: train")
        if self.pairs is not None and self.protocol != "verification":
            raise ValueError("pairs are of use to protocol: verification alone")
        return self


class FaceResNetSettings(Settings):
    """The network.

    Attributes:
        depth: of the ResNet, 18, 34, 50 or 101.
        width: channels of its first stage.
        embedding: numbers of an embedding.
        stem: kernel of the first convolution.
        pool: halve the image once more, for large ones.
        scale: inverse temperature of the cosine head.
        margin: by which the true identity must lead, as a cosine.
    """

    depth: Literal[18, 34, 50, 101] = 18
    width: PositiveInt = 64
    embedding: PositiveInt = 128
    stem: PositiveInt = 3
    pool: bool = False
    scale: Annotated[float, Field(gt=0)] = 24.0
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.2


class FacesTask:
    """The task of :class:`synbb.tasks.base.Task` for faces.

    Args:
        data: images and protocol.
        model: the network.
        seed: of the run.
        batch_size: images of a step, over all ranks.
    """

    DataSettings = FaceData
    ModelSettings = FaceResNetSettings

    def __init__(self, data: FaceData, model: FaceResNetSettings, *, seed: int, batch_size: int) -> None:
        self._data, self._model, self._seed, self._batch_size = data, model, seed, batch_size
        self._chain = face_augmentation(data.augment, data.size)
        self._local = threading.local()
        self._reader = FaceReader(data.size, evening=data.evening, cache_bytes=data.cache_mib * 2**20)
        self._names: list[str] = []
        self._train = self._validation = Chosen((), np.zeros(0, np.int64))
        self._epochs: Epochs  # since the images are there
        self._alone: str | None = None

    # ---- data ----

    def begin_with(self, facts: dict[str, Any]) -> None:
        """Nothing: prototypes become those of whomever the images show."""

    def prepare(self, known: dict[str, Any] | None = None) -> list[str]:
        """Decode all training and validation images once, and look at the names of those of the test split.

        Args:
            known: facts of a run that is continued: its identities must be those that are found.

        Raises:
            SynbbError: images that do not fit the protocol, named.
        """
        folders = [each.folder for each in self._data.images]
        check_fetched(self._data.dataset, [each for each in folders if not Path(each).exists()])
        lines = []
        self._train = self._choose("train")
        self._owners = self._train.owners()
        self._epochs = Epochs(len(self._train.faces), seed=self._seed, batch_size=self._batch_size)
        self._names = self._train.identities
        lines += told("train", self._train)
        if len(self._names) < 2:
            raise SynbbError(
                f"data.images: the training images show {len(self._names)} identity; at least 2 are needed"
            )
        if known is not None and known.get("identities") != self._names:
            raise SynbbError("data.images: the training images show other identities than when the run was begun")
        self._validation = self._choose("validation")
        if self._validation.faces:
            self._check_protocol("validation", self._validation)
            if self._data.protocol == "verification":
                check_pairs("validation", self._validation)
            lines += told("validation", self._validation)
            if self._data.protocol == "open_set" and {*self._validation.identities} <= {*self._names}:
                lines.append("no strangers in validation: the threshold is that of pairs, and names more strangers")
        else:
            lines.append("no entry has split: validation: nothing is validated and no threshold is chosen")
        self._alone = self._fault_alone()
        self._check_share(1)
        test, _, _ = self._checked_test(decode=False)
        return [*lines, *(told("test", test) if test.faces else [])]

    def _fault_alone(self) -> str | None:
        """Why the network cannot be trained on one image: its last stage sees one position, batch norm one value."""
        with torch.device("meta"), torch.no_grad():  # shapes alone: no weight of the run is drawn
            try:
                self.build_model().train().embed(self.example_inputs())
            except ValueError as error:
                return str(error)
        return None

    def _check_share(self, world_size: int) -> None:
        """Refuse shares of one image where the network cannot be trained on them."""
        if self._alone is None or self._batch_size > world_size:
            return
        shared = f" on {world_size} devices, one image each" if world_size > 1 else ""
        raise SynbbError(
            f"training.batch_size {self._batch_size}{shared}: of an image of {list(self._data.size)} (data.size) the "
            f"network cannot be trained ({self._alone}); give a batch of {2 * world_size} images at least, or larger "
            "ones"
        )

    def restore(self, facts: dict[str, Any]) -> None:
        """Be ready to build the network and to embed images without the data of the run; see the facts of a run."""
        self._names = list(facts["identities"])

    def _choose(self, split: str, *, decode: bool = True) -> Chosen:
        several: Several | None = "split" if split == "train" else None
        if self._data.protocol == "verification" and split != "train":
            listed = split == "test" and self._data.pairs is not None
            several = None if listed else "folder"
        skip_bad = self._data.on_bad == "skip"
        return choose(self._data.images, split, self._reader, skip_bad=skip_bad, several=several, decode=decode)

    def _checked_test(self, *, decode: bool) -> tuple[Chosen, NDArray[np.int64] | None, list[str]]:
        """The test images, the listed pairs of them, and a line on pairs that are left out.

        Undecoded, their faults show before a network is trained.
        """
        chosen = self._choose("test", decode=decode)
        self._check_protocol("test", chosen)
        verifies = self._data.protocol == "verification" and bool(chosen.faces)
        if self._data.pairs is None:
            if verifies:
                check_pairs("test", chosen)
            return chosen, None, []
        if not chosen.faces:
            raise SynbbError(f"data.pairs: {self._data.pairs} lists pairs of the test split, and no entry has it")
        named = self._choose("test", decode=False) if chosen.skipped else chosen
        pairs, lines = listed_pairs(self._data.pairs, named, chosen)
        if verifies:
            check_pairs("test", chosen, pairs)
        return chosen, pairs, lines

    def _check_protocol(self, split: str, chosen: Chosen) -> None:
        others = {"train": self._train, **({"validation": self._validation} if split == "test" else {})}
        taken = {other: [face.path for face in images.faces] for other, images in others.items()}
        check_files_apart("data.images", split, [face.path for face in chosen.faces], taken)
        known = set(self._names)
        if self._data.protocol == "open_set" and chosen.faces and known.isdisjoint(chosen.identities):
            raise SynbbError(
                f"data.images: {chosen.faces[0].path} and all other images of split {split} show strangers, and nobody "
                "who is trained on: nobody could be named; add other images of known people, or choose protocol: "
                "verification"
            )
        for face in chosen.faces:
            if self._data.protocol == "verification" and face.identity in known:
                raise SynbbError(
                    f"data.images: {face.path} of split {split} shows {face.identity}, who is trained on: verification "
                    "is of people never seen; choose other `identities`, or protocol: identification, or give the "
                    "folder a `prefix` if it calls somebody else so"
                )
            if self._data.protocol == "identification" and face.identity not in known:
                raise SynbbError(
                    f"data.images: {face.path} of split {split} shows {face.identity}, who is not trained on: nobody "
                    "could name them; leave them out, or choose protocol: open_set or verification"
                )

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """Images (batch, 1, y, x) and identities (batch,) of a step on a rank: epochs of shuffled images.

        Raises:
            SynbbError: a share of one image, on which the network cannot be trained.
        """
        self._check_share(world_size)
        drawn = self._epochs.drawn(step, rank, world_size)
        images = [
            standardised(
                changed(self._own_chain(), self._lit(self._train.faces[each.place].path, each.seed), each.seed)
            )
            for each in drawn
        ]
        return Batch(torch.stack(images), torch.tensor([int(self._owners[each.place]) for each in drawn]))

    def _lit(self, path: Path, seed: int) -> Tensor:
        """A training image, in some cases with a shadow over it."""
        falls = np.random.default_rng([seed, 1]).random() < self._data.augment.shadow
        return self._reader.image(path, seed if falls else None)

    def _own_chain(self) -> Any:
        # MONAI transforms hold their random state: each loader thread needs a chain of its own.
        if not hasattr(self._local, "chain"):
            self._local.chain = copy.deepcopy(self._chain)
        return self._local.chain

    def upcoming(self, steps: range, rank: int, world_size: int) -> None:
        """Nothing: images are small and decoded as they are needed."""

    def calibration_batches(self, count: int) -> Iterator[Tensor]:
        """Unaugmented training images, at least ``count``, the same at every call."""
        order = np.random.default_rng([self._seed, 2]).permutation(len(self._train.faces))
        size = max(self._batch_size, 2)  # batch statistics need two images
        for first in range(0, count, size):  # whole batches: each weighs the same in the average of their statistics
            places = [int(order[item % len(order)]) for item in range(first, first + size)]
            yield self._inputs([self._train.faces[place].path for place in places])

    def held_out_batches(self, count: int) -> Iterator[Tensor]:
        """Validation images, evenly spread over them."""
        faces = self._validation.faces
        places = evenly(count, len(faces))
        for first in range(0, len(places), self._batch_size):
            yield self._inputs([faces[place].path for place in places[first : first + self._batch_size]])

    def _inputs(self, paths: Sequence[Path]) -> Tensor:
        return torch.stack([standardised(self._reader.image(path)) for path in paths])

    # ---- network and loss ----

    def build_model(self) -> FaceNet:
        """A newly initialised ResNet with a head for the training identities."""
        model = self._model
        return build_face_resnet(
            identities=len(self._names),
            depth=model.depth,
            width=model.width,
            embedding=model.embedding,
            stem=model.stem,
            pool=model.pool,
        )

    def example_inputs(self) -> Tensor:
        """One image of zeros."""
        return torch.zeros(1, 1, *self._data.size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cosine margin loss of the batch."""
        return cosine_margin_loss(outputs, batch.targets, scale=self._model.scale, margin=self._model.margin)

    # ---- scores ----

    def validate(self, model: nn.Module, device: Any) -> Validation | None:
        """Scores of the protocol on the validation images; the threshold of equal errors there.

        With strangers among them, errors of naming (1 - identified, strangers named), else those of pairs.
        """
        if not self._validation.faces:
            return None
        found = self._scored(lambda paths: self.embeddings(model, paths, device), self._validation, None)
        return Validation(found.figures, self._main, {"threshold": found.threshold})

    def score(self, model: nn.Module, device: Any, decision: dict[str, Any]) -> HeldOut | None:
        """Scores of the protocol on the test images, opened here, and what was counted by probe or identity.

        Where there is a gallery, the case of each image too; with ``open_set``, nobody is named below the threshold. A
        note says what the images give without a network: one that gives less is of no use for them.
        """
        chosen, pairs, lost = self._checked_test(decode=True)
        if not chosen.faces:
            return None
        found = self._scored(lambda paths: self.embeddings(model, paths, device), chosen, pairs)
        threshold = decision.get("threshold")
        at_threshold = {} if threshold is None else found.figures_at(float(threshold))
        scores = {
            **found.figures,
            **at_threshold,
            "images": len(chosen.faces),
            "identities": len(chosen.identities),
        }
        cases = found.cases(threshold if self._data.protocol == "open_set" else None)
        notes = (*left_out("test", "image", chosen.skipped), *lost, *self._without_network(chosen, pairs))
        return HeldOut(scores, self._main, found.resampled(), notes, cases)

    @property
    def _main(self) -> str:
        return "roc_auc" if self._data.protocol == "verification" else "rank_1"

    def _without_network(self, chosen: Chosen, pairs: NDArray[np.int64] | None) -> tuple[str, ...]:
        """The main figure with the images themselves as embeddings, where these fit into memory, in words."""
        images = len(chosen.faces) + len(self._train.faces)
        if images * math.prod(self._data.size) * np.dtype(np.float64).itemsize > self._data.cache_mib * 2**20:
            return ()
        value = self._scored(self._images_themselves, chosen, pairs).figures[self._main]
        name = self._main.replace("_", "-")
        return (f"without a network, correlating the images as it sees them: {name} {value:.3f}",)

    def _images_themselves(self, paths: Sequence[Path]) -> Floats:
        """Images as unit vectors (images, pixels): their products are correlations."""
        vectors = self._inputs(paths).flatten(1).double().numpy()
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    def _scored(
        self, embed: Callable[[Sequence[Path]], Floats], chosen: Chosen, pairs: NDArray[np.int64] | None
    ) -> FaceScores:
        probes = embed([face.path for face in chosen.faces])
        if self._data.protocol == "verification":
            return score_pairs(probes, chosen, pairs)
        faces = self._train.faces
        trained = embed([face.path for face in faces])
        gallery, people = mean_by_identity(trained, [face.identity for face in faces])
        return score_gallery(probes, chosen, gallery, people, strangers=self._data.protocol == "open_set")

    @torch.no_grad()
    def embeddings(self, model: nn.Module, paths: Sequence[Path], device: Any) -> Floats:
        """Unit vectors (images, embedding), float64, of a network in evaluation mode."""
        assert isinstance(model, FaceNet)
        found = []
        for first in range(0, len(paths), EMBEDDED_AT_ONCE):
            inputs = self._inputs(paths[first : first + EMBEDDED_AT_ONCE]).to(device)
            found.append(model.embed(inputs).cpu().double().numpy())
        return np.concatenate(found)

    # ---- prediction ----

    def predict_files(self, model: nn.Module, source: Path, device: Any) -> Table:
        """The embedding of every image of a folder, and of the folders in it; images that do not decode are told.

        Raises:
            SynbbError: no image in the folder.
        """
        good, vectors, skipped = self.embed_files(model, source, device)
        columns = ["image", *(f"e{number}" for number in range(vectors.shape[1]))]
        rows = [[str(path), *(f"{value:.6f}" for value in vector)] for path, vector in zip(good, vectors, strict=True)]
        return Table(columns, rows, skipped)

    def embed_files(self, model: nn.Module, source: Path, device: Any) -> tuple[list[Path], Floats, tuple[str, ...]]:
        """Images of a folder that decode, their :meth:`embeddings`, and why the others do not.

        Raises:
            SynbbError: no image in the folder.
        """
        paths = list_images(source)
        good: list[Path] = []
        skipped: list[str] = []
        for path in paths:
            try:
                self._reader.grey(path)
                good.append(path)
            except SynbbError as error:
                skipped.append(str(error))
        if not good:
            raise SynbbError(f"{source}: none of its {len(paths)} images decodes; the first: {skipped[0]}")
        return good, self.embeddings(model, good, device), tuple(skipped)

    def facts(self) -> dict[str, Any]:
        """Identities in the order of the head, size and treatment of images, files left out, licence and citation."""
        unused = [*self._train.skipped, *self._validation.skipped]
        return {
            "identities": self._names,
            "protocol": self._data.protocol,
            "size": list(self._data.size),
            "evening": self._data.evening,
            **({"left_out": unused} if unused else {}),
            **credit(self._data.dataset),
        }

    def close(self) -> None:
        """Nothing is held open."""
