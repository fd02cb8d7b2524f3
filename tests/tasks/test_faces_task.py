"""The face task: batches, protocols, and what does not fit them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from synbb.datasets.phantom_faces import FacePhantom, write_phantom_faces
from synbb.errors import SynbbError
from synbb.tasks.base import PredictsFiles
from synbb.tasks.face_images import FaceReader
from synbb.tasks.faces import FacesTask
from synbb.training import make_task
from synbb.training.config import run_config

SIZE = (32, 28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_faces(tmp_path_factory.mktemp("faces") / "people", FacePhantom(6, 6, SIZE))


def entries(folder: Path, **splits: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"folder": str(folder), "split": name.rstrip("2"), **part} for name, part in splits.items()]


def identification(folder: Path) -> list[dict[str, Any]]:
    return entries(folder, train={"images": [0, 3]}, validation={"images": [3, 4]}, test={"images": [4, 6]})


def made(images: list[dict[str, Any]], seed: int = 0, batch_size: int = 4, **data: Any) -> FacesTask:
    values = {
        "task": "faces",
        "seed": seed,
        "data": {"images": images, "size": list(SIZE), **data},
        "model": {"width": 4, "embedding": 8},
        "training": {"batch_size": batch_size},
    }
    task = make_task(run_config(values, "test"))
    assert isinstance(task, FacesTask)
    return task


def prepared(*arguments: Any, **options: Any) -> FacesTask:
    task = made(*arguments, **options)
    task.prepare()
    return task


def test_a_batch_is_a_function_of_seed_and_step(folder: Path) -> None:
    one, other = (prepared(identification(folder)) for _ in range(2))
    other.batch(7, 0, 1)  # what was asked before does not matter
    a, b = one.batch(3, 0, 1), other.batch(3, 0, 1)
    torch.testing.assert_close(a.inputs, b.inputs, rtol=0, atol=0)
    assert a.targets.tolist() == b.targets.tolist()
    assert a.inputs.shape == (4, 1, *SIZE)
    assert (prepared(identification(folder), seed=1).batch(3, 0, 1).inputs != a.inputs).any()


def test_shadows_fall_on_as_many_training_images_as_asked_before_their_light_is_evened(folder: Path) -> None:
    still = dict.fromkeys(("flip", "move", "contrast", "light", "noise", "cover"), 0)
    bare, some, all_ = (
        prepared(identification(folder), batch_size=36, evening="tan_triggs", augment={**still, "shadow": share}).batch(
            0, 0, 1
        )
        for share in (0, 0.5, 1)
    )

    def changed(inputs: torch.Tensor) -> int:
        return int((inputs != bare.inputs).flatten(1).any(dim=1).sum())

    assert changed(all_.inputs) == 36
    assert 8 <= changed(some.inputs) <= 28
    # Evening after the shadow leaves its edge: where the face is dark, contrast is what it was.
    far = (all_.inputs - bare.inputs).abs().flatten(1)
    assert float(far.median()) < 0.3 * float(bare.inputs.std())


def test_ranks_share_the_batch_of_one(folder: Path) -> None:
    task = prepared(identification(folder))
    whole = task.batch(5, 0, 1)
    parts = [task.batch(5, rank, 2) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([parts[0].inputs, parts[1].inputs]), whole.inputs[[0, 2, 1, 3]])
    assert parts[0].targets.tolist() + parts[1].targets.tolist() == whole.targets[[0, 2, 1, 3]].tolist()


def test_an_epoch_shows_every_image_once(folder: Path) -> None:
    task = prepared(identification(folder), batch_size=6)
    for epoch in range(2):  # 18 training images, 3 steps
        shown = Counter(t for step in range(3) for t in task.batch(3 * epoch + step, 0, 1).targets.tolist())
        assert shown == dict.fromkeys(range(6), 3)


def test_inputs_are_standardised_and_not_all_alike(folder: Path) -> None:
    inputs = prepared(identification(folder)).batch(0, 0, 1).inputs
    torch.testing.assert_close(inputs.mean(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(dim=(1, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_calibration_and_held_out_inputs_are_the_same_at_every_call(folder: Path) -> None:
    task = prepared(identification(folder))
    first, again = (torch.cat(list(task.calibration_batches(50))) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert len(first) == 52, "whole batches of four"
    held = torch.cat(list(task.held_out_batches(16)))
    assert len(held) == 6, "there are no more validation images"
    assert len(torch.cat(list(task.held_out_batches(2)))) == 2


class Oracle(FacesTask):
    """Embeds a phantom image as a unit vector of its own person, with some images of others' look."""

    wrong: tuple[str, ...] = ()

    def embeddings(self, model: Any, paths: Any, device: Any) -> Any:
        people = [int(path.parent.name[1:]) - 1 for path in paths]
        looks = [
            0 if f"{path.parent.name}/{path.stem}" in self.wrong else n for path, n in zip(paths, people, strict=True)
        ]
        return np.eye(6)[looks]


