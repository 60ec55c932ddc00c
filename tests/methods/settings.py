"""Every method as the shared tests try it: its options, and what may be expected of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from segdistill.methods import METHODS, Method


@dataclass(frozen=True)
class Setting:
    """One method with options.

    Needs (labels, stages, logits) are the method's own attributes.

    Attributes:
        name: the method's name.
        options: hyper-parameters; the defaults for the rest.
        zero_when_equal: no adapter stands between the two networks: equal features cost nothing.
        neighbours: a position's features reach other positions (convolution, pooling, boundaries), so that those of an
            ignored pixel may matter beside it.
        resized: by how much, relative, a term may change where a scene is repeated four times; None: no such law, as
            where an image is cut into a fixed number of regions.
        across_batch: images are related to each other: a batch is more than the mean of its images.
        random: draws random numbers at every step.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_when_equal: bool = False
    neighbours: bool = False
    resized: float | None = 1e-4
    across_batch: bool = False
    random: bool = False

    def make(self) -> Method:
        return METHODS[self.name](**self.options)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


SETTINGS = [
    Setting("kd", zero_when_equal=True),
    Setting("kd", {"balance": "labels"}, zero_when_equal=True),
    Setting("kd", {"balance": "teacher", "temperature": 2.0}, zero_when_equal=True),
    Setting("feature"),
    Setting("feature", {"preset": "fitnet"}),
    Setting("feature", {"distance": "cosine", "balance": "labels"}),
    Setting("feature", {"standardise": "position", "stages": True, "balance": "teacher"}),
    Setting("ka", neighbours=True, resized=0.05),
    Setting("brd", zero_when_equal=True, neighbours=True, resized=0.05),
    Setting("drd"),
    Setting("drd", {"normalize": "softmax", "stages": True}, resized=0.05),
    Setting("cwd", zero_when_equal=True),
    Setting("cwd", {"at": "embedding"}),
    Setting("at", zero_when_equal=True),
    Setting("at", {"preset": "cirkd"}, zero_when_equal=True),
    Setting("skd", zero_when_equal=True, neighbours=True),
    Setting("skd", {"preset": "authors", "balance": "labels"}, zero_when_equal=True, neighbours=True, resized=None),
    Setting("ifvd", zero_when_equal=True),
    Setting("ifvd", {"preset": "authors", "balance": "labels"}, zero_when_equal=True),
    Setting("dsd", zero_when_equal=True, neighbours=True),
    Setting("reviewkd", neighbours=True, resized=None),
]
