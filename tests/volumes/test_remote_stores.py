"""Volumes behind a real web server: every format, and stores that fail."""

import json
import os
import pickle
import subprocess
import sys
import time
from multiprocessing import get_context

import pytest
import zarr
from foreign_formats import write_n5, write_precomputed
from store_server import Keys, StoreServer

from synbb.errors import SynbbError
from synbb.volumes import Box, create_volume, open_volume, stores
from synbb.volumes.convert import convert
from synbb.volumes.tensor_storage import TensorStorage

pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")

SIZE = (50.0, 4.0, 6.0)
KINDS = ("ome 0.5", "ome 0.5 sharded", "ome 0.4", "zarr2", "zarr3", "n5", "precomputed")
CHUNK = (4, 16, 16)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "RETRIES", {"max_retries": 2, "initial_delay": "20ms", "max_delay": "50ms"})
    (tmp_path / "served").mkdir()
    running = StoreServer(tmp_path / "served")
    yield running
    running.close()


@pytest.fixture
def serve(server, tmp_path):
    """A function (kind, array, ...) -> (address, folder) that stores an array where the server finds it."""

    def store(kind, array, *, fill=0):
        folder = tmp_path / "served" / kind.replace(" ", "-")
        if kind.startswith("ome 0.5"):
            grid = {"chunks": CHUNK, "shards": (8, 32, 32)} if kind.endswith("sharded") else {"chunks": CHUNK}
            out = create_volume(folder, shape=array.shape, dtype=array.dtype, voxel_size=SIZE, **grid)
            out.write(out.box, array)
        elif kind == "ome 0.4":
            plain = create_volume(tmp_path / "in.zarr", shape=array.shape, dtype=array.dtype, voxel_size=SIZE)
            plain.write(plain.box, array)
            convert(tmp_path / "in.zarr", folder, ome_version="0.4", pyramid=True, chunks=CHUNK)
        elif kind in ("zarr2", "zarr3"):
            stored = zarr.create_array(
                str(folder),
                shape=array.shape,
                dtype=array.dtype,
                chunks=CHUNK,
                zarr_format=int(kind[-1]),
                fill_value=fill,
            )
            stored[:] = array
            stored.attrs.update({"resolution": SIZE, "offset": [100, 8, 12]})
        elif kind == "n5":
            write_n5(folder, array, CHUNK, {"resolution": SIZE[::-1]})
        else:
            write_precomputed(folder, [array], [SIZE], [(2, 8, 12)], chunk=CHUNK)
        return f"{server.address}/{folder.name}", folder

    return store


def chunk_files(folder):
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup", "attributes.json", "info")
    finest = folder / "0" if any((folder / "0" / name).exists() for name in names) else folder
    return sorted(file for file in finest.rglob("*") if file.is_file() and file.name not in names)


