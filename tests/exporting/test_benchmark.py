from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from segdistill.cli.main import main
from segdistill.errors import UserError
from segdistill.evaluation import timing
from segdistill.exporting import benchmark as module
from segdistill.exporting import measurable
from segdistill.exporting.benchmark import benchmark
from segdistill.exporting.export import export
from segdistill.files import write_json
from segdistill.networks.loading import load_run
from segdistill.networks.size import count_macs, count_parameters
from tests.prediction.networks import saved
from tests.training.runs import train_tiny

FORM: dict[str, Any] = {"layout": "nchw", "outputs": "labels", "size": None, "batch": None}
REPORT = {"form": FORM, "metadata": {"images": {"dtype": "uint8"}}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("benchmark") / "run", epochs=1).path


@pytest.mark.slow
def test_table_and_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    file = tmp_path / "speed.json"
    options = ["--input", "32x48", "--threads", "1", "--runtimes", "pytorch,onnxruntime", "--seconds", "0.1"]
    assert main(["benchmark", str(run), *options, "-o", str(file)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["input"] == [32, 48]
    assert {"processor", "cores", "torch", "onnxruntime"} <= set(found["machine"])
    fp32 = [row for row in found["rows"] if row["precision"] == "fp32"]
    assert [(row["model"], row["runtime"]) for row in fp32] == [(str(run), "pytorch"), (str(run), "onnxruntime")]
    network = load_run(run)
    miou = json.loads((run / "metrics.json").read_text())["miou"]
    for row in fp32:
        assert row["macs"] == count_macs(network, (32, 48))
        assert row["parameters"] == count_parameters(network)
        assert row["miou"] == miou
        assert f"{miou:.2f}" in printed
    assert fp32[0]["file_mb"] == pytest.approx((run / "model.safetensors").stat().st_size / 1e6)
    for row in found["rows"]:
        measured = row["timing"]
        assert 0 < measured["median_ms"] <= measured["p95_ms"]
        assert measured["passes"] >= 10
        if os.path.exists("/proc/self/status"):
            assert 10 < measured["library_mb"] <= measured["peak_mb"] < 5000
    assert found["reference"] == f"{run}, pytorch fp32, 1 thread"
    assert f"speed-up: how many times faster than {found['reference']}" in printed
    first = found["rows"][0]["timing"]["median_ms"]
    for row in found["rows"]:
        assert row["speedup"] == pytest.approx(first / row["timing"]["median_ms"])
        assert f"{row['speedup']:.1f}x" in printed
    by_runtime = {row["runtime"]: row["timing"] for row in fp32}
    if by_runtime["pytorch"]["peak_mb"] is not None:
        # torch is not loaded where a file runs without it.
        assert by_runtime["onnxruntime"]["peak_mb"] < by_runtime["pytorch"]["peak_mb"] - 50
    assert f"left out: {run}: onnxruntime int8 has no file; segdistill export {run}" in printed


def test_what_fails_is_left_out_with_a_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without a result, for whatever reason."""

    def broken(**options: Any) -> None:
        options["output"].parent.mkdir()
        options["output"].write_bytes(b"no model")
        write_json(options["output"].with_name("model.onnx.json"), REPORT)

    monkeypatch.setattr(measurable, "export", broken)
    found = benchmark(runs=[str(run)], input=[32, 32], runtimes=["onnxruntime"], threads=[1, 2], quiet=True)
    assert found.rows == ()
    told = [line for line in found.skipped if line.startswith(f"{run}: onnxruntime fp32 fails: ")]
    assert len(told) == 1
    assert "model.onnx" in told[0] or "protobuf" in told[0].lower()


def test_networks_side_by_side(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that was never scored has no mIoU; every runtime that cannot be had is told of."""
    other = saved(tmp_path / "unscored", "python:tests.tiny:build_tiny")
    times = iter([0.03, 0.01, 0.002, 0.0001])
    monkeypatch.setattr(module, "_timed", lambda job: timing.summarise([next(times, 0.01)], None, None))
    monkeypatch.setattr(measurable.importlib.util, "find_spec", lambda name: None)
    found = benchmark(runs=[str(run), str(other)], input="64", quiet=True)
    fp32 = [(row.model, row.runtime, row.miou is None) for row in found.rows if row.precision == "fp32"]
    assert fp32 == [
        (str(path), runtime, path == other) for path in (run, other) for runtime in ("pytorch", "torch.compile")
    ]
    fast = [row.speedup for row in found.rows if row.precision == "fp32"]
    assert fast[:1] == [1.0]
    if len(found.rows) == 4:  # no bf16 here
        assert fast == pytest.approx([1, 3, 15, 300])
    wanted = [f"{runtime} needs the package onnx: pip install 'segdistill[deploy]'" for runtime in timing.RUNTIMES[2:4]]
    wanted.append("litert needs the package litert_torch: pip install 'segdistill[tflite]'")
    assert [line for line in found.skipped if "needs" in line] == wanted


def test_weights_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1] * 4, "num_labels": 3}
    config = transformers.SegformerConfig(**small, decoder_hidden_size=16)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path, max_shard_size="20KB")
    pieces = list(tmp_path.glob("*.safetensors"))
    assert len(pieces) > 2
    monkeypatch.setattr(module, "_timed", lambda job: timing.summarise([0.01], None, None))
    found = benchmark(runs=[tmp_path], input="64", runtimes=["pytorch"], quiet=True)
    assert found.rows[0].file_mb == sum(piece.stat().st_size for piece in pieces) / 1e6


