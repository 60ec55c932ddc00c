from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill import UserError
from segdistill.comparison.compare import compare
from segdistill.comparison.in_short import advised
from segdistill.comparison.reading import load_comparison
from segdistill.comparison.report import write_report
from segdistill.files import write_json
from segdistill.recipe.data import build_split
from segdistill.reporting.error_map import mistakes
from segdistill.reporting.gallery import image_scores, most_different, most_usual
from tests.comparison.planted import plant
from tests.datasets.trees import folder_tree
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, train_tiny

LARGEST_PAGE = 20_000_000
VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """What a page holds: headings, table rows, addresses, scripts; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.pictures: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name == "aria-label":
                self.labels.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "img":
            self.pictures.append(dict(attributes)["alt"] or "")
        if tag == "h2":
            self.headings.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "h2" in self.stack:
            self.headings[-1] += data
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] += data
        if "td" in self.stack or ("th" in self.stack and "tr" in self.stack):
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        """The first row of a table whose first cell begins with ``name``."""
        return next(row for row in self.rows if row and row[0].startswith(name))

    def gallery(self) -> dict[str, Any]:
        """What the images are drawn from."""
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def page(comparison_folder: Path) -> Page:
    return Page((comparison_folder / "report.html").read_text(encoding="utf-8"))


def changed(folder: Path, to: Path, change: Callable[[Path], object]) -> Page:
    """The page of a copy of the comparison that something was done to."""
    shutil.copytree(folder, to)
    change(to)
    write_report(load_comparison(to), to / "report.html")
    return Page((to / "report.html").read_text(encoding="utf-8"))


def pixels(address: str) -> np.ndarray:
    kind, encoded = address.split(",")
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_what_to_do_comes_first_and_nothing_from_elsewhere(page: Page, comparison_folder: Path) -> None:
    comparison = load_comparison(comparison_folder)
    assert page.headings == [
        "In short",
        "Images",
        "Next steps",
        "Methods",
        "Size and speed",
        "Classes",
        "Boundaries",
        "Broken and missing objects",
        "Training",
        "How it was made",
    ]
    assert comparison.verdict in page.text
    assert page.text.index("Knowledge distillation lets") < page.text.index("Drag the line")
    choice = advised(comparison)
    assert (
        page.text.index(choice.text) < page.text.index("Compared with its teacher") < page.text.index("In short") + 900
    )
    assert page.text.index("The student is a small, fast network.") < page.text.index(comparison.verdict)
    assert all(warning[1:] in page.text for warning in comparison.warnings)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    text = (comparison_folder / "report.html").read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert len(text) < LARGEST_PAGE


def test_the_first_line_says_how_small_how_fast_and_how_good(page: Page, comparison_folder: Path) -> None:
    comparison = load_comparison(comparison_folder)
    teacher, baseline = comparison.teacher, comparison.baseline
    assert teacher.parameters is not None
    assert baseline.parameters is not None
    assert teacher.miou is not None
    assert page.text.split()[:6] == ["Which", "training", "is", "best", "for", "build_student?"]
    chosen = advised(comparison).row
    assert chosen is not None
    assert chosen.miou is not None
    smaller = teacher.parameters / baseline.parameters
    kept = f"keeps {100 * chosen.miou.mean / teacher.miou.mean:.0f} % of its teacher's mIoU "
    first = re.search(r"Compared with its teacher, the student is (\S+) times smaller(.*?)\.\n", page.text)
    assert first is not None
    assert first[1] == f"{smaller:.1f}"
    assert kept in first[2]
    assert re.search(r"faster|slower|as fast", first[2])
    assert f"segdistill export {advised(comparison).cell.run}" in page.text  # type: ignore[union-attr]


def test_what_is_advised(tmp_path: Path) -> None:
    """The same rules as `segdistill advise`: what an interval does not show is not recommended."""

    def found(name: str, rights: dict[str, list[float]], **options: Any) -> tuple[str | None, str]:
        choice = advised(load_comparison(plant(tmp_path / name, rights, **options)))
        return (None if choice.row is None else choice.row.method), choice.text

    alone, better = [0.6, 0.61, 0.6], [0.8, 0.81, 0.8]
    assert found("a", {"none": alone, "kd": better})[0] == "kd"
    assert found("b", {"none": better, "kd": better})[0] == "none"
    assert found("c", {"none": better, "kd": alone})[0] == "none"
    assert found("d", {"none": alone, "kd": better, "none@time": better})[0] == "none@time"
    method, text = found("g", {"none": alone, "kd": alone, "none@time": better})
    assert method == "none@time"
    assert "the student alone trained for as many seconds as the slowest method was better." in text
    assert "trained for as many seconds as the slowest method is better: +" in load_comparison(tmp_path / "g").verdict
    assert found("h", {"none": better, "kd": better, "none@time": alone})[0] == "none"
    assert "as many seconds" not in load_comparison(tmp_path / "h").verdict
    assert found("e", {"none": alone, "kd": better, "none@time": alone})[0] == "kd"
    assert found("f", {"none": alone}) == (
        None,
        "Nothing can be recommended before a method is trained: run the command again.",
    )


def test_numbers_of_the_table(page: Page, comparison_folder: Path) -> None:
    comparison = load_comparison(comparison_folder)
    kd = next(row for row in comparison.rows if row.method == "kd")
    shown = page.row("kd")
    assert kd.miou is not None
    assert kd.difference is not None
    assert shown[1] == "2 of 2"
    assert shown[2] == f"{kd.miou.mean:.2f}{kd.miou.least:.2f} to {kd.miou.most:.2f}"
    assert shown[3] == f"{kd.difference.difference:+.2f}{kd.difference.low:+.2f} to {kd.difference.high:+.2f}"
    assert shown[-1] == kd.verdict
    costs = next(row for row in page.rows if row[0] == "kd" and row is not shown)
    assert kd.parameters is not None
    assert page.row("student alone")[0] == "student alonethe student without its teacher; in commands none"
    assert costs[5] == f"{kd.parameters / 1e6:.2f} M"
    assert float(costs[7]) > 0


def test_recipe_commands_and_versions_are_complete(page: Page, comparison_folder: Path) -> None:
    comparison = load_comparison(comparison_folder)
    assert comparison.command in page.text
    for key in comparison.recipe:
        assert f"{key}:" in page.text
    assert "torch" in comparison.versions
    for name, value in {**comparison.versions, **comparison.machine}.items():
        assert [name, value] in page.rows


def test_the_gallery_holds_predictions_and_their_mistakes(page: Page, comparison_folder: Path) -> None:
    comparison = load_comparison(comparison_folder)
    dataset = build_split(SCENES, "val")
    values = page.gallery()
    assert [one["name"] for one in values["classes"]] == list(comparison.classes)
    confusion = {row.method: [cell.confusion for cell in row.cells] for row in comparison.rows}
    chosen = most_different(confusion, 8)
    best = (advised(comparison).row or comparison.baseline).method
    every = confusion | {"teacher": [comparison.teacher.cells[0].confusion]}
    usual = most_usual(every, "teacher" if best == "none" else best, "none")
    assert usual is not None
    chosen = list(dict.fromkeys([usual, *chosen]))[:8]
    assert [scene["name"] for scene in values["scenes"]] == [dataset.ids[index] for index in chosen]
    cell = next(row for row in comparison.rows if row.method == "kd").cells[0]
    network = segdistill.load_run(cell.run)
    for index, scene in zip(chosen, values["scenes"], strict=True):
        image, labels = dataset[index]
        assert np.abs(pixels(scene["photo"]).transpose(2, 0, 1).astype(int) - image.numpy()).mean() < 12  # it is a JPEG
        assert (pixels(scene["labels"])[..., 0] == labels.numpy()).all()
        assert set(scene["predictions"]) == {"teacher", "none", "kd", "cwd"}
        with torch.inference_mode():
            prediction = network(image[None]).argmax(1)[0]
        shown = pixels(scene["predictions"]["kd"])
        assert (shown[..., 0] == prediction.numpy()).all()
        assert (shown[..., 1] == mistakes(prediction, labels, 6, 255)).all()


def test_the_first_picture_is_the_usual_image(page: Page, comparison_folder: Path) -> None:
    """Beside each other as in the gallery's first image: image, truth, teacher, and the student in both ways."""
    comparison = load_comparison(comparison_folder)
    best = (advised(comparison).row or comparison.baseline).method
    names = dict.fromkeys(("teacher", "none", best))
    first, *others = [address for address in page.addresses if address.startswith("data:image")][: 2 + len(names)]
    values = page.gallery()
    scene = values["scenes"][0]
    assert (pixels(first) == pixels(scene["photo"])).all()
    palette = np.array([[int(one["colour"][at : at + 2], 16) for at in (1, 3, 5)] for one in values["classes"]])
    coded = [scene["labels"], *(scene["predictions"][name] for name in names)]
    for shown, code in zip(others, coded, strict=True):
        assert (pixels(shown) == palette[pixels(code)[..., 0]]).all()
    assert page.text.index("truththe labels") < page.text.index("Drag the line")


