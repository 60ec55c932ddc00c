"""`Distiller`: a teacher, a student and methods as one plain module with one loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.batch import checked_labels
from segdistill.errors import UserError
from segdistill.losses import cross_entropy, shrunk_once
from segdistill.methods import Method
from segdistill.methods.building import build_methods
from segdistill.methods.method import TeacherOutputs
from segdistill.methods.pairing import check_shown, check_taken
from segdistill.networks.auxiliary import AuxiliaryHead
from segdistill.networks.closer import features_on_student_grid, info_on_student_grid, reduced
from segdistill.networks.crop import check_crop, check_sizes
from segdistill.networks.ensemble import Ensemble
from segdistill.networks.features import Features, NetworkInfo
from segdistill.networks.network import Network
from segdistill.networks.padding import pad_to_multiple
from segdistill.networks.wrapping import as_network, as_student

#: A loss on labels: (logits (B, K, H, W), labels (B, H, W), ignore_index) -> scalar, by keyword.
TaskLoss = Callable[..., Tensor]


@dataclass(frozen=True)
class LearnerOutput:
    """The result of a learner's forward pass.

    Attributes:
        loss: the sum of all weighted terms, a scalar; call ``backward()`` on it.
        losses: every weighted term by name, e.g. ``task`` and ``brd.boundary``; scalars with gradients.
        logits: the student's class scores at image size, (B, K, H, W).
        features: the student's `Features`; None from `Supervised`, which records none.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    logits: Tensor
    features: Features | None = None

    @property
    def terms(self) -> dict[str, Tensor]:
        """The values of `losses` without gradients, for logging."""
        return {name: value.detach() for name, value in self.losses.items()}


class TeacherSource(Protocol):
    """A teacher whose outputs may come with the batches instead of from its network.

    Attributes:
        network: the teacher, or None while it is not loaded.
        info: channels and strides of its taps.
        multiple: what height and width of its images must be divisible by.
    """

    @property
    def network(self) -> Network | None:
        """See above."""

    @property
    def info(self) -> NetworkInfo:
        """See above."""

    @property
    def multiple(self) -> int:
        """See above."""


