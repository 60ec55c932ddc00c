"""The teacher of a run: live, or read from a cache and loaded only where the cache lacks something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segdistill.networks.features import NetworkInfo
from segdistill.networks.network import Network
from segdistill.training.teacher_cache import TeacherCache


class TeacherSource:
    """A teacher that is run on every batch, or whose outputs a `TeacherCache` gives; a `Distiller` takes it once.

    Without a cache, or with one that does not exist yet, the teacher is loaded at once; otherwise when `load` is first
    called, which is never where the cache holds all that is needed.

    Args:
        load: loads the teacher; called once at most.
        cache_folder: folder of the cache; None to run the teacher on every batch.

    Raises:
        UserError: if the teacher cannot be loaded, or the folder holds a damaged cache or something else.
    """

    def __init__(self, load: Callable[[], Network], cache_folder: Path | None = None) -> None:
        self.cache_folder = cache_folder
        self.cache: TeacherCache | None = None
        self._load = load
        self._network: Network | None = None
        known = None if cache_folder is None else TeacherCache.known_teacher(cache_folder)
        taken = self.load() if known is None else known
        self.info: NetworkInfo = taken.info
        self.multiple: int = taken.multiple

    @property
    def network(self) -> Network | None:
        """The teacher, or None while it is not loaded."""
        return self._network

    def load(self) -> Network:
        """The teacher, frozen, loaded if it is not yet."""
        if self._network is None:
            self._network = self._load().requires_grad_(False).eval()
        return self._network

    def use(self, cache: TeacherCache) -> None:
        """From now on takes the outputs from a cache, which holds all that is needed, and needs the teacher no more."""
        self.cache = cache

    def miou(self, data: Mapping[str, Any], score: Callable[[Network], float], *, keep: bool) -> float | None:
        """The teacher's mIoU on the validation split; None where it is not loaded and no earlier run kept it.

        A teacher whose outputs come from a cache is scored last of all and freed then.

        Args:
            data: the recipe's ``data``.
            score: scores a network.
            keep: whether this process writes the score into the cache.
        """
        if self._network is None:
            return None if self.cache is None else self.cache.teacher_miou(data)
        miou = score(self._network)
        if self.cache is not None:
            self._network = None
            if keep:
                self.cache.keep_teacher_miou(data, miou)
        return miou
