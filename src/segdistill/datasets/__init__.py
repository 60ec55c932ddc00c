"""Data sets: images with a class per pixel. One file each; names become strings only in recipes."""

from segdistill.datasets.base import SegmentationDataset
from segdistill.datasets.camvid import CamVid
from segdistill.datasets.checking import LabelCounts, check_dataset
from segdistill.datasets.folder import Folder
from segdistill.datasets.synthetic_aerial import SyntheticAerial

DATASETS: dict[str, type[SegmentationDataset]] = {
    "camvid": CamVid,
    "folder": Folder,
    "synthetic-aerial": SyntheticAerial,
}
"""The names that recipes and the command line use."""

__all__ = [
    "DATASETS",
    "CamVid",
    "Folder",
    "LabelCounts",
    "SegmentationDataset",
    "SyntheticAerial",
    "check_dataset",
]
