from pathlib import Path

import pytest
import torch

from synbb.inference.estimate import hints, takes_memory_from_glibc

LINE = "7f2c00000000-7f2c00021000 r-xp 00000000 08:01 4711                 /usr/lib/x86_64-linux-gnu/{}\n"


@pytest.mark.parametrize("library", ["libtcmalloc_minimal.so.4.5.10", "libjemalloc.so.2", "libmimalloc.so.2.1"])
def test_an_allocator_that_is_loaded_is_seen(library: str, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(LINE.format("libc.so.6"))
    assert takes_memory_from_glibc(maps)
    maps.write_text(LINE.format(library) + LINE.format("libc.so.6"))
    assert not takes_memory_from_glibc(maps)


def test_a_system_without_maps_or_without_glibc_gets_no_hint(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    assert not takes_memory_from_glibc(maps)
    maps.write_text(LINE.format("ld-musl-x86_64.so.1"))
    assert not takes_memory_from_glibc(maps)
    maps.write_text(LINE.format("libc-2.31.so"))  # as glibc was called before 2.34
    assert takes_memory_from_glibc(maps)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_beside_a_gpu_missing_tensorstore_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synbb.volumes.stores.find_spec", lambda _: None)
    (line,) = hints(torch.device(device))
    assert "synbb[remote]" in line
    monkeypatch.setattr("synbb.volumes.stores.find_spec", lambda name: name)
    assert hints(torch.device(device)) == []
    monkeypatch.setattr("synbb.inference.estimate.takes_memory_from_glibc", lambda: False)
    assert hints(torch.device("cpu")) == []
