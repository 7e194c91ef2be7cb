"""The container files, and the launcher of the serve image as far as it goes without a server."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from components import images
from hilum.errors import ReleaseError, UsageError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("train", "audit", "serve")


def dockerfile(name: str) -> str:
    return (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_launch", ROOT / "docker" / "serve" / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    asked = re.search(r"/b/hilum\[([\w,]+)\]", dockerfile(name))[1].split(",")
    assert set(asked) <= set(extras)
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


def test_the_containers_settings_replace_those_of_the_same_name(launch) -> None:
    template = (ROOT / "serving" / "config.properties").read_text()
    made = launch.settings(template, {"load_models": "embeddings", "inference_address": "http://0.0.0.0:8080"})
    lines = [line for line in made.splitlines() if line and not line.startswith("#")]
    keys = [line.split("=", 1)[0] for line in lines]
    assert len(keys) == len(set(keys))
    assert {"load_models=embeddings", "inference_address=http://0.0.0.0:8080", "enable_model_api=false"} <= set(lines)
