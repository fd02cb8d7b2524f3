"""Section stacks: a small stand-in for every fault, and the real VNC data when it is there."""

from __future__ import annotations

import errno
import http.client
import shutil
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from store_server import StoreServer

from synbb.datasets import fetch, verify
from synbb.datasets.checksums import pixel_sha256
from synbb.datasets.manifest import Dataset, Layer, SectionStacks, Source
from synbb.errors import RunEnded, SynbbError
from synbb.volumes import Box, open_volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTIONS, ROWS, WIDE, CHECKED = 3, 24, 20, 14


def write_stack(folder: Path, raw: np.ndarray, labels: np.ndarray) -> None:
    for name in ("raw", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for z in range(len(raw)):
        tifffile.imwrite(folder / f"raw/{z:02d}.tif", raw[z])
        Image.fromarray(labels[z]).save(folder / f"labels/{z:02d}.png")


@pytest.fixture
def voxels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (SECTIONS, ROWS, WIDE), dtype=np.uint8)
    return raw, rng.choice(np.array([0, 1, 227, 255], dtype=np.uint8), raw.shape)


@pytest.fixture
def manifest(voxels: tuple[np.ndarray, np.ndarray]) -> dict[str, Dataset]:
    raw, labels = voxels
    layers = {
        "a_raw": Layer(files="raw/{section:02d}.tif", sha256=pixel_sha256(raw, CHECKED)),
        "a_labels": Layer(files="labels/{section:02d}.png", labels=True, sha256=pixel_sha256(labels > 0, CHECKED)),
    }
    return {
        "mini": SectionStacks(
            kind="section stacks",
            title="t",
            source=Source(homepage="https://home.example", base_url="https://raw.example/c/"),
            licence="CC BY",
            citation="Somebody",
            layout="l",
            voxel_size=(50, 4.6, 4.6),
            sections=SECTIONS,
            rows=ROWS,
            columns=(CHECKED, WIDE),
            checked_columns=CHECKED,
            layers=layers,
        )
    }


@pytest.fixture
def source(tmp_path: Path, voxels: tuple[np.ndarray, np.ndarray]) -> Path:
    write_stack(tmp_path / "up", *voxels)
    return tmp_path / "up"


def test_fetch_writes_volumes_and_a_second_one_does_nothing(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset], voxels: tuple[np.ndarray, np.ndarray]
) -> None:
    first = fetch("mini", source=source, to=tmp_path / "data", manifest=manifest)
    assert not first.current
    raw, labels = (open_volume(first.folder / f"{name}.zarr") for name in ("a_raw", "a_labels"))
    assert raw.voxel_size == (50, 4.6, 4.6)
    assert raw.attributes["licence"] == "CC BY"
    assert labels.attributes["citation"] == "Somebody"
    assert np.array_equal(raw.read(raw.box), voxels[0])
    assert np.array_equal(labels.read(labels.box), voxels[1] > 0)
    changed = [path.stat().st_mtime_ns for path in sorted(first.folder.rglob("*"))]
    with pytest.raises(SynbbError, match="nowhere is not a folder"):
        fetch("mini", source=tmp_path / "nowhere", to=tmp_path / "data", manifest=manifest)
    (tmp_path / "not looked at").mkdir()
    second = fetch("mini", source=tmp_path / "not looked at", to=tmp_path / "data", manifest=manifest)
    assert second.current
    assert changed == [path.stat().st_mtime_ns for path in sorted(first.folder.rglob("*"))]


def test_crop_and_original_have_the_same_checksums(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset], voxels: tuple[np.ndarray, np.ndarray]
) -> None:
    write_stack(tmp_path / "crop", *(np.ascontiguousarray(v[:, :, :CHECKED]) for v in voxels))
    for origin, width in ((tmp_path / "crop", CHECKED), (source, WIDE)):
        fetched = fetch("mini", source=origin, to=tmp_path / origin.name / "data", manifest=manifest)
        assert open_volume(fetched.folder / "a_raw.zarr").shape == (SECTIONS, ROWS, width)
        assert len(verify("mini", to=tmp_path / origin.name / "data", manifest=manifest)) == 2


