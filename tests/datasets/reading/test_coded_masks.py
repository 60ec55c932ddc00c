from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.datasets.reading.coded_masks import CodedMaskReader, read_matlab
from segdistill.datasets.reading.files import FileDataset
from segdistill.errors import UserError
from tests.datasets.official_trees import codes_mask, write_matlab
from tests.datasets.trees import write_image, write_mask

CODES = {0: 255, 7: 0, 300: 1, 65535: 2}
READER = CodedMaskReader(CODES, meaning="0, 7, 300 and 65535", variable=("S",))


def expected_labels(values: np.ndarray) -> torch.Tensor:
    return torch.tensor([[CODES[int(value)] for value in row] for row in values])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_every_code_becomes_its_label_in_images(tmp_path: Path, dtype: type) -> None:
    values = codes_mask(CODES, dtype=dtype)
    write_mask(tmp_path / "x.png" if dtype == np.uint16 else tmp_path / "x.tif", values)
    labels = READER.read(next(tmp_path.iterdir()))
    assert labels.dtype == torch.int64
    assert labels.equal(expected_labels(values))


def test_the_numbers_of_palette_images_count_not_their_colours(tmp_path: Path) -> None:
    values = codes_mask([0, 7])
    image = Image.fromarray(values, mode="P")
    image.putpalette([17] * 768)
    image.save(tmp_path / "x.png")
    assert READER.read(tmp_path / "x.png").equal(expected_labels(values))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_every_code_becomes_its_label_in_matlab_files(tmp_path: Path, dtype: type) -> None:
    values = codes_mask(CODES, dtype=dtype)
    write_matlab(tmp_path / "x.mat", {"S": values, "names": np.array(["one", "two"], dtype=object)})
    assert READER.read(tmp_path / "x.mat").equal(expected_labels(values))
    assert READER.size(tmp_path / "x.mat") == (12, 16)


@pytest.mark.parametrize("suffix", [".png", ".mat"])
def test_resizing_takes_nearest_neighbours(tmp_path: Path, suffix: str) -> None:
    values = np.kron(np.array([[0, 7], [300, 7]], dtype=np.uint16), np.ones((2, 3), dtype=np.uint16))
    path = tmp_path / f"x{suffix}"
    if suffix == ".png":
        write_mask(path, values)
    else:
        write_matlab(path, {"S": values})
    assert READER.read(path, (2, 2)).tolist() == [[255, 0], [1, 0]]
    assert READER.read(path, (8, 12)).equal(
        READER.read(path).repeat_interleave(2, 0).repeat_interleave(2, 1)  # the nearest of a doubled size
    )


@pytest.mark.parametrize(
    ("wrong", "named"),
    [([3], "label value 3"), ([65534, 3], "label values 3, 65534"), ([-1, 70000], "label values -1, 70000")],
)
def test_numbers_that_are_no_codes_are_named(tmp_path: Path, wrong: list[int], named: str) -> None:
    write_matlab(tmp_path / "x.mat", {"S": codes_mask([*CODES, *wrong], dtype=np.int32)})
    with pytest.raises(UserError, match=rf"x.mat holds the {named}; expected 0, 7, 300 and 65535$"):
        READER.read(tmp_path / "x.mat")


def test_colour_masks_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x.png is an RGB picture; expected an index mask: 0, 7, 300"):
        READER.read(tmp_path / "x.png")


def test_wrong_matlab_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with pytest.raises(UserError, match=r"x.mat does not exist"):
        read_matlab(path, ("S",))
    write_matlab(path, {"T": np.zeros((2, 2))})
    with pytest.raises(UserError, match=r"x.mat has no variable 'S'; expected the label map there"):
        read_matlab(path, ("S",))
    with pytest.raises(UserError, match=r"x.mat has no variable 'T.field'"):
        read_matlab(path, ("T", "field"))
    write_matlab(path, {"S": {"other": 1}})
    with pytest.raises(UserError, match=r"x.mat has no variable 'S.field'"):
        read_matlab(path, ("S", "field"))
    write_matlab(path, {"S": np.zeros((2, 2, 3))})
    with pytest.raises(UserError, match=r"array of shape \(2, 2, 3\) and type float64 in 'S'; expected a matrix of"):
        read_matlab(path, ("S",))
    for broken in (0.5, np.nan):
        write_matlab(path, {"S": np.full((2, 2), broken)})
        with pytest.raises(UserError, match=r"x.mat holds fractions in 'S'"):
            read_matlab(path, ("S",))
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UserError, match=r"x.mat cannot be read, it is truncated or no MATLAB file"):
        read_matlab(path, ("S",))


def test_a_matlab_file_cut_anywhere_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    write_matlab(path, {"S": codes_mask(CODES, dtype=np.uint16)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x.mat (cannot be read|has no variable)"):
            read_matlab(path, ("S",))


def test_a_matlab_mask_of_another_size_than_its_image_is_told(tmp_path: Path) -> None:
    write_image(tmp_path / "y.jpg", 12, 18)
    write_matlab(tmp_path / "y.mat", {"S": codes_mask(CODES, dtype=np.uint16)})
    classes, palette = ("a", "b", "c"), ("#000000", "#000001", "#000002")
    pair = (tmp_path / "y.jpg", tmp_path / "y.mat")
    dataset = FileDataset([pair], READER, classes=classes, palette=palette, resize=None)
    for read in (dataset.__getitem__, dataset.labels):
        with pytest.raises(UserError, match=r"y.mat is 16 x 12 pixels but its image .*y.jpg is 18 x 12$"):
            read(0)
