"""All ops, by family; importing this package registers them under their names."""

from jitrt.graph.ops.arithmetic import (
    Atan,
    BitCast,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    Expm1,
    FloorDiv,
    Fmod,
    Log1p,
    Remainder,
    Round,
    ShiftLeft,
    ShiftRight,
    TruncDiv,
)
from jitrt.graph.ops.conv import Conv, ConvTranspose, ExactConv
from jitrt.graph.ops.elementwise import (
    Abs,
    Add,
    Cast,
    Ceil,
    Clamp,
    Cos,
    Div,
    Elu,
    Equal,
    Erf,
    Exp,
    Floor,
    Gelu,
    Greater,
    GreaterEqual,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Less,
    LessEqual,
    Log,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    Maximum,
    Minimum,
    Mul,
    Neg,
    NotEqual,
    Pow,
    Reciprocal,
    Relu,
    Rsqrt,
    Sigmoid,
    Sign,
    Silu,
    Sin,
    Softplus,
    Sqrt,
    Sub,
    Tanh,
    Where,
)
from jitrt.graph.ops.index import ArgMax, ArgMin, CumProd, CumSum, Gather, TopK
from jitrt.graph.ops.linear import Linear, Matmul
from jitrt.graph.ops.norm import BatchNorm, GroupNorm, LayerNorm, RmsNorm
from jitrt.graph.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from jitrt.graph.ops.reduce import LogSoftmax, ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum, Softmax
from jitrt.graph.ops.region import Region
from jitrt.graph.ops.resample import Extend, Resize, Roll
from jitrt.graph.ops.rnn import Recurrence
from jitrt.graph.ops.scatter import Scatter
from jitrt.graph.ops.shape import Concat, Contiguous, Dropout, Expand, Identity, Pad, Permute, Reshape, Slice

__all__ = [name for name in dir() if name[0].isupper()]
