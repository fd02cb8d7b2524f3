"""Comparisons of pruning methods: many runs, one table, paired differences. Floor 3."""

from synbb.experiments.api import compare
from synbb.experiments.config import StudySettings, load_study

__all__ = ["StudySettings", "compare", "load_study"]
