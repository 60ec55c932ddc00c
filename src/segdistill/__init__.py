"""segdistill: a large segmentation network and your images in; a small, fast one out, honestly measured."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from segdistill.version import __version__

if TYPE_CHECKING:
    from segdistill import datasets, losses, methods
    from segdistill.comparison.advice import Advice
    from segdistill.comparison.advise import advise
    from segdistill.comparison.compare import compare
    from segdistill.comparison.reading import load_comparison
    from segdistill.comparison.results import Comparison
    from segdistill.demonstration.demo import demo
    from segdistill.distiller import Distiller, LearnerOutput, Supervised
    from segdistill.errors import UserError
    from segdistill.evaluation.evaluate import evaluate
    from segdistill.exporting.benchmark import benchmark
    from segdistill.exporting.export import export
    from segdistill.inspection.bands import data_statistics
    from segdistill.inspection.check import check_data
    from segdistill.inspection.preview import preview_data
    from segdistill.networks.bands import SelectedBands
    from segdistill.networks.classes import MappedClasses
    from segdistill.networks.ensemble import Ensemble
    from segdistill.networks.features import Features, NetworkInfo, Tap
    from segdistill.networks.loading import load_network, load_run
    from segdistill.networks.network import Network
    from segdistill.networks.wrapping import as_network
    from segdistill.playground.play import play
    from segdistill.prediction.label import label
    from segdistill.prediction.predict import predict
    from segdistill.recipe.recipes import DistillRecipe, PretrainRecipe, TrainRecipe
    from segdistill.recipe.train_config import TrainConfig
    from segdistill.run_folder import RunFolder
    from segdistill.training.distill import distill
    from segdistill.training.options import RunOptions
    from segdistill.training.pretrain import pretrain
    from segdistill.training.train import train


# Where each public name lives. They are imported when first asked for: importing torch, Lightning and the model
# libraries takes seconds, and `segdistill --help` or a mistyped command shall not wait for them.
_HOMES = {
    "datasets": "segdistill.datasets",
    "losses": "segdistill.losses",
    "methods": "segdistill.methods",
    "Advice": "segdistill.comparison.advice",
    "advise": "segdistill.comparison.advise",
    "compare": "segdistill.comparison.compare",
    "Comparison": "segdistill.comparison.results",
    "load_comparison": "segdistill.comparison.reading",
    "demo": "segdistill.demonstration.demo",
    "evaluate": "segdistill.evaluation.evaluate",
    "benchmark": "segdistill.exporting.benchmark",
    "export": "segdistill.exporting.export",
    "play": "segdistill.playground.play",
    "label": "segdistill.prediction.label",
    "predict": "segdistill.prediction.predict",
    "Distiller": "segdistill.distiller",
    "LearnerOutput": "segdistill.distiller",
    "Supervised": "segdistill.distiller",
    "UserError": "segdistill.errors",
    "check_data": "segdistill.inspection.check",
    "data_statistics": "segdistill.inspection.bands",
    "preview_data": "segdistill.inspection.preview",
    "SelectedBands": "segdistill.networks.bands",
    "MappedClasses": "segdistill.networks.classes",
    "Ensemble": "segdistill.networks.ensemble",
    "load_network": "segdistill.networks.loading",
    "load_run": "segdistill.networks.loading",
    "as_network": "segdistill.networks.wrapping",
    "Network": "segdistill.networks.network",
    "NetworkInfo": "segdistill.networks.features",
    "Tap": "segdistill.networks.features",
    "Features": "segdistill.networks.features",
    "DistillRecipe": "segdistill.recipe.recipes",
    "PretrainRecipe": "segdistill.recipe.recipes",
    "TrainRecipe": "segdistill.recipe.recipes",
    "TrainConfig": "segdistill.recipe.train_config",
    "RunOptions": "segdistill.training.options",
    "distill": "segdistill.training.distill",
    "pretrain": "segdistill.training.pretrain",
    "RunFolder": "segdistill.run_folder",
    "train": "segdistill.training.train",
}

__all__ = [
    "Advice",
    "Comparison",
    "DistillRecipe",
    "Distiller",
    "Ensemble",
    "Features",
    "LearnerOutput",
    "MappedClasses",
    "Network",
    "NetworkInfo",
    "PretrainRecipe",
    "RunFolder",
    "RunOptions",
    "SelectedBands",
    "Supervised",
    "Tap",
    "TrainConfig",
    "TrainRecipe",
    "UserError",
    "__version__",
    "advise",
    "as_network",
    "benchmark",
    "check_data",
    "compare",
    "data_statistics",
    "datasets",
    "demo",
    "distill",
    "evaluate",
    "export",
    "label",
    "load_comparison",
    "load_network",
    "load_run",
    "losses",
    "methods",
    "play",
    "predict",
    "pretrain",
    "preview_data",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segdistill' has no attribute '{name}'")
    module = importlib.import_module(_HOMES[name])
    return module if module.__name__ == f"segdistill.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
