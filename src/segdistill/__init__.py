"""segdistill: a large segmentation network and your images in; a small, fast one out, honestly measured."""

from segdistill import datasets, losses, methods
from segdistill.comparison.demo import demo
from segdistill.comparison.evaluate import evaluate
from segdistill.distiller import Distiller, LearnerOutput, Supervised
from segdistill.errors import UserError
from segdistill.networks.loading import load_network, load_run
from segdistill.networks.network import Network
from segdistill.networks.views import NetworkInfo, Tap, Views
from segdistill.training.config import TrainConfig
from segdistill.training.distill import distill
from segdistill.training.run_folder import RunFolder
from segdistill.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Distiller",
    "LearnerOutput",
    "Network",
    "NetworkInfo",
    "RunFolder",
    "Supervised",
    "Tap",
    "TrainConfig",
    "UserError",
    "Views",
    "datasets",
    "demo",
    "distill",
    "evaluate",
    "load_network",
    "load_run",
    "losses",
    "methods",
    "train",
]
