"""Which nodes train: decided when the pipeline is compiled, from the environment.

Not on the run form: KFP 2.17 does not carry a pipeline parameter into a loop where only a task's settings use it, so a
GPU count or node selector given there would not resolve when the run starts.
"""

import os
from typing import Final

RESOURCE: Final = os.environ.get("HILUM_GPU_RESOURCE", "nvidia.com/gpu")  # what the device plugin calls a GPU
COUNT: Final = int(os.environ.get("HILUM_GPU_COUNT", "1"))  # of each training and embedding step
# Labels of the node pool, such as `pool=gpu,accelerator=h100`; without any, the resource alone decides.
NODE_LABELS: Final = dict(
    pair.split("=", 1) for pair in os.environ.get("HILUM_GPU_NODE_LABELS", "").split(",") if "=" in pair
)
