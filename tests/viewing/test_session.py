"""A session: what is in it, where it looks, what it refuses, and how it ends."""

import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from functools import partial

import numpy as np
import pytest
import tifffile
import zarr
from tiny import write_volume
from typer.testing import CliRunner

from synbb.cli.app import app
from synbb.errors import SynbbError
from synbb.viewing import Kind, open_session
from synbb.viewing.session import Asked

neuroglancer = pytest.importorskip("neuroglancer", reason="the extra 'view' (neuroglancer) is not installed")

SIZE = (40.0, 8.0, 8.0)


@pytest.fixture
def grey(tmp_path):
    array = np.random.default_rng(0).integers(20, 200, (10, 60, 80), dtype=np.uint8)
    write_volume(tmp_path / "raw.zarr", array, voxel_size=SIZE, offset=(100, 50, 60))
    return str(tmp_path / "raw.zarr")


def get(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.read()


def test_layers_are_what_the_volumes_are(grey, tmp_path):
    write_volume(
        tmp_path / "found.zarr", np.ones((5, 30, 40), np.uint32), voxel_size=(40, 16, 16), offset=(260, 74, 84),
        attributes={"kind": "objects", "objects": 2},
    )  # fmt: skip
    write_volume(
        tmp_path / "p.zarr", np.ones((10, 60, 80), np.float32), voxel_size=SIZE, offset=(100, 50, 60),
        attributes={"kind": "probabilities", "threshold": 0.7, "complete": False},
    )  # fmt: skip
    (tmp_path / "found.csv").write_text("id,z_nm,y_nm,x_nm,voxels,score_mean\n4,300,90.5,110,71,0.9\n")
    volumes = [str(tmp_path / "found.zarr"), str(tmp_path / "p.zarr"), grey]
    with open_session(volumes, synapses=[str(tmp_path / "found.csv")]) as session:
        state = session.viewer.state.to_json()
        assert session.notes == (f"{tmp_path / 'p.zarr'} is not finished: blocks that are missing read as 0",)
    layers = {layer["name"]: layer for layer in state["layers"]}
    assert list(layers) == ["raw", "p", "found", "found.csv"]
    assert [layer["type"] for layer in layers.values()] == ["image", "image", "segmentation", "annotation"]
    assert "window=[0, 255]" in layers["raw"]["shader"]
    assert "default=0.7000" in layers["p"]["shader"]
    assert list(layers["found"]["segments"]) == ["1", "2"]
    points = layers["found.csv"]["annotations"]
    assert [(p["point"], p["description"]) for p in points] == [
        ([300.0, 90.5, 110.0], "synapse 4, voxels 71, score_mean 0.9")
    ]
    # Its corner at z 240, y 66, x 76 nm, in its own voxels.
    matrix = layers["found"]["source"][0]["transform"]["matrix"]
    assert np.array(matrix) == pytest.approx(np.c_[np.eye(3), (240 / 40, 66 / 16, 76 / 16)])
    # The middle of what all have in common is z 240 to 440 nm: the centre of a voxel of raw, in its voxels.
    assert state["position"][0] * 40 in (340, 300, 380)
    assert state["displayDimensions"] == ["x", "y", "z"]


def test_names_kinds_and_positions_as_asked(grey, tmp_path):
    write_volume(tmp_path / "labels" / "raw.zarr", np.ones((2, 8, 8), np.uint8), voxel_size=SIZE)
    with open_session([grey, Asked(str(tmp_path / "labels" / "raw.zarr"), Kind.OBJECTS)], position=(180, 98, 76)) as s:
        assert [(each.name, each.kind, each.mask) for each in s.shown] == [
            ("raw", Kind.RAW, False), ("raw 2", Kind.OBJECTS, True),
        ]  # fmt: skip
        assert s.viewer.state.position.tolist() == [180 / 40, 98 / 8, 76 / 8]
    with pytest.raises(SynbbError, match=r"--position 5000,0,0 \(nm\) lies in none .* from 80,46,56 to 480,526,696"):
        open_session([grey], position=(5000, 0, 0))


def test_sections_without_a_voxel_size(grey, tmp_path):
    (tmp_path / "sections").mkdir()
    for z in range(3):
        tifffile.imwrite(tmp_path / "sections" / f"{z}.tif", np.full((20, 20), z * 9, np.uint8))
    with pytest.raises(SynbbError, match="--voxel-size"):
        open_session([str(tmp_path / "sections")])
    with open_session([grey, str(tmp_path / "sections")], voxel_size=(50, 4, 4)) as session:
        assert [each.volume.voxel_size for each in session.shown] == [SIZE, (50.0, 4.0, 4.0)]


def test_pieces_are_served_and_errors_are_told_once(grey):
    said = []
    with open_session([grey], complain=said.append) as session:
        root = session.address.split("/v/")[0]
        assert b"neuroglancer" in get(session.address)
        key = re.search(r"python://volume/([\w.]+)", str(session.viewer.state.to_json()))[1]
        assert b'"dataType": "uint8"' in get(f"{root}/neuroglancer/info/{key}")
        piece = f"{root}/neuroglancer/npz/{key}/1,1,1/0,0,0/10,32,32"
        assert len(get(piece)) > 1000
        chunk = zarr.open_array(f"{grey}/0").store.root / "c/0/0/0"
        chunk.write_bytes(chunk.read_bytes()[:50])
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                get(piece)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{root}/v/{'0' * 40}/")
    assert len(said) == 1
    assert "truncated or unreadable" in said[0]
    with pytest.raises(urllib.error.URLError):
        get(session.address)


def test_surfaces_lie_where_the_labels_do(tmp_path):
    labels = np.zeros((12, 40, 60), np.uint32)
    labels[3:6, 8:20, 30:50] = 5
    write_volume(tmp_path / "v.zarr", labels, voxel_size=SIZE, attributes={"kind": "objects"})
    with open_session([str(tmp_path / "v.zarr")]) as session:
        state = str(session.viewer.state.to_json())
        key = re.search(r"python://volume/([\w.]+)", state)[1]
        mesh = get(f"{session.address.split('/v/')[0]}/neuroglancer/mesh/{key}/5")
    count = int.from_bytes(mesh[:4], "little")
    places = np.frombuffer(mesh, np.float32, 3 * count, 4).reshape(count, 3) * 1e9 / SIZE
    assert places.min(axis=0) == pytest.approx((3, 8, 30), abs=0.51)
    assert places.max(axis=0) == pytest.approx((6, 20, 50), abs=0.51)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no such file"),
        ("id,z,y,x\n1,2,3,4\n", "no column z_nm, y_nm, x_nm"),
        ("z_nm,y_nm,x_nm\n1,2,here\n", "line 2: .*'here'.* is no place"),
        ("z_nm,y_nm,x_nm\n1,2\n", "line 2"),
    ],
)
def test_tables_that_are_none(table, message, grey, tmp_path):
    if table is not None:
        (tmp_path / "t.csv").write_text(table)
    with pytest.raises(SynbbError, match=message):
        open_session([grey], synapses=[str(tmp_path / "t.csv")])


