"""Scores of volumes: voxels, objects, pictures and the report."""

from synbb.evaluation.detection import DetectionScores, ObjectTable, score_by_distance, score_by_overlap
from synbb.evaluation.evaluate import evaluate_volumes
from synbb.evaluation.labels import foreground_and_valid
from synbb.evaluation.report import write_scores
from synbb.evaluation.voxels import ScoreHistogram, score_volumes

__all__ = [
    "DetectionScores",
    "ObjectTable",
    "ScoreHistogram",
    "evaluate_volumes",
    "foreground_and_valid",
    "score_by_distance",
    "score_by_overlap",
    "score_volumes",
    "write_scores",
]
