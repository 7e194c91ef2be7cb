"""What the front image runs: the maintained front on the mounted releases, as process 1, so that SIGTERM reaches it.

`hilum serve --front starlette` is for a person at one machine: it draws tokens where there are none, and its metrics
are on loopback. In a container tokens are mounted, and metrics are for whoever watches the container.

Environment:
    HILUM_RELEASES         folder that holds release folders, one per modality (/releases)
    HILUM_WORKERS          worker processes (the usable cores, by the threads of each)
    HILUM_THREADS          of the engine per image, in each (1)
    HILUM_ENGINE           engine of the graphs (onnxruntime-fp32)
    HILUM_TOKENS           file of tokens, a line each: `inference TOKEN` or `management TOKEN`; read anew when it
                           changes (/etc/hilum/tokens/tokens)
    HILUM_TLS_CERTIFICATE  certificate of predictions, PEM, and
    HILUM_TLS_KEY          its key; SIGHUP reads both anew. Plain HTTP without them

    HILUM_GRPC_PORT        port of the same predictions over gRPC, with the same tokens and certificate; none without it

Predictions are on port 8443, management on 8081 of loopback, metrics on 8082, as in the serve image behind its proxy.
"""

import os
import sys
from pathlib import Path

from hilum.delivery.fronts import door, mounted
from hilum.errors import HilumError, UsageError

EVERYWHERE = "0.0.0.0"
PORT, MANAGEMENT_PORT, METRICS_PORT = 8443, 8081, 8082


def settings() -> door.Settings:
    """How the front is set up by the environment."""
    tls = tuple(os.environ.get(name, "") for name in ("HILUM_TLS_CERTIFICATE", "HILUM_TLS_KEY"))
    if any(tls) and not all(tls):
        raise UsageError("TLS needs HILUM_TLS_CERTIFICATE and HILUM_TLS_KEY; set both or neither")
    return door.Settings(
        mounted.releases(),
        host=EVERYWHERE,
        port=PORT,
        management_port=MANAGEMENT_PORT,
        metrics_port=METRICS_PORT,
        metrics_host=EVERYWHERE,
        grpc_port=mounted.number("HILUM_GRPC_PORT"),
        workers=mounted.number("HILUM_WORKERS"),
        threads=mounted.number("HILUM_THREADS") or 1,
        engine=os.environ.get("HILUM_ENGINE", "onnxruntime-fp32"),
        keys=Path(os.environ.get("HILUM_TOKENS", "/etc/hilum/tokens/tokens")),
        tls=(Path(tls[0]), Path(tls[1])) if all(tls) else None,
    )


def main() -> None:
    """Serve until SIGTERM, or say in a sentence why not."""
    try:
        door.serve(settings())
    except HilumError as error:
        sys.exit(f"hilum: {error}")


if __name__ == "__main__":
    main()
