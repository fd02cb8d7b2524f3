"""Config files: overrides, and errors that name file, key and value."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny import settings, write_config

from synbb.errors import SynbbError
from synbb.training import load_config
from synbb.training.config import run_config, stored_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "synapse").rglob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_config(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_load_and_go_through_yaml_unchanged(path: Path) -> None:
    config = load_config(path)
    again = yaml.safe_load(yaml.safe_dump(config.plain(), sort_keys=False))
    assert run_config(again, "again") == config
    assert {volume.split for volume in config.data.volumes} == {"train", "validation", "test"}


def test_there_are_shipped_configs() -> None:
    assert {"vnc.yaml", "phantom.yaml"} <= {path.name for path in CONFIGS}


def test_vnc_never_touches_columns_from_704_on() -> None:
    from synbb.volumes import Box

    for volume in load_config(next(path for path in CONFIGS if path.name == "vnc.yaml")).data.volumes:
        assert volume.extent is not None
        assert Box.parse(volume.extent).stop[2] == 704
        assert all(Box.parse(region).stop[2] <= 704 for region in volume.regions)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.steps=7", lambda c: c.training.steps == 7),
        ("training.learning_rate=1e-3", lambda c: c.training.learning_rate == 0.001),
        ("data.patch=[2,8,8]", lambda c: c.data.patch == (2, 8, 8)),
        ("data.volumes.1.weight=2", lambda c: [v.weight for v in c.data.volumes] == [1, 2]),
        ("data.volumes.0.regions.0=0:8,0:16,0:64", lambda c: c.data.volumes[0].regions == ("0:8,0:16,0:64",)),
        ("data.augment.flip=0", lambda c: c.data.augment.flip == 0),
        ("pruning.exclude=[a*, b]", lambda c: c.pruning.exclude == ("a*", "b")),
        ("data.volumes.0.mask=null", lambda c: c.data.volumes[0].mask is None),
        ("pruning.pattern=2:4", lambda c: c.pruning.pattern == "2:4"),
        ("data.volumes.0.name=2026-99-99", lambda c: c.data.volumes[0].name == "2026-99-99"),
        ("data.volumes.0.citation=a=b", lambda c: c.data.volumes[0].citation == "a=b"),
    ],
)
def test_overrides(file: Path, override: str, read) -> None:
    assert read(load_config(file, [override]))


def test_later_overrides_win(file: Path) -> None:
    assert load_config(file, ["seed=1", "seed=2"]).seed == 2


def test_an_override_changes_one_of_several_aliases(tmp_path: Path) -> None:
    file = tmp_path / "alias.yaml"
    values = settings(tmp_path)
    text = yaml.safe_dump({key: value for key, value in values.items() if key != "data"})
    file.write_text(
        text
        + """
data:
  patch: [4, 16, 16]
  volumes:
    - &one {name: a, raw: r, labels: l, split: train, regions: ["0:1,0:1,0:1"]}
    - {<<: *one, name: b}
