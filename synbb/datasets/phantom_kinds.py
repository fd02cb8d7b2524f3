"""What all kinds of phantoms share: the record beside their files, and when one may take the place of another."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml

from synbb.datasets.staging import staged_folder
from synbb.errors import SynbbError, disk_errors
from synbb.yaml_text import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SPEC_FILE = "phantom.yaml"
"""What a phantom was made from; a folder without it was not made by us."""

Spec = TypeVar("Spec")


@dataclass(frozen=True)
class PhantomKind(Generic[Spec]):
    """One kind of phantom.

    Attributes:
        name: as in the manifest.
        to_dict: plain values of a spec, all of them.
        from_dict: the inverse, where values may be left out.
        files: what is written for a spec besides its record, relative to the folder; with a slash at the end it stands
            for everything below.
    """

    name: str
    to_dict: Callable[[Spec], dict[str, Any]]
    from_dict: Callable[[dict[str, Any]], Spec]
    files: Callable[[Spec], Iterable[str]]

    @contextmanager
    def folder(self, target: Path, *, overwrite: bool) -> Iterator[Path]:
        """As :func:`staged_folder`, for a phantom, which may take the place of another one of its kind.

        Args:
            target: to create.
            overwrite: replace a phantom of this kind that is there, with nothing else in its folder. Nothing else is
                ever replaced.

        Raises:
            SynbbError: there is something, and it may not be replaced; or the place cannot be written to.
            RunEnded: the disk is full.
        """

        def may_replace(place: Path) -> None:
            if not overwrite:
                raise SynbbError(
                    f"{target}: exists already; choose another folder, remove it, or ask to overwrite it (--overwrite)"
                )
            self._refuse_strangers(place)

        with staged_folder(target, may_replace) as stage, disk_errors(target):
            yield stage

    def write(self, folder: Path, spec: Spec, **besides: Any) -> None:
        """Put the record of a phantom beside its files."""
        record = {"kind": self.name, **besides, "spec": self.to_dict(spec)}
        (folder / SPEC_FILE).write_text(yaml.safe_dump(record, sort_keys=False))

    def read(self, folder: str | Path) -> Spec:
        """The spec of a phantom on disk.

        Raises:
            SynbbError: no phantom of this kind is there, or its record cannot be understood.
        """
        path = Path(folder) / SPEC_FILE
        if not path.is_file():
            raise SynbbError(
                f"{path}: not found, so {folder} holds no finished phantom; make one with "
                f"`synbb data {self.name.replace(' ', '-')}`"
            )
        try:
            return self.from_dict(self._spec_of(read_yaml(path, str(path))))
        except (SynbbError, OSError, KeyError, TypeError, ValueError) as error:
            raise SynbbError(
                f"{path}: is no record of the kind {self.name!r} ({error}); remove the folder and make it anew"
            ) from error

    def check(self, folder: Path, spec: Spec) -> None:
        """Make sure that the phantom in ``folder`` is the one of ``spec``.

        Raises:
            SynbbError: it is another one, or none.
        """
        found = self.to_dict(self.read(folder))
        for key, value in self.to_dict(spec).items():
            if found[key] != value:
                raise SynbbError(
                    f"{folder}: another phantom, whose {key} is {found[key]}; that of the dataset is {value}. Move it "
                    "elsewhere, or give another folder of datasets with --to"
                )

    def _spec_of(self, record: Any) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise SynbbError("it holds no keys")
        if set(record) == set(self.to_dict(self.from_dict({}))):
            return record  # of faces and speech, before their records told the kind
        if record.get("kind") != self.name:
            raise SynbbError(f"its kind is {record.get('kind')!r}")
        values: dict[str, Any] = record["spec"]
        return values

    def _refuse_strangers(self, place: Path) -> None:
        try:
            spec = self.read(place)
        except SynbbError as error:
            raise SynbbError(
                f"{place}: exists and is not a phantom of the kind {self.name!r}, so it is not overwritten; remove it "
                "yourself"
            ) from error
        own = {SPEC_FILE, *self.files(spec)}
        below = tuple(name for name in own if name.endswith("/"))
        names = (
            path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_symlink() or not path.is_dir()
        )
        strangers = sorted(name for name in names if name not in own and not name.startswith(below))
        if strangers:
            others = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            raise SynbbError(
                f"{place}: holds {strangers[0]}{others}, which the phantom there did not come with, so it is not "
                "overwritten; move what is yours elsewhere first"
            )