def refuse(words: list[str], tmp_path: Path, source: Path, manifest: dict[str, Dataset]) -> None:
    with pytest.raises(SynbbError) as caught:
        fetch("mini", source=source, to=tmp_path / "data", manifest=manifest)
    assert caught.value.exit_status == 2
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list((tmp_path / "data").glob("*")), "nothing half-written may stay"


def test_a_missing_section_is_named(tmp_path: Path, source: Path, manifest: dict[str, Dataset]) -> None:
    (source / "labels/02.png").unlink()
    refuse(["labels/02.png", "not found"], tmp_path, source, manifest)


@pytest.mark.parametrize("shape", [(ROWS, 17), (ROWS - 1, WIDE), (ROWS, WIDE, 3)])
def test_a_wrong_size_is_named(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset], shape: tuple[int, ...]
) -> None:
    tifffile.imwrite(source / "raw/01.tif", np.zeros(shape, dtype=np.uint8))
    refuse(["raw/01.tif", str(shape[1]), f"{CHECKED} or {WIDE}"], tmp_path, source, manifest)


def test_sections_of_two_widths_are_refused(tmp_path: Path, source: Path, manifest: dict[str, Dataset]) -> None:
    tifffile.imwrite(source / "raw/01.tif", tifffile.imread(source / "raw/01.tif")[:, :CHECKED].copy())
    refuse(["14 and 20 columns"], tmp_path, source, manifest)


def test_sixteen_bit_is_refused(tmp_path: Path, source: Path, manifest: dict[str, Dataset]) -> None:
    tifffile.imwrite(source / "raw/01.tif", np.zeros((ROWS, WIDE), dtype=np.uint16))
    refuse(["raw/01.tif", "uint16", "8-bit"], tmp_path, source, manifest)


@pytest.mark.parametrize("file", ["labels/01.png", "raw/01.tif"])
@pytest.mark.parametrize("keep", [0, 10, 60])
def test_a_damaged_file_is_named(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset], file: str, keep: int
) -> None:
    (source / file).write_bytes((source / file).read_bytes()[:keep])
    refuse([file, "damaged"], tmp_path, source, manifest)


def test_a_wrong_checksum_names_layer_expected_and_found(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset], voxels: tuple[np.ndarray, np.ndarray]
) -> None:
    raw, labels = voxels
    labels[2, 3, 4] = 255 - labels[2, 3, 4] if labels[2, 3, 4] in (0, 255) else 0
    write_stack(source, raw, labels)
    layer = manifest["mini"].layers["a_labels"]  # type: ignore[union-attr]
    refuse(["a_labels", layer.sha256, pixel_sha256(labels > 0, CHECKED)], tmp_path, source, manifest)


def test_columns_beyond_the_crop_do_not_matter(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset], voxels: tuple[np.ndarray, np.ndarray]
) -> None:
    raw, labels = voxels
    raw[:, :, CHECKED:] = 7
    write_stack(source, raw, labels)
    fetch("mini", source=source, to=tmp_path / "data", manifest=manifest)


def test_verify_finds_a_changed_voxel_and_a_lost_volume(
    tmp_path: Path, source: Path, manifest: dict[str, Dataset]
) -> None:
    from synbb.volumes import create_volume

    data = tmp_path / "data"
    folder = fetch("mini", source=source, to=data, manifest=manifest).folder
    volume = open_volume(folder / "a_raw.zarr")
    voxels = volume.read(volume.box)
    voxels[0, 0, 0] ^= 1
    create_volume(
        folder / "a_raw.zarr", shape=volume.shape, dtype=np.uint8, voxel_size=volume.voxel_size, overwrite=True
    ).write(volume.box, voxels)
    for check in (verify, lambda name, **more: fetch(name, source=source, **more)):
        with pytest.raises(SynbbError, match=r"a_raw\.zarr.*wrong checksum"):
            check("mini", to=data, manifest=manifest)
    shutil.rmtree(folder / "a_raw.zarr")
    with pytest.raises(SynbbError, match=r"a_raw\.zarr.*not found"):
        verify("mini", to=data, manifest=manifest)


