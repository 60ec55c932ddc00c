"""Which small changes to the code the tests do not notice: mutmut, on a part of the code with the tests that mirror it.

Run ``python benchmarks/mutants.py methods``; the parts stand in ``benchmarks/mutants.toml``, which also says why some
survivors cannot be noticed. Each part has its own session in ``.mutants/``: an interrupted run goes on where it
stopped, and a later one tries again only what survived and the functions that were changed. Exits with 1 where a mutant
survives that is not explained.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from mutmut.__main__ import cli
from mutmut.configuration import config
from mutmut.mutation import mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.utils.file_utils import walk_mutatable_files

ROOT = Path(__file__).resolve().parents[1]
SURVIVED = (0, 33)  # mutmut's exit codes: all tests passed, no test comes here
# Each mutant is a pytest run in a fork: plugins that it does not need, and the collection of garbage at its end, cost
# more than most tests.
PYTEST = [f"-pno:{plugin}" for plugin in ("cacheprovider", "unraisableexception", "threadexception", "xdist")]
CONFIGURATION = """
[tool.pytest.ini_options]
markers = ["real_data", "slow"]
timeout = 300
filterwarnings = ["ignore::DeprecationWarning"]
[tool.mutmut]
source_paths = ["src/"]
also_copy = ["docs"]
only_mutate = {files}
do_not_mutate_patterns = {patterns}
pytest_add_cli_args = {arguments}
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"
on_dependency_change = "ignore"
timeout_constant = 8  # times 15, in seconds of a clock that other work may slow down
"""


def without_a_keyword(call: cst.Call) -> Iterator[cst.Call]:
    """Leave out one keyword argument, so that its default counts."""
    for index, argument in enumerate(call.args):
        if argument.keyword is not None and len(call.args) > 1:
            yield call.with_changes(args=[*call.args[:index], *call.args[index + 1 :]])


def choose_changes() -> None:
    """Take mutmut's changes that may go unnoticed; None for a value and misspelt keys stop any test that comes by."""
    left_out = {mutators.operator_string, mutators.operator_assignment, mutators.operator_arg_removal}
    kept = [(node, change) for node, change in mutators.mutation_operators if change not in left_out]
    mutators.mutation_operators[:] = [*kept, (cst.Call, without_a_keyword)]


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed."""

    name: str
    file: str
    before: str
    after: str

    def explained(self, equivalents: list[dict[str, str]]) -> bool:
        change = f"{self.before} -> {self.after}"
        return any(
            fnmatch.fnmatch(self.file, one.get("file", "*")) and re.search(one["mutant"], change) for one in equivalents
        )


def open_session(part: str, settings: dict[str, Any]) -> Path:
    """Return the folder where mutmut works on a part, made or brought up to date."""
    folder = ROOT / ".mutants" / part
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("src", "tests", "docs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    configuration = CONFIGURATION.format(
        files=json.dumps([f"src/segdistill/{file}" for file in settings["parts"][part]["files"]]),
        patterns=json.dumps(settings["not_mutated"]),
        arguments=json.dumps([*PYTEST, "-m", "not slow and not real_data"]),
        tests=json.dumps(settings["parts"][part]["tests"]),
    )
    (folder / "pyproject.toml").write_text(configuration, encoding="utf-8")
    os.chdir(folder)
    return folder


def results() -> dict[Path, dict[str, int | None]]:
    """Return mutmut's exit code by file and mutant; None for those that were not tried."""
    metas = {file: Path("mutants") / f"{file}.meta" for file in sorted(walk_mutatable_files())}
    return {file: json.loads(meta.read_text())["exit_code_by_key"] for file, meta in metas.items() if meta.exists()}


def run() -> None:
    """Try what was not tried yet, then what survived before, since tests may have been added."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    survived = [name for codes in results().values() for name, code in codes.items() if code in SURVIVED]
    for names in ([], survived) if survived else ([],):
        command = [sys.executable, str(ROOT / "benchmarks" / "mutants.py"), "mutmut", "run", "--max-children=1", *names]
        with Path("log.txt").open("w") as log:
            failed = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
        if failed:
            sys.exit(f"mutmut stopped: {Path('log.txt').read_text()[-3000:]}")


def survivors(file: Path, codes: dict[str, int | None]) -> list[Survivor]:
    """Return what no test noticed, as changed lines."""
    found = []
    for name in (name for name, code in codes.items() if code in SURVIVED):
        lines = get_diff_for_mutant(name, path=file).splitlines()[2:]
        before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        found.append(Survivor(name, file.relative_to("src/segdistill").as_posix(), before, after))
    return found


def main() -> None:
    settings = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=settings["parts"])
    parser.add_argument("--report", action="store_true", help="show what earlier runs found; run nothing")
    parsed = parser.parse_args()
    open_session(parsed.part, settings)
    config()
    if not parsed.report:
        run()
    total: Counter[str] = Counter()
    for file, codes in results().items():
        living = survivors(file, codes)
        new = [one for one in living if not one.explained(settings["equivalent"])]
        untried = list(codes.values()).count(None)
        counts = Counter(mutants=len(codes), killed=len(codes) - len(living) - untried, survived=len(living))
        counts |= Counter(explained=len(living) - len(new), untried=untried)
        total += counts
        print(file, ", ".join(f"{count} {name}" for name, count in counts.items()), flush=True)
        for one in new:
            print(f"  {one.name.rpartition('.')[2]}\n    - {one.before}\n    + {one.after}", flush=True)
    print(parsed.part, ", ".join(f"{count} {name}" for name, count in total.items()))
    sys.exit(1 if total["survived"] > total["explained"] else 0)


if __name__ == "__main__":
    choose_changes()
    if sys.argv[1:2] == ["mutmut"]:
        cli(sys.argv[2:])
    else:
        main()
