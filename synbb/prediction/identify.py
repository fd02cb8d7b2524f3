"""Enrolling people in a gallery with a trained run, and naming who is on other images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from synbb.datasets.face_folders import list_faces
from synbb.errors import SynbbError, make_folder
from synbb.evaluation.verification import mean_by_identity, rank
from synbb.prediction.files import check_table, write_table
from synbb.prediction.trained import Trained, device_named
from synbb.tasks.base import Table
from synbb.tasks.face_gallery import Gallery
from synbb.tasks.faces import FacesTask
from synbb.training.checkpoint import write_atomically

Say = Callable[[str], None]
WANTED = "people are enrolled and identified by runs on faces"


def enroll(
    run_path: Path,
    folder: Path,
    gallery: Path,
    *,
    add: bool = False,
    which: str = "last",
    device: str = "auto",
    say: Say,
) -> Gallery:
    """Put the people of ``folder``, a folder of images each, into a gallery: the mean of their embeddings.

    Args:
        run_path: folder of a run on faces.
        folder: of their images.
        gallery: file to write.
        add: to an existing gallery, replacing who is in it already.
        which: weights, ``last`` or ``best``.
        device: of torch, or ``auto``.
        say: prints a line for a person.

    Raises:
        SynbbError: no such run or images, an image that does not decode, a gallery that is there (without ``add``) or
            was made by other weights.
        RunEnded: the disk is full.
    """
    if gallery.exists() and not add:
        raise SynbbError(f"gallery {gallery} is there already: pass --add to enroll into it, or choose another name")
    trained, task, net, place = _opened(run_path, which, device)
    faces = list_faces(folder)
    make_folder(gallery.parent)  # before the work: that it cannot be made must not show after it
    vectors = task.embeddings(net, [face.path for face in faces], place)
    means, names = mean_by_identity(vectors, [face.identity for face in faces])
    made = Gallery(tuple(names), means, trained.about["sha256"])
    whole = Gallery.read(gallery).joined(made) if gallery.exists() else made
    write_atomically(gallery, whole.to_bytes())
    say(f"{len(names)} identities enrolled from {len(faces)} images; {len(whole.names)} in {gallery}")
    return whole


def identify(
    run_path: Path,
    gallery: Path,
    source: Path,
    output: Path,
    *,
    threshold: float | None = None,
    which: str = "last",
    device: str = "auto",
    overwrite: bool = False,
    say: Say,
) -> None:
    """Name who is on the images of ``source``, into a CSV; images that do not decode are listed in a second one.

    Its columns are image, identity (empty below the threshold), nearest (who is most similar) and cosine.

    Args:
        run_path: folder of the run that the gallery was enrolled with.
        gallery: of :func:`enroll`.
        source: an image, a folder of images, or a folder of such folders.
        output: the CSV.
        threshold: cosine from which somebody is named; by default that of equal errors on the validation split.
        which: weights, ``last`` or ``best``.
        device: of torch, or ``auto``.
        overwrite: replace ``output`` where it is there.
        say: prints a line for a person.

    Raises:
        SynbbError: no such run, gallery or images, a gallery of other weights, no threshold or one that is no cosine,
            or an output that is there.
        RunEnded: the disk is full.
    """
    check_table(output, overwrite=overwrite)
    if threshold is not None and not -1 <= threshold <= 1:
        raise SynbbError(f"--threshold {threshold:g} is no cosine, which lies between -1 and 1")
    known = Gallery.read(gallery)
    trained, task, net, place = _opened(run_path, which, device)
    known.check_model(trained.about["sha256"])
    limit = trained.decision.get("threshold") if threshold is None else threshold
    if limit is None:
        raise SynbbError(f"{run_path} chose no threshold (it has no validation split): pass --threshold")
    make_folder(output.parent)
    paths, vectors, skipped = task.embed_files(net, source, place)
    found = rank(known.embeddings, known.names, vectors, [""] * len(paths))
    named = found.similarity >= float(limit)
    rows = [
        [str(path), known.names[entry] if sure else "", known.names[entry], f"{cosine:.4f}"]
        for path, entry, cosine, sure in zip(paths, found.best, found.similarity, named, strict=True)
    ]
    write_table(Table(["image", "identity", "nearest", "cosine"], rows, skipped), output, say)
    say(f"{int(np.count_nonzero(named))} of {len(paths)} images named at cosine {float(limit):.3f}; {output}")


def _opened(run_path: Path, which: str, device: str) -> tuple[Trained, FacesTask, nn.Module, str]:
    trained = Trained.open(run_path, which)
    task = trained.file_predictor(WANTED)
    if not isinstance(task, FacesTask):
        raise trained.wrong_task(WANTED)
    place = device_named(device)
    return trained, task, trained.load(task.build_model()).to(place), place
