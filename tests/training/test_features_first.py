"""Runs whose first epochs learn features alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from rich.console import Console

from segdistill import Distiller, Supervised, TrainConfig, distill, load_network, pretrain
from segdistill.methods import KD, Auto, Feature, Method
from segdistill.networks.pretrained import write_pretrained
from segdistill.networks.wrapping import as_network
from segdistill.training import features_first
from segdistill.training.features_first import FEWEST_STEPS, steps_of_features_alone
from segdistill.training.pretrainer import Pretrainer
from segdistill.training.step import Step
from segdistill.training.strategies import launch
from tests.tiny import pair
from tests.training.runs import FAST, SCENES, STUDENT, distill_tiny, fingerprint
from tests.training.test_processes import TRAIN, command, start, write_recipe
from tests.training.test_resume import Killed, history_without_times, stop_in
from tests.training.test_step import batches

ALL = {"task", "auto.logits", "auto.features"}


@pytest.fixture
def any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of two epochs have two parts."""
    monkeypatch.setattr(features_first, "FEWEST_STEPS", 1)


def make_step(config: TrainConfig, first: int, steps: int = 8) -> Step:
    torch.manual_seed(0)  # for the methods' convolutions
    learner = Distiller(*pair(classes=5), method=Auto()).train()
    return Step(learner, config, steps, fabric=launch("cpu", "fp32"), features_first=first)


def test_the_first_steps_learn_features_and_the_others_all() -> None:
    step, source = make_step(FAST, 3), batches(8)
    terms = [set(step(source)[0]) for _ in range(8)]
    assert terms == 3 * [{"auto.features"}] + 5 * [ALL]


def test_each_part_has_a_schedule_of_its_own() -> None:
    config = replace(FAST, schedule="poly", warmup=0.4)
    step = make_step(config, 5, steps=15)
    first, second = config.rate_factor(5), config.rate_factor(10)
    expected = [config.lr * first(number) for number in range(5)] + [config.lr * second(number) for number in range(10)]
    assert [step.rate(number) for number in range(15)] == expected
    assert expected[4] < expected[6] > expected[14]


