"""What `make demo` shows: the whole way, from the embedded dataset's revision to answered images.

python -m pipelines.demo --out out/demo
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import serving
from hilum.data import layouts
from hilum.delivery.fronts import torchserve
from pipelines import local

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parent
EXAMPLES: Final = CHECKOUT / "data" / "examples"  # images of patients in the test split: no encoder has seen them


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of the run (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="of the server (default: any free one)")
    asked = parser.parse_args()
    train(asked.out)
    answer(local.releases(asked.out), asked.port)


def train(out: Path) -> None:
    """Run the training pipeline on the revision of the embedded dataset that is checked out."""
    print(
        f"Training pipeline on the embedded dataset. {layouts.read('phantom', CHECKOUT / 'data').caution}\n", flush=True
    )
    recipe = HERE / "recipes" / "demo.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "hilum", "run", "--source", str(CHECKOUT), "--revision", "HEAD",
         "--recipe", str(recipe), "--out", str(out)],
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.returncode)


def answer(releases: list[Path], port: int) -> None:
    """Serve the releases with TorchServe, post an X-ray and an MRI slice, print what comes back, stop."""
    print("\nTorchServe on " + ", ".join(path.name for path in releases), flush=True)
    with torchserve.start(releases, port=port, workers=1, serving=serving.FOLDER) as server:
        for model, image in (
            ("embeddings", "xray-pneumonia.png"),
            ("pneumonia", "xray-pneumonia.png"),
            ("pneumonia", "xray-normal.png"),
            ("embeddings", "brain-axial.png"),
            ("pneumonia", "brain-axial.png"),
        ):
            status, body = server.post(model, (EXAMPLES / image).read_bytes())
            print(f"\nPOST /predictions/{model} < {image}: {status}")
            print(_short(body))
    print("\nserver stopped")


def _short(body: bytes) -> str:
    """An answer for the terminal: the embedding by its shape, the rest as it came."""
    answered = json.loads(body)
    vector = answered.pop("embedding", None)
    if vector is not None:
        answered["embedding"] = f"{len(vector)} numbers, {vector[0]:.4f} ... {vector[-1]:.4f}"
    return json.dumps(answered, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
