"""`Pretrainer`: a distiller that learns from a teacher's features alone."""

from __future__ import annotations

from torch import Tensor

from segdistill.datasets.base import UNLABELLED
from segdistill.distiller import Distiller, LearnerOutput
from segdistill.methods import Method
from segdistill.methods.method import TeacherOutputs
from segdistill.networks.backbone import parameters_behind


class Pretrainer(Distiller):
    """A `Distiller` without a task loss: labels say only which pixels do not count.

    What its methods do not reach, the classifier and perhaps the decoder, is frozen as it is.

    Attributes:
        trained: names of the parameters of the student's model that are trained.
    """

    trained: frozenset[str]

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

    def forward(
        self, images: Tensor, labels: Tensor | None = None, teacher_outputs: TeacherOutputs | None = None
    ) -> LearnerOutput:
        """The methods' loss on one batch; see `Distiller.forward`."""
        if labels is not None:
            labels = labels.masked_fill(labels != self.ignore_index, UNLABELLED)
        out = super().forward(images, labels, teacher_outputs)
        losses = {name: value for name, value in out.losses.items() if name != "task"}
        loss = out.loss.new_zeros(()) + sum(losses.values())
        return LearnerOutput(loss=loss, losses=losses, logits=out.logits, features=out.features)
