"""`auto` for runs of few steps, in processes of their own: importing this lets any run learn features first."""

from __future__ import annotations

from segdistill.methods import Auto
from segdistill.training import features_first

features_first.FEWEST_STEPS = 1


class Early(Auto):
    """`Auto` as it is."""
