"""The process that `isolated` runs ONNX's own C++ in: a script of its own, which loads onnx and nothing of jitrt.

Requests come on stdin, answers go to stdout, each behind its length in 8 bytes; see `isolated` for what they are.
"""

from __future__ import annotations

import marshal
import resource
import sys
from typing import IO, Any

import onnx
from onnx import shape_inference

MEMORY = 4 << 30  # bytes of address space: a size that overflows must not take the machine's


def read(stream: IO[bytes]) -> bytes | None:
    """The next message; None at the end."""
    head = stream.read(8)
    return stream.read(int.from_bytes(head, "little")) if len(head) == 8 else None


def write(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "little") + message)
    stream.flush()


def answer(what: str, *arguments: Any) -> bytes:
    """The bytes of a model with the types of its values inferred, or of the function a node stands for."""
    if what == "types":
        model = onnx.ModelProto()
        model.ParseFromString(arguments[0])
        return bytes(shape_inference.infer_shapes(model, True, True, True).SerializeToString())
    name, opset, domain, node, types = arguments
    schema: Any = onnx.defs.get_schema(name, opset, domain)
    return bytes(schema.get_context_dependent_function(node, types))


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until there are no more requests: b"+" and the result, or b"-" and why there is none."""
    while (request := read(requests)) is not None:
        try:
            reply = b"+" + answer(*marshal.loads(request))
        except Exception as error:  # whatever the C++ raises is the answer
            reply = b"-" + (str(error).strip() or type(error).__name__).splitlines()[-1].encode()
        write(answers, reply)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if soft == resource.RLIM_INFINITY else min(soft, MEMORY), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer)
