"""The Kubernetes files: whole, consistent with each other and with the image, and locked down."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import hilum
from hilum.delivery.fronts.asgi import Caps
from hilum.delivery.fronts.crew import Bounds
from hilum.delivery.fronts.door import DRAIN_SECONDS

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
FILES = sorted(K8S.rglob("*.yaml"))
OURS = ("hilum-python-serve", "hilum-python-front")
COMPONENT = K8S / "components" / "maintained-front"
MAINTAINED = ("dev-maintained", "prod-maintained")


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def only(kind: str) -> dict[str, Any]:
    """The one document of a kind in the base."""
    (found,) = [one for path in (K8S / "base").glob("*.yaml") for one in documents(path) if one["kind"] == kind]
    return found


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return only("Deployment")["spec"]["template"]["spec"]


@pytest.fixture(scope="module", params=MAINTAINED)
def rendered(request) -> list[dict[str, Any]]:
    """What kustomize makes of an overlay with the maintained front."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    command = [kubectl, "kustomize", str(K8S / "overlays" / request.param)]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.fixture(scope="module")
def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in pod["containers"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(K8S)))
def test_every_file_is_a_kubernetes_document(path: Path) -> None:
    found = documents(path)
    assert found
    assert all(one["apiVersion"] and one["kind"] for one in found)