def scored(images: list[dict[str, Any]], wrong: tuple[str, ...] = (), **data: Any) -> Any:
    task = made(images, **data)
    task.__class__ = type("Told", (Oracle,), {"wrong": wrong})
    task.prepare()
    return task, task.score(None, "cpu", {"threshold": 0.5})  # type: ignore[arg-type]


def test_identification_counts_probes(folder: Path) -> None:
    _, found = scored(identification(folder), wrong=("p02/05", "p03/06"))
    assert found.main == "rank_1"
    assert found.scores["rank_1"] == pytest.approx(10 / 12)
    assert found.resampled["rank_1"].units == {"probes": 12}
    assert found.scores["images"] == 12
    perfect = scored(identification(folder))[1].scores
    assert (perfect["rank_1"], perfect["roc_auc"], perfect["equal_error"]) == (1.0, 1.0, 0.0)
    assert perfect["accepted_at_0.01"] == 1.0


def test_a_note_says_what_the_images_give_without_a_network(folder: Path) -> None:
    task, found = scored(identification(folder), wrong=("p02/05",))
    people = [f"p{n:02d}" for n in range(1, 7)]

    def seen(numbers: range) -> np.ndarray:
        paths = [folder / person / f"{number:02d}.png" for person in people for number in numbers]
        images = np.stack([np.asarray(task._reader.grey(path), np.float64).ravel() for path in paths])
        images -= images.mean(axis=1, keepdims=True)
        return images / np.linalg.norm(images, axis=1, keepdims=True)

    gallery = seen(range(1, 4)).reshape(6, 3, -1).mean(axis=1)
    named = (seen(range(5, 7)) @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T).argmax(axis=1)
    right = np.mean(named == np.repeat(np.arange(6), 2))
    assert 0.2 < right < 1, "a case that tells something"
    assert found.notes == (f"without a network, correlating the images as it sees them: rank-1 {right:.3f}",)
    assert scored(identification(folder), cache_mib=1, size=[128, 128])[1].notes == (), "images beyond the memory"


def test_open_set_counts_strangers(folder: Path) -> None:
    images = entries(
        folder,
        train={"images": [0, 3], "identities": [0, 4]},
        test={"images": [3, 6]},
    )
    # Persons 5 and 6 are strangers; one image of person 6 looks like person 1.
    _, found = scored(images, wrong=("p06/04",), protocol="open_set")
    assert found.scores["rank_1"] == 1.0, "of those who are known"
    assert found.scores["strangers_named_at_threshold"] == pytest.approx(1 / 6)
    assert found.scores["identified_at_0.1"] == 0.0, "one of six strangers is more than a tenth"
    assert found.resampled["rank_1"].units == {"probes": 12}


def test_the_threshold_of_an_open_set_is_that_of_naming(folder: Path) -> None:
    images = entries(
        folder,
        train={"images": [0, 3], "identities": [0, 4]},
        validation={"images": [3, 4]},
        test={"images": [4, 6]},
    )
    task = made(images, protocol="open_set")
    # Persons 5 and 6 are strangers, and look like person 3 by 0.9 and by 0.3; of pairs 0.9 is one of many.
    task.__class__ = type("Told", (Leaning,), {"leaning": {"p05/04": 0.9, "p06/04": 0.3}})
    assert not any("no strangers" in line for line in task.prepare())
    found = task.validate(None, "cpu")  # type: ignore[arg-type]
    assert found is not None
    assert 0.9 < found.decision["threshold"] < 1
    known = entries(
        folder,
        train={"images": [0, 3], "identities": [0, 4]},
        validation={"images": [3, 4], "identities": [0, 4]},
        test={"images": [4, 6]},
    )
    assert any("no strangers in validation" in line for line in made(known, protocol="open_set").prepare())


