from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segdistill.datasets import COCOPolygons, YOLOPolygons
from segdistill.errors import UserError
from segdistill.inspection.check import check_data
from segdistill.recipe.data import build_data, keep_decoded

pytest.importorskip("rasterio")

SIZE = 20, 30
SQUARE = [4, 2, 24, 2, 24, 18, 4, 18]
WHEEL = [10, 6, 14, 6, 14, 10, 10, 10]
#: What COCO's own tools (pycocotools 2.0.11) made of the mask of `test_run_length_masks_of_crowds`.
RUNS = "P28<0000000000000000000000000000000`5IgJ"
TRIANGLE = [0.0, 0.0, 30.0, 0.0, 0.0, 20.0]


def expected(background: bool = True) -> np.ndarray:
    labels = np.full(SIZE, 0 if background else 255)
    labels[2:18, 4:24] = 1 if background else 0
    labels[6:10, 10:14] = 2 if background else 1
    return labels


def coco(
    root: Path, segmentations: list[tuple[int, Any]], where: str = "annotations/train.json", **of_image: Any
) -> None:
    image = {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]} | of_image
    content = {
        "images": [image],
        "categories": [{"id": 9, "name": "wheel"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": kind, "segmentation": shape}
            for n, (kind, shape) in enumerate(segmentations)
        ],
    }
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).write_text(json.dumps(content))
    (root / "images/train").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (9, 80, 200)).save(root / "images/train/a.png")


@pytest.mark.parametrize("where", ["annotations/train.json", "annotations/instances_train2017.json", "train.json"])
@pytest.mark.parametrize("background", [True, False])
def test_coco_polygons_become_labels(tmp_path: Path, where: str, background: bool) -> None:
    """The smaller object lies on top, whatever the order; classes are in the order of their ids."""
    coco(tmp_path, [(9, [WHEEL]), (3, [SQUARE])], where)
    dataset = COCOPolygons(tmp_path, background=background)
    assert dataset.classes == (("background",) if background else ()) + ("car", "wheel")
    image, labels = dataset[0]
    assert image[:, 0, 0].tolist() == [9, 80, 200]
    assert (labels.numpy() == expected(background)).all()
    assert dataset.labels(0).equal(labels)
    assert COCOPolygons(tmp_path, resize=(10, 15))[0][1].shape == (10, 15)


def test_an_object_of_several_parts_and_a_pixel_by_its_centre(tmp_path: Path) -> None:
    coco(tmp_path, [(3, [TRIANGLE, [26, 16, 30, 16, 30, 20, 26, 20]])])
    labels = COCOPolygons(tmp_path)[0][1].numpy()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = (x / 30 + y / 20 < 1) | ((x > 26) & (y > 16))
    edge = np.abs(x / 30 + y / 20 - 1) < 1e-6
    assert ((labels == 1) == inside)[~edge].all()


@pytest.mark.parametrize(
    ("shape", "of_image", "told"),
    [
        (
            [[1, 2, 3, 4]],
            {},
            "train.json, a.png, holds a polygon of 4 numbers; expected x and y of three corners or more",
        ),
        ({"counts": "abc", "size": [20, 30]}, {}, "a.png, holds a run-length mask that cannot be read: Invalid RLE"),
        ({"counts": "", "size": [20, 30]}, {}, "a.png, holds a run-length mask that cannot be read: it has no counts"),
        ({"counts": None, "size": [20, 30]}, {}, "that cannot be read: it has no counts"),
        ({"counts": [3, 4], "size": [20, 30]}, {}, "that cannot be read: it has 7 pixels, expected 600"),
        ({"counts": [], "size": [20, 30]}, {}, "that cannot be read: it has no counts"),
        ({"counts": ["a", 600], "size": [20, 30]}, {}, "holds a run-length mask that cannot be read: "),
        ({"counts": [600], "size": None}, {}, "that cannot be read: its size is None, expected that of the image"),
        ({"counts": [600], "size": [30, 20]}, {}, r"its size is \[30, 20\], expected that of the image, \[20, 30\]"),
        ([SQUARE], {"height": 30, "width": 20}, "says that a.png is 20 x 30 pixels, but it is 30 x 20"),
        ([], {}, "train.json, a.png, holds an object without a polygon; expected its outline"),
        ([SQUARE], {"file_name": "b.png"}, "1 image named in .*train.json not there: b.png"),
    ],
)
def test_what_is_wrong_in_a_coco_file(tmp_path: Path, shape: Any, of_image: dict[str, Any], told: str) -> None:
    coco(tmp_path, [(3, shape)], **of_image)
    if isinstance(shape, dict):
        pytest.importorskip("pycocotools")
    with pytest.raises(UserError, match=told):
        COCOPolygons(tmp_path)[0]


