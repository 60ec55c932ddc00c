"""What a teacher says of every view of every training image, kept on disk, so that it is asked only once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import TrainingSamples
from segdistill.datasets.base import SegmentationDataset
from segdistill.distiller import AbsentTeacher, Distiller
from segdistill.errors import UserError
from segdistill.files import write_json
from segdistill.networks.network import Network
from segdistill.networks.views import NetworkInfo, Tap, Views
from segdistill.training.progress import tracked

#: Changes when an older cache would mean something else.
FORMAT = 1

#: Left free on the disk, for everything else that a run writes.
SPARE_BYTES = 200_000_000

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TeacherCache:
    """A folder of targets (`Method.targets`), one file for each name and view, one record of equal size per image.

    A view of an image is a pure function of seed, view and image, so what is kept is what the live teacher would say of
    just these pixels, crops, flips and all, to the precision of storage: bfloat16 where it computes in it, else
    float16. Records are read memory-mapped. A cache that was killed while it was filled is filled on; one that was made
    for anything else is refused.

    Args:
        folder: need not exist yet.
        made_for: what the targets depend on, by name, plain values: teacher, data, augmentation, seed and so on.
        images: records in each file.
        views: views of each image.

    Raises:
        UserError: if the folder holds a cache made for something else, or something that is no cache.
    """

    def __init__(self, folder: Path, made_for: Mapping[str, Any], images: int, views: int) -> None:
        self.folder = folder
        self.images = images
        self.views = views
        self.made_for = {"format": FORMAT, "images": images, "views": views, **made_for}
        self._manifest: dict[str, Any] = {"made_for": self.made_for, "targets": {}}
        found = _read_manifest(folder)
        if found is not None:
            theirs = found["made_for"]
            other = [
                key for key in dict.fromkeys([*theirs, *self.made_for]) if theirs.get(key) != self.made_for.get(key)
            ]
            if other:
                told = "; ".join(f"{key} was {theirs.get(key)!r}, now {self.made_for.get(key)!r}" for key in other)
                raise UserError(
                    f"teacher cache {folder} was made for something else: {told}; "
                    "use another folder, or remove this one"
                )
            self._manifest = found
        self.wanted: tuple[str, ...] = ()
        self._open: dict[tuple[str, int], np.memmap[Any, Any]] = {}

    @staticmethod
    def known_teacher(folder: Path) -> AbsentTeacher | None:
        """What a cache in ``folder`` remembers of its teacher; None where there is no cache yet."""
        manifest = _read_manifest(folder)
        if manifest is None or "teacher" not in manifest:
            return None
        info = manifest["teacher"]["info"]
        taps = {name: Tap(**info[name]) for name in ("embedding", "logits")}
        stages = tuple(Tap(**stage) for stage in info["stages"])
        return AbsentTeacher(
            NetworkInfo(stages=stages, num_classes=info["num_classes"], in_channels=info["in_channels"], **taps),
            manifest["teacher"]["multiple"],
        )

    @property
    def teacher_miou(self) -> float | None:
        """The teacher's mIoU on the validation split, where some run asked."""
        miou: float | None = self._manifest.get("teacher_miou")
        return miou

    @teacher_miou.setter
    def teacher_miou(self, miou: float | None) -> None:
        self._manifest["teacher_miou"] = miou
        write_json(self.folder / "manifest.json", self._manifest)

    def want(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """From now on `read` gives the targets ``names``; (view, image) of every record that lacks one of them."""
        self.wanted = tuple(names)
        return [
            (view, int(image))
            for view in range(self.views)
            for image in np.flatnonzero(~np.logical_and.reduce([self._done(name, view) for name in names]))
        ]

    def fill(
        self,
        distiller: Distiller,
        samples: TrainingSamples,
        *,
        batch_size: int,
        workers: int,
        fabric: Fabric,
        console: Console,
        progress: bool,
    ) -> None:
        """Asks the teacher for all that is missing of what is wanted; processes share the work.

        Raises:
            UserError: if the disk has too little space (nothing more is written then), or a target does not fit half
                precision.
        """
        missing = self.want(self.wanted)[fabric.global_rank :: fabric.world_size]
        loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
            _Keyed(samples, missing), batch_size=batch_size, num_workers=workers, generator=torch.Generator()
        )
        done = 0
        started = False
        for images, *_ in tracked(loader, "filling the teacher cache", len(loader), console, progress):
            with fabric.autocast():
                targets = distiller.targets(images.to(fabric.device, non_blocking=True))
            records = {name: _half(name, value) for name, value in targets.items()}
            if not started:
                started = True
                if fabric.is_global_zero:
                    self._begin(records, distiller, console)
                fabric.barrier()
                self._manifest = _read_manifest(self.folder) or self._manifest
            keys = missing[done : done + len(images)]
            for name, values in records.items():
                self._write(name, keys, values)
            done += len(images)
        if not started:
            fabric.barrier()  # more processes than records: the others wait there

    def read(self, view: int, image: int) -> dict[str, Tensor]:
        """The targets wanted of one view of one image, by name."""
        targets = {}
        for name in self.wanted:
            form = self._manifest["targets"][name]
            record = torch.from_numpy(np.array(self._records(name, view)[image]))
            targets[name] = record.view(_DTYPES[form["dtype"]]).view(form["shape"])
        return targets

    def __getstate__(self) -> dict[str, Any]:
        # A memory map does not travel to a data-loading process; each opens its own.
        return {**self.__dict__, "_open": {}}

    def _records(self, name: str, view: int) -> np.memmap[Any, Any]:
        if (name, view) not in self._open:
            form = self._manifest["targets"][name]
            shape = (self.images, _record_bytes(form))
            try:
                self._open[name, view] = np.memmap(self._file(name, view), np.uint8, "r", shape=shape)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{self._file(name, view)} is missing or truncated; remove the teacher cache"
                ) from error
        return self._open[name, view]

    def _begin(self, records: Mapping[str, Tensor], distiller: Distiller, console: Console) -> None:
        """Says how large it will be, and takes that space, before the first record is written."""
        forms = {
            name: {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in records.items()
        }
        fresh = [name for name in forms if name not in self._manifest["targets"]]
        for name in set(forms) - set(fresh):
            if self._manifest["targets"][name] != forms[name]:
                raise UserError(f"teacher cache {self.folder} holds {name} in another shape; remove this folder")
        size = sum(_record_bytes(forms[name]) for name in fresh) * self.images * self.views
        self._mkdir()
        free = shutil.disk_usage(self.folder).free
        console.out(
            f"teacher cache {self.folder}: {self.images} images x {self.views} views of {', '.join(sorted(forms))}, "
            f"{size / 1e9:.2f} GB more ({free / 1e9:.2f} GB free)",
            highlight=False,
        )
        if size + SPARE_BYTES > free:
            raise UserError(
                f"teacher cache {self.folder} needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free, of "
                f"which {SPARE_BYTES / 1e9:.1f} GB are left for the run; choose another folder, or fewer views"
            )
        for name in fresh:
            for view in range(self.views):
                self._allocate(self._file(name, view), _record_bytes(forms[name]) * self.images)
                self._allocate(self._flags(name, view), self.images)
        self._manifest["targets"] |= {name: forms[name] for name in fresh}
        assert isinstance(distiller.teacher, Network)
        self._manifest["teacher"] = {
            "info": asdict(distiller.teacher.info),
            "multiple": distiller.teacher.multiple,
        }
        write_json(self.folder / "manifest.json", self._manifest)

    def _mkdir(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the teacher cache {self.folder}: {error.strerror}") from error

    def _allocate(self, path: Path, size: int) -> None:
        try:
            with path.open("wb") as file:
                if hasattr(os, "posix_fallocate") and size:
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    def _write(self, name: str, keys: Sequence[tuple[int, int]], values: Tensor) -> None:
        rows = values.contiguous().view(torch.uint8).flatten(1).numpy()
        for view in sorted({view for view, _ in keys}):
            try:
                with self._file(name, view).open("r+b") as file, self._flags(name, view).open("r+b") as flags:
                    chosen = [(image, row) for (at, image), row in zip(keys, rows, strict=True) if at == view]
                    for image, row in chosen:
                        file.seek(image * len(row))
                        file.write(row.tobytes())
                    file.flush()
                    # A flag follows what it vouches for, whatever kills the process or the machine in between.
                    os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
                    for image, _ in chosen:
                        flags.seek(image)
                        flags.write(b"\x01")
            except OSError as error:
                reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror
                raise UserError(
                    f"teacher cache {self.folder}: {reason}; what it holds already is kept and will be filled on"
                ) from error

    def _done(self, name: str, view: int) -> np.ndarray[Any, Any]:
        flags = self._flags(name, view)
        if name not in self._manifest["targets"] or not flags.exists() or not self._file(name, view).exists():
            return np.zeros(self.images, dtype=bool)
        found = np.fromfile(flags, dtype=np.uint8)
        size = _record_bytes(self._manifest["targets"][name]) * self.images
        if len(found) != self.images or self._file(name, view).stat().st_size != size:
            raise UserError(f"{self._file(name, view)} is truncated; remove the teacher cache {self.folder}")
        done: np.ndarray[Any, Any] = found == 1
        return done

    def _file(self, name: str, view: int) -> Path:
        return self.folder / f"{name}.view{view}.bin"

    def _flags(self, name: str, view: int) -> Path:
        return self.folder / f"{name}.view{view}.done"


def describe(
    *,
    teacher: str | Path,
    teacher_weights: str | None,
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    seed: int,
    multiple: int,
    precision: str,
) -> dict[str, Any]:
    """What a cache is made for, as hashes and plain values.

    Args:
        teacher: run folder or spec.
        teacher_weights: file of a teacher that is given as a spec.
        dataset: train split; every image is read once.
        augmentation: what makes the views.
        seed: of the views.
        multiple: what the sides of images are padded to.
        precision: what the teacher computes in.
    """
    folder = Path(teacher)
    weights = folder / "model.safetensors" if folder.is_dir() else Path(str(teacher_weights))
    return {
        "teacher": _file_hash(weights),
        "data": _data_hash(dataset),
        "augmentation": {key: list(v) if isinstance(v, tuple) else v for key, v in sorted(vars(augmentation).items())},
        "seed": seed,
        "multiple": multiple,
        "precision": precision,
    }


def target_names(distiller: Distiller) -> list[str]:
    """Names of all targets that the methods take, told from shapes alone: no teacher is run."""
    info = distiller.teacher.info

    def blank(tap: Tap) -> Tensor:
        return torch.zeros(1, tap.channels, 8, 8)

    views = Views(tuple(map(blank, info.stages)), blank(info.embedding), blank(info.logits))
    names: dict[str, None] = {}
    with torch.no_grad():
        for method in distiller.methods.values():
            names |= dict.fromkeys(method.targets(views))  # type: ignore[operator]
    return list(names)


class _Keyed(torch.utils.data.Dataset[tuple[Any, ...]]):
    """Samples in the order of ``keys``, (view, image) each."""

    def __init__(self, samples: TrainingSamples, keys: Sequence[tuple[int, int]]) -> None:
        self.samples = samples
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self.samples[self.keys[number]]


def _half(name: str, value: Tensor) -> Tensor:
    kept = value.detach().cpu()
    if kept.dtype != torch.bfloat16:
        kept = kept.to(torch.float16)
    if not bool(torch.isfinite(kept).all()):
        raise UserError(
            f"the teacher's {name} reaches {float(value.abs().max()):.3g}, which half precision (to 65504) cannot "
            "hold; it cannot be kept in a cache"
        )
    return kept


def _record_bytes(form: Mapping[str, Any]) -> int:
    return int(2 * np.prod(form["shape"], dtype=np.int64))


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / "manifest.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is no teacher cache and not an empty folder; choose another one")
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        if not {"made_for", "targets"} <= manifest.keys():
            raise ValueError("keys are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {file}: {error}; remove the teacher cache {folder}") from error
    return manifest


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read the teacher's weights {path}: {error.strerror}") from error


def _data_hash(dataset: SegmentationDataset) -> str:
    def one(index: int) -> bytes:
        image = dataset[index][0]
        return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        total = hashlib.blake2b(digest_size=8)
        for digest in pool.map(one, range(len(dataset))):
            total.update(digest)
    return total.hexdigest()