def told(found: Any) -> list[list[str]]:
    """Cases without the folders of their images."""
    return [["/".join(Path(row[0]).parts[-2:]), *row[1:]] for row in found.cases.rows]


def test_cases_are_the_probes_the_wrong_ones_first(folder: Path) -> None:
    _, found = scored(identification(folder), wrong=("p02/05", "p03/06"))
    assert found.cases.columns == ["image", "shows", "named", "cosine", "right"]
    cases = told(found)
    assert cases[:3] == [
        ["p02/05.png", "p02", "p01", "1.0000", "no"],
        ["p03/06.png", "p03", "p01", "1.0000", "no"],
        ["p01/05.png", "p01", "p01", "1.0000", "yes"],
    ]
    assert len(cases) == 12
    assert sum(row[4] == "yes" for row in cases) / len(cases) == pytest.approx(found.scores["rank_1"])


class Leaning(Oracle):
    """Embeddings of some images lean towards the third person: nobody's, or more surely so than others."""

    leaning: ClassVar[dict[str, float]] = {}

    def embeddings(self, model: Any, paths: Any, device: Any) -> Any:
        vectors = super().embeddings(model, paths, device)
        for place, path in enumerate(paths):
            cosine = self.leaning.get(f"{path.parent.name}/{path.stem}")
            if cosine is not None:
                vectors[place] = [0, 0, cosine, 0, 0, np.sqrt(1 - cosine**2)]
        return vectors


def test_in_an_open_set_nobody_is_named_below_the_threshold_and_strangers_rightly_so(folder: Path) -> None:
    images = entries(folder, train={"images": [0, 3], "identities": [0, 4]}, test={"images": [3, 5]})
    task = made(images, protocol="open_set")
    # Persons 5 and 6 are strangers. The surest mistake is a stranger who is named, the next a wrong name, the last
    # somebody who is known and not named.
    leaning = {"p05/04": 0.9, "p02/05": 0.7, "p03/04": 0.4, "p06/05": 0.3}
    task.__class__ = type("Told", (Leaning,), {"leaning": leaning})
    task.prepare()
    found = task.score(None, "cpu", {"threshold": 0.5})  # type: ignore[arg-type]
    cases = told(found)
    assert cases[:4] == [
        ["p05/04.png", "p05", "p03", "0.9000", "no"],
        ["p02/05.png", "p02", "p03", "0.7000", "no"],
        ["p03/04.png", "p03", "", "0.4000", "no"],
        ["p01/04.png", "p01", "p01", "1.0000", "yes"],
    ]
    assert ["p06/05.png", "p06", "", "0.3000", "yes"] in cases
    assert found is not None
    of_known = [row for row in cases if row[1] <= "p04"]
    assert sum(row[4] == "yes" for row in of_known) / 8 == found.scores["named_right_at_threshold"]
    assert sum(row[2] != "" for row in cases if row[1] > "p04") / 4 == found.scores["strangers_named_at_threshold"]
    without = task.score(None, "cpu", {})  # type: ignore[arg-type]
    assert all(row[2] for row in told(without)), "without a threshold everybody is named"


def test_verification_pairs_are_those_within_a_folder(folder: Path, tmp_path: Path) -> None:
    other = write_phantom_faces(tmp_path / "others", FacePhantom(2, 3, SIZE, seed=9))
    images = entries(folder, train={"identities": [0, 3]}, test={"identities": [3, 6], "images": [0, 2]})
    _, found = scored(images, wrong=("p05/01",), protocol="verification")
    assert found.main == "roc_auc"
    genuine, cosine = [], []
    looks = [(person, 0 if (person, number) == (4, 1) else person) for person in (3, 4, 5) for number in (1, 2)]
    for i, (who, look) in enumerate(looks):
        for whom, resemblance in looks[i + 1 :]:
            genuine.append(who == whom)
            cosine.append(float(look == resemblance))
    assert found.scores["roc_auc"] == pytest.approx(roc_auc_score(genuine, cosine))
    assert found.resampled["roc_auc"].parts["identities"].sum() == 15
    both = [*images, {"folder": str(other), "split": "test", "prefix": "others/"}]
    _, found = scored(both, protocol="verification")
    assert found.resampled["roc_auc"].parts["identities"].sum() == 15 + 15, "no pair across two folders"
    with pytest.raises(SynbbError, match=r"others.p01.01\.png of split test shows p01, who is trained on.* `prefix`"):
        prepared([*images, {"folder": str(other), "split": "test"}], protocol="verification")


