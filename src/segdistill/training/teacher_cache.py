"""What a teacher says of every view of every training image, kept on disk, so that it is asked only once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.datasets.reading.checking import STRIP, in_threads
from segdistill.distiller import AbsentTeacher, Distiller
from segdistill.errors import UserError
from segdistill.files import UNFINISHED, write_json
from segdistill.networks.features import Features, NetworkInfo, Tap
from segdistill.networks.folder import CARD_FILE
from segdistill.networks.loading import weights_file
from segdistill.networks.network import Network
from segdistill.progress import tracked

#: Changes when an older cache would mean something else: another layout, or other values under a target's name.
FORMAT = 1

#: Left free on the disk, for everything else that a run writes.
SPARE_BYTES = 200_000_000

MANIFEST_FILE = "manifest.json"
MIOU_FILE = "teacher_miou.json"
LOCK_FILE = ".lock"

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

#: What rounding may take of a record's largest value: as much as bfloat16 takes of any.
_COARSEST = 2.0**-9


class TeacherCache:
    """A folder of teacher outputs (`Method.teacher_outputs`): one file for each name and view, one record per image.

    A view of an image is a pure function of seed, view and image, so what is kept is what the live teacher would say of
    just these pixels, crops, flips and all, to the precision of storage: bfloat16 where it computes in it, else
    float16. Records are read memory-mapped. A cache that was killed while it was filled is filled on; one that was made
    for anything else is refused.

    ``NAME.viewK.bin`` holds the records, ``NAME.viewK.done`` a byte for each of them, 1 once it is there for good.
    ``manifest.json`` says what the cache was made for and what it holds; a target that it does not name is not there.

    Args:
        folder: need not exist yet.
        made_for: what the teacher outputs depend on, by name, plain values: teacher, data, augmentation, seed.
        images: records in each file.
        views: views of each image.

    Raises:
        UserError: if the folder holds a cache made for something else, a damaged one, or something that is no cache.
    """

    def __init__(self, folder: Path, made_for: Mapping[str, Any], images: int, views: int) -> None:
        self.folder = folder
        self.images = images
        self.views = views
        self.made_for = {"format": FORMAT, "images": images, "views": views, **made_for}
        self.wanted: tuple[str, ...] = ()
        self._open: dict[tuple[str, int], np.memmap[Any, Any]] = {}
        self._manifest = self._current_manifest()

    @staticmethod
    def known_teacher(folder: Path) -> AbsentTeacher | None:
        """What a cache in ``folder`` remembers of its teacher; None where there is no cache yet."""
        manifest = _read_manifest(folder)
        return None if manifest is None else _absent_teacher(manifest["teacher"])

    def teacher_miou(self, data: Mapping[str, Any]) -> float | None:
        """The teacher's mIoU on the validation split of ``data``, if the last run that asked had the same."""
        # A file of its own: the manifest may have grown since this run has read it.
        file = self.folder / MIOU_FILE
        try:
            found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"data": None}
            return float(found["miou"]) if found["data"] == data else None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"cannot read {file}: {error}; remove it") from error

    def keep_teacher_miou(self, data: Mapping[str, Any], miou: float) -> None:
        """For later runs, which need not load the teacher."""
        write_json(self.folder / MIOU_FILE, {"data": data, "miou": miou})

    def want(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """From now on `read` gives the teacher_outputs ``names``; (view, image) of every record that lacks one of them.

        Raises:
            UserError: if a file of the cache is missing or truncated.
        """
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
            UserError: if the disk has too little space (nothing more is written then), a target does not fit half
                precision, or another run is filling this cache.
        """
        with self._locked(fabric):
            self._manifest = self._current_manifest()
            missing = self.want(self.wanted)
            lacking = [
                name for name in self.wanted if not all(self._done(name, view).all() for view in range(self.views))
            ]
            mine = missing[fabric.global_rank :: fabric.world_size]
            loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
                _Keyed(samples, mine), batch_size=batch_size, num_workers=workers, generator=torch.Generator()
            )
            # As in training, where convolutions are faster so. What is to be trained stays as a later run will find it.
            if isinstance(distiller.teacher, Network):
                distiller.teacher.to(memory_format=torch.channels_last)
            done = 0
            for images, *_ in tracked(loader, "filling the teacher cache", len(loader), console, progress):
                shown = images.to(fabric.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
                with fabric.autocast():
                    teacher_outputs = distiller.teacher_outputs(shown)
                records = {name: _half(name, teacher_outputs[name]) for name in lacking}
                if done == 0:
                    self._begin(records, distiller, len(missing), fabric, console)
                keys = mine[done : done + len(images)]
                for name, values in records.items():
                    self._write(name, keys, values)
                done += len(images)
            if missing and not mine:  # more processes than records
                self._begin({}, distiller, len(missing), fabric, console)
            fabric.barrier()  # nobody else may fill it before the last one is done

    def read(self, view: int, image: int) -> dict[str, Tensor]:
        """The teacher_outputs wanted of one view of one image, by name."""
        teacher_outputs = {}
        for name in self.wanted:
            form = self._manifest["teacher_outputs"][name]
            record = torch.from_numpy(np.array(self._records(name, view)[image]))
            teacher_outputs[name] = record.view(_DTYPES[form["dtype"]]).view(form["shape"])
        return teacher_outputs

    def __getstate__(self) -> dict[str, Any]:
        # A memory map does not travel to a data-loading process; each opens its own.
        return {**self.__dict__, "_open": {}}

    def _records(self, name: str, view: int) -> np.memmap[Any, Any]:
        if (name, view) not in self._open:
            shape = (self.images, _record_bytes(self._manifest["teacher_outputs"][name]))
            try:
                self._open[name, view] = np.memmap(self._file(name, view), np.uint8, "r", shape=shape)
            except (OSError, ValueError) as error:
                raise self._damaged(self._file(name, view)) from error
        return self._open[name, view]

    def _current_manifest(self) -> dict[str, Any]:
        """The manifest in the folder, or a blank one.

        Raises:
            UserError: see `TeacherCache`.
        """
        found = _read_manifest(self.folder)
        if found is None:
            return {"made_for": self.made_for, "teacher_outputs": {}}
        theirs = found["made_for"]
        other = [key for key in dict.fromkeys([*theirs, *self.made_for]) if theirs.get(key) != self.made_for.get(key)]
        if other:
            told = "; ".join(f"{key} was {theirs.get(key)!r}, now {self.made_for.get(key)!r}" for key in other)
            raise UserError(
                f"teacher cache {self.folder} was made for something else: {told}; use another folder, or remove this "
                "one"
            )
        return found

    @contextmanager
    def _locked(self, fabric: Fabric) -> Iterator[None]:
        """Keeps other runs from filling this cache meanwhile; a kill lets go of it."""
        file = None
        try:
            with _told_to_all(fabric):
                if fabric.is_global_zero:
                    try:
                        self.folder.mkdir(parents=True, exist_ok=True)
                        file = (self.folder / LOCK_FILE).open("w")
                    except OSError as error:
                        raise UserError(f"cannot make the teacher cache {self.folder}: {error.strerror}") from error
                    if not _lock(file.fileno()):
                        raise UserError(
                            f"another run is filling the teacher cache {self.folder}; start this one when it is done"
                        )
            yield
        finally:
            if file is not None:
                file.close()

    def _begin(
        self, records: Mapping[str, Tensor], distiller: Distiller, missing: int, fabric: Fabric, console: Console
    ) -> None:
        """Says how large the cache will be, and takes that space, before the first record is written."""
        fabric.barrier()  # each has seen what is missing, before anything changes
        with _told_to_all(fabric):
            if fabric.is_global_zero:
                self._make_room(records, distiller, missing, console)
        self._manifest = self._current_manifest()

    def _make_room(self, records: Mapping[str, Tensor], distiller: Distiller, missing: int, console: Console) -> None:
        forms = {
            name: {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in records.items()
        }
        fresh = {name: form for name, form in forms.items() if name not in self._manifest["teacher_outputs"]}
        for name in forms.keys() - fresh.keys():
            found = self._manifest["teacher_outputs"][name]
            if found != forms[name]:
                raise UserError(
                    f"teacher cache {self.folder} holds {name} as {found['dtype']} {found['shape']}, and now it is "
                    f"{forms[name]['dtype']} {forms[name]['shape']}; use another folder, or remove this one"
                )
        if not fresh:
            told = f"filling on, {missing} of {self.images * self.views} views are missing"
            console.out(f"teacher cache {self.folder}: {told}", highlight=False)
            return
        size = sum(_record_bytes(form) + 1 for form in fresh.values()) * self.images * self.views
        free = shutil.disk_usage(self.folder).free
        console.out(
            f"teacher cache {self.folder}: {self.images} images x {self.views} views of {', '.join(sorted(fresh))} "
            f"take {_readable(size)} ({_readable(free)} free)",
            highlight=False,
        )
        if size + SPARE_BYTES > free:
            raise UserError(
                f"teacher cache {self.folder} needs {_readable(size)} and the disk has {_readable(free)} free, of "
                f"which {_readable(SPARE_BYTES)} are left for the run; choose another folder, or fewer views"
            )
        assert isinstance(distiller.teacher, Network)
        teacher = {"info": asdict(distiller.teacher.info), "multiple": distiller.teacher.multiple}
        # Before the first file, so that a folder that was killed in between is known to be a cache.
        manifest = {**self._manifest, "teacher": teacher}
        self._write_manifest(manifest)
        taken: list[Path] = []
        try:
            for name, form in fresh.items():
                for view in range(self.views):
                    for path, length in (
                        (self._file(name, view), _record_bytes(form) * self.images),
                        (self._flags(name, view), self.images),
                    ):
                        taken.append(path)
                        _allocate(path, length)
        except OSError as error:
            for path in taken:
                path.unlink(missing_ok=True)
            raise UserError(
                f"teacher cache {self.folder}: no {_readable(size)} to be had ({error.strerror}); choose another "
                "folder, or fewer views"
            ) from error
        self._write_manifest({**manifest, "teacher_outputs": {**manifest["teacher_outputs"], **fresh}})

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        for left in self.folder.glob(f".{MANIFEST_FILE}*{UNFINISHED}"):  # by a kill
            left.unlink(missing_ok=True)
        write_json(self.folder / MANIFEST_FILE, manifest)

    def _write(self, name: str, keys: Sequence[tuple[int, int]], values: Tensor) -> None:
        rows = values.reshape(len(values), -1).view(torch.uint8).numpy()
        for view in sorted({view for view, _ in keys}):
            chosen = [(image, row) for (at, image), row in zip(keys, rows, strict=True) if at == view]
            try:
                with self._file(name, view).open("r+b") as file, self._flags(name, view).open("r+b") as flags:
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
        if name not in self._manifest["teacher_outputs"]:
            return np.zeros(self.images, dtype=bool)
        records, flags = self._file(name, view), self._flags(name, view)
        for path, size in (
            (records, _record_bytes(self._manifest["teacher_outputs"][name]) * self.images),
            (flags, self.images),
        ):
            if not path.is_file() or path.stat().st_size != size:
                raise self._damaged(path)
        done: np.ndarray[Any, Any] = np.fromfile(flags, dtype=np.uint8) == 1
        return done

    def _damaged(self, path: Path) -> UserError:
        return UserError(f"{path} is missing or truncated; remove the teacher cache {self.folder}, and it is made anew")

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
    progress: bool = False,
) -> dict[str, Any]:
    """What a cache is made for, as hashes and plain values.

    Args:
        teacher: run folder or spec. Of a ``python:`` teacher only the name and the weights are known, not the code.
        teacher_weights: file, or folder, with other weights than the folder's, or with those of a spec.
        dataset: train split; every image is read once.
        augmentation: what makes the views.
        seed: of the views.
        multiple: what the sides of images are padded to.
        precision: what the teacher computes in.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: if the teacher's weights cannot be read.
    """
    changes = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(augmentation).items()}
    crop = augmentation.crop
    return {
        "teacher": _teacher_hash(teacher, teacher_weights),
        "data": _data_hash(dataset, progress),
        "fill": None if dataset.fill is None else [float(f"{level:.6g}") for level in dataset.fill],
        **changes,
        # Students that want other multiples share a cache where the padded crop is the same.
        "padded": multiple if crop is None else [side + -side % multiple for side in crop],
        "seed": seed,
        "precision": precision,
    }


def teacher_output_names(distiller: Distiller) -> list[str]:
    """Names of all teacher_outputs that the methods take, told from shapes alone: no teacher is run."""
    info = distiller.teacher.info

    def blank(tap: Tap) -> Tensor:
        return torch.zeros(1, tap.channels, 8, 8)

    views = Features(tuple(map(blank, info.stages)), blank(info.embedding), blank(info.logits))
    names: dict[str, None] = {}
    with torch.no_grad():
        for method in distiller.methods.values():
            names |= dict.fromkeys(method.teacher_outputs(views))  # type: ignore[operator]
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
    """The records of a batch as they are stored, on the CPU."""
    kept = value if value.dtype == torch.bfloat16 else value.to(torch.float16)
    largest = value.abs().flatten(1).amax(1)
    lost = (value - kept).abs().flatten(1).amax(1)
    if not bool((lost <= _COARSEST * largest).all()):  # nor where one of them is NaN
        raise UserError(
            f"the teacher's {name} reaches {float(largest.max()):.3g}, and half precision holds what lies between "
            "6e-05 and 65504; distil without a teacher cache, or with precision bf16"
        )
    return kept.contiguous().cpu()


def _record_bytes(form: Mapping[str, Any]) -> int:
    return int(2 * np.prod(form["shape"], dtype=np.int64))


def _readable(size: int) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), (1e3, "kB"))
    return f"{size / unit:.2f} {name}"


def _allocate(path: Path, size: int) -> None:
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _lock(handle: int) -> bool:
    """Whether this process has the open file for itself now, until it is closed."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        # Not flock, which data-loading processes would inherit and hold on to when their parent is killed.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # else the file system has no locks
    return True


@contextmanager
def _told_to_all(fabric: Fabric) -> Iterator[None]:
    """The others wait for what the first process does here, and fail with its words where it fails."""
    told: str | None = None
    try:
        yield
    except UserError as error:
        told = str(error)
    told = fabric.broadcast(told)
    if told is not None:
        raise UserError(told)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a folder; None where there is no cache yet, or one that a kill kept from its first file."""
    file = folder / MANIFEST_FILE
    if not file.exists():
        if folder.exists() and not folder.is_dir():
            raise UserError(f"teacher cache {folder} is a file, expected a folder")
        if folder.exists() and any(path.suffix != UNFINISHED and path.name != LOCK_FILE for path in folder.iterdir()):
            raise UserError(f"{folder} is no teacher cache and not an empty folder; choose another one")
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        found = manifest["made_for"]["format"]
        if found == FORMAT:
            _absent_teacher(manifest["teacher"])
            for form in manifest["teacher_outputs"].values():
                if form["dtype"] not in _DTYPES or any(not isinstance(side, int) or side < 1 for side in form["shape"]):
                    raise ValueError(f"no target looks like {form}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"cannot read {file}: {reason}; remove the teacher cache {folder}") from error
    if found != FORMAT:
        raise UserError(f"{file} has format {found!r}, this segdistill reads format {FORMAT}; use another folder")
    return manifest


def _absent_teacher(values: Mapping[str, Any]) -> AbsentTeacher:
    """From what `TeacherCache` writes of a teacher into its manifest."""
    info = values["info"]
    return AbsentTeacher(
        NetworkInfo(
            stages=tuple(Tap(**stage) for stage in info["stages"]),
            embedding=Tap(**info["embedding"]),
            logits=Tap(**info["logits"]),
            num_classes=info["num_classes"],
            in_channels=info["in_channels"],
        ),
        values["multiple"],
    )


def _teacher_hash(teacher: str | Path, teacher_weights: str | None) -> str:
    """Of all that makes a teacher what it is: its weights, how it is built and how it wants its images."""
    folder = Path(teacher)
    digest = hashlib.sha256()
    cards: list[Path] = []
    if folder.is_dir():
        # A transformers or smp network has the rest of its configuration in config.json.
        cards = [file for file in (folder / CARD_FILE, folder / "config.json") if file.exists()]
    elif teacher_weights is None:
        raise UserError(f"teacher '{teacher}' is no run folder and has no teacher_weights; expected one of them")
    else:
        digest.update(str(teacher).encode())
    for file in (*cards, weights_file(teacher, teacher_weights)):
        try:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read the teacher's {file}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _data_hash(dataset: SegmentationDataset, progress: bool) -> str:
    """Of every pixel of every image, in their order; labels do not matter to a teacher."""

    def one(index: int) -> bytes:
        sample = dataset.open(index)
        height, width = sample.size
        digest = hashlib.blake2b(digest_size=16)
        for top in range(0, height, STRIP):  # large images in parts
            image, _ = sample.window(Window(top, 0, min(STRIP, height - top), width))
            digest.update(f"{tuple(image.shape)} {image.dtype}".encode())
            digest.update(image.contiguous().numpy().data)
        return digest.digest()

    total = hashlib.blake2b(digest_size=8)
    for digest in in_threads(one, len(dataset), "hashing images", progress):
        total.update(digest)
    return total.hexdigest()
