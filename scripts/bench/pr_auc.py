"""The streaming PR-AUC beside scikit-learn's: difference and time.

    python scripts/bench/pr_auc.py [--voxels 4194304] [--rounds 5]

Probabilities of a network that is sure of most voxels (logits of two normal distributions), one foreground voxel in
fifty, as uint8 and as float32. The histogram is filled in parts of a million voxels, as from a volume; scikit-learn
has all in memory. Turn by turn in one process, processor time, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
from sklearn.metrics import average_precision_score

from synbb.evaluation.voxels import ScoreHistogram

PART = 2**20


def streaming(probabilities: np.ndarray, truth: np.ndarray) -> float:
    histogram = ScoreHistogram(probabilities.dtype)
    for start in range(0, len(truth), PART):
        part = slice(start, start + PART)
        histogram.add(probabilities[part], truth[part])
    area = histogram.average_precision()
    assert area is not None
    return area


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=2**22)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    truth = generator.random(options.voxels) < 0.02
    logits = generator.standard_normal(options.voxels, np.float32) * 3 + np.where(truth, 2, -6).astype(np.float32)
    sure = 1 / (1 + np.exp(-logits))
    print(f"{options.voxels:,} voxels; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for probabilities in (np.rint(255 * sure).astype(np.uint8), sure):
        ours, theirs = [], []
        for _ in range(options.rounds):
            start = time.process_time()
            area = streaming(probabilities, truth)
            middle = time.process_time()
            expected = float(average_precision_score(truth, probabilities))
            ours.append(middle - start)
            theirs.append(time.process_time() - middle)
        seconds, reference = statistics.median(ours), statistics.median(theirs)
        print(
            f"{probabilities.dtype}: PR-AUC {area:.6f}, differs by {abs(area - expected):.1e}; streaming "
            f"{seconds:.2f} s, scikit-learn {reference:.2f} s, ratio of the times {seconds / reference:.3f}"
        )


if __name__ == "__main__":
    main()