@pytest.mark.parametrize("compressed", [False, True])
def test_run_length_masks_of_crowds(tmp_path: Path, compressed: bool) -> None:
    """Runs go down the columns, from pixels outside on; a smaller polygon lies on top, a larger one below."""
    pytest.importorskip("pycocotools")
    crowd = np.zeros(SIZE, bool)
    crowd[4:12, 3:20] = crowd[0, 29] = True
    runs, inside = [0], False
    for pixel in crowd.T.flatten():
        if pixel != inside:
            runs, inside = [*runs, 0], pixel
        runs[-1] += 1
    counts = RUNS if compressed else runs
    small, large = [[5, 6, 9, 6, 9, 9, 5, 9]], [[0, 0, 30, 0, 30, 20, 0, 20]]
    coco(tmp_path, [(3, small), (9, {"counts": counts, "size": list(SIZE)}), (3, large)])
    expected = np.where(crowd, 2, 1)
    expected[6:9, 5:9] = 1
    assert (COCOPolygons(tmp_path)[0][1].numpy() == expected).all()


def changed(root: Path, change: Any) -> None:
    file = root / "annotations/train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        # The second entry of a file took the labels of the image after it.
        (lambda found: found["images"].insert(0, {**found["images"][0], "id": 6}), "has the image 'a.png' 2 times"),
        (lambda found: found["images"].append({**found["images"][0], "file_name": "b.png"}), "the image id 7 2 times"),
        (lambda found: found["categories"].append({"id": 3, "name": "bus"}), "has the category id 3 2 times"),
    ],
)
def test_what_stands_twice_in_a_coco_file(tmp_path: Path, change: Any, told: str) -> None:
    coco(tmp_path, [(3, [SQUARE])])
    changed(tmp_path, change)
    with pytest.raises(UserError, match=told):
        COCOPolygons(tmp_path)


def test_only_a_category_that_holds_others_is_no_class(tmp_path: Path) -> None:
    """COCO's own "person" holds itself: a split without people has it still, or all later classes would move up."""
    coco(tmp_path, [(9, [SQUARE])])

    def held(content: Any) -> None:
        content["categories"] = [
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 3, "name": "person", "supercategory": "person"},
            {"id": 9, "name": "wheel", "supercategory": "things"},
        ]

    changed(tmp_path, held)
    assert COCOPolygons(tmp_path).classes == ("background", "person", "wheel")


def test_a_file_that_is_not_of_coco(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="is no COCO file of images, categories and annotations: the key 'categories'"):
        COCOPolygons(tmp_path)
    with pytest.raises(UserError, match="has no split 'val'"):
        COCOPolygons(tmp_path, split="val")


