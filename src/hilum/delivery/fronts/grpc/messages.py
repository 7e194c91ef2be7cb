"""The messages of the Open Inference Protocol over gRPC (package `inference`), and of gRPC's health protocol.

Names and numbers are those of the published `open_inference_grpc.proto` and `grpc/health/v1/health.proto`: a client
that was generated from them is understood. They are written here once and made into classes by protobuf when this is
imported: a generated file would hold the same in bytes that nobody can read, tied to the version of the compiler that
wrote it. They stand in a pool of their own, so that a process may hold a client's classes beside them.

Enumerations are declared as int32, which they are on the wire.
"""

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
SERVING: Final = 1
NOT_SERVING: Final = 2

# A message's fields by number: "type name". `[]` marks a repeated one, `{}` a map from strings, `|` a choice of which
# one is set; a type in capitals is a message, relative to the one that holds the field, else to the package.
_INFERENCE: Final[dict[str, dict[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {1: "bool live"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {1: "bool ready"},
    "ModelReadyRequest": {1: "string name", 2: "string version"},
    "ModelReadyResponse": {1: "bool ready"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {1: "string name", 2: "string version", 3: "string[] extensions"},
    "ModelMetadataRequest": {1: "string name", 2: "string version"},
    "ModelMetadataResponse": {
        1: "string name",
        2: "string[] versions",
        3: "string platform",
        4: "ModelMetadataResponse.TensorMetadata[] inputs",
        5: "ModelMetadataResponse.TensorMetadata[] outputs",
    },
    "ModelMetadataResponse.TensorMetadata": {1: "string name", 2: "string datatype", 3: "int64[] shape"},
    "ModelInferRequest": {
        1: "string model_name",
        2: "string model_version",
        3: "string id",
        4: "InferParameter{} parameters",
        5: "ModelInferRequest.InferInputTensor[] inputs",
        6: "ModelInferRequest.InferRequestedOutputTensor[] outputs",
        7: "bytes[] raw_input_contents",
    },
    "ModelInferRequest.InferInputTensor": {
        1: "string name",
        2: "string datatype",
        3: "int64[] shape",
        4: "InferParameter{} parameters",
        5: "InferTensorContents contents",
    },
    "ModelInferRequest.InferRequestedOutputTensor": {1: "string name", 2: "InferParameter{} parameters"},
    "ModelInferResponse": {
        1: "string model_name",
        2: "string model_version",
        3: "string id",
        4: "InferParameter{} parameters",
        5: "ModelInferResponse.InferOutputTensor[] outputs",
        6: "bytes[] raw_output_contents",
    },
    "ModelInferResponse.InferOutputTensor": {
        1: "string name",
        2: "string datatype",
        3: "int64[] shape",
        4: "InferParameter{} parameters",
        5: "InferTensorContents contents",
    },
    "InferParameter": {
        1: "bool| bool_param",
        2: "int64| int64_param",
        3: "string| string_param",
        4: "double| double_param",
        5: "uint64| uint64_param",
    },
    "InferTensorContents": {
        1: "bool[] bool_contents",
        2: "int32[] int_contents",
        3: "int64[] int64_contents",
        4: "uint32[] uint_contents",
        5: "uint64[] uint64_contents",
        6: "float[] fp32_contents",
        7: "double[] fp64_contents",
        8: "bytes[] bytes_contents",
    },
}
_HEALTH: Final[dict[str, dict[int, str]]] = {
    "HealthCheckRequest": {1: "string service"},
    "HealthCheckResponse": {1: "int32 status"},
}
_MARKS: Final = ("[]", "{}", "|")


def _classes(package: str, messages: dict[str, dict[int, str]], choice: str) -> dict[str, Any]:
    """The classes of a package's messages by name."""
    file = FileDescriptorProto(name=f"hilum/{package}.proto", package=package, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in messages.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
        made[name] = message
        for number, said in fields.items():
            kind, field_name = said.split()
            mark = next((one for one in _MARKS if kind.endswith(one)), "")
            field = message.field.add(name=field_name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if mark == "|":
                if not message.oneof_decl:
                    message.oneof_decl.add(name=choice)
                field.oneof_index = 0
            elif mark:
                field.label = FieldDescriptorProto.LABEL_REPEATED
            if mark == "{}":
                _map(message, field, f".{package}.{name}", f".{package}.{kind.removesuffix(mark)}")
            else:
                _typed(field, package, kind.removesuffix(mark))
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


def _typed(field: FieldDescriptorProto, package: str, kind: str) -> None:
    if kind[0].isupper():
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}")


def _map(message: Any, field: FieldDescriptorProto, holder: str, value: str) -> None:
    """A map is repeated entries of key and value; their message has the field's name in camel case."""
    entry = message.nested_type.add(name=f"{field.name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=FieldDescriptorProto.TYPE_STRING)
    entry.field.add(name="value", number=2, label=1, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=value)
    field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f"{holder}.{entry.name}"


INFERENCE: Final = _classes("inference", _INFERENCE, choice="parameter_choice")
HEALTH_CHECK: Final = _classes("grpc.health.v1", _HEALTH, choice="")
