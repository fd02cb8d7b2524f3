"""What is done with a trained run: predicting volumes and files, naming people, scores on a split of its own."""

from synbb.prediction.files import predict_files
from synbb.prediction.identify import enroll, identify
from synbb.prediction.scores import evaluate_run
from synbb.prediction.trained import Trained
from synbb.prediction.volumes import predict

__all__ = ["Trained", "enroll", "evaluate_run", "identify", "predict", "predict_files"]