def test_a_name_is_one_person_in_all_folders(folder: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", (1, 2, 3)), ("validation", (4,)), ("test", (5, 6))):
        for person in folder.iterdir():
            if person.is_dir():
                (tmp_path / split / person.name).mkdir(parents=True)
                for number in numbers:
                    name = f"{number:02d}.png"
                    (tmp_path / split / person.name / name).write_bytes((person / name).read_bytes())
    apart = [{"folder": str(tmp_path / split), "split": split} for split in ("train", "validation", "test")]
    task, found = scored(apart, wrong=("p02/05",))
    assert task._names == prepared(identification(folder))._names
    assert found.scores == scored(identification(folder), wrong=("p02/05",))[1].scores
    with pytest.raises(SynbbError, match=r"test.p01.05\.png of split test shows p01, who is trained on: verification"):
        prepared([apart[0], apart[2]], protocol="verification")


def test_names_in_several_folders_of_a_split_are_told(folder: Path, tmp_path: Path) -> None:
    others = write_phantom_faces(tmp_path / "others", FacePhantom(8, 3, SIZE, seed=9))
    mixed = [*entries(folder, train={}), {"folder": str(others), "split": "train"}]
    said = made(mixed).prepare()
    assert said[0] == "train: 60 images of 8 identities"
    assert said[1].startswith(
        "train: 6 names in several folders, each taken for one person (p01, p02, p03, p04, p05, ...); give a folder"
    )
    mixed[1]["prefix"] = "others/"
    said = made(mixed).prepare()
    assert said[0] == "train: 60 images of 14 identities"
    assert not any("several folders" in line for line in said)


def test_listed_pairs_are_scored_alone(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_text("p04 1 2\np05 1 2\np04 1 p06 1\n")
    images = entries(folder, train={"identities": [0, 3]}, test={"identities": [3, 6]})
    _, found = scored(images, protocol="verification", pairs=str(listed))
    assert found.cases is None, "pairs are scored, and no image by itself"
    assert found.resampled["roc_auc"].parts["identities"].sum() == 3
    assert found.scores["roc_auc"] == 1.0


@pytest.mark.parametrize(
    ("splits", "data", "message"),
    [
        (
            {"train": {"identities": [0, 3], "images": [0, 3]}, "validation": {"identities": [2, 5], "images": [3, 6]}},
            {"protocol": "verification"},
            r"p03.04\.png of split validation shows p03, who is trained on",
        ),
        (
            {"train": {"identities": [0, 3], "images": [0, 3]}, "validation": {"images": [3, 6]}},
            {},
            r"p04.04\.png of split validation shows p04, who is not trained on",
        ),
        ({"train": {}, "validation": {"images": [5, 6]}}, {}, r"p01.06\.png is in split train and in split validation"),
        ({"train": {}, "train2": {"images": [5, 6]}}, {}, r"p01.06\.png is named twice in split train"),
        (
            {"train": {"identities": [0, 3]}, "test": {"identities": [3, 5]}, "test2": {"identities": [4, 6]}},
            {"protocol": "verification"},
            r"p05.01\.png is named twice in split test",
        ),
        ({"train": {"identities": [0, 1]}}, {}, "show 1 identity; at least 2"),
        ({"train": {"identities": [9, 12]}}, {}, "no image of .* is left for split train"),
        ({"train": {"images": [0, 1]}}, {}, r"p01.01\.png is the only image of p01 \(and 5 more\)"),
        ({"validation": {}}, {}, "no entry of images has split: train"),
        ({"train": {}}, {"pairs": "pairs.txt"}, "pairs are of use to protocol: verification alone"),
        ({"train": {"light": [0, 25]}}, {}, "its name does not say where the light came from"),
    ],
)
def test_images_that_do_not_fit(folder: Path, splits: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        prepared(entries(folder, **splits), **data)


def test_a_batch_of_one_small_image_is_refused_and_draws_nothing(folder: Path) -> None:
    images = identification(folder)
    with pytest.raises(SynbbError, match=r"training.batch_size 1: of an image of \[16, 16\] .*batch of 2 images"):
        prepared(images, batch_size=1, size=[16, 16])
    state = torch.get_rng_state()
    prepared(images, batch_size=1)
    small = prepared(images, batch_size=2, size=[16, 16])
    assert torch.equal(torch.get_rng_state(), state)
    assert len(small.batch(0, 0, 1).targets) == 2
    small.build_model().train()(small.batch(0, 0, 1).inputs)
    with pytest.raises(
        SynbbError, match=r"batch_size 2 on 2 devices, one image each: of an image of \[16, 16\] .*batch of 4 images"
    ):
        small.batch(0, 0, 2)
    assert len(prepared(images, batch_size=2).batch(0, 1, 2).targets) == 1


def test_test_images_are_looked_at_before_training(folder: Path, tmp_path: Path) -> None:
    images = entries(folder, train={"images": [0, 3]}, validation={"images": [3, 5]}, test={"images": [4, 6]})
    with pytest.raises(SynbbError, match=r"p01.05\.png is in split validation and in split test"):
        prepared(images)
    gone = [*entries(folder, train={"images": [0, 3]}), {"folder": str(tmp_path / "lfww"), "split": "test"}]
    with pytest.raises(SynbbError, match="lfww: no such folder"):
        prepared(gone)
    apart = entries(folder, train={"identities": [0, 3]}, test={"identities": [3, 6]})
    listed = tmp_path / "pairs.txt"
    listed.write_text("p04 1 2\np01 1 2\n")
    with pytest.raises(
        SynbbError, match=r"pairs\.txt, line 2: there is no image 1 of 'p01' in the images of the split"
    ):
        prepared(apart, protocol="verification", pairs=str(listed))
    with pytest.raises(SynbbError, match="lists pairs of the test split, and no entry has it"):
        prepared(apart[:1], protocol="verification", pairs=str(listed))
    fine = made(identification(folder)).prepare()
    assert fine[-1] == "test: 12 images of 6 identities"


def test_bad_files_stop_a_run_or_are_left_out_and_listed(tmp_path: Path) -> None:
    people = write_phantom_faces(tmp_path / "people", FacePhantom(3, 4, SIZE))
    (people / "p02" / "02.png").write_bytes(b"no image")
    (people / "p04").mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(people / "p04" / "01.png")
    with pytest.raises(SynbbError, match=r"p02.02\.png cannot be decoded .* data\.on_bad=skip"):
        prepared(entries(people, train={}))
    lines = made(entries(people, train={}), on_bad="skip").prepare()
    assert lines[0] == "train: 11 images of 3 identities"
    assert lines[1].startswith("train: 2 images left out: ")
    assert "02.png cannot be decoded" in lines[1]
    assert "p04/01.png is the only image of p04" in lines[1]
    assert len(prepared(entries(people, train={}), on_bad="skip").facts()["left_out"]) == 2


def test_what_the_test_split_loses_is_told_with_its_scores(tmp_path: Path) -> None:
    people = write_phantom_faces(tmp_path / "people", FacePhantom(3, 4, SIZE))
    (people / "p02" / "04.png").write_bytes(b"no image")
    images = entries(people, train={"images": [0, 2]}, test={"images": [2, 4]})
    assert made(images).prepare()[-1] == "test: 6 images of 3 identities", "before training names alone are looked at"
    with pytest.raises(SynbbError, match=r"p02.04\.png cannot be decoded .* data\.on_bad=skip"):
        scored(images)
    _, found = scored(images, on_bad="skip")
    assert found.scores["images"] == 5
    assert found.notes[0].startswith("test: 1 image left out: ")


def test_pairs_of_images_that_are_left_out_are_left_out_too(tmp_path: Path) -> None:
    people = write_phantom_faces(tmp_path / "people", FacePhantom(5, 4, SIZE))
    (people / "p04" / "02.png").write_bytes(b"no image")
    listed = tmp_path / "pairs.txt"
    listed.write_text("p04 1 2\np04 3 4\np04 2 p05 1\np04 3 p05 2\np05 1 2\n")
    images = entries(people, train={"identities": [0, 3]}, test={"identities": [3, 5]})
    task, found = scored(images, protocol="verification", pairs=str(listed), on_bad="skip")
    assert found.notes[1] == "test: 2 pairs of images left out, too"
    assert found.resampled["roc_auc"].parts["identities"].sum() == 3
    chosen, pairs, _ = task._checked_test(decode=True)
    ends = [[(chosen.faces[place].identity, chosen.faces[place].path.stem) for place in pair] for pair in pairs]
    # Images are counted as they are named: one that is left out does not move those behind it.
    assert ends == [
        [("p04", "03"), ("p04", "04")],
        [("p04", "03"), ("p05", "02")],
        [("p05", "01"), ("p05", "02")],
    ]
    listed.write_text("p04 1 2\np04 2 p05 1\n")
    with pytest.raises(SynbbError, match=r"each of the 2 pairs of \S+pairs.txt names an image that was left out"):
        scored(images, protocol="verification", pairs=str(listed), on_bad="skip")


def test_a_resumed_run_must_find_the_same_people(folder: Path) -> None:
    task = made(identification(folder))
    task.prepare({"identities": [f"p{n:02d}" for n in range(1, 7)]})
    with pytest.raises(SynbbError, match="other identities than when the run was begun"):
        made(identification(folder)).prepare({"identities": ["p01", "p02"]})


def test_files_are_predicted_without_the_training_data(folder: Path, tmp_path: Path) -> None:
    task = prepared(identification(folder))
    torch.manual_seed(0)
    net = task.build_model().eval()
    elsewhere = made([{"folder": str(tmp_path / "gone"), "split": "train"}])
    assert isinstance(elsewhere, PredictsFiles)
    elsewhere.restore(task.facts())
    again = elsewhere.build_model().eval()
    again.load_state_dict(net.state_dict())
    (tmp_path / "new").mkdir()
    for number in (1, 2, 10):
        (tmp_path / "new" / f"{number}.png").write_bytes((folder / "p01" / "01.png").read_bytes())
    (tmp_path / "new" / "3.png").write_bytes(b"no image")
    table = elsewhere.predict_files(again, tmp_path / "new", "cpu")
    assert table.columns == ["image", *(f"e{n}" for n in range(8))]
    assert [Path(row[0]).name for row in table.rows] == ["1.png", "2.png", "10.png"]
    assert table.rows[0][1:] == table.rows[2][1:]
    assert len(table.skipped) == 1
    vectors = task.embeddings(net, [folder / "p01" / "01.png"], "cpu")
    np.testing.assert_allclose([float(v) for v in table.rows[0][1:]], vectors[0], atol=1e-6)


def test_the_cache_keeps_no_more_than_it_may(folder: Path) -> None:
    reader = FaceReader(SIZE, cache_bytes=2 * SIZE[0] * SIZE[1])
    paths = sorted((folder / "p01").iterdir())
    first = [reader.grey(path).copy() for path in paths]
    assert len(reader._kept) == 2
    assert all((reader.grey(path) == grey).all() for path, grey in zip(paths, first, strict=True))


def test_what_is_stored_is_kept_beside_what_is_evened(folder: Path) -> None:
    reader = FaceReader(SIZE, evening="tan_triggs", cache_bytes=2**20)
    path = folder / "p01" / "01.png"
    even = reader.image(path)
    shaded = [reader.image(path, shadow=1) for _ in range(2)]
    assert (shaded[0] == shaded[1]).all()
    assert (shaded[0] != even).any()
    assert (reader.image(path) == even).all()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_verification_of_one_person_is_refused_before_training(folder: Path, split: str) -> None:
    images = entries(folder, train={"identities": (0, 2)}, **{split: {"identities": (2, 3)}})
    with pytest.raises(SynbbError, match=f"compares images of two people, and split {split} has none; choose others"):
        prepared(images, protocol="verification")


@pytest.mark.parametrize(
    ("lines", "missing"), [("p03 1 2", "images of two people"), ("p03 1 p04 1", "two images of one person")]
)
def test_listed_pairs_are_of_both_kinds(folder: Path, tmp_path: Path, lines: str, missing: str) -> None:
    images = entries(folder, train={"identities": (0, 2)}, test={"identities": (2, 4)})
    listed = tmp_path / "pairs.txt"
    listed.write_text(f"{lines}\n")
    with pytest.raises(SynbbError, match=rf"compares {missing}, and split test has none in data\.pairs; choose others"):
        prepared(images, protocol="verification", pairs=str(listed))


def sessions(folder: Path, people: dict[str, list[int]]) -> Path:
    """One image each of these people of the phantom, in folders by session."""
    for session, numbers in people.items():
        for number in numbers:
            (folder / session / f"q{number}").mkdir(parents=True)
            Image.fromarray(np.full(SIZE, 10 * number, np.uint8)).save(folder / session / f"q{number}" / "0.png")
    return folder


@pytest.mark.parametrize("split", ["validation", "test"])
def test_genuine_pairs_are_of_one_folder(folder: Path, tmp_path: Path, split: str) -> None:
    """Somebody with one image in each of two folders makes no pair, for pairs are made within a folder."""
    people = sessions(tmp_path, {"s1": [0, 1], "s2": [0, 1]})
    images = [*entries(folder, train={}), *({"folder": str(people / name), "split": split} for name in ("s1", "s2"))]
    alone = r"s1.q0.0\.png is the only image of q0 in its folder \(and 3 more\): it makes no pair; add images"
    with pytest.raises(SynbbError, match=alone):
        prepared(images, protocol="verification")
    with pytest.raises(SynbbError, match=rf"none of the 4 images of split {split} can be used: .* of q0 in its folder"):
        prepared(images, protocol="verification", on_bad="skip")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(people / "s1" / "q0" / "1.png")
    Image.fromarray(np.ones(SIZE, np.uint8)).save(people / "s1" / "q1" / "1.png")
    lines = made(images, protocol="verification", on_bad="skip").prepare()
    assert f"{split}: 4 images of 2 identities" in lines
    assert any(line.startswith(f"{split}: 2 images left out: ") and "of q0 in its folder" in line for line in lines)


def test_an_identity_is_learnt_from_one_image_in_each_of_two_folders(tmp_path: Path) -> None:
    people = sessions(tmp_path, {"s1": [0, 1], "s2": [0, 1]})
    task = prepared([{"folder": str(people / name), "split": "train"} for name in ("s1", "s2")])
    assert task._names == ["q0", "q1"]


def test_a_list_of_pairs_is_of_the_test_split_alone(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_text("p05 1 2\np05 1 p06 1\n")
    parts = {"train": {"identities": [0, 2]}, "test": {"identities": [4, 6]}}
    lonely = entries(folder, **parts, validation={"identities": [2, 4], "images": [0, 1]})
    with pytest.raises(SynbbError, match=r"p03.01\.png is the only image of p03 in its folder \(and 1 more\)"):
        prepared(lonely, protocol="verification", pairs=str(listed))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_open_set_of_strangers_alone_is_refused_before_training(folder: Path, split: str) -> None:
    images = entries(folder, train={"identities": [0, 3], "images": [0, 3]}, **{split: {"identities": [3, 6]}})
    with pytest.raises(SynbbError, match=rf"p04.01\.png and all other images of split {split} show strangers"):
        prepared(images, protocol="open_set")


def test_a_folder_is_one_however_it_is_written(folder: Path) -> None:
    """Pairs across two parts of one folder are made, for it is one folder."""
    people = {"identities": [3, 6]}
    images = entries(folder, train={"identities": [0, 3]}, test={**people, "images": [0, 1]})
    images.append({"folder": f"{folder}/../{folder.name}/", "split": "test", **people, "images": [1, 2]})
    _, found = scored(images, protocol="verification")
    assert found.resampled["roc_auc"].parts["identities"].sum() == 15
