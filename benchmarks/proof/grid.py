"""The grid of a data set: ``benchmarks/grids/DATA.yaml`` as runs. Its file says all; here it is only read."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.proof.fingerprint import ROOT, fingerprint
from kd2.data.root import data_root
from kd2.distill import ConfigError, nearest

GRIDS = ROOT / "benchmarks" / "grids"
MAIN, ALONE, TEACHER = "main", "alone", "teacher"
ITERATIONS = "SOLVER.MAX_ITER"


@dataclass(frozen=True)
class Run:
    """A training to be done.

    Attributes:
        data, road, section, row: where it stands in the grid.
        config: the config file.
        options: KEY -> value over the file, without those that say where its files lie.
        hash: of what it computes, its seed apart; see ``fingerprint``.
        tests: name of a split -> name of its data set.
        longer: the student alone for the time of the costliest default loss: its iterations are to be scaled yet.
        published: the authors' weight that it takes, or their figure for it; empty: none.
    """

    data: str
    road: str
    row: str
    seed: int
    config: str
    options: Mapping[str, Any]
    tests: Mapping[str, str]
    section: str = MAIN
    longer: bool = False
    published: str = ""
    hash: str = ""

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.road}-{self.hash}-{self.seed}"

    @property
    def iterations(self) -> int:
        """Iterations, 0 where the config says how many."""
        return int(self.options.get(ITERATIONS, 0))

    @property
    def losses(self) -> Mapping[str, Any]:
        """The blocks of KD.LOSSES."""
        return self.options["KD.LOSSES"]

    @property
    def default(self) -> bool:
        """Whether it distills with default shares alone."""
        return bool(self.losses) and not any("WEIGHT" in block for block in self.losses.values())

    def with_options(self, options: Mapping[str, Any]) -> "Run":
        """The same with other options, and the hash that they give."""
        merged = {**self.options, **options}
        return dataclasses.replace(self, options=merged, hash=fingerprint(str(ROOT / self.config), merged))


class Grid:
    """The file of a data set.

    Args:
        data: name of a file in ``benchmarks/grids``.
    """

    def __init__(self, data: str):
        names = sorted(file.stem for file in GRIDS.glob("*.yaml"))
        if data not in names:
            raise ConfigError(f"--data is {data!r}; {nearest(data, names)}")
        self.data = data
        self.file = yaml.safe_load((GRIDS / f"{data}.yaml").read_text())

    def roads(self, section: str) -> list[str]:
        """The roads that a section is for."""
        return list(self.section(section).get("roads", self.file["roads"]))

    def road(self, name: str | None, section: str) -> str:
        """A road of a section by its name, the first one without."""
        roads = self.roads(section)
        return _choose("--road", roads[0] if name is None else name, dict.fromkeys(roads))

    def teacher(self, road: str) -> Run:
        """The training of a road's teacher, with seed 1."""
        config = self.file["roads"][road]["teacher"]["config"]
        return self._run(road, TEACHER, 1, config, {**self.file.get("set", {}), "KD.LOSSES": {}})

    def teacher_file(self, road: str) -> str:
        """The teacher's weights that somebody has trained, below the root of the data sets; empty: there are none."""
        name = self.file["roads"][road]["teacher"].get("weights", "")
        return name and str(Path(data_root(), name))

    def rows(self, section: str, only: Sequence[str] = ()) -> list[str]:
        """Names of the rows of a section, or ``only`` where it is not empty, checked."""
        rows = self.section(section)["rows"]
        return [_choose("--only", name, rows) for name in only] or list(rows)

    def runs(
        self,
        road: str,
        section: str,
        seeds: Sequence[int],
        weights: str,
        iterations: int | None = None,
        only: Sequence[str] = (),
    ) -> list[Run]:
        """The runs of a section, seed by seed.

        Args:
            weights: the teacher's file.
            iterations: of each; None: those of the grid.
            only: names of rows; empty: all.
        """
        part, way = self.section(section), self.file["roads"][road]
        length = iterations or part.get("iterations", self.file["iterations"])
        own = {ITERATIONS: length, "KD.TEACHER.WEIGHTS": weights}
        runs = []
        for seed in seeds:
            for name in self.rows(section, only):
                row = part["rows"][name]
                blocks = (self.file, way, part, row, row.get("roads", {}).get(road, {}))
                given = {key: x for block in blocks for key, x in block.get("set", {}).items()}
                options = own | given | {"KD.LOSSES": row["losses"]}
                if "second_teacher" in row:
                    options["KD.TEACHERS"] = [_teacher_block(row["second_teacher"])]
                about = {"section": section, "longer": row.get("longer", False), "published": row.get("published", "")}
                config = part.get("configs", {}).get(road, way["config"])
                runs.append(self._run(road, name, seed, config, options, **about))
        return runs

    def section(self, name: str) -> Mapping[str, Any]:
        """A section by its name."""
        sections = self.file["sections"]
        return sections[_choose("--variant", name, sections)]

    def _run(self, road: str, row: str, seed: int, config: str, options: dict[str, Any], **about: Any) -> Run:
        return Run(self.data, road, row, seed, config, options, self.file["splits"], **about).with_options({})


def _teacher_block(teacher: Mapping[str, str]) -> dict[str, str]:
    return {"CONFIG_FILE": str(ROOT / teacher["config"]), "WEIGHTS": str(Path(data_root(), teacher["weights"]))}


def _choose(option: str, name: str, known: Mapping[str, Any]) -> str:
    if name not in known:
        raise ConfigError(f"{option} is {name!r}; {nearest(name, known)}")
    return name
