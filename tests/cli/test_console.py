"""What the commands show while they work, and in a narrow terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from synbb.cli.console import LeftColumn, RateColumn, progress
from synbb.cli.predict import _told_when_interrupted
from synbb.cli.prune_report import _in_lines


@given(st.from_regex(r"[a-z_0-9]+(\.[a-z_0-9]+){0,5}", fullmatch=True), st.integers(1, 40))
def test_a_name_is_broken_after_dots_and_keeps_every_letter(name: str, width: int) -> None:
    lines = _in_lines(name, width).split("\n")
    assert "".join(lines) == name
    assert all(line.endswith(".") for line in lines[:-1])
    assert all(len(line) <= width or line.rstrip(".").count(".") == 0 for line in lines)


def test_rate_and_time_left_are_those_of_this_call() -> None:
    now = [0.0]
    with Progress(console=Console(file=io.StringIO()), get_time=lambda: now[0], auto_refresh=False) as bar:
        number = bar.add_task("predicting", total=100, completed=40, before=40)

        def shown(completed: int, seconds: float) -> list[str]:
            now[0] = seconds
            bar.update(number, completed=completed)
            return [column.render(bar.tasks[0]).plain for column in (RateColumn(), LeftColumn())]

        assert shown(40, 5) == ["", ""]
        assert shown(41, 60) == ["60.0 s each", "about 0:59:00 left"]
        assert shown(42, 60.1)[0] == "30.1 s each"  # two at once
        assert shown(50, 600) == ["60.0 s each", "about 0:50:00 left"]
        assert shown(100, 15) == ["4.0/s", ""]


def test_ctrl_c_in_predict_says_that_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), _told_when_interrupted():
        raise KeyboardInterrupt
    assert "finished blocks are kept, and the same command goes on" in capsys.readouterr().err


def test_a_bar_that_goes_on_where_an_earlier_call_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("synbb.cli.console.console", Console(file=stream, force_terminal=True, width=120))
    with progress("predicting", "blocks") as report:
        report(40, 60)
        report(41, 60, "one worker")
    last = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).rstrip())[-1]
    assert "41/60 blocks" in last
    assert "one worker" in last
    assert re.search(r"[1-9]\d*\.\d/s", last), "one block in next to no time"
