"""Where training patches lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.tasks.positives import index_positives
from synbb.tasks.sampling import PatchSampler, SampledVolume
from synbb.volumes import Box

PATCH = (2, 4, 4)
LEFT, RIGHT = Box((0, 0, 0), (4, 12, 10)), Box((3, 20, 5), (8, 30, 25))


def volume(regions=(LEFT, RIGHT), positives=((1, 5, 5), (4, 21, 6)), owners=(0, 1), weight=1.0) -> SampledVolume:
    found = np.array(positives, dtype=np.int32).reshape(-1, 3)
    return SampledVolume("it", tuple(regions), weight, found, np.array(owners, dtype=np.int32)[: len(found)])


def sampler(*volumes: SampledVolume, fraction: float = 0.5, seed: int = 0, patch=PATCH) -> PatchSampler:
    return PatchSampler(list(volumes) or [volume()], patch, positive_fraction=fraction, seed=seed)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0]))
def test_patches_lie_inside_a_region(step: int, item: int, seed: int, fraction: float) -> None:
    patch = sampler(fraction=fraction, seed=seed).draw(step, item)
    assert patch.box.shape == PATCH
    assert any(region.contains(patch.box) for region in (LEFT, RIGHT))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_positive_patches_contain_a_positive_of_their_own_region(step: int, item: int) -> None:
    box = sampler(fraction=1.0).draw(step, item).box
    at, region = ((1, 5, 5), LEFT) if LEFT.contains(box) else ((4, 21, 6), RIGHT)
    assert region.contains(box)
    assert all(a <= p < b for a, p, b in zip(box.start, at, box.stop, strict=True))


def test_a_positive_may_lie_anywhere_in_its_patch() -> None:
    rule = sampler(volume(positives=[(2, 6, 5)], owners=[0]), fraction=1.0)
    starts = {rule.draw(step, 0).box.start for step in range(2000)}
    assert len(starts) == np.prod(PATCH)


def test_a_draw_depends_on_seed_step_and_item_alone() -> None:
    one, two = sampler(seed=5), sampler(seed=5)
    backwards = [two.draw(step, item) for step in reversed(range(20)) for item in reversed(range(4))]
    assert [one.draw(step, item) for step in range(20) for item in range(4)] == backwards[::-1]
    assert one.draw(0, 0) != sampler(seed=6).draw(0, 0)
    assert one.draw(1, 0) != one.draw(0, 1)


def test_uniform_patches_are_uniform_over_all_places() -> None:
    rule = sampler(fraction=0.0)
    starts = [rule.draw(step, 0).box.start for step in range(20_000)]
    rooms = [np.prod([s - p + 1 for s, p in zip(region.shape, PATCH, strict=True)]) for region in (LEFT, RIGHT)]
    inside = np.mean([LEFT.contains(Box.of_shape(PATCH, start)) for start in starts])
    assert inside == pytest.approx(rooms[0] / sum(rooms), abs=0.015)
    places, counts = np.unique(np.array(starts), axis=0, return_counts=True)
    assert len(places) == sum(rooms)
    expected = len(starts) / len(places)
    assert counts.mean() == pytest.approx(expected)
    assert counts.var() == pytest.approx(expected, rel=0.2)  # Poisson


def test_weights_and_rooms_decide_between_volumes() -> None:
    one = {"positives": [(1, 5, 5)], "owners": [0]}
    pair = volume([LEFT], weight=4.0, **one), volume([Box((0, 0, 0), (4, 12, 31))], **one)
    uniform, positive = sampler(*pair, fraction=0.0), sampler(*pair, fraction=1.0)
    assert np.mean([uniform.draw(step, 0).volume for step in range(4000)]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([positive.draw(step, 0).volume for step in range(4000)]) == pytest.approx(0.2, abs=0.03)


def test_volumes_without_positives_are_drawn_uniformly_only() -> None:
    negative = volume(positives=())
    assert {sampler(negative, volume(), fraction=1.0).draw(step, 0).volume for step in range(50)} == {1}
    assert {sampler(negative, volume(), fraction=0.0).draw(step, 0).volume for step in range(50)} == {0, 1}


def test_the_share_of_positive_patches() -> None:
    rule = sampler(volume(regions=[Box((0, 0, 0), (50, 500, 500))], positives=[(7, 7, 7)], owners=[0]), fraction=0.3)
    near = [all(s <= 7 < s + p for s, p in zip(rule.draw(i, 0).box.start, PATCH, strict=True)) for i in range(3000)]
    assert np.mean(near) == pytest.approx(0.3, abs=0.03)


def test_calibration_patches_are_the_same_at_every_call() -> None:
    assert [sampler().draw_uniform(i) for i in range(9)] == [sampler().draw_uniform(i) for i in range(9)]


def test_patch_larger_than_region() -> None:
    with pytest.raises(SynbbError, match=r"data.patch \[2, 4, 11\] is larger than region 0:4,0:12,0:10 .*'it'"):
        sampler(patch=(2, 4, 11))


def test_no_positive_voxel_in_the_whole_training_set() -> None:
    with pytest.raises(SynbbError, match=r"no foreground voxel.*data.positive_fraction=0"):
        sampler(volume(positives=()), volume(positives=()))
    sampler(volume(positives=()), fraction=0.0)


def test_index_of_positives_is_complete_and_names_regions() -> None:
    mask = np.random.default_rng(0).random((8, 30, 30)) < 0.1
    found, owners = index_positives([LEFT, RIGHT], (1, 1, 1), lambda box: mask[box.slices])
    for number, region in enumerate((LEFT, RIGHT)):
        expected = np.argwhere(mask[region.slices]) + np.array(region.start)
        assert {tuple(row) for row in found[owners == number]} == {tuple(row) for row in expected}
    assert len(found) == mask[LEFT.slices].sum() + mask[RIGHT.slices].sum()


def test_index_of_positives_is_bounded_and_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synbb.tasks.positives.BLOCK_VOXELS", 2000)
    region = Box((0, 0, 0), (64, 40, 50))
    held = []
    found, _ = index_positives([region], (1, 1, 1), lambda box: held.append(box) or np.ones(box.shape, bool), most=5000)
    assert len(held) > 30
    assert 1500 < len(found) <= 5000
    assert found[:, 0].mean() == pytest.approx(31.5, abs=1.5)  # early and late blocks alike
