"""The face network: shapes, its wiring for pruning, the margin loss by hand."""

from __future__ import annotations

import math

import pytest
import torch

from synbb.errors import SynbbError
from synbb.models.face_resnet import LAYERS, build_face_resnet, cosine_margin_loss
from synbb.pruning import BudgetedBroadcast, trace


@pytest.mark.parametrize("depth", sorted(LAYERS))
def test_cosines_and_unit_embeddings(depth: int) -> None:
    torch.manual_seed(0)
    net = build_face_resnet(identities=5, depth=depth, width=4, embedding=16).eval()
    images = torch.randn(3, 1, 48, 40)
    with torch.no_grad():
        cosines, vectors = net(images), net.embed(images)
    assert cosines.shape == (3, 5)
    assert vectors.shape == (3, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert float(cosines.abs().max()) <= 1 + 1e-6
    torch.testing.assert_close(cosines, vectors @ torch.nn.functional.normalize(net.prototypes).T)


def test_cosines_are_exact_though_the_backbone_is_in_eight_bits() -> None:
    net = build_face_resnet(identities=7, width=8, embedding=16)
    with torch.no_grad():
        net.prototypes[0] = net.eval().embed(torch.ones(1, 1, 32, 32))[0]
        with torch.autocast("cpu", torch.bfloat16):
            embedding, cosines = net.embed(torch.ones(1, 1, 32, 32)), net(torch.ones(1, 1, 32, 32))
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, embedding @ torch.nn.functional.normalize(net.prototypes).T, rtol=0, atol=1e-6)


def test_every_layer_but_the_first_is_masked_through_the_sums() -> None:
    net = build_face_resnet(identities=5, depth=18, width=4, embedding=16)
    wiring = trace(net, torch.zeros(1, 1, 48, 40))
    # A stage's stream sums its blocks: the units behind a sum are read by the next block and by its shortcut.
    readers = {name: layer for layer in wiring.layers for name in [layer.name]}
    assert set(readers["backbone.layer2.0.conv1"].reads[1]) == set(readers["backbone.layer2.0.downsample.0"].reads[1])
    pruner = BudgetedBroadcast(density=0.5, warmup=1, ramp=2, refresh=1, gate=0)
    with pytest.warns(UserWarning, match="without optimizer"):
        pruner.attach(net, torch.zeros(1, 1, 48, 40))
    masked = {layer.name for layer in pruner.layers}
    assert "backbone.conv1" not in masked
    assert len(masked) == 20  # 16 convolutions of blocks, 3 shortcuts, the embedding


def test_margin_loss_by_hand() -> None:
    cosines, identity = torch.tensor([[0.5, 0.1]]), torch.tensor([0])
    plain = math.log(1 + math.exp(10 * (0.1 - 0.5)))
    lead = math.log(1 + math.exp(10 * (0.1 - 0.3)))
    assert float(cosine_margin_loss(cosines, identity, scale=10, margin=0)) == pytest.approx(plain, rel=1e-5)
    assert float(cosine_margin_loss(cosines, identity, scale=10, margin=0.2)) == pytest.approx(lead, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"depth": 20}, "depth 20"), ({"width": 0}, "must all be positive"), ({"stem": 4}, "stem 4 must be an odd")],
)
def test_what_makes_no_network(changes: dict[str, int], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        build_face_resnet(**{"identities": 3, **changes})