def test_the_second_part_begins_from_the_averaged_weights_and_forgets_the_optimisers_state() -> None:
    step, source = make_step(replace(FAST, ema=0.9, lr=0.1), 3), batches(4)
    for _ in range(3):
        step(source)
    assert step.ema is not None
    average = {name: value.clone() for name, value in step.ema.module.state_dict().items()}
    own = step.learner.student.state_dict()
    assert not torch.equal(own["model.layers.0.0.weight"], average["model.layers.0.0.weight"])
    seen: dict[str, Any] = {}

    def look(learner: Any, *_: Any) -> None:
        seen.update({name: value.clone() for name, value in learner.student.state_dict().items()})

    step.learner.register_forward_pre_hook(look)
    step(source)
    assert all(torch.equal(seen[name], average[name]) for name in average)
    assert {float(state["step"]) for state in step.optimizer.state.values()} == {1.0}
    # The average begins anew as well: its first update takes the weights as they are.
    for ours, theirs in zip(step.ema.module.parameters(), step.learner.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_no_feature_depends_on_waits_for_the_labels() -> None:
    step, source = make_step(replace(FAST, weight_decay=0.0), 3), batches(4)
    before = {name: value.clone() for name, value in step.learner.student.named_parameters()}
    for _ in range(3):
        step(source)
    moved = {name for name, value in step.learner.student.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "classifier" not in name}
    step(source)
    classifier = {name: value for name, value in step.learner.student.named_parameters() if "classifier" in name}
    assert not any(torch.equal(value, before[name]) for name, value in classifier.items())


@pytest.mark.parametrize("method", [Auto(), [Auto(), "cirkd"], [Auto(), "drd"]])
def test_every_parameter_gets_a_gradient_in_either_part(method: Any) -> None:
    """Processes wait for the gradients of all, those of an auxiliary head and of methods that sit out included."""
    teacher, student = pair(classes=5)
    learner = Distiller(teacher, student, method=method, auxiliary=0.4).train()
    step, source = Step(learner, FAST, 4, fabric=launch("cpu", "fp32"), features_first=2), batches(4)
    reached: set[str] = set()
    for name, weights in learner.named_parameters():
        weights.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    for _ in range(4):
        reached.clear()
        step(source)
        assert reached == {name for name, _ in learner.named_parameters()}


def test_both_parts_are_those_of_a_pre_training_and_of_labels_alone() -> None:
    """The same weights as from a `Pretrainer` of the features, and from labels that begin with what it has made."""
    config = replace(FAST, ema=0.0, weight_decay=0.0, clip=None)
    source = list(batches(6))
    step = make_step(config, 3, steps=6)
    step_through(step, source)
    teacher, student = pair(classes=5)
    torch.manual_seed(0)
    pretrainer = Pretrainer(teacher, student, Feature(weight=5.0, stages=True)).train()
    step_through(Step(pretrainer, config, 3, fabric=launch("cpu", "fp32")), source[:3])
    alone = Supervised(student.requires_grad_(True)).train()
    step_through(Step(alone, config, 3, fabric=launch("cpu", "fp32")), source[3:])
    for name, value in step.learner.student.state_dict().items():
        torch.testing.assert_close(value, alone.student.state_dict()[name], msg=name)


def after_the_first_part(**options: Any) -> tuple[Distiller, list[int]]:
    """A distiller whose first part is over, and the number of images that its teacher has seen."""
    teacher, student = pair(classes=5)
    distiller = Distiller(teacher, student, method=Auto(), **options).train()
    distiller.features_alone = True
    distiller.features_alone = False
    seen: list[int] = []
    teacher.model.register_forward_hook(lambda model, given, _: seen.append(len(given[0])))
    return distiller, seen


def test_the_teacher_is_silent_and_not_run_where_every_pixel_has_a_label() -> None:
    distiller, seen = after_the_first_part()
    images, labels = next(batches(1))
    labels[:, :4] = 255
    out = distiller(images, labels)
    assert out.loss.item() == out.terms["task"].item() > 0
    assert (float(out.terms["auto.logits"]), float(out.terms["auto.features"])) == (0.0, 0.0)
    assert not seen
    out.loss.backward()


@pytest.mark.parametrize("options", [{"unlabelled_index": 9}, {"ignored": "distil"}])
def test_the_teacher_speaks_where_no_label_is(options: dict[str, Any]) -> None:
    """The terms are those of the same method on these pixels alone."""
    distiller, seen = after_the_first_part(**options)
    images, labels = next(batches(1))
    without = torch.zeros(labels.shape, dtype=torch.bool)
    without[0], without[1, :16] = True, True
    labels[without] = 9 if "unlabelled_index" in options else 255
    out = distiller.eval()(images, labels)
    assert seen == [2]
    auto = distiller.methods["auto"]
    assert isinstance(auto, Auto)
    auto.features_done = False
    teacher = distiller.teacher_outputs(images)
    expected = auto(student=distiller.student.features(images), teacher=teacher, labels=None, valid=without)
    for name in ("logits", "features"):
        torch.testing.assert_close(out.losses[f"auto.{name}"], expected[name])
    everywhere = auto(student=distiller.student.features(images), teacher=teacher, labels=None, valid=without | True)
    assert not torch.isclose(everywhere["logits"], expected["logits"])


def test_without_any_labels_both_terms_count_in_the_second_part() -> None:
    distiller, seen = after_the_first_part()
    images, _ = next(batches(1))
    out = distiller(images)
    assert set(out.losses) == {"auto.logits", "auto.features"}
    assert all(value > 0 for value in out.losses.values())
    assert seen == [2]


def step_through(step: Step, source: list[Any]) -> None:
    taken = iter(source)
    for _ in source:
        step(taken)


class Relation(KD):
    """Compares class scores alone, and would learn features first."""

    features_first = 0.5


@pytest.mark.parametrize(
    ("method", "steps", "batches", "expected"),
    [
        (Auto(), 2700, 45, 1350),
        (Auto(), 2 * FEWEST_STEPS, 10, FEWEST_STEPS),
        (Auto(), 2 * FEWEST_STEPS - 10, 10, 0),
        (Auto(features_first=0.26), 4000, 400, 800),  # whole epochs: 2 of 10
        (Auto(), 1999, 400, 800),  # the last epoch is cut short, and counts for the second part
        (Auto(features_first=0), 2700, 45, 0),
        (Auto(features=0), 2700, 45, 0),
        (Feature(), 2700, 45, 0),
        (Relation(), 2700, 45, 0),
        ([Feature(), Auto()], 2700, 45, 1350),
    ],
)
def test_how_many_steps(method: Method | list[Method], steps: int, batches: int, expected: int) -> None:
    teacher, student = pair(classes=5)
    student.start = "random"
    learner = Distiller(teacher, student, method=method)
    assert steps_of_features_alone(learner, FAST, steps, batches, Console(quiet=True)) == expected


@pytest.mark.parametrize(
    ("method", "options", "steps", "enough"),
    [
        (Auto(), {}, 990, 100),
        (Auto(), {"unlabelled_index": 254}, 1990, 200),
        (Auto(features_first=0.3), {}, 990, 167),
        (Auto(), {}, 1000, None),
        (Auto(features_first=0), {}, 990, None),
        (Feature(), {}, 990, None),
    ],
)
def test_a_hint_says_from_which_length_on_features_come_first(
    method: Method, options: dict[str, Any], steps: int, enough: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = pair(classes=5)
    student.start = "random"
    learner = Distiller(teacher, student, method=method, **options)
    first = steps_of_features_alone(learner, FAST, steps, 10, Console(width=300))
    printed = capsys.readouterr().out
    assert (f"--train.epochs {enough} or more" in printed) is (enough is not None)
    if enough is not None:
        assert first == 0
        assert steps_of_features_alone(learner, FAST, 10 * (enough - 1), 10, Console(quiet=True)) == 0
        assert steps_of_features_alone(learner, FAST, 10 * enough, 10, Console(quiet=True)) > 0
        by_steps = replace(FAST, epochs=None, steps=steps)
        steps_of_features_alone(learner, by_steps, steps, 10, Console(width=300))
        assert f"--train.steps {10 * enough} or more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 500), ({"unlabelled_index": 254}, 0), ({"ignored": "distil"}, 0)],
)
def test_more_steps_where_the_teacher_teaches_pixels_without_labels(options: dict[str, Any], expected: int) -> None:
    teacher, student = pair(classes=5)
    student.start = "random"
    learner, quiet = Distiller(teacher, student, method=Auto(), **options), Console(quiet=True)
    assert steps_of_features_alone(learner, FAST, 1000, 10, quiet) == expected
    assert steps_of_features_alone(learner, FAST, 1990, 10, quiet) == (990 if expected else 0)
    assert steps_of_features_alone(learner, FAST, 2000, 10, quiet) == 1000


def test_a_frozen_backbone_a_pre_training_and_labels_alone_have_no_first_part() -> None:
    teacher, student = pair(classes=5)
    student.start = "random"
    quiet = Console(quiet=True)
    frozen = replace(FAST, backbone_lr=0)
    assert steps_of_features_alone(Distiller(teacher, student, method=Auto()), frozen, 2700, 45, quiet) == 0
    assert steps_of_features_alone(Pretrainer(teacher, student, Auto()), FAST, 2700, 45, quiet) == 0
    assert steps_of_features_alone(Supervised(student), FAST, 2700, 45, quiet) == 0


@pytest.mark.parametrize(("start", "done"), [("trained", False), ("features", True)])
def test_a_student_with_trained_weights_has_no_first_part(start: Literal["trained", "features"], done: bool) -> None:
    teacher, student = pair(classes=5)
    student.start = start
    auto = Auto()
    learner = Distiller(teacher, student, method=auto)
    assert steps_of_features_alone(learner, FAST, 2700, 45, Console(quiet=True)) == 0
    assert auto.features_done == done


def test_where_the_weights_of_a_network_are_from(tmp_path: Path) -> None:
    spec = "smp:FPN:tu-mobilenetv3_small_050"
    network = load_network(spec, num_classes=4)
    assert network.start == "random"
    network.save(tmp_path / "saved")
    assert load_network(tmp_path / "saved").start == "trained"
    assert load_network(spec, 4, init_weights=tmp_path / "saved" / "model.safetensors").start == "trained"
    (tmp_path / "pre").mkdir()
    trained = [name for name, _ in network.model.named_parameters() if name.startswith("encoder.")]
    write_pretrained(network.model, trained, tmp_path / "pre")
    file = tmp_path / "pre" / "pretrained.safetensors"
    assert load_network(spec, 4, init_weights={"encoder": str(file)}).start == "features"
    shutil.move(file, tmp_path / "backbone.safetensors")
    assert load_network(spec, 4, init_weights={"encoder": str(tmp_path / "backbone.safetensors")}).start == "trained"
    assert as_network(network.model).start == "trained"


@pytest.mark.usefixtures("any_length")
def test_a_pre_training_was_the_first_part(tmp_path: Path, teacher: Path) -> None:
    train = replace(FAST, epochs=2)
    before = pretrain(
        data=SCENES, teacher=teacher, student=STUDENT, train=train, device="cpu", output=tmp_path / "pre", quiet=True
    )
    run = distill_tiny(tmp_path / "run", teacher, method="auto", epochs=2, init_weights=before.path)
    rows = run.read_history()
    assert [bool(row["val/miou"]) for row in rows] == [True, True]
    assert [float(row["loss/auto.logits"]) for row in rows] == [0.0, 0.0]  # every pixel has a label


@pytest.mark.usefixtures("any_length")
def test_a_run_says_so_and_is_validated_only_afterwards(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = replace(FAST, epochs=4)
    run = distill(data=SCENES, teacher=teacher, student=STUDENT, train=train, device="cpu", output=tmp_path / "run")
    told = capsys.readouterr().out
    assert "features first: 2 epochs without labels and validation, then 2 with them" in told
    assert "of the task loss" not in told  # terms of 0 are meant to be
    rows = run.read_history()
    assert [bool(row["val/miou"]) for row in rows] == [False, False, True, True]
    assert [bool(row["loss/task"]) for row in rows] == [False, False, True, True]
    assert [float(row["loss/auto.features"]) > 0 for row in rows] == [True, True, False, False]  # all have labels
    metrics = run.read_metrics()
    assert metrics is not None
    assert (metrics["epochs"], metrics["steps"]) == (4, 8)
    assert metrics["best"]["epoch"] > 2


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 1), (2, 0), (2, 1)])
def test_resumed_in_either_part_or_between_them(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int
) -> None:
    options: dict[str, Any] = {"method": "auto", "epochs": 4, "ema": 0.9}
    whole = distill_tiny(tmp_path / "whole", teacher, **options)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=epoch, batch=batch)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "broken", teacher, **options)
    resumed = distill_tiny(tmp_path / "broken", teacher, **options, resume=True)
    assert fingerprint(resumed) == fingerprint(whole)
    assert history_without_times(resumed) == history_without_times(whole)


