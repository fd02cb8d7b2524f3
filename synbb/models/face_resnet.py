"""The face network: MONAI's ResNet in two dimensions, an embedding, and a cosine head over the trained identities."""

from __future__ import annotations

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from synbb.errors import SynbbError

LAYERS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}
"""Kind of the residual blocks and their number in each of the four stages, by depth (He et al. 2016)."""


class FaceNet(nn.Module):
    """Images to cosines with each identity's prototype, or to embeddings.

    Args:
        backbone: (N, 1, y, x) to (N, embedding).
        embedding: numbers of an embedding.
        identities: prototypes of the head.
    """

    def __init__(self, backbone: nn.Module, embedding: int, identities: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.prototypes = nn.Parameter(torch.randn(identities, embedding))

    def forward(self, images: Tensor) -> Tensor:
        """Cosines (N, identities) of images (N, 1, y, x), float32 whatever the autocast type."""
        embeddings = self.embed(images)
        # Eight bits of a cosine are an error of 0.05 in a logit scaled by 24.
        with torch.autocast(images.device.type, enabled=False):
            return F.linear(embeddings, F.normalize(self.prototypes.float()))

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (N, embedding), float32 whatever the autocast type."""
        return F.normalize(self.backbone(images).float())


def build_face_resnet(
    *, identities: int, depth: int = 18, width: int = 64, embedding: int = 128, stem: int = 3, pool: bool = False
) -> FaceNet:
    """A ResNet for one-channel face images, random weights.

    Args:
        identities: of the training set.
        depth: 18, 34, 50 or 101.
        width: channels of the first stage; each further one has twice as many.
        embedding: numbers of an embedding.
        stem: kernel of the first convolution (stride 2).
        pool: halve the image once more by max pooling, for large images.

    Raises:
        SynbbError: numbers that make no network.
    """
    if depth not in LAYERS:
        raise SynbbError(f"depth {depth} is no ResNet here: choose {', '.join(map(str, LAYERS))}")
    if min(width, embedding, identities) < 1:
        raise SynbbError(
            f"width {width}, embedding {embedding} and {identities} identities must all be positive to make a network"
        )
    if stem < 1 or stem % 2 == 0:
        raise SynbbError(f"stem {stem} must be an odd kernel size, such as 3 or 7")
    block, layers = LAYERS[depth]
    backbone = ResNet(
        block,
        list(layers),
        [width * 2**stage for stage in range(len(layers))],
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_size=stem,
        conv1_t_stride=2,
        no_max_pool=not pool,
        num_classes=embedding,
        bias_downsample=False,
    )
    return FaceNet(backbone, embedding, identities)


def cosine_margin_loss(cosines: Tensor, identity: Tensor, *, scale: float, margin: float) -> Tensor:
    """Cross-entropy of ``scale`` (cos - ``margin`` for the true identity): CosFace (Wang et al. 2018), equation 4.

    Args:
        cosines: (N, identities).
        identity: (N,) int64.
        scale: inverse temperature.
        margin: by which the true identity must lead.
    """
    lead = F.one_hot(identity, cosines.shape[1]).to(cosines.dtype) * margin
    return F.cross_entropy(scale * (cosines - lead), identity)
