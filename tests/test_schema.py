"""Messages about settings name the key, the value and the nearest valid key."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from synbb.errors import SynbbError
from synbb.schema import Settings, validated


class Inner(Settings):
    depth: Annotated[int, Field(gt=0)] = 1
    width: float | None = None


class Wrong(Settings):
    depth: Annotated[int, Field(gt=0)] = 0


class Outer(Settings):
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    either: int | Literal["auto"] = "auto"
    table: dict[str, Inner] = Field(default_factory=dict)
    name: str

    @model_validator(mode="after")
    def _check(self) -> Outer:
        if self.name == "bad":
            raise ValueError("name must be good")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "iner": {}}, "f.yaml: unknown key 'iner'; did you mean 'inner'?"),
        ({"name": "a", "inner": {"dpth": 1}}, "f.yaml: unknown key 'dpth' in inner; did you mean 'depth'?"),
        ({"name": "a", "items": [{}, {"widht": 1}]}, "unknown key 'widht' in items.1; did you mean 'width'?"),
        ({"name": "a", "depth": 3}, "unknown key 'depth'; did you mean inner.depth or items.N.depth or table.N.depth?"),
        ({"name": "a", "inner": {"qqq": 1}}, "unknown key 'qqq' in inner; valid are depth, width"),
        ({}, "f.yaml: key name is missing"),
        ({"name": "a", "inner": {"depth": 0}}, "inner.depth = 0: Input should be greater than 0"),
        ({"name": "a", "inner": {"width": "x"}}, "inner.width = 'x': Input should be a valid number"),
        ({"name": "a", "either": "x"}, "either = 'x': Input should be a valid integer"),
        ({"name": "a", "table": {"row": {"depth": "x"}}}, "table.row.depth = 'x': Input should be a valid integer"),
        ({"name": "bad"}, "f.yaml: settings: name must be good"),
        ([1], "settings = [1]"),
        (None, "settings = None"),
    ],
)
def test_messages(values: object, message: str) -> None:
    with pytest.raises(SynbbError) as caught:
        validated(Outer, values, "f.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_every_problem_is_told_once() -> None:
    with pytest.raises(SynbbError) as caught:
        validated(Outer, {"iner": 1, "inner": {"depth": "x"}, "name": "a"}, "f.yaml")
    assert str(caught.value).count(";") == 2  # the hint, and between the two problems
    assert "'iner'" in str(caught.value)
    assert "inner.depth" in str(caught.value)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(SynbbError, match=r"f.yaml: inner.width = -?(inf|nan): Input should be a finite number"):
        validated(Outer, {"name": "a", "inner": {"width": value}}, "f.yaml")


def test_long_values_are_not_repeated() -> None:
    with pytest.raises(SynbbError) as caught:
        validated(Outer, {"name": ["x" * 500]}, "f.yaml")
    assert len(str(caught.value)) < 120


def test_settings_are_frozen_and_defaults_checked() -> None:
    with pytest.raises(ValidationError):
        Inner().depth = 2
    with pytest.raises(ValidationError):
        Wrong()
