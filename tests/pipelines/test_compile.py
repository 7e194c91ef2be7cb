"""The compiled pipeline: what the Kubeflow UI is given."""

import os
import subprocess
import sys

import pytest
import yaml

from pipelines import compile as compiling


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    path = compiling.write(tmp_path_factory.mktemp("ir"))
    return list(yaml.safe_load_all(path.read_text()))


def test_the_run_form_has_described_parameters_with_defaults(documents):
    form = documents[0]["root"]["inputDefinitions"]["parameters"]
    asked = {
        "source", "revision", "layout", "encoders", "epochs", "image_size", "seed", "label", "release_encoder",
        "gate_min_auroc", "gate_max_auroc_gap", "override_by", "override_reason",
    }  # fmt: skip
    assert asked <= set(form)
    for name in asked:
        assert form[name]["description"], name
    assert "defaultValue" not in form["source"]
    assert form["epochs"]["defaultValue"] == 20


def test_reports_are_typed_artifacts(documents):
    shown = {
        artifact["artifactType"]["schemaTitle"]
        for component in documents[0]["components"].values()
        for artifact in component.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert {
        "system.Dataset", "system.Model", "system.Metrics", "system.ClassificationMetrics", "system.HTML",
        "system.Markdown",
    } <= shown  # fmt: skip


def test_every_page_of_a_run_can_be_opened_from_the_ui(documents):
    shown = {
        f"{name.removeprefix('comp-')}.{output}": artifact["artifactType"]["schemaTitle"].removeprefix("system.")
        for name, component in documents[0]["components"].items()
        if "executorLabel" in component
        for output, artifact in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    pages = {name for name, kind in shown.items() if kind == "HTML"}
    assert pages == {
        "validate.report", "probe.explorer", "probe.uncertain", "audit.drift", "audit.fairness", "audit.shortcuts",
        "audit.mitigation", "finetune.fusion", "compare.leaderboard", "gate.page",
    }  # fmt: skip
    assert {name for name, kind in shown.items() if kind == "Markdown"} == {"compare.summary", "finetune.table"}
    assert (shown["probe.metrics"], shown["probe.roc"]) == ("Metrics", "ClassificationMetrics")


def test_training_asks_for_a_gpu_node_and_retries(documents):
    ir, platform = documents
    executors = ir["deploymentSpec"]["executors"]
    assert "accelerator" in executors["exec-train"]["container"]["resources"]
    assert "accelerator" not in executors["exec-validate"]["container"].get("resources", {})
    on_cluster = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert on_cluster["exec-train"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    loop = next(c for name, c in ir["components"].items() if name.startswith("comp-for-loop"))
    assert loop["dag"]["tasks"]["train"]["retryPolicy"]["maxRetryCount"] == 2


def test_nothing_that_trains_can_start_before_the_verdict(documents):
    tasks = documents[0]["root"]["dag"]["tasks"]
    assert "require" in tasks["plan"]["dependentTasks"]
    loop = next(task for name, task in tasks.items() if name.startswith("for-loop"))
    assert "plan" in loop["dependentTasks"]


def test_what_may_not_be_reused_is_not_cached(documents):
    tasks = documents[0]["root"]["dag"]["tasks"]
    assert not tasks["resolve"]["cachingOptions"].get("enableCache")
    assert not tasks["publish"]["cachingOptions"].get("enableCache")
    assert tasks["ingest"]["cachingOptions"]["enableCache"]


def test_components_run_in_images_that_have_hilum_and_install_nothing(documents):
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        assert "hilum-python-" in executor["container"]["image"], name
        assert "pip install" not in " ".join(executor["container"]["command"]), name


def test_the_gpu_pool_is_named_when_the_pipeline_is_compiled(tmp_path):
    pool = {"HILUM_GPU_NODE_LABELS": "pool=gpu,accelerator=h100", "HILUM_GPU_COUNT": "2"}
    command = [sys.executable, "-P", "-m", "pipelines.compile", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **pool})
    ir, platform = yaml.safe_load_all((tmp_path / "hilum-training.yaml").read_text())
    on_cluster = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert on_cluster["exec-embed"]["nodeSelector"]["labels"] == {"pool": "gpu", "accelerator": "h100"}
    resources = ir["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert resources["accelerator"]["resourceCount"] == "2"


def test_every_channel_that_a_sub_pipeline_uses_is_handed_to_it(documents):
    """KFP compiles a loop whose tasks use a parameter only in their settings, and then cannot run it."""
    for name, component in documents[0]["components"].items():
        given = set(component.get("inputDefinitions", {}).get("parameters", {}))
        for task in component.get("dag", {}).get("tasks", {}).values():
            for parameter in task.get("inputs", {}).get("parameters", {}).values():
                asked = parameter.get("componentInputParameter")
                assert asked is None or asked in given, (name, asked)


def test_the_loop_is_handed_no_output_parameter_but_its_jobs(documents):
    """KFP's local runner puts the loop's item in place of any other one, without a word."""
    tasks = documents[0]["root"]["dag"]["tasks"]
    loop = next(task for name, task in tasks.items() if name.startswith("for-loop"))
    handed = [
        given["taskOutputParameter"]["producerTask"]
        for given in loop["inputs"]["parameters"].values()
        if "taskOutputParameter" in given
    ]
    assert handed == ["plan"]
