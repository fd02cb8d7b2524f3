import numpy as np
import pytest
import typer
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
