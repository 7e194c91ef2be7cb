"""What can go wrong between a client and a server; no message repeats an image's name or content."""


class ClientError(Exception):
    """Base of every error of the client."""


class Unsendable(ClientError):
    """The call cannot be made: what was given is no image, URL, token or certificate, or cannot be read."""


class Refused(ClientError):
    """The server refuses the call.

    Attributes:
        status: Of HTTP.
        code: One word for programs.
        message: What is wrong.
        right: What would be right.
    """

    def __init__(self, status: int, code: str, message: str, right: str) -> None:
        super().__init__(f"{message}; {right}" if right else message)
        self.status, self.code, self.message, self.right = status, code, message, right


class Unauthorized(Refused):
    """The server wants another token."""


class Unavailable(ClientError):
    """No answer came, after every retry.

    Attributes:
        attempts: How often it was tried.
    """

    def __init__(self, why: str, attempts: int) -> None:
        super().__init__(f"{why}, after {attempts} attempt{'s' if attempts > 1 else ''}; try again later")
        self.attempts = attempts


class Untrusted(ClientError):
    """Nothing was sent: the server's certificate does not say that it is the server."""


class Unexpected(ClientError):
    """What came back is no answer of hilum's: another server, or another version of it."""
