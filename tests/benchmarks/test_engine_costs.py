"""The benchmark of engines: small, on this machine; what it prints then is no measurement."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_prints_a_row_for_each_engine_that_there_is_and_names_the_others():
    command = [sys.executable, str(ROOT / "benchmarks" / "engines.py"), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ}, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("| ResNet")]
    took = {line[1].strip(): (float(line[2]), line[3].strip()) for line in lines}
    assert took["onnxruntime-fp32"][1] == "1"
    assert {"openvino-bf16", "onnxruntime-int8"} <= set(took)
    for name, (milliseconds, ratio) in took.items():
        assert milliseconds >= 0
        if name != "onnxruntime-fp32":
            middle, low, _, high = ratio.replace("(", "").replace(")", "").split()
            assert 0 < float(low) <= float(middle) <= float(high)
    assert "onnxruntime-cuda is not among them: the engine onnxruntime-cuda needs" in done.stdout
