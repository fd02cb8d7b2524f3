"""One process at a place, whichever way it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from synbb.errors import SynbbError
from synbb.locks import alone_at

HOLDS = """
import sys
from pathlib import Path
from synbb.locks import alone_at
with alone_at(Path(sys.argv[1]), "busy") as alone:
    print(alone, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_second_process_is_refused_or_waits_until_the_first_has_ended(tmp_path: Path, killed: bool) -> None:
    place, order = tmp_path / "place", []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        with pytest.raises(SynbbError, match="place: who is there"), alone_at(place, f"{place}: who is there"):
            raise AssertionError("beside the first")

        def wait() -> None:
            with alone_at(place, None) as alone:
                order.append(alone)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert not order
        if killed:
            first.kill()
        else:
            first.communicate("go\n")
        waiting.join(60)
    assert order == [True]
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nobody_is_known_to_be_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("fcntl.flock", none)
    with alone_at(tmp_path / "place", "busy") as one, alone_at(tmp_path / "place", "busy") as other:
        assert (one, other) == (False, False)
    assert list(tmp_path.iterdir()) == []
