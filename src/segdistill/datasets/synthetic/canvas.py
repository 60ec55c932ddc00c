"""The drawing surface of the synthetic aerial scenes: colour, label, texture and shadow, drawn together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = range(6)

OVERSAMPLING = 2
"""Colours are drawn so many times finer than the scene: its boundary pixels are mixed, as in a photograph."""

Color = tuple[int, int, int]
Points = np.ndarray
"""float (n, 2): x and y in pixels of the scene."""


@dataclass(frozen=True)
class Texture:
    """How much a surface varies, in grey levels: from pixel to pixel, over some pixels, over half a scene."""

    fine: float
    middle: float
    coarse: float


TEXTURES = (
    SMOOTH := Texture(2.0, 1.0, 0.0),
    GRASS := Texture(7.0, 8.0, 12.0),
    ASPHALT := Texture(4.0, 4.0, 6.0),
    ROOF := Texture(4.0, 4.0, 3.0),
    CROWN := Texture(14.0, 14.0, 4.0),
    RUBBLE := Texture(22.0, 14.0, 4.0),
)


class Canvas:
    """A scene under construction.

    Args:
        ground: the bare ground at the size of the scene, low vegetation everywhere.
        sun: unit vector (x, y) towards which shadows fall.
    """

    def __init__(self, ground: Image.Image, sun: np.ndarray) -> None:
        self.sun = sun
        fine = (ground.width * OVERSAMPLING, ground.height * OVERSAMPLING)
        self.color = ground.resize(fine)
        self.label = Image.new("L", fine, LOW_VEGETATION)
        self.texture = Image.new("L", fine, TEXTURES.index(GRASS))
        self.shadow = Image.new("L", fine, 0)
        self._color = ImageDraw.Draw(self.color)
        self._label = ImageDraw.Draw(self.label)
        self._texture = ImageDraw.Draw(self.texture)
        self._shadow = ImageDraw.Draw(self.shadow)

    def polygon(self, points: Points, color: Color, label: int, texture: Texture) -> None:
        """An area that is lit until a shadow is cast on it."""
        flat = _flat(points)
        self._color.polygon(flat, fill=color)
        self._label.polygon(flat, fill=label)
        self._texture.polygon(flat, fill=TEXTURES.index(texture))
        self._shadow.polygon(flat, fill=0)

    def ribbon(self, points: Points, width: float, color: Color, label: int, texture: Texture) -> None:
        """An area of one ``width`` along a gently bent line."""
        direction = np.gradient(points, axis=0)
        across = np.stack([-direction[:, 1], direction[:, 0]], axis=1) / np.hypot(*direction.T)[:, None]
        edges = np.concatenate([points + across * width / 2, (points - across * width / 2)[::-1]])
        self.polygon(edges, color, label, texture)

    def paint(self, points: Points, color: Color) -> None:
        """Colour alone: the sunny half of a roof, a windscreen."""
        self._color.polygon(_flat(points), fill=color)

    def stroke(self, points: Points, width: float, color: Color) -> None:
        """A line of colour alone: lane marks, tiles, ridges."""
        self._color.line(_flat(points), fill=color, width=max(1, round(width * OVERSAMPLING)))

    def cast(self, points: Points, length: float, depth: int = 255) -> None:
        """The shadow of a convex body: its outline swept ``length`` pixels along the sun."""
        across = points @ np.array([-self.sun[1], self.sun[0]])
        points = np.roll(points, -int(across.argmin()), axis=0)
        turn = (int(across.argmax()) - int(across.argmin())) % len(points)
        # The two sides of the outline between the points furthest left and right of the sun's way.
        sides = points[: turn + 1], np.concatenate([points[turn:], points[:1]])
        far = int((sides[1] @ self.sun).mean() > (sides[0] @ self.sun).mean())
        sides[far][:] += self.sun * length
        self._shadow.polygon(_flat(np.concatenate(sides)), fill=depth)

    def label_at(self, point: np.ndarray) -> int | None:
        """The label at one point, ``None`` outside the scene."""
        x, y = (point * OVERSAMPLING).tolist()
        if not (0 <= x < self.label.width and 0 <= y < self.label.height):
            return None
        label: Any = self.label.getpixel((int(x), int(y)))  # one number, since the layer has one channel
        return int(label)

    def labels_at(self, points: Points) -> np.ndarray:
        """The labels under those of ``points`` that lie in the scene."""
        label = np.asarray(self.label)
        columns, rows = (points * OVERSAMPLING).astype(int).T
        inside = (columns >= 0) & (columns < label.shape[1]) & (rows >= 0) & (rows < label.shape[0])
        labels: np.ndarray = label[rows[inside], columns[inside]]
        return labels


def rectangle(center: np.ndarray, length: float, width: float, angle: float) -> Points:
    """The corners of a rectangle, ``length`` along ``angle``."""
    # Plain numbers: for so few, numpy's calls would be most of the time that a scene takes.
    x, y = center.tolist()
    along_x, along_y = math.cos(angle) * length / 2, math.sin(angle) * length / 2
    across_x, across_y = -math.sin(angle) * width / 2, math.cos(angle) * width / 2
    return np.array(
        [
            (x - along_x - across_x, y - along_y - across_y),
            (x + along_x - across_x, y + along_y - across_y),
            (x + along_x + across_x, y + along_y + across_y),
            (x - along_x + across_x, y - along_y + across_y),
        ]
    )


def axes(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The unit vectors along ``angle`` and across it."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([cosine, sine]), np.array([-sine, cosine])


def rgb(color: Iterable[float]) -> Color:
    """The nearest colour that can be drawn."""
    red, green, blue = (min(255, max(0, int(level))) for level in color)
    return red, green, blue


def _flat(points: Points) -> list[float]:
    flat: list[float] = (points * OVERSAMPLING).ravel().tolist()
    return flat
