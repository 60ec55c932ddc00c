"""Teacher outputs of every view of every training image, kept on disk, so that the teacher runs only once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from segdistill.data.loading import TrainingSamples
from segdistill.distiller import Distiller
from segdistill.errors import UserError
from segdistill.files import write_json
from segdistill.locks import is_free
from segdistill.networks.features import NetworkInfo, Tap
from segdistill.progress import counted, tracked
from segdistill.records import RecordFile, RecordStore, free_bytes, read_manifest, readable
from segdistill.training.strategies import raised_by_all
from segdistill.training.teacher_outputs import Form, form_of, outputs_in_half

#: Changes when an older cache would mean something else: another layout, or other values under an output's name.
FORMAT = 2

MANIFEST_FILE = "manifest.json"
MIOU_FILE = "teacher_miou.json"


@dataclass(frozen=True)
class KnownTeacher:
    """What a cache knows of its teacher.

    Attributes:
        info: channels and strides of its taps.
        multiple: what height and width of its images must be divisible by.
    """

    info: NetworkInfo
    multiple: int


class TeacherCache:
    """A folder of teacher outputs (`Method.teacher_outputs`): one file for each name and view, one record per image.

    A view of an image is a pure function of seed, view and image, so that what is kept is what the live teacher would
    give for the same pixels, crops, flips and all, to the precision of storage: bfloat16 where it computes in it, else
    float16. Records are read memory-mapped. A cache whose filling was killed is completed by the next run; one that was
    made for something else is refused.

    The files are a `RecordStore`: ``NAME.viewK.bin`` and ``NAME.viewK.done`` are a `RecordFile`, and ``manifest.json``
    says what the cache was made for and which outputs it holds.

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
        self.wanted: tuple[str, ...] = ()
        self._store = RecordStore(
            folder / MANIFEST_FILE,
            {"format": FORMAT, "images": images, "views": views, **made_for},
            f"teacher cache {folder}",
            "use another folder, or remove this one",
        )
        self._files: dict[tuple[str, int], RecordFile] = {}
        self._forms = self._read_forms()

    @staticmethod
    def known_teacher(folder: Path) -> KnownTeacher | None:
        """What the cache in a folder knows of its teacher; None where there is no cache yet.

        Raises:
            UserError: see `TeacherCache`.
        """
        manifest = _read(folder)
        return None if manifest is None else _known_teacher(manifest["teacher"])

    @staticmethod
    def known_views(folder: Path) -> int | None:
        """The number of views in the cache in a folder; None where there is no cache yet."""
        manifest = _read(folder)
        return None if manifest is None else int(manifest["made_for"]["views"])

    def teacher_miou(self, data: Mapping[str, Any]) -> float | None:
        """The teacher's mIoU on the validation split of ``data``, if an earlier run with the same data kept it."""
        # A file of its own: the manifest may have grown since this run has read it.
        file = self.folder / MIOU_FILE
        try:
            found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"data": None}
            return float(found["miou"]) if found["data"] == data else None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"cannot read {file}: {error}; remove it") from error

    def keep_teacher_miou(self, data: Mapping[str, Any], miou: float) -> None:
        """Keeps the teacher's mIoU for later runs, which need not load the teacher."""
        write_json(self.folder / MIOU_FILE, {"data": data, "miou": miou})

    def want(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Chooses the teacher outputs that `read` gives.

        Args:
            names: names of teacher outputs.

        Returns:
            (view, image) of every record that lacks one of them.

        Raises:
            UserError: if a file of the cache is missing or truncated.
        """
        self.wanted = tuple(names)
        return [
            (view, int(image))
            for view in range(self.views)
            for image in np.flatnonzero(~np.logical_and.reduce([self._done(name, view) for name in names]))
        ]

    def bytes_per_view(self) -> int:
        """Bytes of one view of all images, with the outputs wanted; all must be there."""
        return sum(self._file(name, 0).bytes for name in self.wanted)

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
        """Runs the teacher on all views that lack an output wanted, each process on its part of them.

        Raises:
            UserError: if the disk has too little space (nothing is written then), an output does not fit half
                precision, or another run is filling this cache.
        """
        with self._locked(fabric):
            self._forms = self._read_forms()
            missing = self.want(self.wanted)
            lacking = [
                name for name in self.wanted if not all(self._done(name, view).all() for view in range(self.views))
            ]
            mine = missing[fabric.global_rank :: fabric.world_size]
            loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
                _Keyed(samples, mine), batch_size=batch_size, num_workers=workers, generator=torch.Generator()
            )
            # As in training, where convolutions are faster so. The student stays as a later run will find it.
            if distiller.teacher is not None:
                distiller.teacher.to(memory_format=torch.channels_last)
            done = 0
            for images, *_ in tracked(loader, "filling the teacher cache", len(loader), console, progress):
                records = outputs_in_half(distiller, images, lacking, fabric)
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
        """The teacher outputs wanted of one view of one image, by name."""
        return {name: self._forms[name].tensor(self._file(name, view).read(image)) for name in self.wanted}

    def _read_forms(self) -> dict[str, Form]:
        """The outputs that the cache holds, by name, after a check of what it was made for."""
        if _read(self.folder) is None:
            return {}
        entries = self._store.check()
        return {name: Form.of(values) for name, values in (entries or {}).get("teacher_outputs", {}).items()}

    @contextmanager
    def _locked(self, fabric: Fabric) -> Iterator[None]:
        """Keeps other runs from filling this cache meanwhile; a kill ends that too."""
        with contextlib.ExitStack() as held:
            with raised_by_all(fabric):
                if fabric.is_global_zero and not held.enter_context(self._store.locked(wait=False)):
                    raise UserError(
                        f"another run is filling the teacher cache {self.folder}; start this one when it is done"
                    )
            yield

    def _begin(
        self, records: Mapping[str, Tensor], distiller: Distiller, missing: int, fabric: Fabric, console: Console
    ) -> None:
        """Says how large the cache will be, and takes that space, before the first record is written."""
        fabric.barrier()  # each has seen what is missing, before anything changes
        with raised_by_all(fabric):
            if fabric.is_global_zero:
                self._make_room(records, distiller, missing, console)
        self._forms = self._read_forms()

    def _make_room(self, records: Mapping[str, Tensor], distiller: Distiller, missing: int, console: Console) -> None:
        forms = {name: form_of(values) for name, values in records.items()}
        for name in forms.keys() & self._forms.keys():
            if forms[name] != self._forms[name]:
                raise UserError(
                    f"teacher cache {self.folder} holds {name} as {self._forms[name]}, and now it is {forms[name]}; "
                    "use another folder, or remove this one"
                )
        fresh = {name: form for name, form in forms.items() if name not in self._forms}
        if not fresh:
            told = f"{missing} of {self.images * self.views} views are missing and will be added"
            console.out(f"teacher cache {self.folder}: {told}", highlight=False)
            return
        files = [self._new_file(name, view, form) for name, form in fresh.items() for view in range(self.views)]
        kept = f"{counted(self.images, 'image')} x {counted(self.views, 'view')}"
        console.out(
            f"teacher cache {self.folder}: {kept} of {', '.join(sorted(fresh))} take "
            f"{readable(sum(file.bytes for file in files))} ({readable(free_bytes(self.folder))} free)",
            highlight=False,
        )
        remedy = "choose another folder, or fewer views"
        self._store.check_space(files, remedy)
        teacher = {"info": asdict(distiller.source.info), "multiple": distiller.source.multiple}
        held = {name: asdict(form) for name, form in self._forms.items()}
        # Before the first file, so that a folder that was killed in between is known to be a cache.
        self._store.write(teacher=teacher, teacher_outputs=held)
        self._store.allocate(files, remedy)
        self._store.write(teacher=teacher, teacher_outputs=held | {name: asdict(form) for name, form in fresh.items()})

    def _write(self, name: str, keys: Sequence[tuple[int, int]], values: Tensor) -> None:
        rows = values.reshape(len(values), -1).view(torch.uint8).numpy()
        for view in sorted({view for view, _ in keys}):
            chosen = {image: row for (at, image), row in zip(keys, rows, strict=True) if at == view}
            with self._file(name, view).writing() as writer:
                for image, row in chosen.items():
                    writer.put(image, row)
                writer.mark(chosen)

    def _done(self, name: str, view: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if name not in self._forms:
            return np.zeros(self.images, dtype=bool)
        file = self._file(name, view)
        damage = file.damage()
        if damage is not None:
            raise damage
        return file.done()

    def _file(self, name: str, view: int) -> RecordFile:
        if (name, view) not in self._files:
            self._files[name, view] = self._new_file(name, view, self._forms[name])
        return self._files[name, view]

    def _new_file(self, name: str, view: int, form: Form) -> RecordFile:
        starts = range(0, (self.images + 1) * form.bytes, form.bytes)
        remedy = f"remove the teacher cache {self.folder}, and the next run makes it anew"
        return RecordFile(self.folder / f"{name}.view{view}", starts, remedy)


class _Keyed(torch.utils.data.Dataset[tuple[Any, ...]]):
    """Samples in the order of ``keys``, (view, image) each."""

    def __init__(self, samples: TrainingSamples, keys: Sequence[tuple[int, int]]) -> None:
        self.samples = samples
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self.samples[self.keys[number]]


def _read(folder: Path) -> dict[str, Any] | None:
    """The manifest in a folder; None where there is no cache yet, or a kill prevented its first file.

    Raises:
        UserError: see `TeacherCache`.
    """
    file, remedy = folder / MANIFEST_FILE, f"remove the teacher cache {folder}"
    manifest = read_manifest(file, remedy)
    if manifest is None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"teacher cache {folder} is a file, expected a folder")
        if not is_free(folder):
            raise UserError(f"{folder} is no teacher cache and not an empty folder; choose another one")
        return None
    try:
        found = manifest["made_for"]["format"]
        if found == FORMAT:
            int(manifest["made_for"]["views"])
            _known_teacher(manifest["teacher"])
            for form in manifest["teacher_outputs"].values():
                Form.of(form)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"cannot read {file}: {reason}; {remedy}") from error
    if found != FORMAT:
        raise UserError(f"{file} has format {found!r}, this segdistill reads format {FORMAT}; use another folder")
    return manifest


def _known_teacher(values: Mapping[str, Any]) -> KnownTeacher:
    """From what `TeacherCache` writes of a teacher into its manifest."""
    info = values["info"]
    return KnownTeacher(
        NetworkInfo(
            stages=tuple(Tap(**stage) for stage in info["stages"]),
            embedding=Tap(**info["embedding"]),
            logits=Tap(**info["logits"]),
            num_classes=info["num_classes"],
            in_channels=info["in_channels"],
            size=None if info.get("size") is None else tuple(info["size"]),
        ),
        values["multiple"],
    )
