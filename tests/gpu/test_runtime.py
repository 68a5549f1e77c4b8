"""The runtime on a real GPU: cubins made here by Triton, plans put together by hand, run through the CUDA driver."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitrt.errors import GradientError, InputError, PlanError
from jitrt.knobs import environment
from jitrt.plan.file import write_plan
from jitrt.plan.schema import (
    Argument,
    Binding,
    Constant,
    Kernel,
    Launch,
    Layer,
    Plan,
    PlanFile,
    Pointer,
    Scalar,
    TensorMap,
)
from jitrt.runtime import Engine, ExecutionContext

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

ROWS, COLUMNS = 128, 256
COUNT = ROWS * COLUMNS
BLOCK = 1024

# -- kernels -----------------------------------------------------------------------------------------------------------


@triton.jit
def add(a, b, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(a + at, mask=at < n) + tl.load(b + at, mask=at < n), mask=at < n)


@triton.jit
def scale(source, out, factor, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(source + at, mask=at < n) * factor, mask=at < n)


@triton.jit
def total(source, out, counter, partial, n, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr):
    """Sum of all elements in two steps of one launch; the last program to arrive leaves the counter zero again."""
    pid = tl.program_id(0)
    at = pid * BLOCK + tl.arange(0, BLOCK)
    tl.store(partial + pid, tl.sum(tl.load(source + at, mask=at < n, other=0.0), axis=0))
    if tl.atomic_add(counter, 1, sem="acq_rel") == PROGRAMS - 1:
        all_of_them = tl.arange(0, PROGRAMS)
        tl.store(out, tl.sum(tl.load(partial + all_of_them, cache_modifier=".cg"), axis=0))
        tl.store(counter, 0)


@triton.jit
def through_map(source, out, COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    tile = source.load([m, n])
    rows, columns = m + tl.arange(0, BM), n + tl.arange(0, BN)
    tl.store(out + rows[:, None] * COLUMNS + columns[None, :], tile)


@triton.jit
def add_one_early(source, out, n, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(source + at, mask=at < n) + 1, mask=at < n)
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def add_one_after_waiting(source, out, n, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(source + at, mask=at < n) + 1, mask=at < n)


class Build:
    """A plan in the making: every launch is a layer, and waits for the one before unless told otherwise."""

    def __init__(self, arch: int):
        self.arch = arch
        self.kernels: list[Kernel] = []
        self.images: dict[str, bytes] = {}
        self.launches: list[Launch] = []
        self.meta: dict[str, Any] = {}

    def kernel(self, function: Any, signature: dict[str, str], constants: dict[str, Any], **options: Any) -> int:
        from triton.backends.compiler import GPUTarget
        from triton.compiler.compiler import ASTSource

        names = function.arg_names
        types = {name: "constexpr" if name in constants else signature[name] for name in names}
        values = {(names.index(name),): value for name, value in constants.items()}
        attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name][0] == "*"}
        source = ASTSource(function, signature=types, constexprs=values, attrs=attributes)
        built = triton.compile(source, target=GPUTarget("cuda", self.arch, 32), options={"num_warps": 4, **options})
        meta = built.metadata
        image = f"cubin.{len(self.images)}"
        self.images[image] = built.asm["cubin"]
        self.meta[image] = meta
        cluster = (getattr(meta, "num_ctas", 1), 1, 1)
        self.kernels.append(Kernel(meta.name, image, meta.shared, meta.num_warps, cluster))
        return len(self.kernels) - 1

    def launch(self, kernel: int, grid: tuple[int, int, int], *arguments: Argument, after=None, dependent=False) -> int:
        index = len(self.launches)
        after = (tuple(range(max(0, index - 1), index))) if after is None else after
        self.launches.append(Launch(kernel, grid, arguments, after, index, dependent))
        return index

    def file(self, inputs, outputs, constants=b"", arena=0, zeros=0) -> PlanFile:
        layers = tuple(Layer(f"layer{i}", "test", "", "", "", 0.0, 8 * COUNT, 0) for i in range(len(self.launches)))
        weights = (Constant("w", "f32", (COUNT,), 0, len(constants)),) if constants else ()
        plan = Plan(
            "gpu-test",
            self.arch,
            inputs,
            outputs,
            tuple(self.kernels),
            tuple(self.launches),
            layers,
            weights,
            arena,
            zeros,
            len(constants),
        )
        return PlanFile(plan, constants, self.images)


def matrix(name: str, dtype: str = "f32") -> Binding:
    return Binding(name, dtype, (ROWS, COLUMNS), (COLUMNS, 1))


WEIGHT = np.linspace(-1, 1, COUNT, dtype=np.float32)


@pytest.fixture(scope="module")
def arch() -> int:
    major, minor = torch.cuda.get_device_capability(0)
    return 10 * major + minor


@pytest.fixture(scope="module")
def file(arch) -> PlanFile:
    """y = 2 (x + w) + 3 (x + w) by two branches that meet, s = the sum of y."""
    build = Build(arch)
    types = {"a": "*fp32", "b": "*fp32", "source": "*fp32", "out": "*fp32", "factor": "fp32", "n": "i32"}
    types |= {"counter": "*i32", "partial": "*fp32"}
    adding, scaling = (build.kernel(function, types, {"BLOCK": BLOCK}) for function in (add, scale))
    programs = COUNT // BLOCK
    summing = build.kernel(total, types, {"BLOCK": BLOCK, "PROGRAMS": programs})
    grid, n = (programs, 1, 1), Scalar("i32", COUNT)
    first, two, three, partial = (Pointer("arena", 4 * COUNT * i) for i in range(4))
    build.launch(adding, grid, Pointer("input"), Pointer("constants"), first, n)
    build.launch(scaling, grid, first, two, Scalar("f32", 2.0), n, after=(0,))
    build.launch(scaling, grid, first, three, Scalar("f32", 3.0), n, after=(0,))
    build.launch(adding, grid, two, three, Pointer("output"), n, after=(1, 2))
    build.launch(summing, grid, Pointer("output"), Pointer("output", 0, 1), Pointer("zeros"), partial, n)
    outputs = (matrix("y"), Binding("s", "f32", (), ()))
    return build.file((matrix("x"),), outputs, WEIGHT.tobytes(), arena=4 * COUNT * 4, zeros=256)


@pytest.fixture
def engine(file) -> Engine:
    return Engine(file)


@pytest.fixture
def x():
    return torch.randn(ROWS, COLUMNS, device="cuda")


def expected(x):
    y = 5 * (x + torch.from_numpy(WEIGHT).to(x.device).reshape(ROWS, COLUMNS))
    return y, y.sum()


def check(outputs, x) -> None:
    y, s = expected(x)
    torch.testing.assert_close(outputs[0], y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs[1], s, rtol=1e-4, atol=1e-1)


pytestmark = pytest.mark.gpu


# -- answers -----------------------------------------------------------------------------------------------------------


def test_torch_tensors(engine, x):
    kept = []
    for _ in range(50):  # earlier outputs stay what they were
        given = torch.randn_like(x)
        kept.append((engine(given), given))
    for outputs, given in kept:
        assert outputs[0].is_cuda
        check(outputs, given)


def test_numpy_arrays(engine, x):
    y, s = engine(x.cpu().numpy())
    assert isinstance(y, np.ndarray)
    check((torch.from_numpy(y), torch.from_numpy(np.asarray(s))), x.cpu())


def test_torch_tensors_on_the_cpu(engine, x):
    outputs = engine(x.cpu())
    assert not outputs[0].is_cuda
    check(outputs, x.cpu())


def test_nan_goes_through(engine, x):
    x[3, 4] = float("nan")
    y, s = engine(x)
    assert y.isnan().sum() == 1
    assert s.isnan()


def test_other_strides_and_alignment(engine, x):
    check(engine(x.t().contiguous().t()), x)
    check(engine(x.repeat_interleave(2, dim=1)[:, ::2]), x)
    shifted = torch.empty(COUNT + 1, device="cuda")[1:].view(ROWS, COLUMNS).copy_(x)
    assert shifted.data_ptr() % 16
    check(engine(shifted), x)


def test_what_does_not_fit(engine, x):
    for bad, complaint in ((x[:1], "expected f32"), (x.half(), "float16"), (x[:0], "is empty")):
        with pytest.raises(InputError, match=complaint):
            engine(bad)
    with pytest.raises(GradientError):
        engine(x.clone().requires_grad_())
    with torch.no_grad():
        check(engine(x.clone().requires_grad_()), x)


def test_torchs_current_stream_is_used(engine, x):
    """The input is made late on a side stream; only a run on that stream sees it."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        given = torch.zeros_like(x)
        torch.cuda._sleep(20_000_000)
        given.copy_(x)
        outputs = engine(given)
        check(outputs, x)