def yolo(root: Path, text: str | None, form: str = "{kind}/{split}") -> None:
    for split in ("train", "valid"):
        images, labels = (root / form.format(kind=kind, split=split) for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        Image.new("RGB", SIZE[::-1], (9, 80, 200)).save(images / "a.jpg")
        if text is not None:
            (labels / "a.txt").write_text(text)


def line(kind: int, corners: list[int]) -> str:
    shares = [corner / SIZE[1 - at % 2] for at, corner in enumerate(corners)]
    return " ".join(map(str, [kind, *shares]))


@pytest.mark.parametrize("form", ["{kind}/{split}", "{split}/{kind}"])
def test_yolo_polygons_become_labels(tmp_path: Path, form: str) -> None:
    yolo(tmp_path, f"{line(1, WHEEL)}\n{line(0, SQUARE)}\n\n", form)
    for split in ("train", "val"):
        dataset = YOLOPolygons(tmp_path, ("car", "wheel"), split=split)
        assert (dataset[0][1].numpy() == expected()).all()
    (tmp_path / "data.yaml").write_text("names: {0: car, 1: wheel}\n")
    assert YOLOPolygons(tmp_path).classes == ("background", "car", "wheel")
    data = {"dataset": "yolo-polygons", "root": str(tmp_path), "classes": ["car", "wheel"]}
    assert check_data(data=data, quiet=True).splits["train"].counts.pixels.tolist() == [280, 304, 16]


def test_an_image_without_a_text_file_has_no_object(tmp_path: Path) -> None:
    yolo(tmp_path, None)
    assert not YOLOPolygons(tmp_path, ("car", "wheel"))[0][1].any()


def test_text_files_and_names_that_would_be_passed_over(tmp_path: Path) -> None:
    yolo(tmp_path, line(0, SQUARE))
    (tmp_path / "labels/train/classes.txt").write_text("car\nwheel\n")
    assert (YOLOPolygons(tmp_path, ("car", "wheel"))[0][1] == 1).sum() == 320
    (tmp_path / "data.yaml").write_text("names: {1: car, 2: wheel}\n")
    with pytest.raises(UserError, match="expected the classes' names as a list, or by their numbers from 0 on"):
        YOLOPolygons(tmp_path)
    (tmp_path / "labels/train/a.txt").rename(tmp_path / "labels/train/a-1.txt")
    with pytest.raises(UserError, match=r"1 text file of .*labels/train without an image of the same stem in .*: a-1"):
        YOLOPolygons(tmp_path, ("car", "wheel"))
    (tmp_path / "labels/train").rename(tmp_path / "labels/training")
    with pytest.raises(UserError, match=r"the folder .*labels/train does not exist"):
        YOLOPolygons(tmp_path, ("car", "wheel"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 0.5 0.5 0.2 0.2", "a.txt, line 1, is a box; expected a polygon"),
        ("2 0 0 1 0 1 1", "a.txt, line 1, is of class 2; expected 0 to 1"),
        ("car 0 0 1 0 1 1", "a.txt, line 1, is 'car 0 0 1 0 1 1'; expected numbers"),
        ("0 0 0 1 0 1", "a.txt, line 1, holds a polygon of 5 numbers"),
        ("0 4 2 24 2 24 18", r"a.txt, line 1, has a corner at 24; expected shares of the image's width and height"),
        ("1.5 0 0 1 0 1 1", "a.txt, line 1, is '1.5 0 0 1 0 1 1'; expected numbers"),
    ],
)
def test_what_is_wrong_in_a_yolo_file(tmp_path: Path, text: str, told: str) -> None:
    yolo(tmp_path, text)
    with pytest.raises(UserError, match=told):
        YOLOPolygons(tmp_path, ("car", "wheel"))[0]
    with pytest.raises(UserError, match=r"classes are not given, and there is no .*data\.yaml that names them"):
        YOLOPolygons(tmp_path)


def test_images_without_a_text_file_can_be_kept_decoded(tmp_path: Path) -> None:
    yolo(tmp_path, None)
    values = {"dataset": "yolo-polygons", "root": str(tmp_path), "classes": ["car", "wheel"], "decoded_cache": "ram"}
    assert not keep_decoded(build_data(values), Console(quiet=True)).train[0][1].any()