class Distiller(nn.Module):
    """Trains a student from labels and from what a teacher shows.

    The teacher is frozen, kept in eval mode and run without gradients. It is deliberately not a submodule:
    ``parameters()``, ``train()`` and ``state_dict()`` know only the student and the methods' adapters, while
    ``to()`` moves the teacher along.

    Args:
        teacher: a trained `Network`; a plain model of smp, torchvision or transformers, which `as_network` wraps and
            which gets the images as they are; several of these, for an `Ensemble`; or a `TeacherSource` where batches
            may bring their teacher outputs.
        student: the `Network`, or plain model, to train.
        method: a method, its name as in recipes (``"kd"``), ``{name: {hyper-parameter: value}}``, or a list of these;
            their terms are added up.
        task_loss: loss on labels; cross-entropy, mean over valid pixels, by default. Not used without labels.
        ignore_index: label of pixels that do not count.
        ignored: ``"skip"`` leaves ignored pixels out of distillation too; ``"distil"`` lets the teacher speak there.
        unlabelled_index: label of pixels that nobody has labelled: the task loss leaves them out, and the teacher alone
            speaks there, whatever ``ignored`` is. None where there are none.
        teacher_scale: the teacher sees pictures of so many times the student's height and width.
        auxiliary: weight of the task loss of an `AuxiliaryHead`, which is trained beside the student; 0 for none.

    Attributes:
        features_alone: while True, the loss has only the methods' terms that compare features: neither labels nor class
            scores count. See `Method.features_first`; False, once set, tells the methods that this part is over.

    Raises:
        UserError: where something else than a `Network` is given, teacher and student are the same object, a method is
            unknown, or it cannot pair the two.

    Example:
        >>> import torch, segdistill
        >>> teacher = segdistill.load_network("smp:FPN:resnet18", num_classes=4)
        >>> student = segdistill.load_network("smp:FPN:tu-mobilenetv3_small_050", num_classes=4)
        >>> distiller = segdistill.Distiller(teacher, student, method=segdistill.methods.BRD())
        >>> images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64))
        >>> out = distiller(images, labels)
        >>> out.loss.backward()
        >>> sorted(out.terms)
        ['brd.boundary', 'brd.kd', 'brd.relation', 'task']
    """

    def __init__(
        self,
        teacher: nn.Module | Sequence[nn.Module] | TeacherSource,
        student: nn.Module,
        method: str | Method | Mapping[str, Any] | list[Any] | tuple[Any, ...],
        *,
        task_loss: TaskLoss = cross_entropy,
        ignore_index: int = 255,
        ignored: Literal["skip", "distil"] = "skip",
        unlabelled_index: int | None = None,
        teacher_scale: int = 1,
        auxiliary: float = 0.0,
    ) -> None:
        super().__init__()
        if teacher_scale < 1:
            raise UserError(f"teacher_scale is {teacher_scale}, expected a whole number of at least 1")
        if isinstance(teacher, list | tuple):
            teacher = Ensemble([as_network(one, "teacher") for one in teacher])
        is_source = not isinstance(teacher, nn.Module) and hasattr(teacher, "multiple")
        teacher = cast(TeacherSource, teacher) if is_source else as_network(cast(nn.Module, teacher), "teacher")
        student = as_student(student)
        if isinstance(teacher, Network) and any(module is student.model for module in teacher.modules()):
            raise UserError("teacher and student are the same module; give the student its own copy (copy.deepcopy)")
        if teacher.info.in_channels != student.info.in_channels:
            raise UserError(
                f"the teacher takes {teacher.info.in_channels} channels and the student {student.info.in_channels}; "
                "both see the same images, of which teacher_bands (SelectedBands in Python) shows some to the teacher"
            )
        if ignored not in ("skip", "distil"):
            raise UserError(f"ignored is '{ignored}', expected 'skip' or 'distil'")
        self.student = student
        self.auxiliary = AuxiliaryHead(student.info) if auxiliary else None
        self.auxiliary_weight = auxiliary
        self.methods = nn.ModuleDict()
        seen_closer = info_on_student_grid(teacher.info, teacher_scale)
        # None is an empty list here: the task loss alone. A recipe must name one.
        for one in [] if isinstance(method, list | tuple) and not method else build_methods(method):
            if any(one is other for other in self.methods.values()):
                raise UserError(
                    f"method holds the same {one.name} object twice; make a second object, or leave one out"
                )
            check_shown(one, teacher.info)
            one.build(student.info, seen_closer)
            check_taken(one, teacher.info)
            count = sum(type(other) is type(one) for other in self.methods.values())
            self.methods[one.name if count == 0 else f"{one.name}_{count + 1}"] = one
        # In a tuple, since a module that is an attribute would become a part of this one.
        self._source = (teacher.requires_grad_(False).eval() if isinstance(teacher, Network) else teacher,)
        self.task_loss = task_loss
        self.ignore_index = ignore_index
        self.ignored = ignored
        self.unlabelled_index = unlabelled_index
        self.teacher_scale = teacher_scale
        self._features_alone = False
        self._teacher_checked = False
        self.multiple = math.lcm(teacher.multiple, student.multiple)
        self._sizes = {"teacher": seen_closer.size, "student": student.info.size}
        check_sizes(self._sizes, self.multiple)

    @property
    def source(self) -> Network | TeacherSource:
        """Where the teacher's outputs come from."""
        return self._source[0]

    @property
    def teacher(self) -> Network | None:
        """The teacher; None where a `TeacherSource` has not loaded it."""
        return self.source if isinstance(self.source, Network) else self.source.network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def check_crop(self, crop: tuple[int, int]) -> None:
        """Refuse images of ``crop`` (height, width) where a network takes another size alone; see `check_crop`."""
        check_crop(crop, self._sizes, self.multiple)

    @property
    def features_alone(self) -> bool:
        """See above."""
        return self._features_alone

    @features_alone.setter
    def features_alone(self, alone: bool) -> None:
        self._features_alone = alone
        for method in self._methods():
            method.features_done = not alone

    @property
    def features_first(self) -> float:
        """The largest `Method.features_first` of the methods that compare features of these two networks."""
        able = [one for one in self._methods() if one.needs_embedding or one.needs_stages]
        return max((one.features_first for one in able), default=0.0)

    @property
    def has_pre_stage(self) -> bool:
        """Whether a method does something in `prepare`."""
        return any(type(method).prepare is not Method.prepare for method in self._methods())

    def prepare(self, batches: Iterable[Any]) -> None:
        """Runs the pre-stage of every method that has one (KA's auto-encoder). The student is not touched.

        Args:
            batches: one pass over the training images, each a tensor (B, C, H, W) or a tuple that begins with one; its
                third item, if any, are the `teacher_outputs` of those images.
                Read once for every method with a pre-stage, so a generator serves only one, and not at all without.
        """
        for method in self._methods():
            if type(method).prepare is not Method.prepare:
                method.prepare(self._teacher_outputs_of(batches))

    def teacher_outputs(self, images: Tensor) -> TeacherOutputs:
        """All that the methods need of the teacher's features, by name, without gradients.

        Args:
            images: as in `forward`, at ``teacher_scale`` times the student's size.

        Raises:
            UserError: if the teacher is not loaded.
        """
        scale = self.teacher_scale
        self.check_crop((images.shape[-2] // scale, images.shape[-1] // scale))
        return self._outputs_for(pad_to_multiple(images, scale * self.multiple))

    def _outputs_for(self, padded: Tensor) -> TeacherOutputs:
        if self.teacher is None:
            raise UserError("the teacher is not loaded: pass teacher_outputs with every batch")
        # Each time: a teacher in train mode would change its own batch statistics.
        self.teacher.eval()
        with torch.no_grad():
            features = features_on_student_grid(self.teacher.features(padded), self.teacher.info, self.teacher_scale)
            teacher_outputs: TeacherOutputs = {}
            for method in self._methods():
                teacher_outputs |= method.teacher_outputs(features)
        self._check_teacher(teacher_outputs)
        return teacher_outputs

    def _check_teacher(self, teacher_outputs: TeacherOutputs) -> None:
        """Refuse a teacher that is not finite. On an accelerator only at first: reading a value makes the host wait."""
        if self._teacher_checked and any(maps.device.type != "cpu" for maps in teacher_outputs.values()):
            return
        for name, maps in teacher_outputs.items():
            if not bool(torch.isfinite(maps).all()):
                raise UserError(
                    f"the teacher's {name} hold NaN or infinite values, expected finite ones; check its weights, and "
                    "that the images are what it was trained on"
                )
        self._teacher_checked = True

    def forward(
        self, images: Tensor, labels: Tensor | None = None, teacher_outputs: TeacherOutputs | None = None
    ) -> LearnerOutput:
        """The loss of one batch.

        Args:
            images: float (B, C, H, W) in 0..1, or uint8; any size. At ``teacher_scale`` times the student's size where
                the teacher is run on them; the student sees them `reduced`.
            labels: class indices, any integer dtype, (B, H, W) at the student's size, ``ignore_index`` for pixels that
                do not count, ``unlabelled_index`` for pixels without a label; None for images without labels.
            teacher_outputs: what `teacher_outputs` gave for the same images before; the teacher is not run then, and
                images are of the student's size.

        Raises:
            UserError: where labels and images differ in size, or a method needs labels and there are none.
        """
        seen_by_teacher = images
        if teacher_outputs is None:
            images = reduced(images, self.teacher_scale)
        labels = checked_labels(images, labels, self.student.num_classes, self.ignore_index, self.unlabelled_index)
        height, width = images.shape[-2:]
        self.check_crop((height, width))
        # Both networks see the same padded image, so that their features cover the same extent.
        images = pad_to_multiple(images, self.multiple)
        padding = (0, images.shape[-1] - width, 0, images.shape[-2] - height)
        inside = images.new_ones((len(images), height, width), dtype=torch.bool)
        valid = inside if labels is None or self.ignored == "distil" else labels != self.ignore_index
        valid = F.pad(valid, padding)  # by False
        if labels is not None and self.unlabelled_index is not None:
            labels = labels.masked_fill(labels == self.unlabelled_index, self.ignore_index)
        padded = None if labels is None else F.pad(labels, padding, value=self.ignore_index)

        # The teacher first: its passing activations are gone before the student's, kept for backward, come.
        if self._labels_say_all(labels):
            teacher_outputs = {}
        elif teacher_outputs is None:
            teacher_outputs = (
                self._outputs_for(images) if self.teacher_scale == 1 else self.teacher_outputs(seen_by_teacher)
            )
        logits, student = self.student.forward_with_features(images)
        logits = logits[..., :height, :width]

        losses: dict[str, Tensor] = {}
        if labels is not None and not self.features_alone:
            losses = _losses_on_labels(self, logits, student, labels, images.shape[-2:])
        with shrunk_once():
            for name, method in zip(self.methods, self._methods(), strict=True):
                if self.features_alone:
                    parts = method.of_features_alone(student=student, teacher=teacher_outputs, valid=valid)
                elif labels is None and method.needs_labels:
                    raise UserError(f"method {name} needs labels, and this batch has none")
                else:
                    parts = method(student=student, teacher=teacher_outputs, labels=padded, valid=valid)
                # The same name as when the method's other terms are there.
                if len(parts) == 1 and (method.of_features or not self.features_alone):
                    losses[name] = next(iter(parts.values()))
                else:
                    losses |= {f"{name}.{part}": value for part, value in parts.items()}
        return LearnerOutput(loss=_total(losses, logits), losses=losses, logits=logits, features=student)

    def _labels_say_all(self, labels: Tensor | None) -> bool:
        """Whether every pixel that counts has a label, and no method compares such pixels."""
        told = labels is not None and self.unlabelled_index is None and self.ignored == "skip"
        return told and all(one.only_without_labels for one in self._methods())

    def _teacher_outputs_of(self, batches: Iterable[Any]) -> Iterator[TeacherOutputs]:
        device = next(self.student.parameters()).device
        for batch in batches:
            if isinstance(batch, list | tuple) and len(batch) == 3:
                yield {name: value.to(device, non_blocking=True).float() for name, value in batch[2].items()}
            else:
                images = batch if isinstance(batch, Tensor) else batch[0]
                yield self.teacher_outputs(images.to(device, non_blocking=True))

    def _methods(self) -> list[Method]:
        return [method for method in self.methods.values() if isinstance(method, Method)]


class Supervised(nn.Module):
    """A student trained from labels alone: the baseline, and how a teacher is made. Called like a `Distiller`."""

    def __init__(
        self,
        student: nn.Module,
        *,
        task_loss: TaskLoss = cross_entropy,
        ignore_index: int = 255,
        unlabelled_index: int | None = None,
        auxiliary: float = 0.0,
    ) -> None:
        super().__init__()
        self.student = as_student(student)
        self.auxiliary = AuxiliaryHead(self.student.info) if auxiliary else None
        self.auxiliary_weight = auxiliary
        self.task_loss = task_loss
        self.ignore_index = ignore_index
        self.unlabelled_index = unlabelled_index

    def forward(self, images: Tensor, labels: Tensor) -> LearnerOutput:
        """The task loss of one batch; see `Distiller.forward`."""
        labels = checked_labels(images, labels, self.student.num_classes, self.ignore_index, self.unlabelled_index)
        if self.unlabelled_index is not None:
            labels = labels.masked_fill(labels == self.unlabelled_index, self.ignore_index)
        features = None
        if self.auxiliary is None:
            logits = self.student(images)
        else:
            height, width = images.shape[-2:]
            images = pad_to_multiple(images, self.student.multiple)
            logits, features = self.student.forward_with_features(images)
            logits = logits[..., :height, :width]
        losses = _losses_on_labels(self, logits, features, labels, images.shape[-2:])
        return LearnerOutput(loss=_total(losses, logits), losses=losses, logits=logits)


def _losses_on_labels(
    learner: Distiller | Supervised, logits: Tensor, features: Features | None, labels: Tensor, padded: tuple[int, ...]
) -> dict[str, Tensor]:
    """The task loss, and the auxiliary head's where there is one, which reads features of images of a padded size."""
    height, width = labels.shape[-2:]
    losses = {"task": learner.task_loss(logits=logits, labels=labels, ignore_index=learner.ignore_index)}
    if learner.auxiliary is not None:
        scores = learner.auxiliary(features, padded)[..., :height, :width]
        loss = learner.task_loss(logits=scores, labels=labels, ignore_index=learner.ignore_index)
        losses["aux"] = learner.auxiliary_weight * loss
    return losses


def _total(losses: dict[str, Tensor], logits: Tensor) -> Tensor:
    # Without labels and without terms the loss is 0, and still has a graph for backward().
    if len(losses) == 1:
        return next(iter(losses.values()))
    return torch.stack(list(losses.values())).sum() if losses else logits.sum() * 0.0