def test_a_context_with_a_stream_of_its_own(engine, x):
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    outputs = ExecutionContext(engine, side.cuda_stream)(x)
    side.synchronize()
    check(outputs, x)


def test_threads(engine):
    """Two threads on streams of their own and one on the host, all with one engine."""
    failures: list[str] = []

    def work(seed: int, on_host: bool) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            generator = torch.Generator("cuda").manual_seed(seed)
            for _ in range(100):
                given = torch.randn(ROWS, COLUMNS, device="cuda", generator=generator)
                given = given.cpu() if on_host else given
                try:
                    check(engine(given), given)
                except Exception as error:
                    failures.append(f"{seed}: {error}")
                    return

    threads = [threading.Thread(target=work, args=(seed, seed == 2)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_cupy(engine, x):
    cupy = pytest.importorskip("cupy")
    y, s = engine(cupy.asarray(x))
    assert isinstance(y, cupy.ndarray)
    check((torch.from_dlpack(y), torch.from_dlpack(s)), x)
    check([torch.from_dlpack(out) for out in engine(cupy.asarray(x.t().contiguous()).T)], x)


# -- TMA descriptors, programmatic launches, clusters ------------------------------------------------------------------


def test_a_tensor_map_follows_its_input(arch, x):
    if arch < 90:
        pytest.skip("TMA needs sm_90")
    build = Build(arch)
    signature = {"source": "tensordesc<fp16[64, 64]>", "out": "*fp16"}
    kernel = build.kernel(through_map, signature, {"COLUMNS": COLUMNS, "BM": 64, "BN": 64})
    (meta,) = build.meta["cubin.0"].tensordesc_meta
    swizzle = (0, 32, 64, 128)[meta["swizzle"]]
    view = TensorMap(Pointer("input"), "f16", (ROWS, COLUMNS), (2 * COLUMNS,), tuple(meta["block_size"]), swizzle)
    shape = [Scalar("i32", ROWS), Scalar("i32", COLUMNS), Scalar("i64", COLUMNS), Scalar("i64", 1)]
    build.launch(kernel, (ROWS // 64, COLUMNS // 64, 1), view, *shape, Pointer("output"))
    engine = Engine(build.file((matrix("x", "f16"),), (matrix("y", "f16"),)))
    kept = [torch.randn(ROWS, COLUMNS, device="cuda", dtype=torch.float16) for _ in range(5)]
    for given in kept:  # at addresses of their own
        assert torch.equal(engine(given), given)


@pytest.mark.parametrize("dependent", [False, True])
def test_a_chain_of_dependent_launches(arch, x, dependent):
    if arch < 90:
        pytest.skip("programmatic dependent launch needs sm_90")
    build = Build(arch)
    kernel = build.kernel(
        add_one_early, {"source": "*fp32", "out": "*fp32", "n": "i32"}, {"BLOCK": BLOCK}, launch_pdl=True
    )
    steps, n = 40, Scalar("i32", COUNT)
    places = [Pointer("input"), *(Pointer("arena", 4 * COUNT * (i % 3)) for i in range(steps - 1)), Pointer("output")]
    for source, target in pairwise(places):
        build.launch(kernel, (COUNT // BLOCK, 1, 1), source, target, n, dependent=dependent)
    engine = Engine(build.file((matrix("x"),), (matrix("y"),), arena=12 * COUNT))
    for _ in range(20):
        given = torch.randn_like(x)
        want = given.clone()
        for _ in range(steps):
            want += 1
        assert torch.equal(engine(given), want)
    print(f"\n{steps} launches, dependent={dependent}: {engine.profile(x).graph:.1f} us")


def test_branches_of_dependent_launches(arch, x):
    """Fork after fork: both branches may start while the launch before them still runs, and wait for it in the kernel.
    The triggers are implicit, as in jitrt's kernels."""
    if arch < 90:
        pytest.skip("programmatic dependent launch needs sm_90")
    build = Build(arch)
    types = {"a": "*fp32", "b": "*fp32", "source": "*fp32", "out": "*fp32", "n": "i32"}
    step = build.kernel(add_one_after_waiting, types, {"BLOCK": BLOCK}, launch_pdl=True)
    meeting = build.kernel(add, types, {"BLOCK": BLOCK})
    forks, n, grid = 12, Scalar("i32", COUNT), (COUNT // BLOCK, 1, 1)
    start, left, right = (Pointer("arena", 4 * COUNT * i) for i in range(3))
    source, last = Pointer("input"), ()
    for number in range(forks):
        first = build.launch(step, grid, source, start, n, after=last, dependent=bool(last))
        branches = tuple(build.launch(step, grid, start, to, n, after=(first,), dependent=True) for to in (left, right))
        source = Pointer("output") if number == forks - 1 else Pointer("arena", 4 * COUNT * (3 + number % 2))
        last = (build.launch(meeting, grid, left, right, source, n, after=branches),)
    engine = Engine(build.file((matrix("x"),), (matrix("y"),), arena=20 * COUNT))
    for _ in range(200):
        given = torch.randint_like(x, 4)
        want = given.clone()
        for _ in range(forks):
            want = 2 * (want + 2)
        assert torch.equal(engine(given), want)


def test_clusters(arch, x):
    """A program of two blocks; its grid counts programs, and patching keeps the cluster."""
    if arch < 90:
        pytest.skip("clusters need sm_90")
    build = Build(arch)
    signature = {"a": "*fp32", "b": "*fp32", "out": "*fp32", "n": "i32"}
    kernel = build.kernel(add, signature, {"BLOCK": BLOCK}, num_ctas=2)
    assert build.kernels[kernel].cluster == (2, 1, 1)
    arguments = (Pointer("input"), Pointer("input"), Pointer("output"), Scalar("i32", COUNT))
    build.launch(kernel, (COUNT // BLOCK, 1, 1), *arguments)
    engine = Engine(build.file((matrix("x"),), (matrix("y"),)))
    kept = [torch.randn_like(x) for _ in range(3)]
    for given in kept:
        assert torch.equal(engine(given), 2 * given)


def test_a_launch_with_too_few_arguments(file, x):
    launches = (replace(file.plan.launches[0], arguments=file.plan.launches[0].arguments[:-1]), *file.plan.launches[1:])
    with pytest.raises(PlanError, match=r"launch 0 has parameters of .* takes \(8, 8, 8, 4, 8, 8\)"):
        Engine(replace(file, plan=replace(file.plan, launches=launches)))(x)


# -- resources, files, other processes ---------------------------------------------------------------------------------


def test_memory_comes_back(file, x):
    from jitrt.runtime.driver import cuda_driver

    driver = cuda_driver()

    def used() -> int:
        with driver.active():
            free, total = driver.memory_info()
        return total - free

    Engine(file)(x)
    torch.cuda.synchronize()
    before = used()
    engine = Engine(replace(file, plan=replace(file.plan, arena_bytes=1 << 30)))
    for _ in range(3):
        context = engine.context()
        context(x)
        assert used() - before >= 1 << 30
        context.close()
    engine.close()
    assert used() - before < 64 << 20


def test_a_plan_for_another_architecture(file, arch):
    other = 80 if arch >= 90 else 90
    with pytest.raises(PlanError, match=rf"built for sm_{other}.*is sm_{arch}"):
        Engine(replace(file, plan=replace(file.plan, arch=other)))(1)


def test_cubins_that_are_no_cubins(file, x):
    with pytest.raises(PlanError, match="cannot load kernel"):
        Engine(replace(file, images=dict.fromkeys(file.images, b"not a cubin at all")))(x)


def test_a_process_without_torch_triton_onnx_loads_and_runs_a_plan(file, tmp_path, x):
    path = tmp_path / "gpu.plan"
    write_plan(path, file)
    np.save(tmp_path / "x.npy", x.cpu().numpy())
    code = f"""
import sys, time
for name in ("torch", "triton", "onnx"): sys.modules[name] = None
start = time.perf_counter()
import numpy as np
import jitrt.runtime
engine = jitrt.runtime.load({str(path)!r})
loaded = time.perf_counter()
y, s = engine(np.load({str(tmp_path / "x.npy")!r}))
print(f"loaded in {{loaded - start:.2f}} s, first answer after {{time.perf_counter() - start:.2f}} s")
np.save({str(tmp_path / "y.npy")!r}, y)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print("\n" + done.stdout)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(x)[0].cpu().numpy(), rtol=1e-5, atol=1e-5)


# -- time --------------------------------------------------------------------------------------------------------------


def host_microseconds(call, repeats: int = 300) -> float:
    """Median host time of one call, the device idle before each."""
    samples = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        kept = call()
        samples.append(1e6 * (time.perf_counter() - begun))
        del kept
    return statistics.median(samples)


def test_host_time_of_a_call(engine, x):
    """The issue's limit is 30 us; a chain of calls alternates output addresses, so this includes patching."""
    given = [x, x.clone()]
    engine(x)
    same = host_microseconds(lambda: engine(x))
    turn = iter(range(10**6))
    moved = host_microseconds(lambda: engine(given[next(turn) % 2]))
    context = engine.context()
    outputs = engine(x)
    at = [out.data_ptr() for out in outputs]
    stream = torch.cuda.current_stream().cuda_stream
    bare = host_microseconds(lambda: context.run([x.data_ptr()], at, stream))
    print(f"\nhost time of a call: {same:.1f} us, with another input each time {moved:.1f} us, bare run {bare:.1f} us")
    assert same < 30
    assert moved < 30


def test_profile(engine, x):
    profile = engine.profile(x)
    print(f"\n{profile}")
    assert len(profile.layers) == 5
    assert 0 < profile.graph <= 1.2 * profile.serial
    assert sum(layer.microseconds for layer in profile.layers) == pytest.approx(profile.serial, rel=0.2)
    assert all(layer.floor > 0 for layer in profile.layers)


def test_compare(engine, x):
    assert engine.compare(lambda x: expected(x), x).worst < 1e-4
