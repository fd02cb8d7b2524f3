"""Splits of files, and what is said of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synbb.errors import SynbbError
from synbb.tasks.splits import SHOWN, check_files_apart, check_named_once, counted, left_out


def test_a_file_of_two_splits_is_named_by_whatever_way_it_was_reached(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    check_files_apart("data.images", "test", [tmp_path / "b"], {"train": [tmp_path / "a"], "validation": []})
    with pytest.raises(SynbbError, match=r"data.images: \S+link is in split train and in split test"):
        check_files_apart("data.images", "test", [tmp_path / "link"], {"train": [tmp_path / "a"]})


def test_a_file_that_a_split_names_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    check_named_once("data.images", "test", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(SynbbError, match=r"data.images: \S+a is named twice in split test, and would count twice"):
        check_named_once("data.images", "test", [tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    with pytest.raises(SynbbError, match=r"\S+link is named twice in split test, also as \S+a, and would"):
        check_named_once("data.images", "test", [tmp_path / "a", tmp_path / "link"])


def test_what_is_left_out_is_counted_and_some_of_it_named() -> None:
    assert left_out("train", "image", []) == []
    assert left_out("train", "image", ["a is bad"]) == ["train: 1 image left out: a is bad"]
    many = [f"{n} is bad" for n in range(SHOWN + 2)]
    (line,) = left_out("test", "utterance", many)
    assert line == f"test: 7 utterances left out: {'; '.join(many[:SHOWN])}; and 2 more"
    assert counted(12000, "file") == "12,000 files"


def test_a_line_on_files_left_out_can_be_printed() -> None:
    (line,) = left_out("test", "image", [os.fsdecode(b"J\xf6rg/1.png is empty")])
    assert line.encode() == b"test: 1 image left out: J\\udcf6rg/1.png is empty"