def test_names_and_folders_that_are_not_there(tmp_path: Path, manifest: dict[str, Dataset]) -> None:
    with pytest.raises(SynbbError, match="did you mean 'mini'"):
        fetch("minni", to=tmp_path, manifest=manifest)
    with pytest.raises(SynbbError, match="is not a folder"):
        fetch("mini", source=tmp_path / "none", to=tmp_path / "data", manifest=manifest)
    with pytest.raises(SynbbError, match="synbb data fetch mini"):
        verify("mini", to=tmp_path, manifest=manifest)


@pytest.fixture
def server(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreServer]:
    """What stands at the address of the manifest."""
    running = StoreServer(source)
    original = urllib.request.urlopen

    def serve(address: str, timeout: float) -> Any:
        return original(address.replace("https://raw.example/c", running.address), timeout=timeout)

    monkeypatch.setattr("urllib.request.urlopen", serve)
    yield running
    running.close()


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_download_takes_every_file_from_its_address(
    tmp_path: Path, server: StoreServer, manifest: dict[str, Dataset]
) -> None:
    seen: list[tuple[int, int]] = []
    fetched = fetch("mini", to=tmp_path / "data", manifest=manifest, progress=lambda *n: seen.append(n))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mini"]
    assert not fetched.current


def test_an_address_that_cannot_be_reached_is_told(
    tmp_path: Path, server: StoreServer, manifest: dict[str, Dataset]
) -> None:
    server.close()
    with pytest.raises(SynbbError) as caught:
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    for word in ("https://raw.example/c/raw/00.tif", "Connection refused", "--from", "https://home.example"):
        assert word in str(caught.value)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(("fault", "reason"), [("cut", r"closed after \d+ of \d+ bytes"), (404, "Not Found")])
def test_a_download_goes_on_where_it_ended(
    tmp_path: Path, server: StoreServer, manifest: dict[str, Dataset], fault: int | str, reason: str
) -> None:
    server.faults = [("labels/01", fault)]
    with pytest.raises(SynbbError, match=rf"cannot download https://raw\.example/c/labels/01\.png \({reason}\)"):
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    kept = tmp_path / "data" / ".mini.download"
    assert files_below(tmp_path / "data") == [
        f".mini.download/{name}" for name in ("labels/00.png", "raw/00.tif", "raw/01.tif", "raw/02.tif")
    ]
    (kept / "raw/01.tif").write_bytes(b"cut by a crash")
    written = (kept / "raw/00.tif").stat().st_mtime_ns
    server.faults = [("labels/02", fault)]
    with pytest.raises(SynbbError, match="labels/02"):
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    assert (kept / "raw/00.tif").stat().st_mtime_ns == written
    server.faults = []
    fetch("mini", to=tmp_path / "data", manifest=manifest)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mini"]


def test_what_was_downloaded_goes_when_the_dataset_comes_from_elsewhere(
    tmp_path: Path, server: StoreServer, source: Path, manifest: dict[str, Dataset]
) -> None:
    server.faults = [("labels/01", 503)]
    with pytest.raises(SynbbError, match="labels/01"):
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    fetch("mini", source=source, to=tmp_path / "data", manifest=manifest)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mini"]


