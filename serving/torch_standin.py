"""Stands in for torch in TorchServe's workers, which import it for one `isinstance(answer, torch.Tensor)`.

The handlers answer from ONNX Runtime and never import torch (import-linter holds them to it), so a server needs none
of torch's 700 MB on disk or 180 MiB per worker. `hilum serve` puts this file on the workers' path as `torch`.
"""

__version__ = "0.0.0+standin"


class Tensor:
    """No answer is one."""


class device:  # noqa: N801  torch's own name
    """Never made."""


class cuda:  # noqa: N801  torch's own name
    """There is none."""

    @staticmethod
    def is_available() -> bool:
        """Whether there is a GPU for torch: no."""
        return False
