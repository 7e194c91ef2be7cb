"""`python -m hilum` is `hilum`; `torchrun --nproc_per_node 8 -m hilum train ...` is `hilum train` on eight workers."""

import os
import sys

from hilum.cli import main

if __name__ == "__main__":
    if int(os.environ.get("RANK", "0")) > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  what was done is said once, by worker 0
    main()
