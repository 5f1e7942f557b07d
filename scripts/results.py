"""The results table of README.md, made of score files.

    python scripts/results.py                          # docs/results/*.json -> README.md
    python scripts/results.py --add runs/demos/*       # take in scores/test/summary.json of these runs before

A row per run, grouped by what was scored; below each group what a score has to beat and what no mask can.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsep import markdown
from jaxsep.errors import JaxsepError
from jaxsep.markdown import decibels
from jaxsep.workdir import write_text

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
SCORE = "sdr_median_of_medians"
COLUMNS = ("vocals", "drums", "bass", "other", "average")
BASELINES = ("scaled mixture", "fixed equaliser", "IRM1 (oracle)")
SAME = ("data", "tracks", "mixture", "rate", "scored_together")  # in runs of one group
KEPT = (
    *("system", "checkpoint", "config", "git", "versions", *SAME, "backend"),
    *("tracks_in_split", "failed", "missing", "silent", "scores", "baselines", "frames"),
)


def add(run: Path, folder: Path) -> None:
    """Takes the test scores of a run into a folder, without what only its machine knows.

    Raises:
        JaxsepError: the run has none, or scores of another version.
    """
    path = run / "scores" / "test" / "summary.json"
    if not path.is_file():
        raise JaxsepError(f"{path}: no such file; score the run with `python eval.py --workdir={run}`")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if missing := [key for key in KEPT if key not in summary]:
        raise JaxsepError(f"{path}: has no {', '.join(missing)}; score the run again with this version")
    kept = {key: summary[key] for key in KEPT}
    write_text(folder / f"{summary['system'].replace(':', '-')}.json", json.dumps(kept, indent=2) + "\n")


def table(folder: Path) -> str:
    """The score files of a folder in Markdown, the highest average first.

    Raises:
        JaxsepError: there are none, or runs on the same songs differ in what does not depend on the run.
    """
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    if not summaries:
        raise JaxsepError(f"{folder}: no score files; add some with --add RUN...")
    groups: dict[str, list[dict[str, Any]]] = {}
    for summary in summaries:
        same = {key: summary[key] for key in SAME} | {"scored_together": _unordered(summary["scored_together"])}
        groups.setdefault(json.dumps(same), []).append(summary)
    largest_first = sorted(groups.values(), key=len, reverse=True)
    return "\n\n".join(_group(group) for group in largest_first)


def _unordered(calls: Iterable[Iterable[str]]) -> list[list[str]]:
    return sorted(sorted(names) for names in calls)


def _group(summaries: Sequence[Mapping[str, Any]]) -> str:
    first = summaries[0]
    for name in BASELINES:
        values = [summary["baselines"][name][SCORE] for summary in summaries]
        if any(abs(value[c] - values[0][c]) > 1e-3 for value in values for c in COLUMNS):
            raise JaxsepError(f"{name} differs between runs that were scored on the same songs; score them again")
    ranked = sorted(summaries, key=lambda summary: summary["scores"][SCORE]["average"], reverse=True)
    rows = {f"{s['system']}, step {s['checkpoint']['step']:,}": s["scores"][SCORE] for s in ranked}
    rows |= {f"*{name}*": first["baselines"][name][SCORE] for name in BASELINES}
    rate = f"{first['rate']:,} Hz" if first["rate"] else "the songs' rate"
    cells = [[name, *(decibels(row[column]) for column in COLUMNS)] for name, row in rows.items()]
    return markdown.table([f"SDR (median), dB, at {rate}", *COLUMNS], cells)


def rewrite(text: str, results: str) -> str:
    """A README with the results between its markers.

    Raises:
        JaxsepError: it does not have both markers once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in old + after or END in before + after:
        raise JaxsepError(f"README.md: expected {BEGIN} and {END}, once and in this order")
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the script; 0, or 2 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs="+", default=[], metavar="RUN", type=Path, help="run folders with test scores")
    options = parser.parse_args(arguments)
    folder, readme = ROOT / "docs" / "results", ROOT / "README.md"
    try:
        for run in options.add:
            folder.mkdir(parents=True, exist_ok=True)
            add(run, folder)
        write_text(readme, rewrite(readme.read_text(encoding="utf-8"), table(folder)))
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
