"""`Network`: any segmentation model, seen in one uniform way."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks import weights
from segdistill.networks.description import Description
from segdistill.networks.features import Features, NetworkInfo, Tap
from segdistill.networks.folder import CARD_FILE, read_description, save_network
from segdistill.networks.outputs import Place, place_of_logits, usual_place, value_at
from segdistill.networks.padding import pad_to_multiple, pad_to_size
from segdistill.networks.pretrained import PRETRAINED_FILE, load_pretrained
from segdistill.networks.size import example_images, untouched
from segdistill.networks.taps import describe, record_taps


def write_state_dict(network: Network, folder: Path) -> None:
    """Write the model's weights to ``folder``, by parameter name: the default of `Network.save`."""
    weights.write_weights(network.model, folder)


class Network(nn.Module):
    """A segmentation model, teacher or student, with a uniform view of its inside.

    A tap names a place by module: ``"backbone.layer1"`` (the module's output), ``"encoder[2]"`` or
    ``"[out]"`` (an item of it), ``"classifier.4:input"`` (the module's first input); ``""`` is the model
    itself. The embedding is best tapped before any dropout: what dropout zeroes is noise to a loss on
    features. Channels and strides are learnt from one small forward at construction, which leaves training
    mode and random state as they were.

    Args:
        model: the plain model: takes (B, C, H, W), returns logits at the image's size or smaller: a tensor, or a dict,
            tuple, list or output class that holds them, with those of auxiliary heads or without. It stays reachable
            as ``network.model``.
        stages: taps of the backbone's stages, fine to coarse; by custom those of stride 4 and more.
        embedding: tap of the last feature map before the classifier; None, and no stages, for a model that shows no
            features: it can teach its class scores alone.
        logits: tap of the class scores before up-sampling; None for a backbone without a classifier, which can teach
            its features alone.
        in_channels: channels of the images.
        multiple: what height and width of the images must be divisible by; others are padded.
        mean: per-channel mean of images in 0..1, subtracted inside; None: images go in as they are.
        std: per-channel standard deviation, given with ``mean``.
        spec: what `load_network` can build the model from again; None for a model wrapped by hand.
        probe_size: height and width of the image for the forward at construction, for models of one size.
        write: writes the model's own files into a folder; by default the state dict as model.safetensors.
        read: loads a file of weights into the model and returns what it left out, in words; by default strictly, by
            parameter name.
        scorer: for a model that does not return class scores: is called with the model and normalised images, runs the
            model, and returns the scores (B, K, h, w). ``logits`` is None then.
        size: (height, width) of the only images that the model takes; smaller ones are padded.
        teaches_only: why the network cannot be a student; None: it can.

    Attributes:
        info: channels and stride of every tap, known before the first image.
        notes: what a user should know of the weights that were loaded, a line each.
        start: what the weights were before any training here: ``"random"``; ``"features"``, pre-trained on a teacher's
            features; ``"trained"``, others, and those of a model that is wrapped by hand, of which nothing is known.

    Raises:
        UserError: a tap does not exist or is no (B, C, H, W) tensor; there are neither features nor class scores;
            stages are not fine to coarse; the output has no logits or another class count than the logits tap; ``mean``
            and ``std`` do not fit ``in_channels``.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 2, stride=2))
        >>> model = nn.Sequential(body, nn.Conv2d(16, 5, 1))
        >>> network = Network(model, stages=["0.1", "0.2"], embedding="0", logits="1")
        >>> network.num_classes, network.info.embedding
        (5, Tap(name='0', channels=16, stride=8))
        >>> tuple(network(torch.rand(2, 3, 64, 96)).shape)
        (2, 5, 64, 96)
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        *,
        stages: Sequence[str],
        embedding: str | None,
        logits: str | None,
        in_channels: int = 3,
        multiple: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        spec: str | None = None,
        probe_size: int = 128,
        write: Callable[[Network, Path], None] = write_state_dict,
        read: Callable[[nn.Module, Path], list[str]] = weights.load_weights,
        scorer: nn.Module | None = None,
        size: tuple[int, int] | None = None,
        teaches_only: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(stages, str):
            raise UserError(f"stages is the text '{stages}', expected a list of taps such as ['{stages}']")
        if embedding is None and (stages or (logits is None and scorer is None)):
            raise UserError(
                f"embedding is None, stages is {list(stages)} and logits is {logits!r}, expected features (an "
                "embedding, with stages), class scores, or both"
            )
        self.model = model
        self.scorer = scorer
        self.multiple = multiple
        self.size = size
        self.teaches_only = teaches_only
        self.spec = spec
        self._in_channels = in_channels
        self.notes: list[str] = []
        self.start: Literal["random", "features", "trained"] = "trained"
        self._write = write
        self._read = read
        self.set_normalization(mean, std)
        self._stages, self._embedding, self._logits = tuple(stages), embedding, logits
        self._places: dict[bool, Place] = {}
        self.info = self._probe(probe_size)
        coarsest = max(tap.stride for tap in (*self.info.stages, self.info.embedding, self.info.logits))
        self._description = Description.unnamed(
            spec, self.info.num_classes, in_channels, stride=math.lcm(multiple, coarsest)
        )

    @property
    def device(self) -> torch.device:
        """Where the model computes; the CPU for one without parameters."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return self.info.num_classes

    @property
    def parts(self) -> list[Network]:
        """The networks that hold weights: this one, or those inside of one that is made of others."""
        return [self]

    @property
    def description(self) -> Description:
        """All that must be known to use the network: names and colours of its classes, kind of images, and more.

        Assign a changed one (``dataclasses.replace``) to name the classes; `save` writes it, `load_network` reads it.

        Raises:
            UserError: on assignment, for another number of classes or channels than the network has.
        """
        return replace(self._description, spec=self.spec, mean=_values(self.mean), std=_values(self.std))

    @description.setter
    def description(self, described: Description) -> None:
        own = (self.num_classes, self._in_channels)
        if (described.num_classes, described.in_channels) != own:
            raise UserError(
                f"the description is of {described.num_classes} classes and {described.in_channels} channels, but the "
                f"network has {own[0]} and {own[1]}"
            )
        self.set_normalization(described.mean, described.std)
        self._description = replace(described, stride=self._description.stride)

    def set_normalization(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Normalise images by ``mean`` and ``std`` (one value per channel, of images in 0..1) from now on.

        Raises:
            UserError: only one of the two is given, or not one value per channel.
        """
        lengths = [None if values is None else len(values) for values in (mean, std)]
        if lengths not in ([None, None], [self._in_channels] * 2):
            raise UserError(
                f"mean is {mean} and std is {std}, expected {self._in_channels} values each, or None for both"
            )
        device = self.device
        # Not persistent: the state dict is the model's alone, network.json keeps these.
        for name, values in (("mean", mean), ("std", std)):
            column = None if values is None else torch.tensor(values, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores at the images' size, by the model's own forward and its own up-sampling.

        Images of a size that is not divisible by ``multiple``, or smaller than ``size``, are padded at the right and
        bottom (`pad_to_multiple`) and the scores cropped back.

        Args:
            images: (B, C, H, W), floating in 0..1 or uint8 in 0..255.

        Returns:
            Logits (B, K, H, W); of a network without a classifier K is 0.

        Raises:
            UserError: images of another rank, channel count or dtype, or larger than ``size``.
        """
        self._check(images)
        height, width = images.shape[-2:]
        padded = pad_to_multiple(images, self.multiple)
        padded = self._normalize(padded if self.size is None else pad_to_size(padded, self.size))
        logits = self._logits_of(padded)
        if logits.shape[-2:] != padded.shape[-2:]:
            logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        """Class scores at the images' size and what the inside showed, from one forward.

        The features are of the padded images where padding was needed: pad beforehand, with `pad_to_multiple`,
        to have labels or another network's features fit them.

        Args:
            images: as in `forward`.

        Returns:
            Logits (B, K, H, W), and the `Features`; gradients flow through both.
        """
        taps = [tap for tap in (*self._stages, self._embedding, self._logits) if tap is not None]
        with ExitStack() as recording:
            seen = recording.enter_context(record_taps(self.model, taps))
            scored = {} if self.scorer is None else recording.enter_context(record_taps(self.scorer, [""]))
            logits = self(images)
        none = logits[:, :0]
        return logits, Features(
            stages=tuple(seen[tap] for tap in self._stages),
            embedding=none if self._embedding is None else seen[self._embedding],
            logits=scored.get("", none) if self._logits is None else seen[self._logits],
        )

    def features(self, images: Tensor) -> Features:
        """What the inside shows of ``images``; see `forward_with_features`."""
        return self.forward_with_features(images)[1]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save to ``folder``: the files of the model's own library, which load without segdistill.

        network.json beside them holds the `description`. A network that is there already is replaced file by
        file, each whole.

        Raises:
            UserError: ``folder`` is a file, or cannot be written to.
        """
        save_network(self, Path(folder), self._write)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Load weights into the model from a file, or from a folder made by `save`.

        A file is .safetensors, or torch's (.pth, .pt, .bin, .ckpt): a state dict, or a checkpoint that holds one. What
        its makers put before the names (``module.``, ``model.``) is taken off; `notes` says what.

        From such a folder the network takes its normalisation and the rest of its `description` too. That of a
        pre-trained network gives its normalisation and the part that was trained, see `load_pretrained`.

        Raises:
            UserError: not there, damaged, or of another network.
        """
        file = Path(path)
        if (file / PRETRAINED_FILE).is_file():
            self.notes += load_pretrained(self.model, file / PRETRAINED_FILE)
            self.start = "features"
            read = read_description(file)
            self.set_normalization(read.mean, read.std)
            return
        described = read_description(file) if (file / CARD_FILE).is_file() else None
        self.notes += self._read(self.model, file / weights.WEIGHTS_FILE if file.is_dir() else file)
        self.start = "trained"
        if described is not None:
            self.description = described

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self._in_channels:
            raise UserError(
                f"images have shape {tuple(images.shape)}, expected (B, {self._in_channels}, H, W): "
                f"this network takes {self._in_channels} channels"
            )
        height, width = images.shape[-2:]
        if self.size is not None and (height > self.size[0] or width > self.size[1]):
            raise UserError(
                f"images of {height} x {width} pixels are too large for this network, which takes only "
                f"{self.size[0]} x {self.size[1]}: give crop: {list(self.size)}"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise UserError(f"images are {images.dtype}, expected floating in 0..1 or torch.uint8 in 0..255")

    def _normalize(self, images: Tensor) -> Tensor:
        model_dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        # In single precision even for a model in half: 8 bits of mean are lost colours.
        working = torch.promote_types(model_dtype, torch.float32)
        scale = 255 if images.dtype == torch.uint8 else 1
        images = images.to(working) / scale
        if self.mean is not None and self.std is not None:
            images = (images - self.mean.to(working)) / self.std.to(working)
        return images.to(model_dtype)

    def _logits_of(self, images: Tensor) -> Tensor:
        """The class scores in what the model returns."""
        if self.scorer is not None:
            scores: Tensor = self.scorer(self.model, images)
            return scores
        output = self.model(images)
        if self._logits is None:
            return images.new_zeros(len(images), 0, *images.shape[-2:])
        place = self._places.get(self.model.training, usual_place(output))
        found = None if place is None else value_at(output, place)
        if found is None:
            raise UserError(
                f"the model returns {describe(output)}, expected logits (B, K, H, W), or a dict, list or tuple with "
                "them, the same for all images"
            )
        return found

    def _find_logits(self, images: Tensor) -> None:
        """Find out where the class scores are in what the model returns, for each mode.

        Models with auxiliary heads return several maps, some of them in training mode alone.
        """
        for training in (False, True) if self._logits is not None else ():
            # Two images, for batch statistics of one value each.
            batch = self._normalize(images.repeat(1 + training, 1, 1, 1))
            with untouched(self.model, training), record_taps(self.model, [str(self._logits)]) as seen:
                try:
                    output = self.model(batch)
                except Exception:
                    if not training:
                        raise
                    continue  # some models train on labels alone; training reports it
            self._places[training] = place_of_logits(output, seen[str(self._logits)])

    def _probe(self, size: int) -> NetworkInfo:
        side = -(-size // self.multiple) * self.multiple
        images = example_images(self.model, self._in_channels, self.size or (side, side))
        self._find_logits(images)
        with untouched(self.model):
            output, features = self.forward_with_features(images)

        def tap(name: str | None, value: Tensor) -> Tap:
            return Tap(name=name or "", channels=value.shape[1], stride=round(images.shape[2] / value.shape[2]))

        stages = tuple(tap(name, value) for name, value in zip(self._stages, features.stages, strict=True))
        strides = [stage.stride for stage in stages]
        if self._embedding is not None and (not stages or strides != sorted(strides)):
            raise UserError(
                f"stages {list(self._stages)} have strides {strides}, expected one at least, fine to coarse"
            )
        logits = tap(self._logits, features.logits)
        if logits.channels != output.shape[1]:
            raise UserError(
                f"logits tap '{self._logits}' has {logits.channels} channels, but the network's output has "
                f"{output.shape[1]} classes: expected the same"
            )
        return NetworkInfo(
            stages=stages,
            embedding=tap(self._embedding, features.embedding),
            logits=logits,
            num_classes=logits.channels,
            in_channels=self._in_channels,
            size=self.size,
        )


def _values(column: Tensor | None) -> tuple[float, ...] | None:
    # Through float's shortest form: 0.485 comes back as 0.485, not as 0.48500001430511475.
    return None if column is None else tuple(float(f"{value:.7g}") for value in column.flatten().tolist())
