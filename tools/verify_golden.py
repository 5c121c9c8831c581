"""Check golden vectors: one line a case, then ``N passed, N failed``.

    python tools/verify_golden.py tests/golden

The number behind a name is its largest error as a multiple of what the case allows (at most 1 passes), then the
absolute error there and the array it is in. Exit status: 0 all passed; 1 some failed, nobody knows how to run them, or
a directory does not exist or holds no case.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/ lies in the checkout alone

from kd2.cli import guarded
from kd2.cli_arguments import Parser
from tests.golden.runners import Result, verify


def main() -> int:
    """Parse the arguments, check every case, print the counts."""
    parser = Parser(__doc__)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="searched for pairs NAME.npz and NAME.json")
    results = verify(parser.parse_args().directories)
    for result in results:
        print(line(result))
    failed = sum(not result.ok for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


def line(result: Result) -> str:
    """A case as one line of text."""
    verdict = "ok  " if result.ok else "FAIL"
    measured = f"{result.error:9.3g} ({result.raw:.3g} in {result.output})" if result.output else ""
    return "  ".join(part for part in (verdict, result.name, measured, result.reason) if part)


if __name__ == "__main__":
    sys.exit(guarded(main))
