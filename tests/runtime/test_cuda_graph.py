from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from jitrt.errors import DriverError
from jitrt.runtime.cuda_graph import LaunchGraph
from jitrt.runtime.memory import Resources, allocate_spaces


class Owner:
    pass


@pytest.fixture
def make(small, driver, engine, x):
    """Builds a LaunchGraph of a plan derived from the small one, with x as its input, and two sets of outputs."""
    owner = Owner()
    loaded = engine.loaded

    def build(plan=small.plan, **options):
        with driver.active():
            resources = Resources(driver, owner, keep=loaded)
            addresses = allocate_spaces(plan, resources, loaded.constants, 0)
            bound = [resources.alloc(x.nbytes) for _ in range(5)]
            driver.upload(bound[0], x.ctypes.data, x.nbytes)
            driver.calls.clear()
        return LaunchGraph(driver, plan, loaded.kernels, addresses, **options), bound

    return build


def test_dependencies_are_the_plans(make, driver):
    graph, bound = make()
    with driver.active():
        graph.launch(bound[:3], 0)
    assert driver.edges(graph._executable) == [(0, 1, False), (0, 2, False), (1, 3, False), (2, 3, False)]
    # The fake driver runs what may run in any order last first: the branches are independent.
    assert driver.launches == [(0, ["increment", "add", "scale", "scale", "add"])]


def test_a_missing_dependency_shows(make, driver, small, expected, x):
    """The fake driver's order makes a forgotten edge a wrong result."""
    launches = list(small.plan.launches)
    launches[3] = replace(launches[3], after=(2,))
    graph, bound = make(replace(small.plan, launches=tuple(launches)))
    with driver.active():
        graph.launch(bound[:3], 0)
        assert not np.array_equal(driver.array(bound[1], x.shape, "f32"), expected(x)[0])


def test_chain_and_events(make, driver, small):
    with driver.active():
        events = [driver.create_event() for _ in range(6)]
        graph, bound = make(chain=True, events=events)
        graph.launch(bound[:3], 0)
        nodes = 2 * len(small.plan.launches) + 1
        assert driver.edges(graph._executable) == [(i, i + 1, False) for i in range(nodes - 1)]
        assert [driver.elapsed(a, b) for a, b in pairwise(events)] == [3.5, 2.5, 2.5, 3.5, 1.5]


def test_only_what_changed_is_patched(make, driver):
    graph, (x_at, y1, z1, y2, z2) = make()
    with driver.active():
        graph.launch([x_at, y1, z1], 0)
        assert driver.calls["patch"] == 0
        graph.launch([x_at, y1, z1], 0)
        assert driver.calls["patch"] == 0
        graph.launch([x_at, y2, z1], 0)
        assert driver.calls["patch"] == 1
        graph.launch([x_at, y2, z2], 0)
        assert driver.calls["patch"] == 2
        graph.launch([y1, y2, z2], 0)  # x feeds two launches
        assert driver.calls["patch"] == 4
        graph.launch([x_at, y1, z1], 0)  # four launches follow a binding; one follows two of them
        assert driver.calls["patch"] == 7
        assert driver.calls["instantiate"] == 1
        assert {name: driver.calls[name] for name in ("upload", "download", "copy", "synchronize", "idle")} == {
            "upload": 0,
            "download": 0,
            "copy": 0,
            "synchronize": 0,
            "idle": 0,
        }


def test_patched_launches_are_right(make, driver, expected, x):
    graph, (x_at, y1, z1, y2, z2) = make()
    with driver.active():
        graph.launch([x_at, y1, z1], 0)
        graph.launch([y1, y2, z2], 0)
        first = expected(x)
        second = expected(first[0])
        for address, want in zip((y1, z1, y2, z2), (*first, *second)):
            np.testing.assert_array_equal(driver.array(address, x.shape, "f32"), want)


def test_a_list_that_the_caller_changes_in_place(make, driver):
    graph, bound = make()
    given = bound[:3]
    with driver.active():
        graph.launch(given, 0)
        given[1] = bound[3]
        graph.launch(given, 0)
        assert driver.calls["patch"] == 1


def test_a_failed_patch_is_made_good_by_the_next_launch(make, driver, expected, x, monkeypatch):
    graph, (x_at, y1, z1, y2, z2) = make()
    patch = driver.patch
    with driver.active():
        graph.launch([x_at, y1, z1], 0)
        calls = iter([None, DriverError("patch", 1, "refused")])

        def fail_second(*arguments):
            if error := next(calls):
                raise error
            patch(*arguments)

        monkeypatch.setattr(driver, "patch", fail_second)
        with pytest.raises(DriverError, match="refused"):
            graph.launch([x_at, y2, z2], 0)
        monkeypatch.setattr(driver, "patch", patch)
        driver.fill(y1, 0, x.nbytes)
        graph.launch([x_at, y1, z1], 0)  # the addresses of before, which one node has lost
        np.testing.assert_array_equal(driver.array(y1, x.shape, "f32"), expected(x)[0])


def test_a_graph_that_cannot_be_built_is_given_back(make, driver, monkeypatch):
    graph, bound = make()

    def refuse(_graph):
        raise DriverError("instantiate", 2, "out of memory")

    with driver.active():
        with monkeypatch.context() as patched:
            patched.setattr(driver, "instantiate", refuse)
            with pytest.raises(DriverError, match="out of memory"):
                graph.launch(bound[:3], 0)
        assert "graphs" not in driver.leaks()
        graph.launch(bound[:3], 0)
        assert driver.calls["patch"] == 0
        graph.launch([*bound[:2], bound[3]], 0)
        assert driver.calls["patch"] == 1


def test_dependent_launches_start_early_after_one_kernel_only(make, driver, small):
    launches = [replace(launch, dependent=True) for launch in small.plan.launches]
    graph, bound = make(replace(small.plan, launches=tuple(launches)))
    with driver.active():
        graph.launch(bound[:3], 0)
    assert driver.edges(graph._executable) == [(0, 1, True), (0, 2, True), (1, 3, False), (2, 3, False)]


def test_what_a_launch_is_made_of(make, driver, small):
    graph, bound = make()
    with driver.active():
        graph.launch(bound[:3], 0)
    nodes = [node.node for node in driver._executables[graph._executable]]
    assert [node.grid for node in nodes] == [(1, 1, 1), (4, 1, 1), (4, 1, 1), (1, 1, 1), (3, 1, 1)]  # in blocks
    assert [node.block[0] for node in nodes] == [128, 256, 256, 128, 32]
    assert [node.shared_bytes for node in nodes] == [65536, 0, 0, 65536, 0]
    assert not any(node.cooperative for node in nodes)
    scratch = dict(zip(driver.launches[0][1], driver.scratch))
    assert scratch["add"] == (0, 0)
    assert scratch["increment"] == (graph._addresses.scratch, 0)


def test_a_cooperative_launch_is_a_cooperative_node(make, driver, small):
    first, *others = small.plan.launches
    graph, bound = make(replace(small.plan, launches=(replace(first, cooperative=True), *others)))
    with driver.active():
        graph.launch(bound[:3], 0)
    nodes = [node.node for node in driver._executables[graph._executable]]
    assert [node.cooperative for node in nodes] == [True, False, False, False, False]


def test_close_frees_the_graph(make, driver):
    graph, bound = make()
    with driver.active():
        graph.launch(bound[:3], 0)
    graph.close()
    graph.close()
    assert not {"graphs", "executables"} & set(driver.leaks())
