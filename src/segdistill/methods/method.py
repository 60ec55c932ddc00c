"""The contract of a distillation method."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.features import Features, NetworkInfo

#: What a method takes from a teacher's views, by name; each (B, ...), constant.
TeacherOutputs = dict[str, Tensor]


def check_not_negative(method: str, **values: float) -> None:
    """Raises a `UserError` for the first of a method's weights and the like that is below 0, infinite or NaN."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{method}: {name} is {value}, expected 0 or more")


def check_positive(method: str, **values: float) -> None:
    """Raises a `UserError` for the first of a method's temperatures and the like that is not above 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{method}: {name} is {value}, expected a number above 0")


def check_choice(method: str, name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises a `UserError` unless ``value`` is one of the ``choices`` of an option."""
    names = ["null" if choice is None else f"'{choice}'" for choice in choices]
    if value not in choices:
        raise UserError(f"{method}: {name} is {value!r}, expected {', '.join(names[:-1])} or {names[-1]}")


def check_ratio(method: str, **values: float) -> None:
    """Raises a `UserError` for the first of a method's shares that is below 0, 1 or more, or NaN."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{method}: {name} is {value}, expected at least 0 and below 1")


def preset_values(
    method: str, preset: str, presets: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of a named preset, replaced by those ``given`` that are not None.

    Args:
        method: the method's name, for the error message.
        preset: one of the names in ``presets``.
        presets: values by hyper-parameter, by preset; each preset has the same hyper-parameters.
        given: values by hyper-parameter; None where the preset decides.

    Raises:
        UserError: where there is no such preset.
    """
    check_choice(method, "preset", preset, presets)
    return {name: value if given[name] is None else given[name] for name, value in presets[preset].items()}


