"""The things of the synthetic aerial scenes, each with its colours, its shadow and its label."""

from __future__ import annotations

import numpy as np

from segdistill.datasets.synthetic.canvas import (
    ASPHALT,
    BUILDING,
    CAR,
    CLUTTER,
    CROWN,
    IMPERVIOUS,
    ROOF,
    RUBBLE,
    SMOOTH,
    TREE,
    Canvas,
    Color,
    Points,
    axes,
    rectangle,
    rgb,
)

# Colours overlap between classes on purpose: grey roofs and asphalt, tar roofs and shadows, dry grass and
# gravel, green roofs, grass and crowns, red cars and red tiles. Only shape and context tell them apart.
GRASS_COLORS = ((88, 112, 62), (70, 96, 54), (118, 122, 74), (142, 132, 92), (96, 124, 70))
ASPHALT_COLORS = ((98, 98, 100), (120, 118, 116), (84, 86, 92), (140, 136, 130))
PATHS = ((168, 158, 138), (150, 146, 140), (132, 120, 100), (176, 172, 164))
ROOFS = ((152, 84, 66), (128, 70, 58), (172, 108, 84), (112, 110, 110), (142, 140, 138), (84, 80, 80))
FLAT_ROOFS = (
    (134, 132, 130),
    (104, 102, 104),
    (176, 174, 170),
    (206, 206, 202),
    (92, 104, 78),
    (122, 112, 104),
)
CROWNS = ((58, 84, 46), (48, 72, 44), (76, 96, 52), (92, 104, 56), (62, 78, 58), (124, 100, 52))
CARS = (
    (226, 226, 226),
    (40, 42, 46),
    (110, 112, 116),
    (168, 170, 174),
    (156, 36, 34),
    (40, 66, 128),
    (84, 88, 82),
    (196, 168, 60),
)
CONTAINERS = ((36, 92, 156), (176, 84, 40), (70, 116, 86), (190, 186, 178), (128, 96, 70))
WATER = ((72, 168, 196), (96, 186, 200), (52, 130, 164))

Part = tuple[np.ndarray, float, float, float]
"""A rectangle: center, length, width, angle of the length."""


def some_color(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 8.0) -> Color:
    """One of ``colors``, a little changed."""
    base = colors[rng.integers(len(colors))]
    light, *tint = rng.standard_normal(4).tolist()
    return rgb(level + spread * (light + shift / 3) for level, shift in zip(base, tint, strict=True))


