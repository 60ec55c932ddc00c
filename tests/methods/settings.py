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
        several_classes: refuses networks of a single class.
        weighted: pixels weigh differently, and each process divides by its own sum of weights. So does `balance`.
        sparse: a term may be 0, where no pixel is of its kind (on an edge, off the edges, hard).
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_when_equal: bool = False
    neighbours: bool = False
    resized: float | None = 1e-4
    across_batch: bool = False
    random: bool = False
    several_classes: bool = False
    sparse: bool = False
    weighted: bool = False

    def make(self) -> Method:
        return METHODS[self.name](**self.options)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


#: Terms of methods that have several, each with a weight of the same name; all others have one term and its `weight`.
SEVERAL = {
    "ka": ("adapt", "affinity"),
    "brd": ("boundary", "relation", "kd"),
    "drd": ("spatial", "channel"),
    "skd": ("kd", "pairwise"),
    "ifvd": ("variation", "kd"),
    "dsd": ("pixel", "category"),
    "dist": ("classes", "positions"),
    "cirkd": ("minibatch", "pixel", "region", "kd"),
    "idd": ("distance", "position", "kd"),
    "dkd": ("target", "non_target"),
    "afdcd": ("mimic", "contrast", "kd"),
    "bpkd": ("edge", "body"),
}
SETTINGS = [
    Setting("kd", zero_when_equal=True),
    Setting("kd", {"balance": "labels"}, zero_when_equal=True),
    Setting("kd", {"balance": "teacher", "temperature": 2.0}, zero_when_equal=True),
    Setting("kd", {"balance": "teacher", "adjust": 0.5}, zero_when_equal=True),
    Setting("kd", {"balance": "teacher", "adjust": 0.5, "teacher_adjust": 1.0}),
    Setting("auto", {"balance": "teacher"}),
    Setting("auto", {"balance": "teacher", "adjust": None}),
    Setting("auto", {"logits": 0.0}),
    Setting("feature"),
    Setting("feature", {"preset": "fitnet"}),
    Setting("feature", {"distance": "cosine", "balance": "labels"}),
    Setting("feature", {"standardise": "position", "stages": True, "balance": "teacher"}),
    Setting("feature", {"embedding": False, "stages": True}),
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
    Setting("dkd", zero_when_equal=True, several_classes=True),
    Setting("dkd", {"preset": "paper", "balance": "labels"}, zero_when_equal=True, several_classes=True),
    Setting("lskd", zero_when_equal=True, several_classes=True),
    Setting("dist", zero_when_equal=True, several_classes=True),
    Setting(
        "dist", {"across": "batch", "temperature": 2.0}, zero_when_equal=True, several_classes=True, across_batch=True
    ),
    Setting("bpkd", zero_when_equal=True, sparse=True, resized=0.05),
    Setting("bpkd", {"balance": "labels"}, zero_when_equal=True, sparse=True, resized=0.05),
    Setting("cirkd", across_batch=True, resized=0.05),
    Setting("cirkd", {"pixel": 0.0, "region": 0.0, "preset": "paper"}, zero_when_equal=True, across_batch=True),
    Setting("mgd", neighbours=True, random=True, resized=0.05),
    Setting("mgd", {"preset": "paper", "masked": 0.0}, neighbours=True, resized=0.05),
    Setting("idd"),
    Setting("idd", {"position": 0.0, "relative": False}, zero_when_equal=True),
    Setting("maskd", zero_when_equal=True),
    Setting("maskd", {"preset": "paper"}),
    Setting("afdcd", neighbours=True, random=True, resized=0.05),
    Setting("afdcd", {"preset": "authors", "masked": 0.0, "pool": 1, "kd": 0.0}, neighbours=True, resized=0.05),
    Setting("attnfd", neighbours=True, resized=0.05),
    Setting("attnfd", {"stages": True}, neighbours=True, resized=0.05),
    # A mean weighted by pixels is not the mean of the images' means.
    Setting("rdd", zero_when_equal=True, across_batch=True, weighted=True),
    Setting(
        "rdd",
        {"method": "feature", "warmup": 0, "threshold": 0.2, "ce": 1.0},
        across_batch=True,
        sparse=True,
        weighted=True,
    ),
]
