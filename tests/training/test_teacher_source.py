"""Where a teacher's outputs come from: when it is loaded, scored and let go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segdistill import Network
from segdistill.training.teacher_source import TeacherSource
from tests.tiny import tiny_network


class Cache:
    """Keeps a score as a `TeacherCache` does."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, float]] = []

    def teacher_miou(self, data: Any) -> float | None:
        return dict(self.kept).get(data)

    def keep_teacher_miou(self, data: Any, miou: float) -> None:
        self.kept.append((data, miou))


def source(folder: Path | None = None) -> tuple[TeacherSource, list[Network]]:
    """And the networks that it has loaded."""
    loaded: list[Network] = []

    def load() -> Network:
        loaded.append(tiny_network(8).train())
        return loaded[-1]

    return TeacherSource(load, folder), loaded


def test_the_teacher_is_loaded_once_and_frozen(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "not made yet"):
        made, loaded = source(folder)
        assert made.load() is made.load() is made.network is loaded[0]
        assert len(loaded) == 1
        assert not made.network.training
        assert not any(parameter.requires_grad for parameter in made.network.parameters())
        assert (made.info, made.multiple) == (loaded[0].info, loaded[0].multiple)


def test_a_live_teacher_is_scored_and_stays() -> None:
    made, loaded = source()
    assert made.miou("data", lambda network: 70.0 if network is loaded[0] else 0.0, keep=True) == 70
    assert made.network is loaded[0]


def test_a_teacher_beside_its_cache_is_scored_last_of_all() -> None:
    for keep in (False, True):
        made, _ = source()
        cache: Any = Cache()
        made.use(cache)
        assert made.miou("data", lambda _: 70.0, keep=keep) == 70
        assert made.network is None
        assert cache.kept == ([("data", 70.0)] if keep else [])
        # It is not loaded again for a score: a later call has what was kept.
        assert made.miou("data", lambda _: 0.0, keep=keep) == (70 if keep else None)