class Painter:
    """Puts things on a canvas.

    Args:
        canvas: drawn on.
        rng: chance.
        shadow_per_height: length of the shadow of a body of height 1, in pixels.
    """

    def __init__(self, canvas: Canvas, rng: np.random.Generator, shadow_per_height: float) -> None:
        self.canvas = canvas
        self.rng = rng
        self.shadow_per_height = shadow_per_height

    def blob(self, center: np.ndarray, radius: float, roughness: float) -> Points:
        """An uneven round outline; ``roughness`` is the relative deviation of its radius."""
        corners = 16
        angles = np.arange(corners) * 2 * np.pi / corners
        lengths = radius * (1 + roughness * self.rng.normal(size=corners)).clip(0.45, 1.6)
        points: Points = center + np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]
        return points

    def car(self, center: np.ndarray, angle: float) -> None:
        """A body with two windscreens; ``angle`` is the way it heads."""
        length, width = self.rng.uniform(5.2, 7.2), self.rng.uniform(2.7, 3.3)
        body = rectangle(center, length, width, angle)
        self.canvas.cast(body, 1.6 * self.shadow_per_height)
        self.canvas.polygon(body, some_color(self.rng, CARS, 5), CAR, SMOOTH)
        along = axes(angle)[0]
        for shift in (0.2, -0.3):
            glass = rectangle(center + along * shift * length, length * 0.14, width * 0.8, angle)
            self.canvas.paint(glass, (44, 50, 58))

    def pool(self, center: np.ndarray, angle: float) -> None:
        """Water with a paved rim."""
        self.canvas.polygon(rectangle(center, 13, 8, angle), (190, 186, 178), IMPERVIOUS, ASPHALT)
        self.canvas.polygon(rectangle(center, 10, 5, angle), some_color(self.rng, WATER), CLUTTER, SMOOTH)

    def containers(self, center: np.ndarray, angle: float) -> None:
        """One to three side by side."""
        for number in range(int(self.rng.integers(1, 4))):
            box = rectangle(center + axes(angle)[1] * (number - 1) * 4.6, 10, 4, angle)
            self.canvas.cast(box, 3 * self.shadow_per_height)
            self.canvas.polygon(box, some_color(self.rng, CONTAINERS), CLUTTER, SMOOTH)

    def rubble(self, center: np.ndarray) -> None:
        """Some heaps."""
        color = np.array(some_color(self.rng, PATHS, 14))
        for _ in range(int(self.rng.integers(3, 7))):
            heap = self.blob(center + self.rng.normal(0, 3.5, 2), self.rng.uniform(3, 6), roughness=0.15)
            self.canvas.polygon(heap, rgb(color * self.rng.uniform(0.8, 1.1)), CLUTTER, RUBBLE)

    def building(self, parts: list[Part], yard: bool) -> None:
        """One house of one or more wings, perhaps with a paved yard around the first."""
        tall = self.rng.uniform(4, 11)
        pitched = self.rng.random() < 0.6
        color = some_color(self.rng, ROOFS if pitched else FLAT_ROOFS)
        center, length, width, angle = parts[0]
        if yard:
            paved = rectangle(center + self.rng.normal(0, 1.5, 2), length + 7, width + 7, angle)
            self.canvas.polygon(paved, some_color(self.rng, PATHS), IMPERVIOUS, ASPHALT)
        for part in parts:
            self.canvas.cast(rectangle(*part), tall * self.shadow_per_height)
        for part in parts:
            self.canvas.polygon(rectangle(*part), color, BUILDING, ROOF)
            (self._pitched_roof if pitched else self._flat_roof)(*part, color)

    def tree(self, center: np.ndarray, colors: list[Color]) -> None:
        """An uneven crown, brighter towards the sun."""
        radius = self.rng.uniform(3, 7.5)
        color = np.array(colors[self.rng.integers(len(colors))])
        crown = self.blob(center, radius, roughness=0.16)
        self.canvas.cast(crown, radius * 1.1 * self.shadow_per_height, depth=225)
        self.canvas.polygon(crown, rgb(color * 0.8), TREE, CROWN)
        sunny = center - self.canvas.sun * radius * 0.22
        self.canvas.paint(sunny + (crown - center) * 0.66, rgb(color * 1.05))
        self.canvas.paint(sunny - self.canvas.sun * radius * 0.1 + (crown - center) * 0.32, rgb(color * 1.25))

    def _pitched_roof(self, center: np.ndarray, length: float, width: float, angle: float, color: Color) -> None:
        along, across = axes(angle)
        for side in (-1, 1):
            # The slope that looks away from where the shadows fall is the bright one.
            light = 1 - 0.28 * float(across @ self.canvas.sun) * side
            shaded = rgb(level * light for level in color)
            darker = rgb(level - 9 for level in shaded)
            self.canvas.paint(rectangle(center + across * side * width / 4, length, width / 2, angle), shaded)
            rows = center + across * side * np.arange(1.5, width / 2, 2.1)[:, None]
            for tiles in np.stack([rows - along * length / 2, rows + along * length / 2], axis=1):
                self.canvas.stroke(tiles, 0.5, darker)
        ridge = np.stack([center - along * length / 2, center + along * length / 2])
        self.canvas.stroke(ridge, 0.5, rgb(level + 28 for level in color))
        if self.rng.random() < 0.7:  # a chimney
            place = center + along * length * self.rng.uniform(-0.3, 0.3) + across * 1.5
            self.canvas.paint(rectangle(place, 1.6, 1.6, angle), (70, 58, 54))

    def _flat_roof(self, center: np.ndarray, length: float, width: float, angle: float, color: Color) -> None:
        self.canvas.paint(rectangle(center, length, width, angle), rgb(level + 22 for level in color))  # the parapet
        self.canvas.paint(rectangle(center, length - 1.6, width - 1.6, angle), color)
        along, across = axes(angle)
        for _ in range(int(self.rng.integers(1, 6))):  # vents, skylights, solar panels
            shift = self.rng.uniform(-0.35, 0.35, 2)
            place = center + along * shift[0] * length + across * shift[1] * width
            panel = some_color(self.rng, ((48, 56, 76), (188, 190, 192), (84, 84, 86)))
            self.canvas.paint(rectangle(place, self.rng.uniform(1.5, 4), self.rng.uniform(1.2, 2.5), angle), panel)
