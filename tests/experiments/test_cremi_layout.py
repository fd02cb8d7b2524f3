"""The shipped CREMI study on a phantom in CREMI's layout, small and short: a fold of it runs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from tiny import grey_and_labels
from toy_study import rows

from synbb.experiments import compare

SHIPPED = Path(__file__).parents[2] / "configs" / "compare" / "cremi.yaml"
SHAPE = (125, 64, 64)
BACKGROUND = np.uint64(0xFFFFFFFFFFFFFFFF)


def write_sample(path: Path, seed: int) -> None:
    """Raw and clefts of one sample, 64 x 64 in the plane; an id for each cleft on CREMI's background."""
    tiles = [grey_and_labels((25, *SHAPE[1:]), seed=10 * seed + i) for i in range(5)]
    raw, mask = (np.concatenate(each) for each in zip(*tiles, strict=True))
    tile = np.arange(SHAPE[0], dtype=np.uint64)[:, None, None] // np.uint64(25)
    clefts = np.where(mask > 0, 100 * tile + mask.astype(np.uint64), BACKGROUND)
    with h5py.File(path, "w") as file:
        for name, array in (("volumes/raw", raw), ("volumes/labels/clefts", clefts)):
            file.create_dataset(name, data=array, chunks=(25, 64, 64)).attrs["resolution"] = (40.0, 4.0, 4.0)


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data" / "cremi").mkdir(parents=True)
    for number, letter in enumerate("ABC"):
        write_sample(tmp_path / "data" / "cremi" / f"sample_{letter}_20160501.hdf", number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_fold_of_the_shipped_study_runs(samples: Path) -> None:
    values = yaml.safe_load(SHIPPED.read_text().replace("0:1250,0:1250", "0:64,0:64"))
    values["folds"] = {"sample-b": values["folds"]["sample-b"]}  # which reads all three samples
    (samples / "cremi.yaml").write_text(yaml.safe_dump(values))
    small = ["run.data.patch=[4,16,16]", "run.model.filters=[4,8,8]", "run.training.steps=12", "run.data.dataset=null"]
    small += ["run.training.calibration_patches=50", "run.training.validate_every=12", "run.training.accelerator=cpu"]
    study = ["densities=[0.3]", "seeds=[0]", "run.pruning.refresh=2", "methods={random: {method: random}}"]
    compare(
        samples / "cremi.yaml",
        [*small, *study, "reference=random"],
        output=Path("out"),
        threads=1,
        say=lambda _: None,
    )
    found = rows(samples / "out" / "runs.csv")
    assert [row["fold"] for row in found] == ["sample-b"]
    for row in found:
        assert int(row["voxels"]) == 62 * 64 * 64
        assert 0 < int(row["foreground"]) < 0.3 * int(row["voxels"])
        assert float(row["pr_auc"]) > 0
        assert int(row["objects"]) > 10
