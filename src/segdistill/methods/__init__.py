"""Distillation methods, one file per paper.

A new method is one new file with a class derived from `Method`, and its name in the tuple below.
"""

from segdistill.methods.at import AT
from segdistill.methods.brd import BRD
from segdistill.methods.cwd import CWD
from segdistill.methods.drd import DRD
from segdistill.methods.dsd import DSD
from segdistill.methods.feature import Feature
from segdistill.methods.ifvd import IFVD
from segdistill.methods.ka import KA
from segdistill.methods.kd import KD
from segdistill.methods.method import Method
from segdistill.methods.reviewkd import ReviewKD
from segdistill.methods.skd import SKD

#: Every method by its name in recipes and on the command line.
METHODS: dict[str, type[Method]] = {
    method.__name__.lower(): method for method in (KD, Feature, KA, BRD, DRD, CWD, AT, SKD, IFVD, DSD, ReviewKD)
}

__all__ = [
    "AT",
    "BRD",
    "CWD",
    "DRD",
    "DSD",
    "IFVD",
    "KA",
    "KD",
    "METHODS",
    "SKD",
    "Feature",
    "Method",
    "ReviewKD",
]
