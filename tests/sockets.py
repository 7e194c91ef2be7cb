"""Bare connections, for what no library of HTTP would send or hear."""


def heard(connection) -> bytes:
    """All that is said until the other side hangs up, or is silent for the connection's time limit."""
    found = b""
    while True:
        try:
            piece = connection.recv(65536)
        except OSError:
            return found
        if not piece:
            return found
        found += piece