@pytest.mark.usefixtures("any_length")
def test_measured_loss_weights_wait_for_the_labels(tmp_path: Path, teacher: Path) -> None:
    run = distill_tiny(tmp_path / "run", teacher, method=["auto", "kd"], epochs=24, loss_weights="auto")
    assert set(run.read_config()["loss_weights"]) == {"kd"}


@pytest.mark.usefixtures("any_length")
def test_loss_weights_may_name_terms_that_come_later(tmp_path: Path, teacher: Path) -> None:
    fixed = {"auto.logits": 2.0}
    run = distill_tiny(tmp_path / "run", teacher, method="auto", epochs=4, loss_weights=fixed)
    rows = run.read_history()
    assert [bool(row["loss/auto.logits"]) for row in rows] == [False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_make_both_parts_as_one_does(
    strategy: str, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segdistill.cli.main import main
    from segdistill.run_folder import RunFolder

    monkeypatch.setattr(features_first, "FEWEST_STEPS", 1)
    # AdamW's first steps, in which gradients of nearly 0 count as much as others, enlarge differences of rounding.
    train = TRAIN | {"epochs": 4, "optimizer": "sgd"}
    method = [{"python:tests.training.early:Early": {}}]
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, method=method, train=train)
    both = start(recipe, tmp_path / "two", "--devices", "2", "--strategy", strategy)
    _, errors = both.communicate(timeout=200)
    assert both.returncode == 0, errors
    assert main(command(recipe, tmp_path / "one")[3:]) == 0
    one, two = RunFolder(tmp_path / "one").read_history(), RunFolder(tmp_path / "two").read_history()
    assert [bool(row["loss/task"]) for row in one] == [False, False, True, True]
    for ours, theirs in zip(one, two, strict=True):
        for name in ours:
            if name != "seconds" and ours[name]:
                assert float(theirs[name]) == pytest.approx(float(ours[name]), rel=1e-4), name
