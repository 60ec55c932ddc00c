"""A network as a folder that its own library loads, with a model card: ready for the Hugging Face hub, not uploaded."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.exporting.model_card import model_card
from segdistill.files import write_text
from segdistill.networks.network import Network
from segdistill.networks.padding import pad_to_multiple
from segdistill.prediction.predictor import Predictor

LIBRARIES = ("smp", "transformers")


def library_of(network: Network, run: str | Path) -> str:
    """The library that loads the network's files by itself.

    Raises:
        UserError: there is none.
    """
    library = (network.spec or "").partition(":")[0]
    if library not in LIBRARIES:
        raise UserError(
            f"format hub is for networks of {' and '.join(LIBRARIES)}, which their own libraries load, but that of "
            f"{run} is {network.spec}; export it to onnx instead"
        )
    return library


def write_folder(
    run: Path, network: Network, predictor: Predictor, folder: Path, check: Callable[[Path], None]
) -> None:
    """Writes the folder, whole or not at all.

    Args:
        run: the run folder.
        network: of the run.
        predictor: of the run.
        folder: must not exist, or be empty: somebody may have filled in the card of an earlier one.
        check: is given the unfinished folder; what it raises stops everything.

    Raises:
        UserError: there is something in ``folder``, or it cannot be written.
    """
    library = library_of(network, run)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"output {folder} exists already; remove it, or choose another --output")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=folder.parent) as temporary:
            made = Path(temporary) / folder.name
            try:
                network.save(made)
            except UserError as error:  # it speaks of the temporary folder
                raise UserError(str(error).replace(str(made), str(folder))) from None
            write_text(made / "README.md", str(model_card(run, network, predictor, library)))
            check(made)
            os.replace(made, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


class HubModel:
    """Such a folder, loaded by its own library alone, as `agreement.compare` wants it.

    Args:
        folder: the folder.
        network: only its mean, standard deviation and padding are used, which the card tells people.
    """

    def __init__(self, folder: Path, network: Network) -> None:
        self._network = network
        if library_of(network, folder) == "smp":
            import segmentation_models_pytorch as smp

            with contextlib.redirect_stdout(io.StringIO()):  # it prints that it loads
                self._model = smp.from_pretrained(folder).eval()
        else:
            import transformers

            self._model = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Class ids, uint8 (B, H, W)."""
        height, width = images.shape[-2:]
        return np.asarray(self.logits(images).argmax(1)[:, :height, :width], dtype=np.uint8)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The class scores, float32 (B, K, H', W')."""
        network, pixels = self._network, torch.from_numpy(images)
        scaled = pad_to_multiple(pixels, network.multiple).float() / (255 if pixels.dtype == torch.uint8 else 1)
        if network.mean is not None and network.std is not None:
            scaled = (scaled - network.mean) / network.std
        with torch.no_grad():
            found = self._model(scaled)
        scores: Tensor = getattr(found, "logits", found)
        scores = F.interpolate(scores, size=scaled.shape[-2:], mode="bilinear", align_corners=False)
        return np.asarray(scores)

    def metadata(self) -> dict[str, str]:
        """None: a card speaks to people."""
        return {}