def test_int8_where_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own file, if it takes the image; with its own mIoU."""
    jobs: list[timing.Job] = []

    def timed(job: timing.Job) -> timing.Timing:
        jobs.append(job)
        return timing.summarise([0.01], 1.0, 1.0)

    def no_export(**options: Any) -> None:
        raise UserError("no export in this test")

    monkeypatch.setattr(module, "_timed", timed)
    monkeypatch.setattr(measurable, "export", no_export)
    folder = run / "exports"
    folder.mkdir(exist_ok=True)
    file, report = folder / "model-int8.onnx", folder / "model-int8.onnx.json"
    values = REPORT | {"cost": {"miou_after": 12.5}}
    file.write_bytes(b"x" * 3000)
    options: dict[str, Any] = {"runs": [str(run)], "runtimes": ["onnxruntime"], "quiet": True}
    report.write_text(json.dumps(values))
    found = benchmark(input="32", threads=[1, 2], **options)
    assert [(row.precision, row.threads, row.miou, row.file_mb) for row in found.rows] == [
        ("int8", 1, 12.5, 0.003),
        ("int8", 2, 12.5, 0.003),
    ]
    assert [(job.path, job.dtype, job.size, job.threads) for job in jobs] == [
        (str(file), "uint8", (32, 32), 1),
        (str(file), "uint8", (32, 32), 2),
    ]
    report.write_text(json.dumps(values | {"form": FORM | {"size": [64, 64]}}))
    found = benchmark(input="32", **options)
    assert found.rows == ()
    assert f"{file} is made for other images or outputs: size [64, 64]" in found.skipped
    report.write_text("{}")
    found = benchmark(input="32", **options)
    assert any("is missing or damaged; export model-int8.onnx again" in line for line in found.skipped)
    file.unlink()
    report.unlink()


@pytest.fixture(scope="module")
def files(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported files as users have them: moved away from their run."""
    folder = tmp_path_factory.mktemp("files")
    made = {name: folder / f"{name}.onnx" for name in ("plain", "other", "half", "bare", "many")}
    export(run=run, output=made["plain"], quiet=True)
    export(run=run, output=made["other"], layout="nhwc", outputs="probabilities", size="32x48", quiet=True)
    export(run=run, output=made["half"], half=True, quiet=True)
    export(run=run, output=made["many"], batch=3, quiet=True)
    shutil.copy(made["plain"], made["bare"])
    return made


