"""Data sets: images with the class of each pixel, each a class derived from `SegmentationDataset`.

Recipes call them by name, such as ``camvid``.
"""

# The classes are imported when they are first used, so that the names are known without torch.

from typing import TYPE_CHECKING

from segdistill.lazy import LazyTable, attributes_of

if TYPE_CHECKING:
    from segdistill.datasets.ade20k import ADE20K
    from segdistill.datasets.base import SegmentationDataset
    from segdistill.datasets.camvid import CamVid
    from segdistill.datasets.cityscapes import Cityscapes
    from segdistill.datasets.coco_polygons import COCOPolygons
    from segdistill.datasets.coco_stuff10k import COCOStuff10K
    from segdistill.datasets.folder import Folder
    from segdistill.datasets.images import Images
    from segdistill.datasets.isprs import Potsdam, Vaihingen
    from segdistill.datasets.loveda import LoveDA
    from segdistill.datasets.pascal_context import PascalContext
    from segdistill.datasets.reading.checking import LabelCounts, check_dataset
    from segdistill.datasets.synthetic_aerial import SyntheticAerial
    from segdistill.datasets.voc import VOC
    from segdistill.datasets.yolo_polygons import YOLOPolygons

DATASETS: LazyTable[type["SegmentationDataset"]] = LazyTable(
    {
        "ade20k": "segdistill.datasets.ade20k:ADE20K",
        "camvid": "segdistill.datasets.camvid:CamVid",
        "cityscapes": "segdistill.datasets.cityscapes:Cityscapes",
        "coco-polygons": "segdistill.datasets.coco_polygons:COCOPolygons",
        "coco-stuff10k": "segdistill.datasets.coco_stuff10k:COCOStuff10K",
        "folder": "segdistill.datasets.folder:Folder",
        "images": "segdistill.datasets.images:Images",
        "loveda": "segdistill.datasets.loveda:LoveDA",
        "pascal-context": "segdistill.datasets.pascal_context:PascalContext",
        "potsdam": "segdistill.datasets.isprs:Potsdam",
        "synthetic-aerial": "segdistill.datasets.synthetic_aerial:SyntheticAerial",
        "vaihingen": "segdistill.datasets.isprs:Vaihingen",
        "voc": "segdistill.datasets.voc:VOC",
        "yolo-polygons": "segdistill.datasets.yolo_polygons:YOLOPolygons",
    }
)
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
    "Images",
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

__getattr__ = attributes_of(
    __name__,
    "segdistill.datasets.base:SegmentationDataset",
    "segdistill.datasets.reading.checking:LabelCounts",
    "segdistill.datasets.reading.checking:check_dataset",
    *DATASETS.places.values(),
)
