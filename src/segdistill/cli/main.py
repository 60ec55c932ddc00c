"""The command ``segdistill``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from segdistill.errors import UserError, unknown_name
from segdistill.version import __version__

COMMANDS = {
    "train": "train a network from labels alone: a teacher, or a baseline",
    "distill": "distil a trained teacher into a small student",
    "pretrain": "train a student's backbone to match a teacher's features, without labels",
    "evaluate": "score a network on the labelled images of a split, by class",
    "predict": "predict label maps of images, GeoTIFFs of any size and videos",
    "label": "label images with a model (pseudo-labels), as a data set to train on",
    "play": "try networks on your own images in a browser",
    "export": "export a run to an ONNX, OpenVINO or torch.export file, compared with PyTorch; int8",
    "benchmark": "measure latency, memory, size and mIoU of runs in several runtimes",
    "compare": "compare methods with the student alone: same recipe, several seeds, intervals",
    "advise": "find the best method: short runs of all methods, longer runs of the best",
    "data": "check a data set before a run, draw its labels, measure its bands",
    "methods": "list the distillation methods",
    "demo": "run the whole job on built-in synthetic aerial scenes, in minutes",
}

EXAMPLES = """\
  segdistill demo
  segdistill data check --dataset folder --root my/data --classes '[road, roof, tree]'
  segdistill train --network smp:Unet:resnet34 --init_weights imagenet --output runs/teacher \\
      --data '{dataset: folder, root: my/data, classes: [road, roof, tree], crop: [256, 256]}'
  segdistill distill --teacher runs/teacher --student smp:FPN:tu-mobilenetv3_small_050 --output runs/student \\
      --data '{dataset: folder, root: my/data, classes: [road, roof, tree], crop: [256, 256]}'
  segdistill evaluate runs/student
  segdistill predict runs/student my/photos --output labels"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0; 1 where a command's finding is no error of its own, such as data that would spoil a run; 2 for an error that
        the user can mend; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"segdistill {__version__}")
        return 0
    command = arguments[0]
    try:
        if command not in COMMANDS:
            raise unknown_name("command", command, COMMANDS)
        code: int | None = importlib.import_module(f"segdistill.cli.{command}").run(arguments[1:])
        sys.stdout.flush()
        return code or 0
    except UserError as error:
        print(f"segdistill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        # A run that a signal stopped says where it stopped, and which exit code it wants.
        where = f" in {interruption}, all saved" if str(interruption) else ""
        hint = "; the same command with --resume continues from there" if where else ""
        print(f"segdistill: interrupted{where}{hint}", file=sys.stderr)
        return int(getattr(interruption, "exit_code", 130))
    except BrokenPipeError:
        # Whoever read the output has seen enough ("| head"); Python must not complain of it again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A disk that is full or gone, a folder without permission: nothing that a traceback would explain.
        place = f": {error.filename}" if error.filename else ""
        print(f"segdistill: {error.strerror or error}{place}", file=sys.stderr)
        return 2
    return 0


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: segdistill COMMAND [...]",
            "",
            "Distil a large segmentation network into a small, fast one, on your own images.",
            "",
            *lines,
            "",
            "examples:",
            EXAMPLES,
            "",
            "segdistill COMMAND --help shows the options of a command and more examples.",
            "In the names of options a dash is as good as an underscore, and a switch alone means true: --dry-run.",
            "segdistill --version prints the version.",
        ]
    )
