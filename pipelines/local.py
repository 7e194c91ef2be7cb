"""Run the training pipeline on one machine, without a cluster, through KFP's local runner.

KFP keeps its configuration in a singleton and swaps `sys.stdout` while steps print, so each run is a process of its
own (`python -m pipelines.local PARAMETERS.json`); `launch` starts it, keeps its full log in `run.log`, and shows the
person one line per step, with the steps' progress bars drawn on the terminal.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hilum.errors import HilumError
from hilum.progress import TERMINAL

LOG: Final = "run.log"
PARAMETERS: Final = "parameters.json"
ROOT: Final = ".pipeline"  # KFP's pipeline root inside the run's folder: artifacts of each step, and the step cache
_QUIET: Final = "publish"  # steps whose names begin so copy results and are no news

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_STARTED: Final = re.compile(r"Executing task '([\w-]+)'")
_ENDED: Final = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
_REUSED: Final = re.compile(r"Task ([\w-]+) cache hit")
_RAISED: Final = re.compile(r"hilum\.errors\.\w+: (.+)")
_FELL: Final = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupt)(?:: .+)?)$")  # another error, at its last line
_BROKE: Final = re.compile(r"Task [\w-]+ failed with exception: (.+)")  # KFP's own trouble, not a step's
_BAR: Final = re.compile(r"^\s*\S.* (?!0%)\d+%\|")  # of a step that has got somewhere
_STAMP: Final = re.compile(r"^\d\d:\d\d:\d\d\.\d+ - \w+ - ")


class RunFailed(HilumError):
    """The pipeline did not reach its end; the message is what the failing step said."""


def launch(parameters: dict[str, Any], out: Path) -> None:
    """Run the pipeline with `parameters` and publish its results in `out`.

    Writes `out/index.html` with every report, `out/leaderboard.csv`, `out/releases`, `out/run.log` and
    `out/parameters.json`. Steps whose
    inputs and code have not changed since an earlier run in `out` are reused.

    Raises:
        RunFailed: A step failed; the message is that step's.
    """
    out.mkdir(parents=True, exist_ok=True)
    told = {**parameters, "shelf": str(out.resolve())}
    (out / PARAMETERS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    started = time.monotonic()
    with (out / LOG).open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.local", str(out / PARAMETERS), str((out / ROOT).resolve())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
        )
        try:
            reason = _show(_logged(child, log))
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if child.wait() != 0:
        earlier = f"; {out / 'releases'} is what an earlier run published" if (out / "releases").is_dir() else ""
        raise RunFailed(f"{reason or 'the pipeline failed'} (the whole log: {out / LOG}){earlier}")
    print(f"finished in {time.monotonic() - started:.0f} s\n", flush=True)
    print((out / "leaderboard.md").read_text(encoding="utf-8"))
    print(f"All reports, in one page: {out / 'index.html'}")
    for report in sorted([*out.glob("*.html"), *out.glob("*/*.html"), *out.glob("*/map.png")]):
        print(f"  {report}")
    print("Releases:")
    for release in releases(out):
        print(f"  {release}", flush=True)


def releases(out: Path) -> list[Path]:
    """The releases that a run published in `out`, the X-ray one first."""
    return sorted((path for path in (out / "releases").iterdir() if path.is_dir()), reverse=True)


def _environment() -> dict[str, str]:
    """The child's environment: a terminal for progress bars, and cores shared among the two steps KFP runs at once."""
    # Without PYTHONSAFEPATH the checkout's docker/ folder would stand for the Python module that KFP looks for.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))
    if sys.stderr.isatty():
        environment[TERMINAL] = os.ttyname(sys.stderr.fileno())
    return environment


def _logged(child: "subprocess.Popen[str]", log: Any) -> Iterator[str]:
    assert child.stdout is not None
    for line in child.stdout:
        log.write(line)
        log.flush()
        yield _COLOUR.sub("", line).rstrip()


def _show(lines: Iterator[str]) -> str | None:
    """Print one line per step; return what the last failing step said."""
    since: dict[str, list[float]] = defaultdict(list)  # steps of a loop share a name; the first begun ends first
    said = fell = None
    for line in lines:
        if found := _RAISED.search(line) or _BROKE.search(line):
            said = found[1]
        elif found := _FELL.match(line):
            fell = fell or found[1]  # what comes after it came of it
        elif found := _REUSED.search(line):
            _line(found[1], "reused")
        elif found := _STARTED.search(line):
            since[found[1]].append(time.monotonic())
        elif found := _ENDED.search(line):
            seconds = time.monotonic() - since[found[1]].pop(0)
            _line(found[1], f"{seconds:6.1f} s" if found[2] == "SUCCESS" else f"FAILED after {seconds:.1f} s")
        elif _BAR.search(line) and TERMINAL not in os.environ and not sys.stderr.isatty():
            print("   " + line.strip(), flush=True)
    return said or fell


def _line(step: str, what: str) -> None:
    if not step.startswith(_QUIET):
        print(f"  {step:<12} {what}", flush=True)


def run(parameters: Path, root: str) -> None:
    """Run the pipeline in this process, which then is of no further use (KFP's global state)."""
    import logging
    import warnings

    from kfp import local

    from pipelines.training import training_pipeline

    # What the local runner cannot do (GPU limits, node selectors) it says once per task; here that is no news.
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # where KFP says which steps it reuses
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, enable_caching=True, raise_on_error=True)
    try:
        training_pipeline(**json.loads(parameters.read_text(encoding="utf-8")))
    except RuntimeError as error:  # the failing step has said why, in the log above
        print(error, flush=True)
        sys.exit(1)


def main() -> None:
    """`python -m pipelines.local --launch OUT < PARAMETERS` for people; `... PARAMETERS ROOT` for the child."""
    first, second = sys.argv[1:]
    if first != "--launch":
        run(Path(first), second)
        return
    try:
        launch(json.load(sys.stdin), Path(second))
    except HilumError as error:
        print(f"hilum: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
