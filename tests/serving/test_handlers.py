"""The handlers, as far as TorchServe's rules for them go."""

import ast
import inspect
import subprocess
import sys

import pytest
import yaml
from releasing import SERVING

from serving import embeddings, pneumonia


@pytest.mark.parametrize("module", [embeddings, pneumonia])
def test_one_class_per_module(module):
    own = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
    assert len(own) == 1
    assert callable(own[0]().handle)
    assert callable(own[0]().initialize)


def test_handlers_and_predictor_never_load_torch_or_ts():
    code = (
        "import sys; import serving.embeddings, serving.pneumonia, hilum.delivery.predictor; "
        "print([name for name in ('torch', 'ts', 'pandas', 'sklearn', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stand_in_has_what_the_worker_uses_of_torch():
    tree = ast.parse((SERVING / "torch_standin.py").read_text())
    assert {node.name for node in tree.body if isinstance(node, ast.ClassDef)} == {"Tensor", "device", "cuda"}


def test_settings_keep_the_doors_shut():
    lines = (SERVING / "config.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert settings["disable_token_authorization"] == "false"
    assert settings["enable_model_api"] == "false"
    assert settings["install_py_dep_per_model"] == "false"
    assert float(settings["token_expiration_min"]) > 60 * 24 * 365
    assert all("127.0.0.1" in settings[f"{name}_address"] for name in ("inference", "management", "metrics"))
    model = yaml.safe_load((SERVING / "model-config.yaml").read_text())
    assert (model["batchSize"], model["handler"]["threads"]) == (1, 1)
