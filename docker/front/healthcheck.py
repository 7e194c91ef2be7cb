"""Exit status 0 where every worker of the front has proven its releases, as the gauge `hilum_ready` says.

The gauge and not /v2/health/ready, which says the same: metrics are plain HTTP, whichever certificate predictions have.
"""

import re
import sys
import urllib.request

METRICS = "http://127.0.0.1:8082/metrics"


def ready() -> bool:
    """Whether the front answers calls."""
    with urllib.request.urlopen(METRICS, timeout=4) as answered:
        return re.search(rb"^hilum_ready 1\.0$", answered.read(), re.MULTILINE) is not None


if __name__ == "__main__":
    try:
        sys.exit(0 if ready() else 1)
    except (OSError, ValueError) as error:
        sys.exit(f"not ready: {type(error).__name__}")
