"""From a data set to batches: augmentation and loading."""

from segdistill.data.augmentation import Augmentation
from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples, scored_parts
from segdistill.data.loading import EpochSampler, TrainingSamples, training_loader
from segdistill.data.statistics import BandStatistics, band_statistics

__all__ = [
    "Augmentation",
    "BandStatistics",
    "EpochSampler",
    "EvaluationLoader",
    "EvaluationSamples",
    "TrainingSamples",
    "band_statistics",
    "scored_parts",
    "training_loader",
]
