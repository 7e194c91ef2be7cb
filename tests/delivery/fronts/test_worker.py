"""A worker of the maintained front, without the front."""

import json
import socket

from threadpoolctl import threadpool_info, threadpool_limits

from hilum.delivery.fronts import worker
from hilum.errors import ReleaseError


def test_a_worker_leaves_the_other_cores_to_the_other_workers(monkeypatch):
    found = []

    def loaded(*_):
        found.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        raise ReleaseError("no release here")

    monkeypatch.setattr(worker, "desks", loaded)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)  # those of the test stay
    here, there = socket.socketpair()
    with here, threadpool_limits():  # which were there before come back
        worker.main(there.detach(), -1, worker.Orders((), "onnxruntime-fp32", threads=1))
        said = here.recv(1000)
    assert set(found) == {1}
    assert json.loads(said[worker.LENGTHS.size :]) == {"failed": "no release here"}
