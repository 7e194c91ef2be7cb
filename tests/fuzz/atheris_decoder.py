"""Coverage-guided fuzzing of the decoders, by hand: atheris (from PyPI) is no dependency of hilum.

    pip install atheris
    python tests/fuzz/atheris_decoder.py FOLDER -max_total_time=300 -rss_limit_mb=2000 -timeout=10

FOLDER keeps what reached new code, begins with the seeds of `mutating`, and is read again by the next run; the other
options are libFuzzer's. It ends with an input that raises anything but an ImageError, named `crash-...` in the current
folder. GDCM runs in a process of its own, so that what is counted there is Python's code, Pillow's and pydicom's.
"""

import sys
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["hilum.data", "PIL", "pydicom", "nibabel"]):
    import mutating

    from hilum.data.images import decode, preprocess
    from hilum.data.planes import decode_planes, is_nifti
    from hilum.errors import ImageError
    from hilum.recipe import Preprocessing

NUMBERS = Preprocessing(size=64)


def read(content: bytes) -> None:
    """One input, the way of a request."""
    try:
        if is_nifti(content):
            for plane in decode_planes(content, ("AXIAL", "SAGITTAL")):
                preprocess(plane.pixels, NUMBERS)
        else:
            preprocess(decode(content).pixels, NUMBERS)
    except ImageError:
        return


if __name__ == "__main__":
    warnings.simplefilter("error")
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in mutating.FORMATS:
        for number, content in enumerate(mutating.seeds()[kind]):
            (folder / f"{kind}-{number}").write_bytes(content)
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
