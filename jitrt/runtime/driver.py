"""The CUDA driver: the only file that calls it, through cuda-bindings (12.8 to 13.x).

The device's primary context is used, the one PyTorch and CuPy use, so that all of them share memory in one process.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from jitrt.errors import DriverError, NoGpuError
from jitrt.plan.dtypes import ITEMSIZE
from jitrt.runtime.seam import Device, Driver, FunctionAttributes, Handle, KernelNode

__all__ = ["CudaDriver", "Device", "Driver", "FunctionAttributes", "Handle", "KernelNode", "cuda_driver"]

_INVALID_VALUE, _OUT_OF_MEMORY = 1, 2
_PROGRAMMATIC_EDGES = 12_030  # the first driver version with edge data
_PARAMETER_INFO = 12_040  # the first with cuFuncGetParamInfo
_TENSOR_MAP_FIXED = 13_010  # drivers up to this one set a wrong bit in the maps of small tensors

# CUtensorMapDataType
_TENSOR_MAP_INTEGERS = {"u8": 0, "i8": 0, "b8": 0, "u16": 1, "i16": 1, "u32": 2, "i32": 3, "u64": 4, "i64": 5}
_TENSOR_MAP_DTYPE = _TENSOR_MAP_INTEGERS | {"f16": 6, "f32": 7, "f64": 8, "bf16": 9}
_TENSOR_MAP_SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle
_TENSOR_MAP_L2_128B = 2


_drivers: dict[int, CudaDriver] = {}
_drivers_lock = threading.Lock()


def cuda_driver(device: int = 0) -> CudaDriver:
    """The driver of one GPU, the same object for all callers. Raises NoGpuError if there is no such GPU."""
    with _drivers_lock:
        if device not in _drivers:
            _drivers[device] = CudaDriver(device)
        return _drivers[device]


class CudaDriver:
    """`Driver` on real hardware."""

    def __init__(self, device: int = 0):
        self._api = _load_api(device)
        self._ordinal = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._ordinal)
        self._handle = int(self._context)
        with self.active():
            self.device = self._describe(device)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver; the result, if it has one. Raises DriverError with the driver's own words."""
        code, *results = getattr(self._api, name)(*arguments)
        if code:
            raise self._error(name, int(code))
        return results[0] if results else None

    def _error(self, name: str, code: int) -> DriverError:
        status = self._api.CUresult(code)
        texts = [self._api.cuGetErrorName(status)[1], self._api.cuGetErrorString(status)[1]]
        return DriverError(name, code, ": ".join(text.decode() for text in texts if text))

    def _describe(self, index: int) -> Device:
        attribute = self._api.CUdevice_attribute

        def get(name: str) -> int:
            return int(
                self._call("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), self._ordinal)
            )

        # Two transfers a clock; kHz and bits.
        bandwidth = 2 * get("MEMORY_CLOCK_RATE") * 1e3 * get("GLOBAL_MEMORY_BUS_WIDTH") / 8
        return Device(
            index=index,
            # cuda-bindings hands over its whole buffer: the name, a NUL, and blanks.
            name=self._call("cuDeviceGetName", 128, self._ordinal).partition(b"\0")[0].strip().decode(),
            arch=10 * get("COMPUTE_CAPABILITY_MAJOR") + get("COMPUTE_CAPABILITY_MINOR"),
            sms=get("MULTIPROCESSOR_COUNT"),
            memory_bytes=int(self._call("cuDeviceTotalMem", self._ordinal)),
            l2_bytes=get("L2_CACHE_SIZE"),
            shared_bytes=get("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            bandwidth=bandwidth,
            clock=get("CLOCK_RATE") * 1e3,
            driver_version=int(self._call("cuDriverGetVersion")),
        )

    def active(self) -> AbstractContextManager[None]:
        return _Active(self)

    def idle(self) -> None:
        self._call("cuCtxSynchronize")

    # -- memory

    def memory_info(self) -> tuple[int, int]:
        code, free, total = self._api.cuMemGetInfo()
        if code:
            raise self._error("cuMemGetInfo", int(code))
        return int(free), int(total)

    def alloc(self, nbytes: int) -> int:
        try:
            return int(self._call("cuMemAlloc", nbytes))
        except DriverError as error:
            if error.code != _OUT_OF_MEMORY:
                raise
            free, total = (size >> 20 for size in self.memory_info())
            advice = f"{nbytes >> 20} MiB wanted, {free} of {total} MiB free; use a smaller batch or free GPU memory"
            raise DriverError("cuMemAlloc", error.code, advice) from error

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def upload(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._call("cuMemcpyHtoDAsync", target, source, nbytes, stream)

    def download(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._call("cuMemcpyDtoHAsync", target, source, nbytes, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def fill(self, target: int, value: int, nbytes: int, stream: int = 0) -> None:
        self._call("cuMemsetD8Async", target, value, nbytes, stream)

    # -- kernels

    def load_module(self, image: bytes) -> Handle:
        return self._call("cuModuleLoadData", image)

    def unload_module(self, module: Handle) -> None:
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, entry: str, shared_bytes: int = 0, cluster_blocks: int = 1) -> Handle:
        function = self._call("cuModuleGetFunction", module, entry.encode())
        attribute = self._api.CUfunction_attribute
        if shared_bytes > 48 << 10:  # more than every block may use without asking
            self._call("cuFuncSetCacheConfig", function, self._api.CUfunc_cache.CU_FUNC_CACHE_PREFER_SHARED)
            self._call(
                "cuFuncSetAttribute",
                function,
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_bytes,
            )
        if cluster_blocks > 8:  # the portable limit
            self._call("cuFuncSetAttribute", function, attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
        return function

    def function_attributes(self, function: Handle) -> FunctionAttributes:
        attribute = self._api.CUfunction_attribute

        def get(name: str) -> int:
            return int(self._call("cuFuncGetAttribute", getattr(attribute, f"CU_FUNC_ATTRIBUTE_{name}"), function))

        return FunctionAttributes(
            get("NUM_REGS"), get("LOCAL_SIZE_BYTES"), get("SHARED_SIZE_BYTES"), get("MAX_THREADS_PER_BLOCK")
        )

    def parameter_sizes(self, function: Handle) -> tuple[int, ...] | None:
        if self.device.driver_version < _PARAMETER_INFO:
            return None
        sizes: list[int] = []
        while True:
            code, *found = self._api.cuFuncGetParamInfo(function, len(sizes))
            if int(code) == _INVALID_VALUE:  # no more of them
                return tuple(sizes)
            if code:
                raise self._error("cuFuncGetParamInfo", int(code))
            sizes.append(int(found[1]))

    @functools.cached_property
    def _encode_tiled(self) -> Any:
        """cuTensorMapEncodeTiled itself: the wrapper of cuda-bindings hands it a map that is not 64-byte aligned, which
        can crash (NVIDIA/cuda-python pull request 1692)."""
        code, address, _ = self._api.cuGetProcAddress(b"cuTensorMapEncodeTiled", 12_000, 0)
        if code or not address:
            raise self._error("cuGetProcAddress(cuTensorMapEncodeTiled)", int(code) or 500)
        u32, pointer = ctypes.c_uint32, ctypes.c_void_p
        enum = ctypes.c_int
        signature = (pointer, enum, u32, pointer, pointer, pointer, pointer, pointer, enum, enum, enum, enum)
        return ctypes.CFUNCTYPE(enum, *signature)(int(address))

    def encode_tensor_map(
        self,
        address: int,
        dtype: str,
        shape: Sequence[int],
        strides: Sequence[int],
        box: Sequence[int],
        swizzle: int,
        steps: Sequence[int] = (),
    ) -> bytes:
        rank = len(shape)
        buffer = ctypes.create_string_buffer(256)
        aligned = -(-ctypes.addressof(buffer) // 128) * 128
        # The driver counts dimensions from the innermost.
        code = self._encode_tiled(
            aligned,
            _TENSOR_MAP_DTYPE[dtype],
            rank,
            address,
            (ctypes.c_uint64 * rank)(*reversed(shape)),
            (ctypes.c_uint64 * rank)(*reversed(strides)),  # the last element is not read
            (ctypes.c_uint32 * rank)(*reversed(box)),
            (ctypes.c_uint32 * rank)(*reversed(steps or [1] * rank)),
            0,  # not interleaved
            _TENSOR_MAP_SWIZZLE[swizzle],
            _TENSOR_MAP_L2_128B,
            0,  # zeros outside
        )
        if code:
            raise self._error("cuTensorMapEncodeTiled", code)
        words = (ctypes.c_uint64 * 16).from_address(aligned)
        last_byte = sum((n - 1) * step for n, step in zip(shape[:-1], strides)) + shape[-1] * ITEMSIZE[dtype] - 1
        if self.device.driver_version <= _TENSOR_MAP_FIXED and last_byte < 128 << 10:
            # CUTLASS and Triton clear this bit for tensors under 128 KiB on these drivers.
            words[1] &= ~(1 << 21)
        return bytes(words)

    # -- streams and events

    def create_stream(self) -> int:
        return int(self._call("cuStreamCreate", int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def create_event(self, *, timing: bool = True) -> Handle:
        flags = self._api.CUevent_flags
        return self._call("cuEventCreate", int(flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING))

    def destroy_event(self, event: Handle) -> None:
        self._call("cuEventDestroy", event)

    def record(self, event: Handle, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: Handle) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def elapsed(self, start: Handle, end: Handle) -> float:
        self._call("cuEventSynchronize", end)
        return 1e3 * float(self._call("cuEventElapsedTime", start, end))

    # -- graphs

    def create_graph(self) -> Handle:
        return self._call("cuGraphCreate", 0)

    def destroy_graph(self, graph: Handle) -> None:
        self._call("cuGraphDestroy", graph)

    def add_kernel(self, graph: Handle, node: KernelNode, after: Sequence[Handle], *, programmatic: bool) -> Handle:
        early = programmatic and bool(after) and self.device.driver_version >= _PROGRAMMATIC_EDGES
        first = [] if early else list(after)
        added = self._call("cuGraphAddKernelNode", graph, first, len(first), self.prepare_patch(node))
        if node.cluster != (1, 1, 1):
            self._set_cluster(added, node.cluster)
        if node.cooperative:
            self._set_cooperative(added)
        if early:
            # 12.x calls the form with edge data _v2, 13.x has no other.
            name = "cuGraphAddDependencies"
            name = f"{name}_v2" if hasattr(self._api, f"{name}_v2") else name
            self._call(name, graph, list(after), [added] * len(after), [self._edge()] * len(after), len(after))
        return added

    def _edge(self) -> Handle:
        edge = self._api.CUgraphEdgeData()
        edge.from_port = 1  # CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC
        edge.type = 1  # CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC
        return edge

    def _set_cluster(self, added: Handle, cluster: tuple[int, int, int]) -> None:
        attribute = self._api.CUkernelNodeAttrID
        value = self._api.CUkernelNodeAttrValue()
        value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = cluster
        name = "cuGraphKernelNodeSetAttribute"
        self._call(name, added, attribute.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value)
        value = self._api.CUkernelNodeAttrValue()
        spread = self._api.CUclusterSchedulingPolicy.CU_CLUSTER_SCHEDULING_POLICY_SPREAD
        value.clusterSchedulingPolicyPreference = spread
        self._call(name, added, attribute.CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE, value)

    def _set_cooperative(self, added: Handle) -> None:
        value = self._api.CUkernelNodeAttrValue()
        value.cooperative = 1
        attribute = self._api.CUkernelNodeAttrID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        self._call("cuGraphKernelNodeSetAttribute", added, attribute, value)

    def add_event(self, graph: Handle, event: Handle, after: Sequence[Handle]) -> Handle:
        return self._call("cuGraphAddEventRecordNode", graph, list(after), len(after), event)

    def instantiate(self, graph: Handle) -> Handle:
        return self._call("cuGraphInstantiate", graph, 0)

    def destroy_executable(self, executable: Handle) -> None:
        self._call("cuGraphExecDestroy", executable)

    def prepare_patch(self, node: KernelNode) -> Handle:
        prepared = self._api.CUDA_KERNEL_NODE_PARAMS()
        prepared.func = node.function
        prepared.gridDimX, prepared.gridDimY, prepared.gridDimZ = node.grid
        prepared.blockDimX, prepared.blockDimY, prepared.blockDimZ = node.block
        prepared.sharedMemBytes = node.shared_bytes
        prepared.kernelParams = node.arguments
        return prepared

    def patch(self, executable: Handle, graph_node: Handle, prepared: Handle) -> None:
        (code,) = self._api.cuGraphExecKernelNodeSetParams(executable, graph_node, prepared)
        if code:
            raise self._error("cuGraphExecKernelNodeSetParams", int(code))

    def launch(self, executable: Handle, stream: int) -> None:
        (code,) = self._api.cuGraphLaunch(executable, stream)
        if code:
            raise self._error("cuGraphLaunch", int(code))


class _Active:
    """Pushes a driver's context unless it is current already. A class, not a generator: it is entered at every call."""

    __slots__ = ("_driver", "_pushed")

    def __init__(self, driver: CudaDriver):
        self._driver = driver

    def __enter__(self) -> None:
        driver = self._driver
        code, current = driver._api.cuCtxGetCurrent()
        if code:
            raise driver._error("cuCtxGetCurrent", int(code))
        self._pushed = int(current) != driver._handle
        if self._pushed:
            driver._call("cuCtxPushCurrent", driver._context)

    def __exit__(self, *exception: object) -> None:
        if self._pushed:
            self._driver._call("cuCtxPopCurrent")


def _load_api(device: int) -> Any:
    """cuda.bindings.driver, with the driver initialised. Raises NoGpuError, saying what is missing."""
    try:
        from cuda.bindings import driver as api
    except ImportError as error:
        raise NoGpuError("running a plan needs cuda-bindings; install it with: pip install cuda-bindings") from error
    hint = "run on a machine with one (nvidia-smi must list it), or compile with target='reference' to run in numpy"
    try:
        (code,) = api.cuInit(0)
    except Exception as error:  # what cuda-bindings raises without libcuda differs by version: RuntimeError or its own
        raise NoGpuError(f"no NVIDIA driver is installed here, so no GPU can be used; {hint}") from error
    count = 0 if code else int(api.cuDeviceGetCount()[1])
    if count == 0:
        reason = f"the driver answers {api.CUresult(code).name}" if code else "the driver lists none"
        raise NoGpuError(f"there is no NVIDIA GPU to run on ({reason}); {hint}")
    if not 0 <= device < count:
        raise NoGpuError(f"there is no GPU {device}: this machine has {count}, counted from 0")
    return api
