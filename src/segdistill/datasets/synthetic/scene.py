"""One synthetic aerial scene: what lies where, and how the camera sees it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.datasets.synthetic.canvas import (
    ASPHALT,
    GRASS,
    IMPERVIOUS,
    LOW_VEGETATION,
    OVERSAMPLING,
    TEXTURES,
    Canvas,
    Color,
    Points,
    axes,
    rectangle,
)
from segdistill.datasets.synthetic.objects import ASPHALT_COLORS, CROWNS, GRASS_COLORS, PATHS, Painter, Part, some_color

# Points all over a unit square and a little outside, to see whether a place is free.
_PROBES = np.stack(np.meshgrid(*[np.linspace(-0.55, 0.55, 7)] * 2), axis=-1).reshape(-1, 2)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene with what makes aerial images hard: thin paths, cars in shadow, crowns over roofs and roads.

    Args:
        rng: the only source of chance.
        height, width: in pixels; objects keep their size, their number grows with the area.

    Returns:
        image: uint8 (H, W, 3).
        labels: uint8 (H, W): 0 impervious, 1 building, 2 low vegetation, 3 tree, 4 car, 5 clutter.
    """
    return Scene(rng, height, width).render()


class Road(NamedTuple):
    """A road, and which points of its curve lie in the scene."""

    curve: Points
    width: float
    visible: list[int]

    def somewhere(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """A visible point at random, and where the road heads there."""
        step = self.visible[rng.integers(len(self.visible))]
        return self.curve[step], self.heading(step)

    def heading(self, step: int) -> float:
        """The angle of the road at point number ``step``."""
        x, y = self.curve[step + 1] - self.curve[step - 1]
        return float(np.arctan2(y, x))


class Scene:
    """Draws from the ground up; each step may cover what the steps before drew."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.size = np.array([width, height], dtype=float)
        self.area = height * width / 128**2
        angle = rng.uniform(0, 2 * np.pi)
        self.canvas = Canvas(self._ground(), axes(angle)[0])
        self.painter = Painter(self.canvas, rng, shadow_per_height=rng.uniform(0.5, 1.3))
        self.roads: list[Road] = []
        self.grid = rng.uniform(0, np.pi)  # the direction most streets and houses of a quarter follow
        self._fields()
        self._roads()
        self._parking()
        self._cars()
        self._buildings()
        self._clutter()
        self._trees()

    def _few(self, low: float, high: float) -> int:
        """A number of objects for this area, at random."""
        return int(self.rng.uniform(low, high) * self.area + self.rng.random())

    def _sign(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1

    def _place(self) -> np.ndarray:
        place: np.ndarray = self.rng.uniform(0, 1, 2) * self.size
        return place

    def _noise(self, cells: float) -> np.ndarray:
        """Smooth noise of about unit variance, float32 (H, W), varying over ``cells`` pixels."""
        width, height = self.size.astype(int)
        small = self.rng.standard_normal((2 + int(height / cells), 2 + int(width / cells)), dtype=np.float32)
        return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))

    def _ground(self) -> Image.Image:
        blend = (128 + 150 * self._noise(22)).clip(0, 255).astype(np.uint8)
        first, second = (Image.new("RGB", blend.shape[::-1], some_color(self.rng, GRASS_COLORS)) for _ in range(2))
        return Image.composite(first, second, Image.fromarray(blend))

    def _fields(self) -> None:
        for _ in range(self._few(1, 3)):
            outline = self.painter.blob(self._place(), self.rng.uniform(10, 26), roughness=0.25)
            self.canvas.polygon(outline, some_color(self.rng, GRASS_COLORS), LOW_VEGETATION, GRASS)

    def _roads(self) -> None:
        for _ in range(self._few(1, 2)):
            self._road(self.rng.uniform(11, 16), some_color(self.rng, ASPHALT_COLORS), marked=True)
        for _ in range(self._few(0.3, 1.6)):
            self._road(self.rng.uniform(5, 8), some_color(self.rng, ASPHALT_COLORS), marked=False)
        for _ in range(self._few(1.2, 3.2)):
            path = self._curve(self.rng.uniform(0, np.pi), bend=0.14)
            self.canvas.ribbon(path, self.rng.uniform(1.4, 2.8), some_color(self.rng, PATHS), IMPERVIOUS, ASPHALT)

    def _road(self, width: float, color: Color, marked: bool) -> None:
        turned = self.grid + (np.pi / 2) * self.rng.integers(2) + self.rng.normal(0, 0.15)
        curve = self._curve(turned, bend=0.06)
        if self.rng.random() < 0.6:
            self.canvas.ribbon(
                curve, width + self.rng.uniform(2.5, 5), some_color(self.rng, PATHS), IMPERVIOUS, ASPHALT
            )
        self.canvas.ribbon(curve, width, color, IMPERVIOUS, ASPHALT)
        if marked:
            for start in range(0, len(curve) - 1, 2):
                self.canvas.stroke(curve[start : start + 2], 0.6, (206, 204, 198))
        inside = ((curve > 0) & (curve < self.size)).all(axis=1)
        # The ends have no heading, and a road may miss the scene.
        visible = [step for step in np.flatnonzero(inside).tolist() if 0 < step < len(curve) - 1]
        if visible:
            self.roads.append(Road(curve, width, visible))

    def _curve(self, angle: float, bend: float) -> Points:
        """A bent line right through the scene."""
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        reach = float(np.hypot(*self.size)) * 0.75
        middle = (0.5 + self.rng.uniform(-0.35, 0.35, 2)) * self.size
        steps = np.linspace(-1, 1, max(24, int(reach / 3.5)))[:, None]
        swing = np.sin(steps * np.pi * self.rng.uniform(0.5, 1.6) + self.rng.uniform(0, 2 * np.pi))
        points: Points = middle + along * steps * reach + across * swing * bend * self.rng.normal() * reach
        return points

    def _parking(self) -> None:
        for _ in range(self._few(0, 1)):
            angle, rows = self.grid + self.rng.normal(0, 0.1), int(self.rng.integers(3, 8))
            center, depth = self._place(), 7.5
            lot = rectangle(center, rows * 4.4 + 2, 2 * depth + 8, angle)
            self.canvas.polygon(lot, some_color(self.rng, ASPHALT_COLORS), IMPERVIOUS, ASPHALT)
            along, across = axes(angle)
            for side in (-1, 1):
                for slot in range(rows):
                    place = center + along * (slot - (rows - 1) / 2) * 4.4 + across * side * (depth / 2 + 4)
                    line = np.stack([place - along * 2.2 - across * 3, place - along * 2.2 + across * 3])
                    self.canvas.stroke(line, 0.4, (196, 194, 190))
                    if self.rng.random() < 0.6:
                        self.painter.car(place, angle + np.pi / 2)

    def _cars(self) -> None:
        for road in self.roads:
            for _ in range(self._few(2, 7)):
                place, angle = road.somewhere(self.rng)
                # Driving in a lane, or parked half on the kerb.
                offset = road.width / 4 if self.rng.random() < 0.6 else road.width / 2 - 1
                self.painter.car(place + axes(angle)[1] * offset * self._sign(), angle + self.rng.normal(0, 0.05))

    def _buildings(self) -> None:
        for _ in range(self._few(22, 46)):
            length, width = self.rng.uniform(13, 34), self.rng.uniform(9, 18)
            if self.roads and self.rng.random() < 0.6:  # in line with the street it stands on
                road = self.roads[self.rng.integers(len(self.roads))]
                kerb, angle = road.somewhere(self.rng)
                setback = road.width / 2 + width / 2 + self.rng.uniform(3, 9)
                center = kerb + axes(angle)[1] * setback * self._sign()
            else:
                angle = self.grid + (np.pi / 2) * self.rng.integers(2) + self.rng.normal(0, 0.08)
                center = self._place()
            parts: list[Part] = [(center, length, width, angle)]
            if self.rng.random() < 0.35:  # an L: a wing across one end
                along, across = axes(angle)
                side = self._sign()
                wing = center + along * (length - width) / 2 + across * width * 0.7 * side
                parts.append((wing, width * 1.5, width * 0.85, angle + np.pi / 2))
            if all(self._free(*part) for part in parts):
                yard = self.rng.random() < 0.35 and self._free(center, length + 7, width + 7, angle)
                self.painter.building(parts, yard)

    def _free(self, center: np.ndarray, length: float, width: float, angle: float) -> bool:
        """Whether a rectangle covers nothing but grass and, perhaps, the end of a path."""
        if self.canvas.label_at(center) not in (
            None,
            LOW_VEGETATION,
        ):  # most places are taken: find out cheaply
            return False
        labels = self.canvas.labels_at(center + _PROBES * (length, width) @ np.stack(axes(angle)))
        paved = labels == IMPERVIOUS
        return bool((paved | (labels == LOW_VEGETATION)).all() and len(labels) and paved.mean() < 0.15)

    def _clutter(self) -> None:
        for _ in range(self._few(5, 12)):
            place, angle = self._place(), self.grid + self.rng.normal(0, 0.2)
            kind = self.rng.random()
            if not self._free(place, 13, 10, angle):
                continue
            if kind < 0.3:
                self.painter.pool(place, angle)
            elif kind < 0.65:
                self.painter.containers(place, angle)
            else:
                self.painter.rubble(place)

    def _trees(self) -> None:
        colors = [some_color(self.rng, CROWNS) for _ in range(3)]
        places = [self._place() for _ in range(self._few(3, 9))]
        for _ in range(self._few(0, 2.5)):  # a grove
            places.extend(self._place() + self.rng.normal(0, 8, (int(self.rng.integers(3, 9)), 2)))
        for road in self.roads:  # an avenue: crowns that reach over the road
            gap, side = int(self.rng.integers(3, 8)), self._sign()
            if self.rng.random() < 0.6:
                for step in road.visible[::gap]:
                    across = axes(road.heading(step))[1]
                    places.append(road.curve[step] + across * side * (road.width / 2 + self.rng.uniform(0, 3)))
        for place in places:
            if (place > -6).all() and (place < self.size + 6).all() and self.rng.random() < 0.85:
                self.painter.tree(place, colors)

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """Texture, shadow, light and camera."""
        rng, canvas = self.rng, self.canvas
        color = np.asarray(canvas.color.reduce(OVERSAMPLING), dtype=np.float32)
        shadow = np.asarray(canvas.shadow.reduce(OVERSAMPLING), dtype=np.float32) / 255
        shadow *= rng.uniform(0.45, 0.68)
        label, texture = (_sampled(layer) for layer in (canvas.label, canvas.texture))
        fine, middle, coarse = np.array([(t.fine, t.middle, t.coarse) for t in TEXTURES], dtype=np.float32).T
        grain = fine[texture] * rng.standard_normal(texture.shape, dtype=np.float32)
        grain += middle[texture] * self._noise(2.5) + coarse[texture] * self._noise(18)
        light = (1 + rng.normal(0, 0.04) * self._noise(48)) * (1 - shadow)
        color = (color + grain[..., None]) * light[..., None]
        color[..., 2] += 10 * shadow  # shadows are lit by the blue sky
        gain = (rng.uniform(0.78, 1.22) * (1 + rng.normal(0, 0.05, 3))).astype(np.float32)
        contrast, haze = rng.uniform(0.8, 1.15), rng.uniform(0, 22)
        color = ((color - 110) * contrast + 110) * gain + haze
        color = _blurred(color, rng.uniform(0, 0.3))
        color += rng.standard_normal(color.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
        return color.clip(0, 255).astype(np.uint8), label.copy()


def _sampled(layer: Image.Image) -> np.ndarray:
    middle = OVERSAMPLING // 2
    return np.asarray(layer)[middle::OVERSAMPLING, middle::OVERSAMPLING]


def _blurred(image: np.ndarray, share: float) -> np.ndarray:
    """Let each pixel leak ``share`` into its two neighbours, along both axes."""
    for axis in (0, 1):
        neighbours = (np.roll(image, 1, axis) + np.roll(image, -1, axis)) / 2
        image = image + share * (neighbours - image)
    return image
