"""`EvaluateOptions`: the arguments of `segdistill.evaluate`, checked without torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from segdistill.device import check_device
from segdistill.errors import UserError
from segdistill.files import check_json_file
from segdistill.networks.there import check_there
from segdistill.recipe.data_keys import SPLITS, check_keys
from segdistill.recipe.sizes import parse_resize


@dataclass(frozen=True)
class EvaluateOptions:
    """Which network to score, on which data.

    Args:
        model: a run folder, an exported file, such as model.onnx, or a network spec with --weights.
        data: the data set; by default the one that the run was trained on. Without the key dataset, what is given here
            replaces single keys of the run's data: {root: elsewhere}.
        split: the split to score.
        weights: a .safetensors or .pth file with the weights of a network that is given as a spec.
        resize: size to which images are resized before they go through the network, as in predict. auto: that of the
            run, or of the data for a network spec; none: each image's own size; or HEIGHTxWIDTH.
        output: JSON file for the scores; by default evaluation-SPLIT.json in the run folder.
        batch_size: images per batch, at most; images of different size are never in one batch.
        device: auto, cpu, cuda, cuda:N or mps.
        lines: names of classes that are lines, such as [road], whose broken length is measured too (needs
            segdistill[lines]).
        quiet: print nothing.
    """

    model: str | Path
    _: KW_ONLY
    data: dict[str, Any] | None = None
    split: str = "val"
    weights: str | Path | None = None
    resize: str | list[int] = "auto"
    output: str | Path | None = None
    batch_size: int = 8
    device: str = "auto"
    lines: list[str] | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.output is not None:
            check_json_file(self.output, "output")
        check_there(self.model)
        parse_resize(self.resize)
        check_device(self.device)
        if self.data is not None and any(key in self.data for key in ("dataset", *SPLITS)):
            check_keys(self.data)
