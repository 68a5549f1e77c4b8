"""Random damage to an ONNX model: to its bytes, and to the fields of its messages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_INTS = (0, 1, -1, 2, 3, 7, 64, 128, 255, 1 << 16, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
_SMALL_INTS = (0, 1, -1, 2, 3, 4, 5, 10, 16, 64, 65, 100, 1000, 100_000, (1 << 31) - 1, -(1 << 31))
_FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-38, 1e30, float("inf"), float("-inf"), float("nan"), -2.5)
_TEXTS = (
    "",
    "x",
    "y",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 300,
    "\0",
    "w",
    "ai.onnx",
    "com.microsoft",
    "local",
    "é",
)
_VARINTS = (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x10", b"\x00", b"\x7f")
_KINDS = onnx.TensorProto.DataType.values()


class Mutator:
    """Damages models in ways drawn from `rng`; parts and names come from `pool`, other models."""

    def __init__(self, pool: Sequence[onnx.ModelProto]):
        self.pool = pool
        self.operators = sorted({node.op_type for model in pool for node in _all_nodes(model)})

    def mutated(self, rng: random.Random, model: onnx.ModelProto) -> bytes:
        """The bytes of a damaged model."""
        kind = rng.random()
        if kind >= 0.2:
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            change = self.nudge if kind < 0.7 else self.damage
            for _ in range(1 + int(rng.expovariate(1))):
                change(rng, copy)
            model = copy
        data = model.SerializeToString()
        if kind < 0.2 or kind > 0.95:
            for _ in range(1 + int(rng.expovariate(1))):
                data = self.damaged(rng, data)
        return data

    # -- bytes -------------------------------------------------------------------------------------------------

    def damaged(self, rng: random.Random, data: bytes) -> bytes:
        """Bytes with something changed, taken out, put in, or from another model."""
        if not data:
            return data
        at, length = rng.randrange(len(data)), 1 + int(rng.expovariate(0.2))
        before, after = data[:at], data[at:]
        match rng.randrange(8):
            case 0:
                return before + bytes([after[0] ^ 1 << rng.randrange(8)]) + after[1:]
            case 1:
                return before + bytes([rng.randrange(256)]) + after[1:]
            case 2:
                return before + after[length:]
            case 3:
                return before + rng.randbytes(length) + after
            case 4:
                return before + after[:length] * rng.choice((2, 3, 50)) + after[length:]
            case 5:
                return before + rng.choice(_VARINTS) + after[1:]
            case 6:
                other = rng.choice(self.pool).SerializeToString()
                start = rng.randrange(len(other))
                return before + other[start : start + 10 * length] + after
            case _:
                return before

    # -- what a node works on ----------------------------------------------------------------------------------

    def nudge(self, rng: random.Random, model: onnx.ModelProto) -> None:
        """Change a model so that it still holds together: other operands, numbers, shapes, element types."""
        nodes = _all_nodes(model)
        node = rng.choice(nodes)
        tensors = [*model.graph.initializer, *(a.t for n in nodes for a in n.attribute if a.HasField("t"))]
        match rng.randrange(7):
            case 0:
                node.op_type = rng.choice(self.operators)
            case 1 if node.input:
                names = [
                    *(info.name for info in model.graph.input),
                    *(tensor.name for tensor in model.graph.initializer),
                ]
                names += [name for other in nodes for name in other.output if other is not node]
                node.input[rng.randrange(len(node.input))] = rng.choice(["", *names])
            case 2 | 3 if node.attribute:
                attribute = rng.choice(node.attribute)
                for field, _ in attribute.ListFields():
                    if field.name in ("i", "f", "ints", "floats", "s", "strings"):
                        self.change(rng, attribute, field)
            case 4 if tensors:
                self.change_numbers(rng, rng.choice(tensors))
            case 5 if model.graph.input:
                tensor = rng.choice(model.graph.input).type.tensor_type
                if rng.random() < 0.3 or not tensor.shape.dim:
                    tensor.elem_type = rng.choice(_KINDS)
                else:
                    rng.choice(tensor.shape.dim).dim_value = rng.choice(_INTS)
            case _:
                attribute = rng.choice(nodes).attribute
                donor = rng.choice(_all_nodes(rng.choice(self.pool))).attribute
                if donor and not {a.name for a in donor} & {a.name for a in attribute}:
                    attribute.append(rng.choice(donor))

    def change(self, rng: random.Random, message: Message, field: FieldDescriptor) -> None:
        if field.is_repeated:
            self.damage_list(rng, message, field)
        else:
            setattr(message, field.name, self.value(rng, field, getattr(message, field.name)))

    def change_numbers(self, rng: random.Random, tensor: onnx.TensorProto) -> None:
        """Other numbers in a tensor of the same shape, or another shape for as many numbers."""
        if tensor.HasField("raw_data") and tensor.data_type == onnx.TensorProto.INT64 and len(tensor.raw_data) >= 8:
            at = 8 * rng.randrange(len(tensor.raw_data) // 8)
            number = rng.choice(_INTS).to_bytes(8, "little", signed=True)
            tensor.raw_data = tensor.raw_data[:at] + number + tensor.raw_data[at + 8 :]
        elif tensor.HasField("raw_data") and rng.random() < 0.5:
            tensor.raw_data = rng.choice((b"\x00", b"\xff", b"\x7f")) * len(tensor.raw_data)
        else:
            dims = list(tensor.dims)
            rng.shuffle(dims)
            tensor.dims[:] = rng.choice((dims, [1, *dims], dims[1:] if dims[:1] == [1] else dims))

    # -- fields ------------------------------------------------------------------------------------------------

    def damage(self, rng: random.Random, model: onnx.ModelProto) -> None:
        """Change one field somewhere in a model."""
        message = _somewhere(rng, model)
        if isinstance(message, onnx.NodeProto) and rng.random() < 0.15:
            message.op_type = rng.choice(self.operators)
            return
        fields = list(message.DESCRIPTOR.fields)
        filled = [field for field, _ in message.ListFields()]
        field = rng.choice(filled if filled and rng.random() < 0.8 else fields)
        if field.is_repeated:
            self.damage_list(rng, message, field)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if rng.random() < 0.3:
                message.ClearField(field.name)
            else:
                getattr(message, field.name).CopyFrom(self.part(rng, model, field))
        elif rng.random() < 0.1:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, self.value(rng, field, getattr(message, field.name)))

    def damage_list(self, rng: random.Random, message: Message, field: FieldDescriptor) -> None:
        items = getattr(message, field.name)
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        at = rng.randrange(len(items)) if len(items) else -1
        match rng.randrange(5):
            case 0 if at >= 0:
                del items[at]
            case 1 if len(items) > 1:
                kept = list(items)
                rng.shuffle(kept)
                copies = [_copy(item) for item in kept] if is_message else kept
                del items[:]
                items.extend(copies)
            case 2 if at >= 0 and is_message:
                items.append(_copy(items[at]))
            case 3 if at >= 0 and not is_message:
                items[at] = self.value(rng, field, items[at])
            case 4 if at >= 0 and not is_message:
                items.extend([items[at]] * rng.choice((1, 2, 70)))
            case _ if is_message:
                items.append(self.part(rng, None, field))
            case _:
                items.append(self.value(rng, field, None))

    def part(self, rng: random.Random, model: onnx.ModelProto | None, field: FieldDescriptor) -> Message:
        """A message of a field's type from another model (or `model` itself, put inside itself), or an empty one."""
        wanted = field.message_type.full_name
        source = model if model is not None and rng.random() < 0.4 else rng.choice(self.pool)
        for _ in range(8):
            found = _somewhere(rng, source)
            if found.DESCRIPTOR.full_name == wanted:
                return _copy(found)
        if wanted == "onnx.GraphProto":
            return _copy(source.graph)
        return getattr(onnx, field.message_type.name)() if hasattr(onnx, field.message_type.name) else _empty(field)

    def value(self, rng: random.Random, field: FieldDescriptor, old: Any) -> Any:
        """Another value for a field that holds numbers or text."""
        kinds = FieldDescriptor
        if field.type in (kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE):
            return rng.choice(_FLOATS)
        if field.type == kinds.TYPE_STRING:
            names = [name for node in _all_nodes(rng.choice(self.pool)) for name in (*node.input, *node.output)]
            return rng.choice((*_TEXTS, *names, *self.operators))
        if field.type == kinds.TYPE_BYTES:
            return rng.choice((b"", (old or b"")[:-1], (old or b"") * 2, rng.randbytes(8), b"\xff", b"SAME_UPPER"))
        if field.type == kinds.TYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        if field.name in ("data_type", "elem_type") and rng.random() < 0.9:
            return rng.choice(_KINDS)
        if old is not None and rng.random() < 0.4 and field.type == kinds.TYPE_INT64:
            return max(-(1 << 63), min(old + rng.choice((-1, 1)), (1 << 63) - 1))
        if field.type == kinds.TYPE_UINT64:
            return abs(rng.choice(_INTS))
        return rng.choice(_INTS if field.type == kinds.TYPE_INT64 else _SMALL_INTS)


def _somewhere(rng: random.Random, message: Any) -> Any:
    """A message inside a message, at random."""
    while True:
        inner = [(f, value) for f, value in message.ListFields() if f.type == FieldDescriptor.TYPE_MESSAGE]
        if not inner or (rng.random() < 0.2 and not isinstance(message, onnx.ModelProto)):
            return message
        field, value = rng.choice(inner)
        if isinstance(message, onnx.ModelProto) and rng.random() < 0.8:
            value = message.graph
            message = value
            continue
        message = rng.choice(value) if field.is_repeated else value


def _all_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [*model.graph.node, *(node for function in model.functions for node in function.node)]


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _empty(field: FieldDescriptor) -> Message:
    """A new message of a field's type, nested ones (a tensor's shape's dimension, say) too."""
    holder: Any = onnx
    for part in field.message_type.full_name.split(".")[1:]:
        holder = getattr(holder, part)
    empty: Message = holder()
    return empty