def test_an_image_on_which_networks_differ_as_usual() -> None:
    right, half, wrong = (
        torch.tensor([[10, 0], [0, 10]]),
        torch.tensor([[5, 5], [5, 5]]),
        torch.tensor([[0, 10], [10, 0]]),
    )
    empty = torch.zeros(2, 2, dtype=torch.int64)
    better = torch.stack([right, right, half, empty, wrong])
    other = torch.stack([wrong, half, half, empty, wrong])  # the gains are 100, 67, 0 and 0 points, one cannot be told
    assert most_usual({"a": [better[:3]], "b": [other[:3]]}, "a", "b") == 1
    assert most_usual({"a": [better[1:4]], "b": [other[1:4]]}, "a", "b") == 0
    assert most_usual({"a": [empty[None]], "b": [empty[None]]}, "a", "b") is None


def test_images_on_which_networks_differ_most() -> None:
    # Three images of two classes: alike; one right and one all wrong; without valid pixels.
    one = torch.tensor([[[5, 5], [5, 5]], [[10, 0], [0, 10]], [[0, 0], [0, 0]]])
    other = torch.tensor([[[5, 5], [5, 5]], [[0, 10], [10, 0]], [[0, 0], [0, 0]]])
    scores = image_scores({"one": [one], "both": [one, other]})
    assert scores["one"][:2].tolist() == pytest.approx([100 / 3, 100])
    assert scores["both"][:2].tolist() == pytest.approx([100 / 3, 50])
    assert np.isnan(scores["both"][2])
    assert most_different({"one": [one], "other": [other]}, 3) == [1, 0]
    assert most_different({"one": [one], "other": [other]}, 1) == [1]


