"""Errors of torch, Lightning and the data loaders in words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

from segdistill.errors import UserError
from segdistill.networks.normalisation import of_one_number
from segdistill.recipe.data import Data
from segdistill.recipe.train_config import TrainConfig


@contextmanager
def told(fabric: Fabric, config: Mapping[str, Any], data: Data, train: TrainConfig, parts: int) -> Iterator[None]:
    """What goes wrong inside, and a user can mend, comes out as one sentence.

    Args:
        fabric: the processes of the run.
        config: its recipe.
        data: its data.
        train: its hyper-parameters.
        parts: into how many parts each batch falls.

    Raises:
        UserError: for too little memory, a data-loading process or another process of the run that died, and the like.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        methods = ", ".join(name for one in config.get("method", []) for name in one)
        method = f" with {methods}" if methods else ""
        together, crop = train.batch_size // parts, data.augmentation.crop
        what = "images" if crop is None else f"crops of {crop[0]} x {crop[1]}"
        if together > 1:
            factor = next(number for number in range(2, together + 1) if together % number == 0)
            smaller = f"try train.accumulate {factor * train.accumulate} (the same batch in smaller parts)"
        else:
            smaller = "try a data.crop" if crop is None else f"try data.crop of {crop[0] // 2} x {crop[1] // 2}"
        raise UserError(
            f"{fabric.device} has too little memory for batches of {together} {what}{method}: {smaller}"
        ) from error
    except UserError:
        raise
    except ValueError as error:
        if of_one_number(error):
            raise UserError(
                f"a normalisation of the network sees one number per channel at train.batch_size "
                f"{train.batch_size} and this data.crop: raise one of them"
            ) from error
        raise
    except (RuntimeError, ConnectionError, EOFError) as error:
        # Torch notices first, or else whoever reads from the dead process's pipe.
        if "DataLoader worker" in str(error) or not isinstance(error, RuntimeError):
            raise UserError(
                f"a data-loading process died ({short(error)}); too little memory is the usual cause: lower "
                "train.workers, then continue with --resume"
            ) from error
        if fabric.world_size > 1 and re.search(r"(?i)connection|gloo|nccl|peer|timed? ?out", str(error)):
            raise UserError(
                f"process {fabric.global_rank} lost the others ({short(error)}); see what the first one to end "
                "has printed, then continue with --resume"
            ) from error
        raise


def short(error: BaseException) -> str:
    """An error's message as the beginning of one line."""
    return " ".join(str(error).split())[:160]
