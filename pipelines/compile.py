"""Write the pipelines as KFP v2 IR, the YAML that the Kubeflow UI takes under Pipelines > Upload pipeline.

python -m pipelines.compile --out build
"""

import argparse
from pathlib import Path

from kfp import compiler

from pipelines.training import NAME, training_pipeline


def write(out: Path) -> Path:
    """Compile the training pipeline into `out`; the file has two documents, the IR and its Kubernetes settings."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.yaml"
    compiler.Compiler().compile(training_pipeline, str(path))
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for the YAML (default: %(default)s)")
    print(write(parser.parse_args().out))


if __name__ == "__main__":
    main()