def test_what_is_asked_wrongly(grey, monkeypatch):
    def run(*arguments):
        return CliRunner().invoke(app, ["view", *arguments]).exception

    assert "no volume to show" in str(run())
    assert "--position 'here' must be three numbers" in str(run(grey, "--position", "here"))
    assert "no such file" in str(run(f"{grey}r"))
    with open_session([grey]) as session:
        port = session.address.split(":")[2].split("/")[0]
        text = subprocess.run(
            [sys.executable, "-m", "synbb", "view", grey, "--no-browser", "--port", port],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (text.returncode, f"port {port}" in text.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    assert "-e '.[view]'" in str(run(grey))


def test_others_look_only_when_they_are_let(grey):
    with open_session([grey]) as session:
        assert session.address.startswith("http://127.0.0.1:")
        assert session.notes == ()
    with open_session([grey], bind="0.0.0.0") as session:
        assert "who reaches this machine" in session.notes[0]


def test_it_runs_until_it_is_interrupted(grey):
    process = subprocess.Popen(
        [sys.executable, "-m", "synbb", "view", grey, "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell without job control starts what goes into the background, this suite perhaps, with Ctrl-C ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        line = next(line for line in process.stdout if "http://" in line)
        assert b"neuroglancer" in get(line.split()[0])
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    finally:
        watchdog.cancel()
        process.kill()
    assert (process.returncode, out, error) == (0, "closed\n", "")


def test_ctrl_c_before_it_waits_ends_it_likewise(grey, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("synbb.viewing.session.Session.browse", interrupted)
    result = CliRunner().invoke(app, ["view", grey])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "closed")
