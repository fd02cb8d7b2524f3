import numpy as np
import pytest
import typer
import zarr
from PIL import Image
from typer.testing import CliRunner

from synbb.cli import convert, info
from synbb.errors import SynbbError
from synbb.volumes import create_volume, open_volume

app = typer.Typer()
app.command("convert")(convert.command)
app.command("info")(info.command)


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code
    return " ".join(result.output.split())


@pytest.fixture
def sections(tmp_path, grey):
    folder = tmp_path / "sections [raw]"
    folder.mkdir()
    grey[4] = 0
    for z, section in enumerate(grey):
        Image.fromarray(section).save(folder / f"{z}.png")
    return folder


def test_convert_then_info(sections, grey, tmp_path):
    target = tmp_path / "em.zarr"
    text = run("convert", sections, target, "--voxel-size", "50,4,4", "--pyramid")
    assert "50 x 4 x 4 nm" in text
    volume = open_volume(target)
    assert (volume.read(volume.box) == grey).all()
    text = run("info", target)
    for expected in ("OME-Zarr 0.5", "13 x 45 x 38", "uint8", "0.65 x 0.18 x 0.152 µm", "1: 4 (13 of 13", "0 to 255"):
        assert expected in text
    assert "sections [raw]" in text


def test_info_without_a_voxel_size(sections):
    assert "not stated" in run("info", sections)
    assert "50 x 4 x 4 nm" in run("info", sections, "--voxel-size", "50,4,4")


def test_info_shows_licence_and_citation(tmp_path):
    attributes = {"licence": "CC BY-NC-SA 3.0", "citation": "Gerhard et al. [2013]", "normalisation": {"low": 3}}
    create_volume(tmp_path / "v.zarr", shape=(4, 9, 9), dtype="uint32", voxel_size=(50, 4, 4), attributes=attributes)
    text = run("info", tmp_path / "v.zarr")
    for expected in ("CC BY-NC-SA 3.0", "Gerhard et al. [2013]", '{"low": 3}', "none: every 16 x 16 tile"):
        assert expected in text


@pytest.mark.parametrize(
    ("size", "message"),
    [("50,4", "three positive"), ("fifty", "z,y,x in nm"), ("0,4,4", "three positive"), (None, "--voxel")],
)
def test_users_errors(sections, tmp_path, size, message):
    option = [] if size is None else ["--voxel-size", size]
    with pytest.raises(SynbbError, match=message):
        run("convert", sections, tmp_path / "em.zarr", *option)
    assert not (tmp_path / "em.zarr").exists()


def test_brackets_in_a_name_are_printed(sections, tmp_path):
    target = tmp_path / "em[v2].zarr"
    assert f"wrote {target}" in run("convert", sections, target, "--voxel-size", "50,4,4")


def test_overwrite(sections, tmp_path):
    target = tmp_path / "em.zarr"
    for extra in ([], ["--overwrite"]):
        run("convert", sections, target, "--voxel-size", "50,4,4", *extra)
    with pytest.raises(SynbbError, match="exists already"):
        run("convert", sections, target, "--voxel-size", "50,4,4")


def test_whole_labels_are_not_called_grey(tmp_path):
    out = create_volume(tmp_path / "v.zarr", shape=(2, 32, 32), dtype="uint64", voxel_size=(50, 4, 4))
    out.write(out.box, np.arange(2048, dtype=np.uint64).reshape(out.shape) // 100)
    assert "distinct values 21" in run("info", tmp_path / "v.zarr")


@pytest.mark.parametrize(
    ("options", "target", "expected"),
    [
        ([], "o.zarr", ["OME-Zarr 0.5 (zarr v3)"]),
        (["--ome-version", "0.4"], "o.zarr", ["OME-Zarr 0.4 (zarr v2)"]),
        ([], "precomputed://{}/o", ["neuroglancer precomputed (raw)", "z, y, x (stored as x, y, z, c)"]),
    ],
)
def test_info_says_format_axes_units_and_levels(options, target, expected, tmp_path):
    pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    out = create_volume(
        tmp_path / "in.zarr", shape=(4, 90, 100), dtype="uint8", voxel_size=(50, 4, 4), offset=(25, 2, 2)
    )
    out.write(out.box, np.ones(out.shape, np.uint8))
    place = target.format(tmp_path) if "://" in target else tmp_path / target
    run("convert", tmp_path / "in.zarr", place, "--pyramid", *options)
    text = run("info", place)
    for part in (
        *expected,
        "axes z, y, x",
        "units nm",
        "offset z 25, y 2, x 2 nm",
        "levels 2",
        "level 1 4 x 45 x 50 voxels of 50 x 8 x 8 nm (z, y, x), first centre at z 25, y 4, x 4 nm",
    ):
        assert part in text


def test_info_of_stored_axes_and_units(tmp_path):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", shape=(5, 1, 4, 3), chunks=(5, 1, 4, 3), dtype="uint8")
    axes = [{"name": a, "type": "channel" if a == "c" else "space", "unit": "micrometer"} for a in "xcyz"]
    steps = [{"type": "scale", "scale": [0.006, 1, 0.004, 0.05]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    text = run("info", tmp_path / "a.zarr")
    for part in ("z, y, x (stored as x, c, y, z)", "nm (stored in micrometer)", "3 x 4 x 5 voxels", "50 x 4 x 6 nm"):
        assert part in text