def read_sum(volume):
    return int(volume.read(volume.box).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_through_the_web_and_from_the_folder(kind, serve, grey):
    address, folder = serve(kind, grey)
    volume, local = open_volume(address), open_volume(folder)
    assert isinstance(volume.storage, TensorStorage)
    assert (volume.format, volume.shape, volume.dtype) == (local.format, local.shape, local.dtype)
    assert (volume.voxel_size, volume.offset) == (local.voxel_size, local.offset)
    assert (volume.chunks, volume.shards) == (local.chunks, local.shards)
    assert [level.voxel_size for level in volume.levels] == [level.voxel_size for level in local.levels]
    box = Box((1, 2, 3), (9, 40, 30))
    assert (volume.read(box) == grey[box.slices]).all()
    assert (volume.dask.compute(scheduler="threads") == grey).all()
    copy = pickle.loads(pickle.dumps(volume.crop(box)))
    assert (copy.read(copy.box) == grey[box.slices]).all()


def test_another_process_reads(serve, grey):
    volumes = [open_volume(serve(kind, grey)[0]) for kind in ("ome 0.5", "n5", "precomputed")]
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(read_sum, volumes) == [int(grey.sum())] * 3


def test_arrays_by_name_and_kind(serve, server, grey):
    _, folder = serve("ome 0.5", grey)
    folder.rename(folder.with_name("v.zarr"))
    for place in (f"{server.address}/v.zarr:0", f"{server.address}/v.zarr/0", f"zarr://{server.address}/v.zarr/"):
        assert open_volume(place).voxel_size == SIZE
    with pytest.raises(SynbbError, match="no precomputed there"):
        open_volume(f"precomputed://{server.address}/v.zarr")
    with pytest.raises(SynbbError, match="no zarr, N5 or precomputed there"):
        open_volume(f"{server.address}/nothing")
    with pytest.raises(SynbbError, match=r"no zarr.* in '1'"):
        open_volume(f"{server.address}/v.zarr", dataset="1")


@pytest.mark.parametrize("kind", KINDS)
def test_absent_chunks_read_as_the_fill_value(kind, serve, grey):
    fill = 7 if kind.startswith("zarr") else 0
    address, folder = serve(kind, grey, fill=fill)
    for file in chunk_files(folder):
        file.unlink()
    volume = open_volume(address)
    assert (volume.read(volume.box) == fill).all()


@pytest.mark.parametrize("kind", KINDS)
def test_absent_chunks_are_told_from_unreadable_ones(kind, serve, grey):
    address, folder = serve(kind, grey)
    lost, *_, damaged = chunk_files(folder)
    lost.unlink()
    volume = open_volume(address)
    unit = (8, 32, 32) if kind.endswith("sharded") else CHUNK
    found = volume.absent(volume.box)
    place = {tuple(a // n for a, n in zip(box.start, unit, strict=True)) for box in found}
    assert len(place) == 1, "one file, all of it"
    whole = Box.of_shape(unit, [a * n for a, n in zip(place.pop(), unit, strict=True)]).intersect(volume.box)
    assert sum(box.size for box in found) == whole.size
    assert volume.absent(volume.box, at_any_cost=False) == [], "each chunk would have to be asked for"
    damaged.write_bytes(damaged.read_bytes()[:10])
    with pytest.raises(SynbbError, match="truncated or unreadable"):
        open_volume(address).absent(volume.box)


def in_a_bucket(folder):
    bucket = folder.parent / "bucket"
    bucket.mkdir()
    return folder.rename(bucket / folder.name)


def sum_elsewhere(address, variables):
    """(sum of a volume, None), or (None, the error), in a process that starts with these variables."""
    names = ("AWS_", "GOOGLE_", "TENSORSTORE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-c", SUM, address],
        env=environment | {"AWS_EC2_METADATA_DISABLED": "true"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


SUM = """
import json, sys
from synbb.errors import SynbbError
from synbb.volumes import open_volume, stores
stores.RETRIES = {"max_retries": 1, "initial_delay": "20ms", "max_delay": "50ms"}
try:
    volume = open_volume(sys.argv[1])
    print(json.dumps([int(volume.read(volume.box).sum()), None]))
except SynbbError as error:
    print(json.dumps([None, str(error)]))
"""


@pytest.mark.parametrize("kind", ["ome 0.5", "precomputed"])
def test_a_bucket_that_checks_signatures(kind, serve, server, grey):
    """Each request is signed anew (AWS Signature Version 4), names with spaces among them."""
    folder = in_a_bucket(serve(kind, grey)[1])
    folder = folder.rename(folder.with_name("with a space+"))
    address = f"s3://bucket/{folder.name}"
    server.keys = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    assert sum_elsewhere(address, server.s3(server.keys)) == [int(grey.sum()), None]
    for other in (Keys("AKIDEXAMPLE", "guessed"), Keys("SOMEBODY", server.keys.secret), None):
        total, error = sum_elsewhere(address, server.s3(other))
        assert total is None
        assert "refuses access" in error
        assert "your credentials" in error


@pytest.mark.parametrize("kind", ["ome 0.5", "n5"])
def test_a_bucket_of_google(kind, serve, server, grey):
    """A server that speaks as much of Google's JSON interface as reading needs, and wants a token."""
    folder = in_a_bucket(serve(kind, grey)[1])
    address = f"gs://bucket/{folder.name}"
    server.token = "ya29.example"
    assert sum_elsewhere(address, server.gs(server.token)) == [int(grey.sum()), None]
    assert any(path.startswith("bucket/") for path in server.asked)
    total, error = sum_elsewhere(address, server.gs("another"))
    assert total is None
    assert "refuses access" in error


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_from_a_bucket(kind, serve, server, grey, monkeypatch):
    """A server that speaks as much of S3 as reading needs; nobody signs."""
    folder = in_a_bucket(serve(kind, grey)[1])
    for name, value in server.s3().items():
        monkeypatch.setenv(name, value)
    volume = open_volume(f"s3://bucket/{folder.name}")
    assert (volume.read(volume.box) == grey).all()
    server.flaky = 2
    server.asked.clear()
    assert (open_volume(f"s3://bucket/{folder.name}").read(volume.box) == grey).all()
    assert max(server.asked.values()) >= 3
    server.faults.append((".", 403))
    with pytest.raises(SynbbError, match="refuses access"):
        open_volume(f"s3://bucket/{folder.name}")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_chunks_are_named(kind, serve, grey):
    address, folder = serve(kind, grey)
    file = chunk_files(folder)[0]
    file.write_bytes(file.read_bytes()[:30])
    volume = open_volume(address)
    with pytest.raises(SynbbError, match=r"the chunk with voxels z \d+:\d+, y \d+:\d+, x \d+:\d+") as caught:
        volume.read(volume.box)
    assert file.name in str(caught.value)
    assert address in str(caught.value)


@pytest.mark.parametrize("kind", ["ome 0.5", "n5", "precomputed"])
def test_a_store_that_stumbles_is_asked_again(kind, serve, server, grey):
    address, _ = serve(kind, grey)
    server.flaky = 2
    volume = open_volume(address)
    assert (volume.read(volume.box) == grey).all()
    assert max(server.asked.values()) >= 3


@pytest.mark.parametrize(("fault", "message"), [(503, "does not answer"), (403, "refuses access"), (401, "refuses")])
@pytest.mark.parametrize("while_opening", [True, False])
def test_a_store_that_refuses_is_named(while_opening, fault, message, serve, server, grey):
    address, _ = serve("n5", grey)
    volume = None if while_opening else open_volume(address)
    server.faults.append((".", fault))
    before = server.asked.copy()
    with pytest.raises(SynbbError, match=message) as caught:
        open_volume(address) if volume is None else volume.read(Box((0, 0, 0), (2, 2, 2)))
    assert address in str(caught.value)
    assert max((server.asked - before).values()) <= 3  # asked once, and twice again


@pytest.mark.parametrize("while_opening", [True, False])
def test_a_silent_store_is_given_up(while_opening, serve, server, grey, monkeypatch):
    address, _ = serve("precomputed", grey)
    volume = None if while_opening else open_volume(address)
    if volume is not None:
        volume.read(Box((0, 0, 0), (2, 2, 2)))
    monkeypatch.setattr(stores, "GIVE_UP", 1.0)
    monkeypatch.setattr("synbb.volumes.opening.GIVE_UP", 1.0)
    server.faults.append((".", "silence"))
    start = time.monotonic()
    with pytest.raises(SynbbError, match="did not answer within 1 s") as caught:
        open_volume(address) if volume is None else volume.read(volume.box)
    assert time.monotonic() - start < 5
    assert address in str(caught.value)


def test_nobody_listens(server, grey):
    server.close()
    with pytest.raises(SynbbError, match=rf"{server.address}.*does not answer"):
        open_volume(f"{server.address}/v.zarr")


def test_retries_end_within_a_minute():
    delays, delay = [], 0.25
    assert stores.RETRIES == {"max_retries": 6, "initial_delay": "250ms", "max_delay": "8s"}
    for _ in range(6):
        delays.append(min(delay, 8.0))
        delay *= 2
    assert sum(delays) < stores.GIVE_UP == 60


def test_a_web_page_is_no_metadata(server, tmp_path):
    folder = tmp_path / "served" / "v"
    folder.mkdir()
    for name in ("zarr.json", "info", "attributes.json"):
        (folder / name).write_text("<html>not here</html>")
    with pytest.raises(SynbbError, match="no zarr, N5 or precomputed there"):
        open_volume(f"{server.address}/v")


def test_converting_from_the_web(serve, tmp_path, grey):
    address, _ = serve("precomputed", grey)
    found = convert(address, tmp_path / "copy.zarr")
    assert (found.read(found.box) == grey).all()
    assert json.loads((tmp_path / "copy.zarr" / "zarr.json").read_text())["attributes"]["synbb"] == {
        "converted_from": address
    }


def test_addresses_of_object_stores(monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    assert stores.kvstore("s3://bucket/a/v.zarr") == {"driver": "s3", "bucket": "bucket", "path": "a/v.zarr/"}
    assert stores.kvstore("gs://bucket/v") == {"driver": "gcs", "bucket": "bucket", "path": "v/"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert stores.kvstore("s3://bucket/v") == {
        "driver": "s3",
        "bucket": "bucket",
        "path": "v/",
        "endpoint": "http://127.0.0.1:9000",
        "aws_region": "eu-central-1",
        "aws_credentials": {"type": "anonymous"},
    }
    with pytest.raises(SynbbError, match="not an address"):
        stores.kvstore("s3://Not A Bucket/v")