"""
    )
    volumes = load_config(file, ["data.volumes.0.regions.0=0:9,0:9,0:9"]).data.volumes
    assert [volume.regions for volume in volumes] == [("0:9,0:9,0:9",), ("0:1,0:1,0:1",)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stps=7", r"tiny.yaml: unknown key 'stps' in training; did you mean 'steps'"),
        ("density=0.1", r"unknown key 'density'; did you mean pruning.density"),
        ("training.steps=many", r"training.steps = 'many': .*integer"),
        ("training.steps=1.5", r"training.steps = 1.5: .*integer"),
        ("training.steps=0", r"training.steps = 0: .*greater than 0"),
        ("training.warmup=1", r"training.warmup = 1: .*less than 1"),
        ("training.devices=two", r"training.devices = 'two'"),
        ("pruning.method=bbb", r"pruning method 'bbb' is none for connections; there are bb, "),
        ("pruning.density=0", r"pruning.density = 0: .*greater than 0"),
        ("pruning.warmup=0.9", r"pruning: warmup 0.9 \+ ramp 0.45 is beyond the end of training"),
        ("data.patch=[4,16]", r"data.patch.2 is missing"),
        ("data.volumes.0.split=test", r"data: no entry has split: train"),
        ("data.volumes.1.name=top", r"data: names must differ, but top stands more than once"),
        ("data.volumes.2.name=x", r"'2' is no position in a list of 2 \(0 to 1\)"),
        ("data.volumes.first.name=x", r"'first' is no position"),
        ("data.volumes.².name=x", r"'²' is no position"),
        ("pruning.masks=keep", r"tiny.yaml: pruning.masks = 'keep' .*training.start_from names: name one, or remove"),
        ("training={steps: 1, steps: 2}", r"override 'training=.*': the value is not valid YAML: key 'steps' stands"),
        ("seed=4294967296", r"seed = 4294967296: .*less than 4294967296"),
        ("seed.value=1", r"override 'seed.value=1': seed holds no keys"),
        ("seed", r"override 'seed' is not of the form key=value"),
        ("=3", r"override '=3' is not of the form key=value"),
        ("seed=[1", r"override 'seed=\[1': the value is not valid YAML"),
        ("model=3", r"model = 3"),
        ("task=synaps", r"task 'synaps' is none of synbb's; did you mean 'synapse'\?; a task of your own"),
        ("task=[1]", r"tiny.yaml: task = \[1\]: give the name of a task"),
        ("task=nowhere.at.all:MyTask", r"task 'nowhere.at.all:MyTask': there is no module 'nowhere' in the working"),
        ("task=synbb.tasks.base:Tusk", r"task .*: module 'synbb.tasks.base' has no 'Tusk'; did you mean 'Task'\?"),
        (
            "task=synbb.tasks.base:Batch",
            r"task .* lacks the methods begin_with, prepare, build_model, .*synbb.tasks.base.Task says",
        ),
        ("task=synbb.tasks.registry:find_task", r"task .* is no class but .*name the class"),
    ],
)
def test_wrong_overrides(file: Path, override: str, message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        load_config(file, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1\n- 2", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"seed: 1\ndata: {}\nseed: 2", r"not valid YAML: key 'seed' stands twice, remove one \(line 3, column 1\)"),
        (b"\xff\xfe\x00bad", "not valid YAML"),
        (b"seed: 1", "key data is missing; .*key model is missing"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_bytes(content)
    with pytest.raises(SynbbError, match=f"wrong.yaml.*{message}"):
        load_config(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"config .*nowhere.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(SynbbError, match="no such file"):
        load_config(tmp_path)


def test_keys_that_a_stored_run_lacks_mean_what_was_done_before_they_existed():
    values = {
        "task": "speech",
        "data": {"corpora": [{"corpus": "nowhere", "split": "train"}]},
        "model": {"width": 16, "heads": 2},
    }
    former = stored_config(values, "run/config.yaml").model
    assert (former.channels, former.linear_bias, former.width) == (None, False, 16)
    assert (run_config(values, "mine.yaml").model.channels, run_config(values, "mine.yaml").model.linear_bias) == (
        16,
        True,
    )
    of_now = {**values, "model": {"channels": 8, "linear_bias": True}}
    assert stored_config(of_now, "run/config.yaml") == run_config(of_now, "mine.yaml")
    assert values["model"] == {"width": 16, "heads": 2}, "what was given stays"
    without_effect = {**values, "pruning": {"masks": "keep"}}  # trained by a version that did not refuse it
    assert stored_config(without_effect, "run/config.yaml").pruning.masks == "keep"
    for damaged in ("no mapping", {"task": 3}, {"task": "speech", "model": 3}):
        with pytest.raises(SynbbError):
            stored_config(damaged, "run/config.yaml")
