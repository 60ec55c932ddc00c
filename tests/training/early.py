"""`auto` for runs of few steps, in processes of their own."""

from __future__ import annotations

from segdistill.methods import Auto
from segdistill.networks.features import NetworkInfo
from segdistill.training import features_first


class Early(Auto):
    """`Auto`; from then on, any run of this process may learn features first."""

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        features_first.FEWEST_STEPS = 1
