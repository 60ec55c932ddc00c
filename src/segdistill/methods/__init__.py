"""Distillation methods, one file per paper.

A new method is one new file with a class derived from `Method`, and its name in the tuple below.
"""

from segdistill.methods.brd import BRD
from segdistill.methods.cwd import CWD
from segdistill.methods.drd import DRD
from segdistill.methods.feature import Feature
from segdistill.methods.ka import KA
from segdistill.methods.kd import KD
from segdistill.methods.method import Method

#: Every method by its name in recipes and on the command line.
METHODS: dict[str, type[Method]] = {method.__name__.lower(): method for method in (KD, Feature, KA, BRD, DRD, CWD)}

__all__ = ["BRD", "CWD", "DRD", "KA", "KD", "METHODS", "Feature", "Method"]