def test_names_are_escaped(tmp_path: Path) -> None:
    classes = ["</script><script>alert(1)</script>", "a & b <i>", "$c$"]
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 2})
    data = {"dataset": "folder", "root": str(root), "classes": classes, "crop": [12, 16]}
    teacher = train_tiny(tmp_path / "teacher", TEACHER, data=data, epochs=1).path
    output = tmp_path / "a<b>&c"
    compare(
        data=data,
        teacher=teacher,
        student=STUDENT,
        methods="none,kd",
        seeds=1,
        train=replace(FAST, epochs=1),
        output=output,
        device="cpu",
        quiet=True,
    )
    text = (output / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.scripts) == 2
    assert "alert(1)" not in page.scripts[1]
    assert not {"i", "b"} & set(page.tags)
    assert page.row("a & b <i>")[0] == "a & b <i>"
    assert page.row("</script>")[0] == classes[0]
    assert "Folder: a<b>&c" in page.text
    assert [one["name"] for one in page.gallery()["classes"]] == classes
    assert "$c$" in page.text


def test_a_failed_cell(comparison_folder: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "cells/kd/seed-1/evaluation-val.json").unlink()
        (folder / "cells/kd/seed-1.error.txt").write_text("it <b>broke</b>")

    page = changed(comparison_folder, tmp_path / "x", fail)
    assert page.row("kd")[1] == "1 of 2"
    assert any("failed" in row and "it <b>broke</b>" in row[-1] for row in page.rows)
    assert "kd, seed 1 failed: it <b>broke</b>" in page.text  # the table of runs is folded away
    assert "kd" in page.gallery()["scenes"][0]["predictions"]


