"""What a report says beside its tables."""

from __future__ import annotations

from synbb.experiments.report import device_lines


def test_rows_of_two_devices_are_told() -> None:
    (line,) = device_lines([{"device": "cpu"}, {"device": "NVIDIA H100"}, {"device": "cpu"}, {"device": ""}, {}])
    assert "NVIDIA H100 (1), cpu (2)" in line


def test_rows_of_one_device_are_not() -> None:
    assert device_lines([{"device": "cpu"}, {"device": "cpu"}, {"device": ""}, {}]) == []
