"""`TrainRecipe`, `DistillRecipe`, `PretrainRecipe`: what a run is made of, and what its config.yaml holds."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

from segdistill.errors import UserError
from segdistill.naming import check_method_spec
from segdistill.recipe.data_keys import check_keys
from segdistill.recipe.keywords import from_values
from segdistill.recipe.teachers import GivenTeacher, given_teachers
from segdistill.recipe.train_config import TrainConfig
from segdistill.recipe.values import plain

# Not "from typing import TYPE_CHECKING": the parser of command lines would look for types in here, and import torch.
if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from segdistill.methods import Method
    from segdistill.recipe.data import Data

    DataSpec = Mapping[str, Any] | Data
    MethodSpec = str | list[Any] | Mapping[str, Any] | Method
    Source = str | Path | nn.Module
    TeacherSpec = Source | Sequence[Source] | Mapping[str, float]
    LossWeights = Mapping[str, float] | Literal["fixed", "auto"]
else:  # as the command line and YAML have them
    DataSpec = dict[str, Any]
    MethodSpec = str | list[Any] | dict[str, Any]
    Source = str
    TeacherSpec = str | list[Any] | dict[str, Any]
    LossWeights = str | dict[str, Any]  # checked in words of our own


class Recipe:
    """What all recipes share: reading, writing and their common checks."""

    data: DataSpec
    views: int | Literal["auto"] | None
    seed: int
    overfit: int | None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")
        for name in ("views", "overfit"):
            value = getattr(self, name)
            if value is not None and value != "auto" and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")

    def check(self) -> None:
        """Check what can be checked before the data are read and any network is made.

        Raises:
            UserError: an unknown method or hyper-parameter, an unknown data set or key of the data.
        """
        if isinstance(self.data, Mapping):
            check_keys(self.data)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a recipe from plain values, such as those of a config.yaml.

        Raises:
            UserError: an unknown, missing or wrong-typed key, or a value out of range.
        """
        return from_values(cls, values)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, complete: what config.yaml holds."""
        values: dict[str, Any] = plain(_fields_of(self), "")
        return values


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Recipe):
    """A network trained from labels alone: a teacher, or the baseline of a student.

    Args:
        data: data set and augmentation, e.g. {dataset: camvid, root: data/camvid, crop: [352, 480]}.
        network: the network to train, e.g. smp:Unet:resnet34, torchvision:fcn_resnet50, transformers:segformer, a run
            folder.
        init_weights: weights to start from: null (random), "imagenet" (downloads those of the backbone), a
            .safetensors, .pth, .bin or .ckpt file of the whole network, or {encoder: FILE} for a file of the backbone.
        train: how to train.
        views: number of different augmented views of each image, shown in turn; null for a new one every epoch.
        seed: random seed; the same seed gives the same run.
        overfit: number of training images: train and validate only on these first images, without augmentation, to
            check that the set-up can learn.
    """

    data: DataSpec
    network: Source
    init_weights: str | Path | dict[str, str] | None = None
    train: TrainConfig = field(default_factory=TrainConfig)
    views: int | None = None
    seed: int = 0
    overfit: int | None = None


@dataclass(frozen=True, kw_only=True)
class TaughtRecipe(Recipe):
    """What the recipes of a student and its teachers share.

    Args:
        data: data set and augmentation, e.g. {dataset: camvid, root: data/camvid, crop: [352, 480]}.
        teacher: a run folder, or a network spec together with teacher_weights; for several teachers a list of these, or
            {teacher: weight}.
        student: the network to train, e.g. smp:FPN:tu-mobilenetv3_small_050.
        teacher_weights: .safetensors or .pth file with the weights of a teacher that is given as a spec; for several
            teachers a list of files, with null for a teacher that has its own weights, or {teacher: file}.
        teacher_bands: channels of the images that the teacher gets, e.g. [1, 2, 3]. 1 is the first channel of the data,
            whichever band of the file that is. For several teachers also {teacher: [1, 2, 3]}.
        teacher_scale: factor, 1 to 4, by which the teacher's crops are larger than the student's in height and width.
            The additional detail is read from the original pixels; crop and resize in data are the student's sizes.
        init_weights: weights the student starts from: null (random), "imagenet" (downloads those of the backbone), a
            .safetensors, .pth, .bin or .ckpt file of the whole network, or {encoder: FILE} for a file of the backbone.
        train: how to train.
        views: number of different augmented views of each image, shown in turn; null for a new one every epoch; auto
            (with teacher_cache): one for each epoch, or as many as fit on the disk.
        teacher_cache: folder that keeps the teacher's outputs for every view; filled once for this teacher, data,
            augmentation and seed; later runs then neither run nor load the teacher. Needs views.
        seed: random seed; the same seed gives the same run.
        overfit: number of training images: train and validate only on these first images, without augmentation, to
            check that the set-up can learn.
    """

    data: DataSpec
    teacher: TeacherSpec
    student: Source
    method: MethodSpec | None = None
    teacher_weights: str | Path | list[Any] | dict[str, Any] | None = None
    teacher_bands: list[int] | dict[str, Any] | None = None
    teacher_scale: int = 1
    init_weights: str | Path | dict[str, str] | None = None
    train: TrainConfig = field(default_factory=TrainConfig)
    views: int | Literal["auto"] | None = None
    teacher_cache: str | Path | None = None
    seed: int = 0
    overfit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_scale not in (1, 2, 3, 4):
            raise UserError(f"teacher_scale is {self.teacher_scale}, expected 1, 2, 3 or 4")
        self.teachers()
        if self.teacher_cache is not None and self.views is None:
            raise UserError(
                "teacher_cache needs views: how many views of each image to keep and show in turn, e.g. --views auto"
            )
        if self.teacher_cache is None and self.views == "auto":
            raise UserError("views: auto chooses how many views a teacher cache keeps; give teacher_cache, or a number")

    def check(self) -> None:
        """See `Recipe.check`."""
        check_method_spec(self.method)
        super().check()

    def teachers(self) -> list[GivenTeacher]:
        """The teachers one by one, each with its weights and bands.

        Raises:
            UserError: see `given_teachers`.
        """
        return given_teachers(self.teacher, self.teacher_weights, bands=self.teacher_bands)


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(TaughtRecipe):
    """A student trained from labels and a teacher.

    Args:
        teacher: a run folder, or a network spec together with teacher_weights; for several teachers a list of these, or
            {teacher: weight}: the student learns from the mean of their class probabilities.
        method: a method's name, a list of names, or {name: {hyper-parameter: value}}; segdistill methods lists them.
        teacher_classes: maps classes of the teacher to classes of the data: {class of the teacher: class of the data},
            by name or by number from 0. Several may map to one class, ignore leaves a class out, and "*" stands for all
            others. For several teachers also {teacher: {class of the teacher: class of the data}}.
        loss_weights: factors by which the loss terms are multiplied, by name, e.g. {brd.relation: 2.0}; fixed: no
            factors; auto: factors that are measured in the first steps, so that each distillation term has a fixed
            share of the task loss's gradient, and kept from then on.
        ignored: whether pixels with the ignore label are left out of distillation ("skip") or not ("distil").
    """

    method: MethodSpec = "auto"
    teacher_classes: dict[Any, Any] | None = None
    loss_weights: LossWeights = "fixed"
    ignored: Literal["skip", "distil"] = "skip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.loss_weights, str) and self.loss_weights not in ("fixed", "auto"):
            raise UserError(
                f"loss_weights is '{self.loss_weights}', expected fixed, auto, or a factor for each loss term: "
                "{brd.relation: 2.0}"
            )

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        from segdistill.methods.building import build_methods

        build_methods(self.method)

    def teachers(self) -> list[GivenTeacher]:
        """The teachers one by one, each with its weights, classes and bands.

        Raises:
            UserError: see `given_teachers`.
        """
        return given_teachers(self.teacher, self.teacher_weights, self.teacher_classes, self.teacher_bands)

    def alone(self) -> TrainRecipe:
        """The same student trained in the same way from labels alone: the baseline of this recipe.

        Where the recipe has unlabelled images, its batches are the labelled part of this recipe's: as many steps, in
        each of which the task loss sees the same labelled images.
        """
        from segdistill.recipe.data import labels_alone  # heavy

        shared = {name: getattr(self, name) for name in _SHARED}
        shared["data"], labelled = labels_alone(self.data, self.train.batch_size)
        accumulate = math.gcd(self.train.accumulate, labelled)
        shared["train"] = replace(self.train, batch_size=labelled, accumulate=accumulate)
        if self.views == "auto":  # a new view in every epoch, as auto has it where the disk allows
            shared["views"] = None
        return TrainRecipe(network=self.student, **shared)


#: What `PretrainRecipe` takes where no method is named: the backbone's stages learn, and nothing else.
STAGES: dict[str, Any] = {"feature": {"embedding": False, "stages": True}}


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(TaughtRecipe):
    """A student's backbone that learns a teacher's features, from images whose labels are not used.

    The recipe of a distillation will do: `train.loss` and `train.aux`, which are about labels, do not count here.

    Args:
        teacher: a run folder, or a network spec together with teacher_weights; its classes do not matter. For several
            teachers a list of these: the student learns the features of all of them, side by side.
        method: a method that compares features alone: a name, a list of names, or {name: {hyper-parameter: value}}; by
            default {feature: {embedding: false, stages: true}}, which trains the backbone. One that compares the
            embedding trains the decoder, too.
        teacher_weights: weights of a teacher that is given as a spec: a .safetensors or .pth file of the whole network;
            or, for methods that compare stages alone, those of its backbone: {encoder: FILE} or "imagenet" (downloads
            them). For several teachers a list of files, with null for a teacher that has its own, or {teacher: file}.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method is None:
            object.__setattr__(self, "method", STAGES)
        if self.train.backbone_lr == 0:
            raise UserError("train.backbone_lr is 0, which freezes the backbone, and pretrain is there to train it")
        if len({one.share for one in self.teachers()}) > 1:
            raise UserError(
                f"teacher gives weights, {dict(cast(Any, self.teacher))}, but pretrain learns the features of all "
                "teachers alike; expected a list of them"
            )

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        from segdistill.methods.building import build_methods
        from segdistill.methods.unlabelled import check_features_alone

        check_features_alone(build_methods(self.method))

    @property
    def backbone_weights(self) -> str | dict[str, Any] | None:
        """``teacher_weights``, where they are those of the teacher's backbone alone."""
        weights, one = self.teacher_weights, not isinstance(self.teacher, Mapping | list | tuple)
        if weights == "imagenet" or (isinstance(weights, Mapping) and list(weights) == ["encoder"]):
            return weights if one else None
        return None

    def teachers(self) -> list[GivenTeacher]:
        """See `TaughtRecipe.teachers`; weights of a backbone alone are its file's, or none."""
        weights = self.teacher_weights
        if self.backbone_weights is not None:
            weights = weights["encoder"] if isinstance(weights, Mapping) else None
        return given_teachers(self.teacher, weights, bands=self.teacher_bands)

    def as_distillation(self) -> DistillRecipe:
        """The same run as a distillation, whose task loss is left out."""
        assert self.method is not None
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.backbone_weights is not None:
            values["teacher_weights"] = self.teachers()[0].weights
        return DistillRecipe(**values)


def _fields_of(made: Any) -> dict[str, Any]:
    """The fields of a dataclass and of those in it, as they are; `dataclasses.asdict` would copy networks and data."""
    values = {one.name: getattr(made, one.name) for one in fields(made)}
    return {name: _fields_of(value) if isinstance(value, TrainConfig) else value for name, value in values.items()}


#: Keys that both kinds of recipe have.
_SHARED = {one.name for one in fields(TrainRecipe)} & {one.name for one in fields(DistillRecipe)}
