"""From a data set to batches: augmentation and loading."""

from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import EpochSampler, TrainingSamples, evaluation_loader, training_loader

__all__ = ["Augmentation", "EpochSampler", "TrainingSamples", "evaluation_loader", "training_loader"]
