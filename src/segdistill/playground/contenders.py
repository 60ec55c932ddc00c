"""The networks on the page, the images that it takes, and what the networks predict of them."""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from segdistill.datasets.reading.images import RGB
from segdistill.datasets.reading.rasters import TIFF
from segdistill.errors import UserError
from segdistill.exporting.sample_images import splits_of, spread_images
from segdistill.networks.size import count_parameters
from segdistill.prediction.images_in import Picture, read_picture
from segdistill.prediction.prediction import Prediction
from segdistill.prediction.predictor import Predictor, open_predictor
from segdistill.reporting.picture import photograph

MOST_PIXELS = 25_000_000
"""Of an image; one of 5000 x 5000 takes a large network on a CPU minutes."""

EXAMPLES = 6
"""Images of the validation split that the page offers."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""What is decoded of strangers' files; PIL knows more, and runs a program for some of them."""

_PASSES, _SECONDS = 5, 1.0


@dataclass(frozen=True)
class Contender:
    """A network on the page.

    Attributes:
        name: the last part of its path; more of it where two are alike.
        path: of its run folder or file.
        predictor: its scores.
        parameters: how many; None for an exported file, which does not say.
    """

    name: str
    path: Path
    predictor: Predictor
    parameters: int | None


@dataclass(frozen=True, eq=False)
class TimedLabels:
    """The labels that a network predicts for an image, and its time.

    Attributes:
        labels: the class of each pixel, uint8 (H, W).
        milliseconds: median time of a few passes over the whole image.
        shares: of each class among the pixels that have data, in 0..1.
    """

    labels: Tensor
    milliseconds: float
    shares: tuple[float, ...]


def open_contenders(runs: Sequence[str], device: str = "auto") -> list[Contender]:
    """The networks, ready to predict RGB images.

    Raises:
        UserError: none, one twice, one that cannot be read or takes other images, or other classes than the first's.
    """
    if not runs:
        raise UserError("runs names no run; expected run folders or exported files, such as runs/teacher runs/student")
    paths = [Path(run) for run in runs]
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise UserError(f"{path} is given {count} times; expected different runs")
    names = _names(paths)
    contenders: list[Contender] = []
    for path, name in zip(paths, names, strict=True):
        predictor = open_predictor(path, device)
        if predictor.in_channels != 3 or predictor.bands not in (None, RGB):
            bands = "" if predictor.bands is None else f", bands {list(predictor.bands)}"
            raise UserError(
                f"{path} takes {predictor.in_channels} channels{bands}; the page shows RGB images, so use segdistill "
                "predict for that one"
            )
        predictor.description.check_pixels("uint8", "an image on the page")
        first = contenders[0] if contenders else None
        if first is not None and predictor.classes != first.predictor.classes:
            raise UserError(
                f"{path} has the classes {_listed(predictor.classes)}, but {first.path} has "
                f"{_listed(first.predictor.classes)}; expected runs of the same classes"
            )
        network = predictor.model.scorer
        parameters = count_parameters(network) if isinstance(network, nn.Module) else None
        contenders.append(Contender(name, path, predictor, parameters))
    return contenders


def predicted(contender: Contender, image: Picture) -> TimedLabels:
    """The labels of an image of any size, and how long they took.

    Raises:
        UserError: the network fails on that image, as some do on very small ones.
    """
    times: list[float] = []
    while not times or (len(times) < _PASSES and sum(times) < _SECONDS):
        began = time.perf_counter()
        try:
            labels = Prediction(contender.predictor.model, image).label_map()
        except UserError:
            raise
        except Exception as error:  # a network is anybody's code
            height, width = image.size
            raise UserError(f"{contender.name} fails on an image of {width} x {height} pixels: {error}") from error
        times.append(time.perf_counter() - began)
    classes = len(contender.predictor.classes)
    counts = torch.bincount(labels.flatten(), minlength=classes)[:classes]  # 255 has no data
    shares = (counts / counts.sum().clamp(min=1)).tolist()
    return TimedLabels(labels, 1000 * statistics.median(times), tuple(shares))


def read_dropped(path: Path) -> Picture:
    """An image that somebody dropped, uint8 (3, H, W); read as training reads it: CMYK, grey and palette become RGB.

    Raises:
        UserError: no image, a broken one, one of more than 8 bits per channel, or of too many pixels. The sentence
            names the file without its folder.
    """
    name = path.name
    if path.stat().st_size == 0:
        raise UserError(f"{name} is empty: it has 0 bytes")
    try:
        with warnings.catch_warnings():
            # From half the size on at which it refuses, PIL warns of what may be an attack on the memory.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as header:
                (width, height), mode = header.size, header.mode
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels; expected at most {MOST_PIXELS / 1e6:.0f} million") from None
    except (OSError, ValueError, SyntaxError):
        if path.suffix.lower() in TIFF:
            raise UserError(
                f"{name} cannot be read here, it is damaged or not of 8 bits with 1, 3 or 4 bands; expected an RGB "
                "image (segdistill predict reads other GeoTIFFs)"
            ) from None
        known = ", ".join(FORMATS)
        raise UserError(f"{name} cannot be read, it is damaged or no image; expected one of {known}") from None
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name} has {width} x {height} pixels, {width * height / 1e6:.0f} million; expected at most "
            f"{MOST_PIXELS / 1e6:.0f} million (segdistill predict takes images of any size)"
        )
    if mode.startswith(("I", "F")):
        raise UserError(f"{name} has more than 8 bits per channel ({mode}); expected an image of 8 bits")
    try:
        return read_picture(path)
    except UserError as error:
        told = str(error).replace(str(path), name)
        raise UserError(
            f"{name} cannot be decoded, it is truncated or damaged" if "truncated" in told else told
        ) from None


def example_images(contenders: Sequence[Contender], folder: Path) -> tuple[list[Path], str]:
    """Some validation images of the first run whose data can be read, as PNGs in ``folder``; or none, and why."""
    trouble = ""
    for contender in contenders:
        if not contender.path.is_dir():
            continue
        splits, why = splits_of(contender.path, ["val"], len(contender.predictor.classes))
        if splits:
            folder.mkdir()
            files = []
            for number, image in enumerate(spread_images(splits["val"], EXAMPLES), start=1):
                files.append(folder / f"validation-{number}.png")
                photograph(image).save(files[-1])
            return files, ""
        trouble = trouble or f"{contender.path}: {why}"
    return [], trouble or "exported files name no data"


def _names(paths: Sequence[Path]) -> list[str]:
    """The end of each path, as short as tells it from the others.

    Example:
        >>> _names([Path("runs/teacher"), Path("cells/kd/seed-0"), Path("cells/none/seed-0")])
        ['teacher', 'kd/seed-0', 'none/seed-0']
    """

    def end(path: Path, length: int) -> str:
        return "/".join(path.parts[-length:]) or str(path)

    longest = max(len(path.parts) for path in paths)
    ends = {length: Counter(end(path, length) for path in paths) for length in range(1, longest + 1)}
    return [
        next((end(path, length) for length in ends if ends[length][end(path, length)] == 1), str(path))
        for path in paths
    ]


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
