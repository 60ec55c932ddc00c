"""`Pretrainer`: a distiller that learns from a teacher's features alone."""

from __future__ import annotations

from typing import Any

from segdistill.distiller import Distiller
from segdistill.methods import Method
from segdistill.networks.backbone import parameters_behind


class Pretrainer(Distiller):
    """A `Distiller` of `features_alone`: labels say only which pixels do not count.

    What its methods do not reach, the classifier and perhaps the decoder, is frozen as it is.

    Attributes:
        trained: names of the parameters of the student's model that are trained.
    """

    trained: frozenset[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.features_alone = True

    def freeze_the_rest(self) -> None:
        """Freeze the parameters that no method's features depend on, and name the others in `trained`."""
        methods = [method for method in self.methods.values() if isinstance(method, Method)]
        # A method that says nothing of what it needs may take anything.
        stages = any(one.needs_stages for one in methods)
        embedding = any(one.needs_embedding for one in methods) or not stages
        reached = parameters_behind(
            self.student,
            lambda shown: [*(shown.stages if stages else ()), *([shown.embedding] if embedding else ())],
        )
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(name in reached)
        self.trained = frozenset(name.removeprefix("model.") for name in reached)
