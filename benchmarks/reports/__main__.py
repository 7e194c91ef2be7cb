r"""The whole judgement of real images, dataset by dataset, as the pipeline makes it; a page of each for docs/results.

    python benchmarks/reports --sources ~/images
    python benchmarks/reports --sources ~/images --datasets kermany,oasis

Each dataset goes through `hilum run` with its recipe in pipelines/recipes/reports/: ingest, validate, train, embed,
probe, audit, shortcuts, mitigations, leaderboard, gate. Every report of the run lies in out/reports/DATASET/index.html;
it shows images, so it stays with the data and out of the repository. docs/results/reports-DATASET.md is written anew
from the run's own files, whatever the gate said: a refused release is a result, any other failure stops this command.

Called again, steps that have not changed are reused. `--pages` only writes the pages of finished runs again.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from hilum.data.store import write_json
from hilum.errors import HilumError, UsageError
from hilum.recipe import Recipe, read

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where PYTHONSAFEPATH is set, as in the Makefile
from reports import page
from reports import reading as evidence

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = {  # where each layout is looked for below --sources, the first that is there
    "nih": ("nih", "nih-chestxray14-1000", "ChestX-ray14"),
    "covid_chestxray": ("covid_chestxray", "covid-chestxray-dataset"),
    "kermany": ("kermany", "kermany-chest-xray"),
    "oasis": ("oasis", "oasis-1"),
}
REUSED: Final = "cache hit"  # KFP's words in run.log


def source_of(layout: str, sources: Path) -> Path:
    """The folder of a dataset below `sources`.

    Raises:
        UsageError: There is none.
    """
    for name in FOLDERS[layout]:
        if (sources / name).is_dir():
            return sources / name
    raise UsageError(f"{sources} has no folder {' or '.join(FOLDERS[layout])} with the images of {layout}")


def judged(layout: str, source: Path, recipe: Path, out: Path) -> None:
    """Run the pipeline on one dataset, until the gate has said its word.

    Raises:
        HilumError: It stopped before; the pipeline has said why.
    """
    for earlier in (evidence.GATE, evidence.COMPARISONS):  # published again once this run has judged and compared
        (out / earlier).unlink(missing_ok=True)
    began = time.monotonic()
    command = ["-m", "hilum", "run", "--source", str(source), "--recipe", str(recipe), "--out", str(out)]
    done = subprocess.run([sys.executable, *command], check=False)
    if not (out / evidence.GATE).is_file():
        raise HilumError(f"the run on {layout} ended (exit status {done.returncode}) before its gate could judge")
    run = evidence.gate_of(out).run
    if REUSED not in (out / "run.log").read_text(encoding="utf-8"):
        write_json(out / evidence.TIMING, {"seconds": time.monotonic() - began, "cores": evidence.cores(), "run": run})


def written(layout: str, recipe: Path, out: Path, pages: Path) -> Path:
    """Write the page of one finished run."""
    section: Recipe = read(recipe)
    report = evidence.Report.read(out, section)
    if report.facts["layout"] != layout:
        raise UsageError(f"{out} holds a run on {report.facts['layout']}, not on {layout}")
    target = pages / f"reports-{layout.replace('_', '-')}.md"
    page.replace(target, page.write(report))
    return target


def main(arguments: list[str] | None = None) -> int:
    """Read the options and run; an error is one sentence."""
    options = PARSER.parse_args(arguments)
    try:
        names = options.datasets.split(",")
        if strange := sorted(set(names) - set(FOLDERS)):
            raise UsageError(f"there are no reports of {', '.join(strange)}; there are of {', '.join(FOLDERS)}")
        found = {} if options.pages else {name: source_of(name, options.sources) for name in names}
        for name in names:
            recipe, out = options.recipes / f"{name}.yaml", options.out / name
            if name in found:
                print(f"\n{name}", flush=True)
                judged(name, found[name], recipe, out)
            print(f"wrote {written(name, recipe, out, options.results)}", flush=True)
    except HilumError as error:
        print(f"reports: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--sources", type=Path, default=ROOT / ".." / "shared" / "data", help="folder of the image sets")
PARSER.add_argument("--datasets", default=",".join(FOLDERS), help="default: %(default)s")
PARSER.add_argument("--recipes", type=Path, default=ROOT / "pipelines" / "recipes" / "reports")
PARSER.add_argument("--out", type=Path, default=ROOT / "out" / "reports", help="folder of the runs; not for git")
PARSER.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder of the pages")
PARSER.add_argument("--pages", action="store_true", help="only write the pages of finished runs again")

if __name__ == "__main__":
    sys.exit(main())