@pytest.mark.parametrize("path", sorted(K8S.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_kustomizations_name_what_is_there_and_all_of_it(path: Path) -> None:
    (said,) = documents(path)
    files = [one["path"] for one in said.get("patches", []) if "path" in one]
    files += [name for one in said.get("configMapGenerator", []) for name in one["files"]]
    for resource in (*said.get("resources", []), *said.get("components", [])):
        named = path.parent / resource
        assert (named / "kustomization.yaml").is_file() if named.is_dir() else named.is_file()
        files += [] if named.is_dir() else [resource]
    assert {one.name for one in path.parent.iterdir() if one.is_file()} - {"kustomization.yaml"} == set(files)


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_overlays_patch_what_the_base_has(overlay: str, containers) -> None:
    (said,) = documents(K8S / "overlays" / overlay / "kustomization.yaml")
    assert said["namespace"]
    assert next(iter(containers)) == "serve"  # the patches say containers/0
    for patch in said["patches"]:
        target = only(patch["target"]["kind"])
        assert target["metadata"]["name"] == patch["target"]["name"]
        for step in yaml.safe_load(patch["patch"]):
            place: Any = target
            steps = step["path"].strip("/").split("/")
            for key in steps if step["op"] == "replace" else steps[:-1]:
                place = place[int(key)] if isinstance(place, list) else place[key]


def test_images_have_versions_and_ours_are_this_version(containers) -> None:
    (front,) = documents(COMPONENT / "deployment.yaml")
    images = [one["image"] for one in containers.values()]
    images.append(front["spec"]["template"]["spec"]["containers"][0]["image"])
    names = {one.rsplit(":", 1)[0] for one in images}
    for path in (K8S / "overlays").glob("*/kustomization.yaml"):
        for image in documents(path)[0]["images"]:
            assert image["name"] in names
            images.append(f"{image.get('newName', image['name'])}:{image['newTag']}")
    assert all(re.fullmatch(r"[\w./-]+:\d[\w.-]*", image) for image in images)  # so no :latest either
    for name in OURS:
        assert {image.rsplit(":", 1)[1] for image in images if name in image} == {hilum.__version__}


def test_readiness_asks_the_workers_and_not_ping(containers) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert containers["serve"][probe]["exec"]["command"] == ["python", "/app/healthcheck.py"]
    assert containers["proxy"]["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert "/ping" not in (K8S / "base" / "nginx.conf").read_text()


@pytest.mark.parametrize("name", ["serve", "proxy"])
def test_containers_are_locked_down(name: str, pod, containers) -> None:
    context = {**pod["securityContext"], **containers[name]["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    resources = containers[name]["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert "memory" in resources["limits"]
    assert pod["automountServiceAccountToken"] is False


def test_mounts_name_volumes_and_releases_are_read_only(pod, containers) -> None:
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounted = {mount["name"]: mount for one in containers.values() for mount in one["volumeMounts"]}
    assert set(mounted) == set(volumes)
    assert mounted["releases"]["readOnly"] is True
    settings = only("ConfigMap")["data"]
    assert mounted["releases"]["mountPath"] == settings["HILUM_RELEASES"]
    assert volumes["keys"]["secret"]["secretName"] == "hilum-serve-keys"
    assert not [path for path in FILES if any(one["kind"] == "Secret" for one in documents(path))]


def test_pauses_before_the_end_fit_into_the_grace_period(pod, containers) -> None:
    pauses = [int(one["lifecycle"]["preStop"]["exec"]["command"][1]) for one in containers.values()]
    assert max(pauses) + 10 < pod["terminationGracePeriodSeconds"]


def test_ports_agree_from_service_to_proxy_to_server(containers) -> None:
    ports = {port["name"]: port["containerPort"] for one in containers.values() for port in one["ports"]}
    assert {port["targetPort"] for port in only("Service")["spec"]["ports"]} == set(ports)
    allowed = {port["port"] for rule in only("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == set(ports.values())
    conf = (K8S / "base" / "nginx.conf").read_text()
    assert f"listen {ports['https']} ssl;" in conf
    assert "server 127.0.0.1:8080;" in conf
    front = (ROOT / "docker" / "front" / "launch.py").read_text()  # has the same doors
    assert f"PORT, MANAGEMENT_PORT, METRICS_PORT = {ports['https']}, 8081, {ports['metrics']}" in front


def test_without_tokens_the_server_listens_in_the_pod_only() -> None:
    settings = only("ConfigMap")["data"]
    assert settings["HILUM_AUTHENTICATION"] == "proxy"
    assert settings["HILUM_ADDRESS"] == "127.0.0.1"
    assert only("NetworkPolicy")["spec"]["egress"] == []
    assert set(only("NetworkPolicy")["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_the_proxy_lets_through_what_the_server_takes() -> None:
    conf = (K8S / "base" / "nginx.conf").read_text()
    properties = (ROOT / "serving" / "config.properties").read_text()
    limit = int(re.search(r"^max_request_size=(\d+)$", properties, re.M)[1])
    assert int(re.search(r"client_max_body_size (\d+)m;", conf)[1]) * 2**20 == limit
    patience = yaml.safe_load((ROOT / "serving" / "model-config.yaml").read_text())["responseTimeout"]
    backend = (K8S / "base" / "backend.conf").read_text()
    assert int(re.search(r"proxy_read_timeout (\d+)s;", backend)[1]) > patience
    assert Caps().body_bytes == limit
    bounds = Bounds()
    backend = (ROOT / "docker" / "front" / "backend.conf").read_text()
    assert int(re.search(r"proxy_read_timeout (\d+)s;", backend)[1]) >= bounds.wait_seconds + 2 * bounds.work_seconds


def test_bodies_wait_in_memory_that_the_proxy_has(pod, containers) -> None:
    (scratch,) = [one["emptyDir"] for one in pod["volumes"] if one["name"] == "proxy-scratch"]
    assert scratch["medium"] == "Memory"
    assert mebibytes(scratch["sizeLimit"]) < mebibytes(containers["proxy"]["resources"]["limits"]["memory"])


def mebibytes(said: str) -> int:
    return int(said.removesuffix("Mi"))


def one_of(kind: str, found: list[dict[str, Any]], name: str = "hilum-serve") -> dict[str, Any]:
    (document,) = [one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return document


def test_the_maintained_front_takes_the_place_of_torchserve_and_its_proxy(rendered) -> None:
    pod = one_of("Deployment", rendered)["spec"]["template"]["spec"]
    (front,) = pod["containers"]
    assert "hilum-python-front" in front["image"]
    assert "hilum-python-serve" not in yaml.safe_dump(rendered)
    ports = {port["name"]: port["containerPort"] for port in front["ports"]}
    assert {port["targetPort"] for port in one_of("Service", rendered)["spec"]["ports"]} == set(ports)
    policy = one_of("NetworkPolicy", rendered)["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == set(ports.values())
    assert policy["egress"] == []
    for probe, path in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert front[probe]["httpGet"] == {"path": f"/v2/health/{path}", "port": "https", "scheme": "HTTPS"}
        assert "exec" not in front[probe]


def test_grpc_is_open_where_it_was_asked_for(rendered) -> None:
    asked = one_of("Deployment", rendered)["metadata"]["namespace"] == "hilum-dev"
    said = one_of("ConfigMap", rendered)["data"]
    assert ("HILUM_GRPC_PORT" in said) == asked
    ports = {port["name"]: port["port"] for port in one_of("Service", rendered)["spec"]["ports"]}
    callers, monitoring = (
        [port["port"] for port in rule["ports"]] for rule in one_of("NetworkPolicy", rendered)["spec"]["ingress"]
    )
    if asked:
        assert ports["grpc"] == int(said["HILUM_GRPC_PORT"])
        assert callers == [8443, ports["grpc"]]
    else:
        assert "grpc" not in ports
        assert callers == [8443]
    assert monitoring == [8082]


def test_the_maintained_front_is_locked_down_and_has_the_time_to_drain(rendered) -> None:
    pod = one_of("Deployment", rendered)["spec"]["template"]["spec"]
    (front,) = pod["containers"]
    context = {**pod["securityContext"], **front["securityContext"]}
    assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (True, True)
    assert (context["runAsUser"], context["allowPrivilegeEscalation"]) == (10001, False)
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"cpu", "memory"} <= set(front["resources"]["requests"])
    pause = int(front["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + DRAIN_SECONDS


def test_what_the_maintained_front_reads_is_mounted(rendered) -> None:
    pod = one_of("Deployment", rendered)["spec"]["template"]["spec"]
    (front,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in front["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    said = one_of("ConfigMap", rendered)["data"]
    for name in ("HILUM_TOKENS", "HILUM_TLS_CERTIFICATE", "HILUM_TLS_KEY"):
        mount = mounts[str(Path(said[name]).parent)]
        assert mount["readOnly"] is True
        assert "subPath" not in mount  # which would keep a changed Secret out
    assert mounts[said["HILUM_RELEASES"]]["readOnly"] is True
    launch = (ROOT / "docker" / "front" / "launch.py").read_text()
    assert all(name in launch for name in said)