def test_wrong_files_are_not_kept(
    tmp_path: Path, server: StoreServer, source: Path, manifest: dict[str, Dataset]
) -> None:
    good = (source / "raw/00.tif").read_bytes()
    (source / "raw/00.tif").write_bytes(bytes(len(good)))
    with pytest.raises(SynbbError, match=r"raw/00\.tif: is damaged"):
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    assert not list((tmp_path / "data").iterdir())
    (source / "raw/00.tif").write_bytes(good)
    fetch("mini", to=tmp_path / "data", manifest=manifest)


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLError(ssl.SSL_ERROR_SSL, "bad record mac"),  # whose number is that of an operation not permitted
        OSError(errno.EHOSTUNREACH, "No route to host"),
        http.client.IncompleteRead(b"half"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_an_answer_are_not_blamed_on_the_disk(
    tmp_path: Path, server: StoreServer, manifest: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr("http.client.HTTPResponse.read", fail)
    with pytest.raises(SynbbError, match=r"cannot download https://raw\.example/c/raw/00\.tif \(.*--from DIR"):
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    assert not files_below(tmp_path / "data")


@pytest.mark.parametrize("to", ["file", "file/below"])
def test_a_place_that_cannot_be_is_named(tmp_path: Path, manifest: dict[str, Dataset], to: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SynbbError, match=f"{to}: this folder cannot be made .*; choose another place"):
        fetch("mini", to=tmp_path / to, manifest=manifest)


def test_a_full_disk_ends_the_download(tmp_path: Path, server: StoreServer, manifest: dict[str, Dataset]) -> None:
    part = tmp_path / "data" / ".mini.download" / "raw" / "01.tif.partial"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(RunEnded, match=r"raw/01.tif: the disk .* is full"):
        fetch("mini", to=tmp_path / "data", manifest=manifest)
    assert files_below(tmp_path / "data") == [".mini.download/raw/00.tif"], "what takes no more room stays"
    fetch("mini", to=tmp_path / "data", manifest=manifest)


def test_only_https_is_followed(tmp_path: Path, manifest: dict[str, Dataset]) -> None:
    mini = manifest["mini"]
    local = mini.model_copy(update={"source": Source(homepage="h", base_url="file:///etc/")})
    with pytest.raises(SynbbError, match="https"):
        fetch("mini", to=tmp_path / "data", manifest={"mini": local})


@pytest.mark.real_data
def test_the_real_crop_is_fetched_and_verified(tmp_path: Path, vnc_folder: Path) -> None:
    fetched = fetch("vnc", source=vnc_folder, to=tmp_path)
    names = ["stack1_membranes", "stack1_mitochondria", "stack1_raw", "stack1_synapses", "stack2_raw"]
    assert sorted(path.stem for path in fetched.folder.iterdir()) == names
    synapses = open_volume(fetched.folder / "stack1_synapses.zarr")
    assert synapses.shape == (20, 1024, 704)
    assert synapses.voxel_size == (50, 4.6, 4.6)
    assert "NC-SA" in synapses.attributes["licence"]
    assert "Gerhard" in synapses.attributes["citation"]
    mask = synapses.read(synapses.box)
    assert set(np.unique(mask)) == {0, 1}
    assert abs(mask.mean() - 0.00567) < 1e-5
    assert len(verify("vnc", to=tmp_path)) == 5


@pytest.mark.real_data
def test_the_full_upstream_layout_has_the_same_checksums(tmp_path: Path, vnc_folder: Path) -> None:
    """Upstream's width, made of the real crop and noise: the real columns from 704 on are not ours to look at."""
    rng = np.random.default_rng(0)
    for file in sorted(vnc_folder.glob("stack*/*/*")):
        target = tmp_path / "up" / file.relative_to(vnc_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".tif":
            crop = tifffile.imread(file)
            wide = rng.integers(0, 256, (1024, 1024), dtype=np.uint8)
            wide[:, :704] = crop[:, :704]
            tifffile.imwrite(target, wide)
        else:
            wide = np.repeat(rng.integers(0, 2, (1024, 32), dtype=np.uint8) * 227, 32, axis=1)
            wide[:, :704] = np.asarray(Image.open(file))[:, :704] > 0
            Image.fromarray(wide).save(target, compress_level=1)
    fetched = fetch("vnc", source=tmp_path / "up", to=tmp_path / "data")
    raw = open_volume(fetched.folder / "stack1_raw.zarr")
    assert raw.shape == (20, 1024, 1024)
    assert np.array_equal(
        raw.read(Box((5, 0, 0), (6, 1024, 704)))[0], tifffile.imread(vnc_folder / "stack1/raw/05.tif")[:, :704]
    )