class Method(nn.Module, ABC):
    """One way to carry knowledge from a teacher to a student.

    A method is made from its hyper-parameters alone, so that a recipe can write it down. The `Distiller` then calls
    `build` once, `prepare` where a pre-stage is wanted, and the method itself on every batch. Whatever is trainable
    here is trained with the student and saved beside it, never inside it.

    A method that overrides `teacher_outputs` says what it needs of the teacher, as small as can be, and its `forward`
    gets just that: it is what a teacher cache keeps. One that does not is given the teacher's whole `Features`.
    """

    #: What the method mainly compares: class scores one by one, features, relations between positions or classes, or
    #: boundaries. `segdistill.advise` tries a few methods of each family first. None for a method of no family.
    family: Literal["logit", "feature", "relation", "boundary"] | None = None
    #: First author, venue and number of the paper, and the year it was published; see `segdistill.methods.catalogue`.
    paper: str = ""
    year: int = 0
    #: Time of a training step with a live teacher over that of the same step without the method, both without data
    #: loading; measured by ``benchmarks/methods.py``.
    cost: float | None = None
    #: Hyper-parameters by name of a preset: those that stand in for the ones that are not given.
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    #: Share of a run's epochs, at its beginning, in which the student learns from features alone, without labels and
    #: class scores: see `Distiller.features_alone`. A run of few steps leaves that part out.
    features_first: float = 0.0
    #: Whether that part of the run is over; False where there was none.
    features_done: bool = False
    #: Whether the method uses the labels of the images. Images without labels are then refused.
    needs_labels: bool = False
    #: Whether the method compares class scores. Student and teacher must then have the same classes.
    needs_logits: bool = False
    #: Whether the method reads the teacher's class scores without comparing them, such as to weigh pixels by class.
    needs_teacher_logits: bool = False
    #: Whether the method compares the features before the classifier; every network has them.
    needs_embedding: bool = False
    #: Whether the method compares backbone stages. Both networks must then have some.
    needs_stages: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _naming_wrong_types(cls.__init__)  # type: ignore[method-assign]

    @property
    def of_features(self) -> bool:
        """Whether the method needs nothing but features: neither labels nor class scores."""
        return not (self.needs_labels or self.needs_logits or self.needs_teacher_logits)

    @property
    def only_without_labels(self) -> bool:
        """Whether the method, as it is now, compares only pixels that have no label.

        Where there are none, the teacher is not run, and `forward` gets no teacher outputs.
        """
        return False

    @property
    def name(self) -> str:
        """The method's name in recipes, tables and loss terms: its class name in lower case."""
        return type(self).__name__.lower()

    def hyper_parameters(self) -> dict[str, Any]:
        """The values that make this method again: one attribute of the same name for each argument of its class.

        Example:
            >>> from segdistill.methods import DRD
            >>> DRD(spatial=2.0).hyper_parameters()
            {'spatial': 2.0, 'channel': 10.0, 'normalize': 'cosine', 'stages': False}
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        """Make the adapters, sized from the channels and strides of both networks.

        An override calls this first: it checks the two networks against what the method needs.

        Args:
            student: channels and strides of the student's taps.
            teacher: the same of the teacher.

        Raises:
            UserError: where the two networks cannot be paired by this method.
        """
        if self.needs_logits and student.num_classes != teacher.num_classes:
            raise UserError(
                f"method {self.name} compares class scores, but the student has {student.num_classes} classes and the "
                f"teacher {teacher.num_classes}; build both for the classes of the data, or map the teacher's classes "
                "to them with teacher_classes"
            )
        if self.needs_stages and not (student.stages and teacher.stages):
            raise UserError(
                f"method {self.name} compares backbone stages, but the student has {len(student.stages)} of them "
                f"and the teacher {len(teacher.stages)}; name them when wrapping the network: "
                "Network(model, stages=[...])"
            )

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        """What `forward` needs of what the teacher shows, by name.

        Methods share what bears the same name in a teacher cache, so a name says all that the tensor depends on: not
        on the student, nor on the method's weights. What half precision could not hold is scaled beforehand.

        Args:
            teacher: the teacher's views of one batch; runs without gradients.
        """
        stages = {f"stages.{index}": stage for index, stage in enumerate(teacher.stages)}
        shown = {"logits": teacher.logits, "embedding": teacher.embedding, **stages}
        return {name: value for name, value in shown.items() if value.shape[1]}

    def prepare(self, batches: Iterable[TeacherOutputs]) -> None:
        """Runs the method's pre-stage, if it has one, before the student's training.

        Args:
            batches: what `teacher_outputs` gives for one pass over the training images.
        """

    def __call__(
        self, *, student: Features, teacher: Features | TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        """See `forward`; ``teacher`` may be the teacher's views or what `teacher_outputs` has made of them."""
        whole = type(self).teacher_outputs is Method.teacher_outputs
        if isinstance(teacher, Features) and not whole:
            with torch.no_grad():
                teacher = self.teacher_outputs(teacher)
        elif not isinstance(teacher, Features) and whole:
            stages = tuple(teacher[name] for name in map("stages.{}".format, range(len(teacher))) if name in teacher)
            none = next(iter(teacher.values()))[:, :0]
            teacher = Features(stages, teacher.get("embedding", none), teacher.get("logits", none))
        terms: dict[str, Tensor] = super().__call__(student=student, teacher=teacher, labels=labels, valid=valid)
        return terms

    def of_features_alone(self, *, student: Features, teacher: TeacherOutputs, valid: Tensor) -> dict[str, Tensor]:
        """The terms of `forward` that compare features alone, without labels and class scores.

        By default all of them, and none if the method is not one `of_features`.

        Args:
            student, teacher, valid: as for `forward`.
        """
        return self(student=student, teacher=teacher, labels=None, valid=valid) if self.of_features else {}

    @abstractmethod
    def forward(self, *, student: Features, teacher: Any, labels: Tensor | None, valid: Tensor) -> dict[str, Tensor]:
        """The method's loss terms for one batch, each weighted, by name.

        Args:
            student: what the student shows; gradients flow into it.
            teacher: what `teacher_outputs` gave, or the teacher's `Features` where it is not overridden; constant.
            labels: class of every pixel, int64 (B, H, W), or None for images without labels.
            valid: pixels that count, bool (B, H, W), at the images' size.

        Returns:
            Scalars; their sum is the method's loss. A batch without a valid pixel gives zeros.
        """


def _naming_wrong_types(init: Callable[..., None]) -> Callable[..., None]:
    """``__init__`` that says which hyper-parameter is of the wrong type where it fails for that reason."""

    @functools.wraps(init)
    def naming(self: Method, *given: Any, **named: Any) -> None:
        try:
            init(self, *given, **named)
        except (AttributeError, IndexError, TypeError):
            # Only what made the object knows its arguments, not the __init__ of a base class.
            if type(self).__init__ is naming:
                with contextlib.suppress(TypeError):  # a missing or unknown argument: what was raised says so
                    arguments = inspect.signature(init).bind(self, *given, **named).arguments
                    from segdistill.arguments import refuse_wrong_types  # its parser takes long to import

                    refuse_wrong_types(type(self), dict(list(arguments.items())[1:]))
            raise

    return naming


def check_several_classes(method: Method, student: NetworkInfo, teacher: NetworkInfo) -> None:
    """Raises a `UserError` where there is a single class: its probability is always 1, and nothing could be learnt."""
    if min(student.num_classes, teacher.num_classes) < 2:
        raise UserError(
            f"method {method.name} compares probabilities of classes, but the student has {student.num_classes} class "
            f"and the teacher {teacher.num_classes}; expected 2 or more, one of them for the background"
        )