def test_no_cell_of_a_method(comparison_folder: Path, tmp_path: Path) -> None:
    page = changed(comparison_folder, tmp_path / "x", lambda folder: shutil.rmtree(folder / "cells/kd"))
    assert page.row("kd")[1:4] == ["0 of 2", "–", "–"]
    assert "kd" not in page.gallery()["scenes"][0]["predictions"]


def test_nothing_finished_yet(comparison_folder: Path, tmp_path: Path) -> None:
    def clear(folder: Path) -> None:
        shutil.rmtree(folder / "cells")
        shutil.rmtree(folder / "teacher")

    page = changed(comparison_folder, tmp_path / "x", clear)
    assert page.row("student alone")[1:3] == ["0 of 2", "–"]
    assert {"In short", "Methods", "How it was made"} <= set(page.headings)
    assert "Nothing can be recommended before the student alone is trained" in page.text
    assert "gallery-data" not in page.ids


def test_one_seed(comparison_folder: Path, tmp_path: Path) -> None:
    def drop(folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        write_json(folder / "plan.json", plan | {"seeds": [0]})

    page = changed(comparison_folder, tmp_path / "x", drop)
    assert page.row("kd")[1] == "1 of 1"
    assert re.fullmatch(r"\d+\.\d\d", page.row("kd")[2])
    assert "1 seed," in page.text
    assert "95 % intervals over images, not over seeds" in page.text
    assert "another seed may say otherwise" in page.text
    wanted = f"--methods none,kd,cwd{{}} --seeds 3 --output {comparison_folder}"
    best = advised(load_comparison(tmp_path / "x")).row
    assert best is not None
    longer = "" if best.method == "none" else ",none@time"
    assert wanted.format(longer) in page.text


def test_no_teacher_score(comparison_folder: Path, tmp_path: Path) -> None:
    page = changed(comparison_folder, tmp_path / "x", lambda folder: (folder / "teacher/evaluation-val.json").unlink())
    assert page.row("teacher")[2] == "–"
    assert page.row("kd")[4] == "–"
    assert set(page.gallery()["scenes"][0]["predictions"]) == {"none", "kd", "cwd"}


def test_no_history(comparison_folder: Path, tmp_path: Path) -> None:
    def forget(folder: Path) -> None:
        for file in folder.glob("cells/*/*/history.csv"):
            file.unlink()

    page = changed(comparison_folder, tmp_path / "x", forget)
    assert "No run has a history.csv of two epochs or more." in page.text


def test_networks_or_images_that_are_gone(comparison_folder: Path, tmp_path: Path) -> None:
    page = changed(
        comparison_folder, tmp_path / "x", lambda folder: (folder / "cells/kd/seed-0/model.safetensors").unlink()
    )
    assert "No predictions of kd: " in page.text
    assert set(page.gallery()["scenes"][0]["predictions"]) == {"teacher", "none", "cwd"}

    def rename(folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        write_json(folder / "plan.json", plan | {"ids": [f"other {name}" for name in plan["ids"]]})

    page = changed(comparison_folder, tmp_path / "y", rename)
    assert "No images: the validation images have changed since the comparison was made." in page.text
    assert "gallery-data" not in page.ids


def test_bad_device(comparison_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device 'cuda:77' is not available here"):
        write_report(load_comparison(comparison_folder), tmp_path / "report.html", device="cuda:77")
    assert not (tmp_path / "report.html").exists()
