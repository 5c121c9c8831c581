"""Check golden vectors: one line a case, then ``N passed, N failed``.

    python tools/verify_golden.py tests/golden

The number behind a name is its largest error as a multiple of what the case allows (at most 1 passes), then the
absolute error there and the array it is in. Exit status: 0 all passed; 1 some failed, or nobody knows how to run them;
2 a directory that does not exist or holds no case.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the vectors and their runners are no part of the package

from kd2.distill import DataError  # noqa: E402
from tests.golden.runners import Result, verify  # noqa: E402


def main() -> int:
    """Check the directories of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="searched for pairs NAME.npz and NAME.json")
    try:
        results = verify(parser.parse_args().directories)
    except DataError as error:
        print(f"verify_golden: {error}", file=sys.stderr)
        return 2
    for result in results:
        print(line(result))
    failed = sum(not result.ok for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


def line(result: Result) -> str:
    """What is printed of one case."""
    verdict = "ok  " if result.ok else "FAIL"
    measured = f"{result.error:9.3g} ({result.raw:.3g} in {result.output})" if result.output else ""
    return "  ".join(part for part in (verdict, result.name, measured, result.reason) if part)


if __name__ == "__main__":
    sys.exit(main())
