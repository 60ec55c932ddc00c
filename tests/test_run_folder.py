from __future__ import annotations

from pathlib import Path

import pytest

from segdistill import RunFolder, UserError, load_network
from segdistill.reporting.picture import GAP

CONFIG = {"data": {"dataset": "folder", "root": "x"}, "train": {"lr": 0.1}, "seed": 0}


def test_free_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "new/below/it"):
        RunFolder(tmp_path / name).check_free(CONFIG, resume=False, overwrite=False)
        RunFolder(tmp_path / name).check_free(CONFIG, resume=True, overwrite=False)


def test_what_a_kill_left_at_the_very_start_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml-abc.part").write_text("dat")
    RunFolder(tmp_path).check_free(CONFIG, resume=False, overwrite=False)
    RunFolder(tmp_path).start(CONFIG, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}, {}])
def test_foreign_folders_are_never_used(tmp_path: Path, options: dict[str, bool]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    asked = {"resume": False, "overwrite": False} | options
    with pytest.raises(UserError, match="is not empty and holds no run; choose a new folder"):
        RunFolder(tmp_path).check_free(CONFIG, **asked)
    with pytest.raises(UserError, match="file is a file, expected a folder"):
        RunFolder(tmp_path / "file").check_free(CONFIG, **asked)


def test_history_keeps_all_columns(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.read_history() == []
    run.write_history([{"epoch": 0, "seconds": 1}, {"epoch": 1, "loss/task": 0.5}, {"epoch": 2, "val/miou": 1}])
    assert run.history_file.read_text() == "epoch,seconds,loss/task,val/miou\n0,1,,\n1,,0.5,\n2,,,1\n"
    run.write_history([*run.read_history(), {"epoch": 3}])
    assert len(run.read_history()) == 4


def test_an_interpreter_shows_where_a_run_is() -> None:
    assert repr(RunFolder("runs/a")) == "RunFolder('runs/a')"


def test_differences_name_every_key(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start(CONFIG, resume=False)
    other = {"data": {"dataset": "camvid", "crop": [1, 2]}, "train": {"lr": 0.1}, "seed": 1}
    with pytest.raises(UserError) as error:
        run.check_free(other, resume=True, overwrite=False)
    for told in (
        "data.dataset was 'folder', now 'camvid'",
        "data.root was 'x', now None",
        "data.crop was None, now [1, 2]",
        "seed was 0, now 1",
    ):
        assert told in str(error.value)
    assert "lr" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "cannot read .*config.yaml"), ("- 1", "config.yaml holds a list"), ("", "config.yaml holds nothing")],
)
def test_damaged_config(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        RunFolder(tmp_path).read_config()


def test_damaged_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"miou": ')
    with pytest.raises(UserError, match=r"cannot read \S+metrics.json"):
        RunFolder(tmp_path).read_metrics()


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume and overwrite exclude each other"):
        RunFolder(tmp_path / "run").check_free({}, resume=True, overwrite=True)


METRICS = {"miou": 61.25, "mean_f1": 70.5, "iou": {"road": 81.5, "<b>": None}, "f1": {"road": 90.25, "<b>": None}}


def test_a_notebook_shows_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "<i>")
    assert "no run yet" in run._repr_html_()
    run.start(CONFIG, resume=False)
    assert "not finished, 0 epochs so far<" in run._repr_html_()
    run.write_history([{"epoch": 1, "seconds": 4, "val/miou": 33.333}, {"epoch": 2, "seconds": 5}])
    shown = "not finished, 2 epochs so far; mIoU 33.33 % on the validation images after epoch 1<"
    assert shown in run._repr_html_()
    run.write_metrics({**METRICS, "epochs": 2, "teacher_miou": 75.125})
    page = run._repr_html_()
    assert "2 epochs in 9.0 s; mIoU 61.25 % on the validation images; its teacher has 75.12 %<" in page
    assert [text in page for text in ("81.50", "90.25", "absent", "70.50", "&lt;b&gt;", "&lt;i&gt;")] == [True] * 6
    assert "<b>" not in page
    assert "<i>" not in page
    run.write_metrics({**METRICS, "epochs": 1, "teacher_miou": None})
    assert "1 epoch in 9.0 s; mIoU 61.25 % on the validation images<" in run._repr_html_()
    told = "agreement with the teacher, not accuracy"
    run.write_metrics({**METRICS, "epochs": 1, "teacher_miou": None, "scores": told})
    assert "agreement with the teacher, which is not accuracy: mIoU 61.25 % on" in run._repr_html_()
    assert run.read_accuracy() == {}


def test_curves_and_predictions_in_a_notebook(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    data = {"dataset": "synthetic-aerial", "size": [32, 32], "count": 3}
    run.start({**CONFIG, "data": data}, resume=False)
    assert "a curve needs two epochs" in run.curves()._repr_html_()
    run.write_history([{"epoch": n, "val/miou": 9.0 * n, "loss/task": 1 / n, "seconds": 1} for n in (1, 2)])
    run.write_metrics({**METRICS, "epochs": 2, "teacher_miou": 75.125})
    shown = run.curves()._repr_html_()
    assert [text in shown for text in ("mIoU by epoch", "loss by epoch", ">teacher<", ">task<")] == [True] * 4
    with pytest.raises(UserError, match=r"no weights|network.json"):
        run.predictions()
    run.save_network(load_network("smp:FPN:resnet18?decoder_pyramid_channels=8", num_classes=6))
    one, all_of_them = run.predictions(count=1), run.predictions(count=9)
    assert (one.mode, one.width) == ("RGB", all_of_them.width)
    assert all_of_them.height - one.height == 2 * (6 * 32 + GAP)  # enlarged
    with pytest.raises(UserError, match="count is 0"):
        run.predictions(count=0)


def test_a_notebook_shows_a_pretraining(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start(CONFIG, resume=False)
    run.write_metrics({"kind": "pretrain", "loss": 0.123456, "epochs": 3})
    assert "loss 0.1235 on the validation images" in run._repr_html_()
