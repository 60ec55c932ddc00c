from __future__ import annotations

import pytest
import torch

from tests.methods.scene import features, networks


@pytest.fixture
def case() -> dict[str, object]:
    torch.manual_seed(0)  # for the methods' own layers
    student, teacher = networks()
    valid = torch.ones(2, 72, 72, dtype=torch.bool)
    valid[0, :24] = False  # whole positions of every stride
    return {"student": features(student, 1), "teacher": features(teacher, 2), "labels": None, "valid": valid}
