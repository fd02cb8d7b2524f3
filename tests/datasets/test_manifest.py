from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from synbb.datasets import check_fetched, find_dataset, load_manifest, manifest_path
from synbb.datasets.manifest import CremiFiles, FolderTree, Phantom, PhantomFaces, PhantomSpeech, SectionStacks
from synbb.errors import SynbbError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_manifest_of_the_checkout_is_found_and_states_everything() -> None:
    manifest = load_manifest()
    assert set(manifest) == {"vnc", "cremi", "phantom", "phantom-faces", "phantom-speech", "an4", "orl", "yaleb"}
    for name, dataset in manifest.items():
        for text in (dataset.title, dataset.licence, dataset.citation, dataset.layout, dataset.source.homepage):
            assert text, name
    kinds = {
        "vnc": SectionStacks,
        "cremi": CremiFiles,
        "phantom": Phantom,
        "an4": FolderTree,
        "phantom-faces": PhantomFaces,
        "phantom-speech": PhantomSpeech,
    }
    assert all(isinstance(manifest[name], kind) for name, kind in kinds.items())


def test_cremi_names_its_layout() -> None:
    cremi = load_manifest()["cremi"]
    assert isinstance(cremi, CremiFiles)
    assert (cremi.raw, cremi.clefts, cremi.voxel_size) == ("volumes/raw", "volumes/labels/clefts", (40.0, 4.0, 4.0))
    assert cremi.background == 0xFFFFFFFFFFFFFFFF
    assert cremi.source.homepage.startswith("https://cremi.org")


def edited(tmp_path: Path, edit: str, value: object) -> Path:
    records = yaml.safe_load(manifest_path().read_text())
    *parents, key = edit.split("/")
    place = records["datasets"]
    for parent in parents:
        place = place[parent]
    place[key] = value
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(records))
    return path


@pytest.mark.parametrize(
    ("edit", "value", "words"),
    [
        ("vnc/licens", "x", ["vnc", "'licens'", "'licence'"]),
        ("vnc/source/comit", "x", ["vnc", "'comit'", "'commit'"]),
        ("vnc/layers/stack1_raw/sha", "x", ["'sha'", "'sha256'"]),
        ("vnc/layers/stack1_raw/sha256", "abc", ["vnc", "layers.stack1_raw.sha256", "abc"]),
        ("orl/kind", "foldr", ["orl", "foldr", "'folder'"]),
        ("cremi/voxel_size", [40, 4], ["cremi", "voxel_size"]),
    ],
)
def test_a_wrong_manifest_names_the_key(tmp_path: Path, edit: str, value: object, words: list[str]) -> None:
    with pytest.raises(SynbbError) as caught:
        load_manifest(edited(tmp_path, edit, value))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("text", ["datasets: [1", "a: 1", "[]"])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SynbbError, match=r"bad\.yaml"):
        load_manifest(path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"none\.yaml"):
        load_manifest(tmp_path / "none.yaml")


def test_an_unknown_dataset_suggests_the_nearest() -> None:
    with pytest.raises(SynbbError, match=r"'vnk'.*'vnc'"):
        find_dataset("vnk", load_manifest())
    with pytest.raises(SynbbError, match="cremi"):
        find_dataset("zzz", load_manifest())


def test_an_installed_manifest_is_found_through_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        name = "data_manifest.yaml"

        def locate(self) -> Path:
            return tmp_path / "share/data_manifest.yaml"

    monkeypatch.setattr("synbb.__file__", str(tmp_path / "site-packages/synbb/__init__.py"))
    monkeypatch.setattr("importlib.metadata.files", lambda name: [Installed()])
    with pytest.raises(SynbbError, match="reinstall"):
        manifest_path()
    (tmp_path / "share").mkdir()
    (tmp_path / "share/data_manifest.yaml").write_text("datasets: {}")
    assert load_manifest() == {}


def test_data_that_are_not_fetched_yet() -> None:
    check_fetched(None, ["data/mine/raw.zarr"])  # no dataset of ours: whoever opens it says what is wrong
    check_fetched("phantom", [])
    with pytest.raises(SynbbError, match=r"^data/phantom/raw.zarr is not there; .*`synbb data fetch phantom`"):
        check_fetched("phantom", ["data/phantom/raw.zarr", "data/phantom/synapses.zarr"])
    with pytest.raises(SynbbError, match=r"unknown dataset 'fantom'; did you mean 'phantom'"):
        check_fetched("fantom", [])
