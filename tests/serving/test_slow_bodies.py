"""The maintained front without a proxy: a body that drips has its time, and then none."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from sockets import heard

from hilum.delivery.fronts.keys import Keys

CODE = """
import sys
from pathlib import Path
from hilum.delivery.fronts import door
from hilum.delivery.fronts.asgi import Caps
door.serve(door.Settings((Path(sys.argv[1]),), port=0, workers=1, caps=Caps(body_seconds=2.0)))
"""


def test_a_body_that_drips_is_cut_off(xr_release):
    command = [sys.executable, "-c", CODE, str(xr_release)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        try:
            said = json.loads(running.stdout.readline())
            token = Keys(Path(said["keys"])).first("inference")
            host, port = said["url"].removeprefix("http://").split(":")
            lines = ["Host: h", f"Authorization: Bearer {token}", "Content-Length: 100000", "", ""]
            with socket.create_connection((host, int(port)), 20) as caller:
                caller.sendall("\r\n".join(["POST /predictions/pneumonia HTTP/1.1", *lines]).encode())
                caller.settimeout(0.2)
                began, answer = time.monotonic(), b""
                while not answer and time.monotonic() - began < 15:
                    caller.sendall(b"x")  # never silent for long: a limit between two pieces would not see it
                    try:
                        answer = caller.recv(4000)
                    except TimeoutError:
                        continue
                caller.settimeout(5)
                answer += heard(caller)
            assert answer.startswith(b"HTTP/1.1 408")
            assert json.loads(answer.split(b"\r\n\r\n")[1])["code"] == "timeout"
            assert b"connection: close" in answer.lower()
            assert 1.5 < time.monotonic() - began < 8
        finally:
            running.terminate()
