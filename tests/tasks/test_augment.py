"""Random changes of patches: reproducible, and the label goes where the image goes."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from synbb.tasks.augment import (
    Augmentation,
    RandMisalignmentd,
    RandMissingSectiond,
    RandSectionContrastd,
    augmentation,
    augmented,
)

PATCH = (6, 16, 16)
NONE = {"flip": 0, "rotate": 0, "intensity": 0, "section_contrast": 0, "missing_section": 0, "misalignment": 0}


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.random(PATCH) < 0.4
    return label.astype(np.float32), label, np.ones(PATCH, dtype=bool)


def chain(**changes: float):
    return augmentation(Augmentation(**{**NONE, **changes}), PATCH)


def test_nothing_asked_for_changes_nothing() -> None:
    image, label, valid = augmented(chain(), *arrays(), seed=1)
    assert image.shape == label.shape == valid.shape == (1, *PATCH)
    assert (image.dtype, label.dtype, valid.dtype) == (torch.float32, torch.float32, torch.bool)
    assert np.array_equal(image[0].numpy(), arrays()[0])
    assert np.array_equal(label[0].numpy(), arrays()[1])
    assert valid.all()


def test_same_seed_same_patch_in_any_thread_chain_and_order() -> None:
    original = augmentation(Augmentation(), PATCH)

    def one(seed: int) -> list[bytes]:
        return [part.numpy().tobytes() for part in augmented(copy.deepcopy(original), *arrays(), seed=seed)]

    expected = [one(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(40))) == expected
    used = copy.deepcopy(original)
    again = [[p.numpy().tobytes() for p in augmented(used, *arrays(), seed=s)] for s in reversed(range(40))]
    assert again[::-1] == expected
    assert len({each[0] for each in expected}) > 30


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    rule = augmentation(Augmentation(), PATCH)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.random.get_rng_state()
    first = augmented(rule, *arrays(), seed=9)[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(augmented(rule, *arrays(), seed=9)[0], first)


@pytest.mark.parametrize("seed", range(12))
def test_labels_follow_the_image(seed: int) -> None:
    # The image is the label, so whatever moves one and not the other shows.
    image, label, valid = augmented(chain(flip=0.5, rotate=0.75, misalignment=1.0), *arrays(seed), seed=seed)
    assert torch.equal(image[valid], label[valid])
    assert torch.all(image[~valid] == 0)


def test_flips_and_turns_reach_every_orientation_of_a_square() -> None:
    corner = np.zeros(PATCH, dtype=np.float32)
    corner[0, 0, 1] = 1
    rule = chain(flip=0.5, rotate=0.75)
    images = [augmented(rule, corner, corner > 0, corner >= 0, seed=seed)[0] for seed in range(300)]
    seen = {tuple(np.argwhere(image[0].numpy())[0]) for image in images}
    assert len(seen) == 16  # eight of the square, two along z


def test_patches_that_are_not_square_are_not_turned() -> None:
    rule = augmentation(Augmentation(rotate=1.0), (2, 4, 8))
    image = np.zeros((2, 4, 8), dtype=np.float32)
    assert augmented(rule, image, image > 0, image == 0, seed=0)[0].shape == (1, 2, 4, 8)


@pytest.mark.parametrize("seed", range(8))
def test_misalignment_moves_the_sections_behind_and_ignores_what_rolls_in(seed: int) -> None:
    image, label, _ = arrays(seed)
    moved, _, valid = augmented(chain(misalignment=1.0, max_shift=5), image, label, np.ones(PATCH, bool), seed=seed)
    sections = [z for z in range(PATCH[0]) if not np.array_equal(moved[0, z].numpy(), image[z])]
    if not sections:  # a shift by nothing
        assert valid.all()
        return
    assert sections == list(range(sections[0], PATCH[0]))
    assert sections[0] >= 1
    assert valid[0, : sections[0]].all()
    rows, columns = valid[0, -1].any(1).numpy(), valid[0, -1].any(0).numpy()
    assert (~rows).sum() <= 5
    assert (~columns).sum() <= 5
    matches = [
        (dy, dx)
        for dy in range(-5, 6)
        for dx in range(-5, 6)
        if np.array_equal(
            np.roll(image, (dy, dx), (1, 2))[sections[0] :][:, rows][:, :, columns],
            moved[0].numpy()[sections[0] :][:, rows][:, :, columns],
        )
    ]
    assert len(matches) == 1
    assert sum(map(abs, matches[0])) == (~rows).sum() + (~columns).sum()


def test_a_shift_beyond_the_patch_leaves_nothing_valid_behind() -> None:
    rule = RandMisalignmentd(1.0, 40)
    data = {key: torch.ones(1, 3, 8, 8) for key in ("image", "label", "valid")}
    for seed in range(30):
        rule.set_random_state(seed)
        shift = np.random.RandomState(seed)
        shift.random()
        shift.randint(1, 3)
        by = [int(shift.randint(-40, 41)) for _ in range(2)]
        last = rule({key: value.clone() for key, value in data.items()})["valid"][0, -1]
        assert last.sum() == max(8 - abs(by[0]), 0) * max(8 - abs(by[1]), 0)


def test_a_missing_section_is_blank_inside_and_keeps_its_label() -> None:
    image, label, valid = arrays()
    found = set()
    for seed in range(40):
        changed, kept, still = augmented(chain(missing_section=1.0), image + 1, label, valid, seed=seed)
        blank = [z for z in range(PATCH[0]) if not changed[0, z].any()]
        assert len(blank) == 1
        found |= set(blank)
        assert np.array_equal(kept[0].numpy(), label)
        assert still.all()
    assert found == set(range(1, PATCH[0] - 1))


@pytest.mark.parametrize("change", ["intensity", "section_contrast"])
def test_grey_changes_leave_label_and_valid_alone(change: str) -> None:
    image, label, valid = arrays()
    valid = valid & (np.arange(16) < 11)
    changed, kept, still = augmented(chain(**{change: 1.0}), image, label, valid, seed=4)
    assert not np.array_equal(changed[0].numpy(), image)
    assert np.array_equal(kept[0].numpy(), label)
    assert np.array_equal(still[0].numpy(), valid)


def test_section_contrast_differs_between_sections() -> None:
    rule = RandSectionContrastd(1.0)
    rule.set_random_state(0)
    out = rule({"image": torch.full((1, 5, 4, 4), 0.7)})["image"]
    levels = out[0, :, 0, 0]
    assert torch.all(out == levels[None, :, None, None])
    assert len(set(levels.tolist())) == 5


def test_transforms_do_not_change_what_they_are_given() -> None:
    for rule in (RandMissingSectiond(1.0), RandMisalignmentd(1.0, 4), RandSectionContrastd(1.0)):
        data = {key: torch.rand(1, 5, 8, 8) for key in ("image", "label", "valid")}
        before = {key: value.clone() for key, value in data.items()}
        rule.set_random_state(1)
        rule(data)
        assert all(torch.equal(data[key], before[key]) for key in data)


def test_probabilities_are_checked() -> None:
    with pytest.raises(ValidationError):
        Augmentation(flip=1.5)
    with pytest.raises(ValidationError):
        Augmentation(max_shift=-1)