def test_an_exported_file_is_measured_as_it_is(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[timing.Job] = []

    def timed(job: timing.Job) -> timing.Timing:
        jobs.append(job)
        return timing.summarise([0.01], 1.0, 1.0)

    monkeypatch.setattr(module, "_timed", timed)
    monkeypatch.setenv("COLUMNS", "300")
    found = benchmark([files[name] for name in ("plain", "other", "half", "bare")], input="32x48", threads=[2])
    assert [(row.model, row.runtime, row.precision) for row in found.rows] == [
        (str(files["plain"]), "onnxruntime", "fp32"),
        (str(files["other"]), "onnxruntime", "fp32"),
        (str(files["half"]), "onnxruntime", "fp16"),
        (str(files["bare"]), "onnxruntime", ""),  # without its report
    ]
    assert found.skipped == ()
    assert all(row.parameters is row.macs is row.miou is None for row in found.rows)
    assert [row.file_mb for row in found.rows] == [Path(row.model).stat().st_size / 1e6 for row in found.rows]
    assert [(job.path, job.channels, job.dtype, job.layout, job.size, job.threads) for job in jobs] == [
        (row.model, 3, "uint8", "nhwc" if row.model == str(files["other"]) else "nchw", (32, 48), 2)
        for row in found.rows
    ]
    printed = capsys.readouterr().out
    assert f"{found.rows[3].model}, onnxruntime, 2 threads" == found.rows[3].name
    assert f"speed-up: how many times faster than {files['plain']}, onnxruntime fp32, 2 threads" in printed


@pytest.mark.slow
def test_files_of_either_layout_are_timed(files: dict[str, Path]) -> None:
    found = benchmark([files["half"], files["other"]], input="32x48", seconds=0.1, quiet=True)
    assert found.skipped == ()
    assert [row.timing.passes >= 10 for row in found.rows] == [True, True]


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("other", {}, "takes images of one size only; give --input 32x48"),
        ("many", {}, "takes 3 images at once, expected a file for one; export it with --batch 1"),
        ("plain", {"runtimes": ["openvino"]}, "runs in onnxruntime, which is not among the runtimes openvino"),
    ],
)
def test_a_file_that_cannot_be_measured(files: dict[str, Path], name: str, options: dict[str, Any], line: str) -> None:
    found = benchmark(files[name], input="64", quiet=True, **options)
    assert found.rows == ()
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(str(files[name]))
    assert found.skipped[0].endswith(line)


def test_a_file_of_a_format_that_no_runtime_here_has(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    export(run=run, format="torch-export", output=file, quiet=True)
    found = benchmark(file, input="64", quiet=True)
    line = f"{file}: files of format torch-export are not measured, those of onnx, openvino, tflite are"
    assert (found.rows, found.skipped) == ((), (line,))


def test_a_file_of_other_origin_is_refused_before_anything_is_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_timed", lambda job: pytest.fail("measured"))
    file = tmp_path / "model.onnx"
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model .*model\.onnx cannot be read, it is damaged or no \.onnx model"):
        benchmark([run, file], quiet=True)
    weights = tmp_path / "model.pth"
    weights.touch()
    with pytest.raises(UserError, match=r"ends in '\.pth'; expected the folder of a run, or an exported file"):
        benchmark([run, weights], quiet=True)


def test_passes_are_timed_one_by_one() -> None:
    calls = []
    times = timing.time_passes(lambda: calls.append(time.sleep(0.002)), seconds=0.0)
    assert len(times) == 10  # the fewest there are
    assert len(calls) == 13  # three went before
    assert all(0.002 <= passed < 1 for passed in times)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs missing; expected segdistill benchmark RUN...;"),
        (["nowhere"], "run 'nowhere' does not exist; expected a run folder"),
        (["RUN", "--runtimes", "tensorrt"], "unknown runtime 'tensorrt'"),
        (["RUN", "--input", "big"], "input is 'big', expected height and width"),
        (["RUN", "--threads", "0"], "threads is [0], expected numbers of at least 1"),
    ],
)
def test_bad_input(run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *(str(run) if word == "RUN" else word for word in arguments)]) == 2
    assert message in capsys.readouterr().err
