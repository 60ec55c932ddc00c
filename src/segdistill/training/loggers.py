"""Experiment trackers that a run can report to, besides TensorBoard and history.csv."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, get_args

from lightning_fabric.loggers.logger import Logger

from segdistill.errors import UserError, reason, unknown_name
from segdistill.run_folder import RunFolder
from segdistill.training.options import Tracker

#: The package with loggers for both, on the Fabric that runs stand on.
_LOGGERS = "pytorch_lightning"


def check_tracker(name: Tracker) -> None:
    """Check, before anything is written, that a tracker is installed.

    Raises:
        UserError: if it is unknown, or its package, or that with its logger, is not installed.
    """
    if name not in get_args(Tracker):
        raise unknown_name("tracker", name, get_args(Tracker))
    if missing := [part for part in (name, _LOGGERS) if importlib.util.find_spec(part) is None]:
        packages = " ".join(part.replace("_", "-") for part in missing)
        raise UserError(f"tracker {name} is not installed; pip install {packages}")


def make_tracker(name: Tracker, folder: RunFolder, config: Mapping[str, Any]) -> Logger:
    """Lightning's logger for Weights & Biases or MLflow; both take their server and account from their own settings.

    Raises:
        UserError: if the package is not installed, or too old.
    """
    check_tracker(name)
    from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

    logger: Logger
    try:
        if name == "wandb":
            logger = WandbLogger(name=folder.path.name, project="segdistill", save_dir=folder.path)
        else:
            logger = MLFlowLogger(experiment_name="segdistill", run_name=folder.path.name)
    except ModuleNotFoundError as error:
        raise UserError(f"tracker {name} is too old ({reason(error)}); pip install --upgrade {name}") from error
    logger.log_hyperparams(dict(config))
    return logger
