"""Data sets: images with a class per pixel. One file each; names become strings only in recipes."""

from segdistill.datasets.ade20k import ADE20K
from segdistill.datasets.base import SegmentationDataset
from segdistill.datasets.camvid import CamVid
from segdistill.datasets.cityscapes import Cityscapes
from segdistill.datasets.coco_polygons import COCOPolygons
from segdistill.datasets.coco_stuff10k import COCOStuff10K
from segdistill.datasets.folder import Folder
from segdistill.datasets.isprs import Potsdam, Vaihingen
from segdistill.datasets.loveda import LoveDA
from segdistill.datasets.pascal_context import PascalContext
from segdistill.datasets.reading.checking import LabelCounts, check_dataset
from segdistill.datasets.synthetic_aerial import SyntheticAerial
from segdistill.datasets.voc import VOC
from segdistill.datasets.yolo_polygons import YOLOPolygons

DATASETS: dict[str, type[SegmentationDataset]] = {
    "ade20k": ADE20K,
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "coco-polygons": COCOPolygons,
    "coco-stuff10k": COCOStuff10K,
    "folder": Folder,
    "loveda": LoveDA,
    "pascal-context": PascalContext,
    "potsdam": Potsdam,
    "synthetic-aerial": SyntheticAerial,
    "vaihingen": Vaihingen,
    "voc": VOC,
    "yolo-polygons": YOLOPolygons,
}
"""The names that recipes and the command line use."""

__all__ = [
    "ADE20K",
    "DATASETS",
    "VOC",
    "COCOPolygons",
    "COCOStuff10K",
    "CamVid",
    "Cityscapes",
    "Folder",
    "LabelCounts",
    "LoveDA",
    "PascalContext",
    "Potsdam",
    "SegmentationDataset",
    "SyntheticAerial",
    "Vaihingen",
    "YOLOPolygons",
    "check_dataset",
]
