"""A copy of a grey volume as another microscope or another day might have given it.

    python scripts/shifted_contrast.py VOLUME OUTPUT.zarr [--gamma 1.8] [--noise 12] [--seed 0]

A power of the grey value (darker, contrast moved to the bright end), then Gaussian noise in grey values. Scores on it
say how well a network trained on the original bears a shift that no normalisation of range takes back.
"""

from __future__ import annotations

import argparse

import numpy as np

from synbb.volumes import create_volume, open_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume")
    parser.add_argument("output")
    parser.add_argument("--gamma", type=float, default=1.8)
    parser.add_argument("--noise", type=float, default=12.0, help="standard deviation in grey values of 0 to 255")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    volume = open_volume(options.volume)
    if volume.dtype != np.uint8:
        raise SystemExit(f"{options.volume} has values of type {volume.dtype}; give a volume of 8-bit grey values")
    copy = create_volume(options.output, shape=volume.shape, dtype=np.uint8, voxel_size=volume.voxel_size)
    for box in volume.box.blocks(copy.unit):
        rng = np.random.default_rng([options.seed, *box.start])
        grey = 255 * (volume.read(box) / 255) ** options.gamma
        copy.write(box, np.clip(np.rint(grey + rng.normal(0, options.noise, box.shape)), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
