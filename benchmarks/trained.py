"""Students of every exported architecture, trained briefly: what their files score on whole test sets.

What they are stands in ``benchmarks/students``: a config each, in a folder of its road.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import deploy
from benchmarks.proof import child
from benchmarks.proof.fingerprint import ROOT, fingerprint
from kd2.distill import ConfigError
from kd2.runs.folder import FINAL

STUDENTS = ROOT / "benchmarks" / "students"
OUTPUT = ROOT / "output" / "deploy"


def trained_rows(forms: Sequence[str], students: Path = STUDENTS, output: Path = OUTPUT) -> Iterator[dict[str, str]]:
    """A row of ``deploy.COLUMNS`` a student and format; what is trained or measured already is not repeated.

    Args:
        students: folder of the roads, each with configs; a file whose name begins with ``Base`` is read by others.
        output: gets a folder of each run, named by the config and what it computes, and beside it the rows as
            ``NAME.json``. Without that file the run is measured again, without the folder it is trained again, too.

    Raises:
        ConfigError: a training failed.
    """
    for config in configs(students):
        run = output / f"{config.parent.name}-{config.stem}-{fingerprint(str(config), {})}"
        if not (run / FINAL).exists():
            _train(config, run)
        yield from _kept_rows(run, forms)


def configs(students: Path = STUDENTS) -> list[Path]:
    """The configs of students, sorted by road and name."""
    return sorted(file for file in students.glob("*/*.yaml") if not file.stem.startswith("Base"))


def _train(config: Path, run: Path) -> None:
    log = run.with_suffix(".log")
    words = ["--overwrite", "--allow-code", "--config-file", str(config), "OUTPUT_DIR", str(run)]
    end = child.call("train_net.py", words, log)
    if end.code:
        raise ConfigError(f"{config} was not trained: {end.error}; all that it printed is in {log}")


def _kept_rows(run: Path, forms: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a run from its file, which gets those that it lacks."""
    file = run.with_suffix(".json")
    kept = json.loads(file.read_text()) if file.exists() else {}
    for row in deploy.rows([str(run)], [form for form in forms if form not in kept]):
        kept[row["format"]] = row
        file.write_text(json.dumps(kept, indent=1) + "\n")
    yield from (kept[form] for form in forms)
