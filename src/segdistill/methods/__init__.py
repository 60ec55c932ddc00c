"""Distillation methods, one file per paper, each a class derived from `Method`.

`Distiller` and `segdistill.distill` take their objects, or their names in lower case.
"""

# The classes are imported when they are first used, so that the names are known without torch.

from typing import TYPE_CHECKING

from segdistill.lazy import LazyTable, attributes_of

if TYPE_CHECKING:
    from segdistill.methods.afdcd import AfDCD
    from segdistill.methods.at import AT
    from segdistill.methods.attnfd import AttnFD
    from segdistill.methods.auto import Auto
    from segdistill.methods.bpkd import BPKD
    from segdistill.methods.brd import BRD
    from segdistill.methods.cirkd import CIRKD
    from segdistill.methods.cwd import CWD
    from segdistill.methods.dist import DIST
    from segdistill.methods.dkd import DKD
    from segdistill.methods.drd import DRD
    from segdistill.methods.dsd import DSD
    from segdistill.methods.feature import Feature
    from segdistill.methods.idd import IDD
    from segdistill.methods.ifvd import IFVD
    from segdistill.methods.ka import KA
    from segdistill.methods.kd import KD
    from segdistill.methods.lskd import LSKD
    from segdistill.methods.maskd import MasKD
    from segdistill.methods.method import Method
    from segdistill.methods.mgd import MGD
    from segdistill.methods.rdd import RDD
    from segdistill.methods.reviewkd import ReviewKD
    from segdistill.methods.skd import SKD

_ALL = (
    "Auto",
    "KD",
    "Feature",
    "KA",
    "BRD",
    "DRD",
    "CWD",
    "AT",
    "SKD",
    "IFVD",
    "DSD",
    "ReviewKD",
    "DIST",
    "CIRKD",
    "MGD",
    "IDD",
    "DKD",
    "MasKD",
    "AfDCD",
    "BPKD",
    "LSKD",
    "AttnFD",
    "RDD",
)

#: Every method by its name in recipes and on the command line.
METHODS: LazyTable[type["Method"]] = LazyTable(
    {name.lower(): f"segdistill.methods.{name.lower()}:{name}" for name in _ALL}
)

__all__ = [
    "AT",
    "BPKD",
    "BRD",
    "CIRKD",
    "CWD",
    "DIST",
    "DKD",
    "DRD",
    "DSD",
    "IDD",
    "IFVD",
    "KA",
    "KD",
    "LSKD",
    "METHODS",
    "MGD",
    "RDD",
    "SKD",
    "AfDCD",
    "AttnFD",
    "Auto",
    "Feature",
    "MasKD",
    "Method",
    "ReviewKD",
]

__getattr__ = attributes_of(__name__, "segdistill.methods.method:Method", *METHODS.places.values())
