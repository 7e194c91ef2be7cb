"""A client of hilum's servers, for programs in Python.

    from hilum.client import Client

    with Client("https://images.example.org", token="...") as client:
        answer = client.predict(Path("film.dcm"))
        print(answer.probability, answer.interval, answer.meaning)
        z_D = client.embed(Path("film.dcm"))

`AsyncClient` has the same methods to be awaited, and answers many images at once within a bound.

ClientError
|-- Unsendable         nothing was sent: what was given is no image, URL, token or certificate, or cannot be read
|-- Refused            the server says what is wrong with the call (4xx): code, message, what would be right
|   `-- Unauthorized   it wants another token
|-- Unavailable        it did not answer in time, or was too busy, after every retry
|-- Untrusted          nothing was sent: the server's certificate is not trusted
`-- Unexpected         what came back is no answer of hilum's
"""

from hilum.client.answers import Abstention as Abstention
from hilum.client.answers import Case as Case
from hilum.client.answers import Covariates as Covariates
from hilum.client.answers import Embedding as Embedding
from hilum.client.answers import Interval as Interval
from hilum.client.answers import Prediction as Prediction
from hilum.client.calls import Image as Image
from hilum.client.faults import ClientError as ClientError
from hilum.client.faults import Refused as Refused
from hilum.client.faults import Unauthorized as Unauthorized
from hilum.client.faults import Unavailable as Unavailable
from hilum.client.faults import Unexpected as Unexpected
from hilum.client.faults import Unsendable as Unsendable
from hilum.client.faults import Untrusted as Untrusted
from hilum.client.talking import AsyncClient as AsyncClient
from hilum.client.talking import Client as Client
from hilum.client.talking import Patience as Patience
