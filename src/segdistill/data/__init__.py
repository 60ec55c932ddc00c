"""From a data set to batches: augmentation and loading."""

from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import EpochSampler, TrainingSamples, evaluation_loader, training_loader
from segdistill.data.statistics import BandStatistics, band_statistics

__all__ = [
    "Augmentation",
    "BandStatistics",
    "EpochSampler",
    "TrainingSamples",
    "band_statistics",
    "evaluation_loader",
    "training_loader",
]
