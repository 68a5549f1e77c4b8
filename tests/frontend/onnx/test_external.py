"""External data: read from the model's folder, and from nowhere else. One test for every kind of CVE against ONNX."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jitrt.errors import ModelError
from jitrt.frontend.onnx import external, import_onnx, read_model
from jitrt.graph.op import Array
from tests.frontend.onnx.fuzz import bounded_memory

SECRET = b"secret!!" * 4  # as many bytes as the tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with its data, beside a file that nobody may read."""
    (tmp_path / "secret").write_bytes(SECRET)
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "w.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    (inside / "sub" / "w.bin").write_bytes(np.full(8, 3, np.float32).tobytes())
    return inside


def written(
    folder: Path, *entries: tuple[str, str], dims: tuple[int, ...] = (8,), kind: int = TensorProto.FLOAT
) -> Path:
    """A model that adds w, whose external data has these entries."""
    tensor = TensorProto(name="w", dims=dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, 1, [8]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "net", [x], [y], [tensor])
    path = folder / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def weights(path: Path) -> Array:
    graph = import_onnx(path).graph
    (value,) = (value for value in graph.constants.values() if value.name == "w")
    assert value.data is not None
    return value.data


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=f"tensor 'w'.*{match}") as caught:
        import_onnx(path)
    assert "secret!!" not in str(caught.value)


# -- what is read ----------------------------------------------------------------------------------------------------


def test_what_is_read(folder: Path) -> None:
    assert weights(written(folder, ("location", "w.bin"))).tolist() == list(range(8))
    assert weights(written(folder, ("location", "w.bin"), ("offset", "32"), ("length", "32")))[0] == 8
    assert weights(written(folder, ("location", "./sub//w.bin"))).tolist() == [3] * 8
    os.link(folder / "w.bin", folder / "hard.bin")
    assert weights(written(folder, ("location", "hard.bin")))[7] == 7


def test_a_model_behind_a_link_has_its_data_beside_the_link(folder: Path, tmp_path: Path) -> None:
    written(folder, ("location", "w.bin"))
    (tmp_path / "m.onnx").symlink_to(folder / "m.onnx")
    with pytest.raises(ModelError, match=r"'w\.bin': No such file"):
        import_onnx(tmp_path / "m.onnx")


def test_bytes_have_no_folder(folder: Path) -> None:
    data = written(folder, ("location", "w.bin")).read_bytes()
    with pytest.raises(ModelError, match=r"lies in file 'w\.bin' beside the model: give the model's path"):
        import_onnx(data)
    assert import_onnx(read_model(data, folder=folder)).outputs == ("y",)


def test_numbers_are_read_when_they_are_asked_for(folder: Path) -> None:
    model = read_model(written(folder, ("location", "w.bin")))
    os.remove(folder / "w.bin")
    with pytest.raises(ModelError, match="No such file"):
        model.read(model.proto.graph.initializer[0])


# -- path traversal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "sub/../../secret",
        "./../secret",
        "..",
        "sub/..",
        "..\\secret",
        "sub\\..\\..\\secret",
        "../model/w.bin",
    ],
)
def test_path_traversal(folder: Path, location: str) -> None:
    refused(written(folder, ("location", location)), "is not inside the model's folder")


def test_absolute_paths(folder: Path, tmp_path: Path) -> None:
    for location in (
        str(tmp_path / "secret"),
        "//etc/passwd",
        "/proc/self/environ",
        "C:\\secret",
        "c:secret",
        "\\\\host\\x",
    ):
        refused(written(folder, ("location", location)), "is not inside the model's folder")


def test_locations_that_are_no_file(folder: Path) -> None:
    refused(written(folder), "names no file")
    refused(written(folder, ("location", "")), "names no file")
    refused(written(folder, ("location", "./")), "names no file")
    refused(written(folder, ("location", "a\0b")), "no text")
    refused(written(folder, ("location", "sub")), "not a regular file|Is a directory")
    refused(written(folder, ("location", "w.bin/x")), "symbolic link, or no folder")
    refused(written(folder, ("location", "x" * 300)), "name too long")
    refused(written(folder, ("location", "gone.bin")), "No such file")
    data = written(folder, ("location", "abcd.bin")).read_bytes().replace(b"abcd.bin", b"\xff\xfe\xff\xfe.bin")
    (folder / "m.onnx").write_bytes(data)
    refused(folder / "m.onnx", "no text")


# -- links and special files -----------------------------------------------------------------------------------------


def test_a_link_as_the_file(folder: Path, tmp_path: Path) -> None:
    (folder / "link.bin").symlink_to(tmp_path / "secret")
    refused(written(folder, ("location", "link.bin")), "links are not followed")
    (folder / "inside.bin").symlink_to(folder / "w.bin")  # even one that stays inside
    refused(written(folder, ("location", "inside.bin")), "links are not followed")


def test_a_link_as_a_folder_on_the_way(folder: Path, tmp_path: Path) -> None:
    (folder / "out").symlink_to(tmp_path)
    refused(written(folder, ("location", "out/secret")), "links are not followed")
    (folder / "sub" / "loop").symlink_to(folder / "sub")
    refused(written(folder, ("location", "sub/loop/w.bin")), "links are not followed")


def test_special_files(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    begin = time.monotonic()
    refused(written(folder, ("location", "fifo")), "not a regular file")
    assert time.monotonic() - begin < 5  # nobody writes to it: an open that waits would wait for ever


def test_a_link_swapped_in_while_the_model_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of the folder and that of the file in it, the attacker changes what the name stands for."""
    path = written(folder, ("location", "sub/w.bin"))
    opened = os.open

    def swap(name: object, flags: int, *rest: object, **options: object) -> int:
        if name == "w.bin":
            os.remove(folder / "sub" / "w.bin")
            (folder / "sub" / "w.bin").symlink_to(tmp_path / "secret")
        return opened(name, flags, *rest, **options)  # type: ignore[arg-type, call-overload, no-any-return]

    monkeypatch.setattr(external.os, "open", swap)
    refused(path, "links are not followed")


def test_a_folder_swapped_while_the_model_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder on the way becomes a link after it was opened: what was opened is read, not what is there now."""
    path = written(folder, ("location", "sub/w.bin"))
    (tmp_path / "w.bin").write_bytes(SECRET)
    opened = os.open

    def swap(name: object, flags: int, *rest: object, **options: object) -> int:
        if name == "w.bin":
            os.rename(folder / "sub", folder / "old")
            (folder / "sub").symlink_to(tmp_path)
        return opened(name, flags, *rest, **options)  # type: ignore[arg-type, call-overload, no-any-return]

    monkeypatch.setattr(external.os, "open", swap)
    assert weights(path).tolist() == [3] * 8


def test_a_race_of_swaps_never_reads_outside(folder: Path, tmp_path: Path) -> None:
    """Another thread swaps file and link as fast as it can."""
    path, name, done = written(folder, ("location", "race.bin")), folder / "race.bin", threading.Event()
    good = np.full(8, 5, np.float32).tobytes()

    def swap() -> None:
        while not done.is_set():
            for make in (lambda to: to.symlink_to(tmp_path / "secret"), lambda to: to.write_bytes(good)):
                make(folder / "next")
                os.replace(folder / "next", name)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(300):
            try:
                outcomes.add(weights(path).tobytes())
            except ModelError:
                outcomes.add(b"refused")
    finally:
        done.set()
        thread.join()
    assert outcomes <= {good, b"refused"}


def test_a_file_that_shrinks_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external.os, "preadv", lambda *_: 0)
    refused(written(folder, ("location", "w.bin")), "became shorter")


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([("offset", "36")], "bytes 36 to 68 are wanted, the file has 64"),
        ([("offset", "999999999999999999")], "the file has 64"),
        ([("offset", "9999999999999999999")], "offset .* is no number"),
        ([("offset", "9" * 5000)], "is no number"),
        ([("offset", "-1")], "offset '-1' .* is no number"),
        ([("offset", "")], "is no number"),
        ([("offset", "1e3")], "is no number"),
        ([("offset", "1_0")], "is no number"),
        ([("offset", " 8")], "is no number"),
        ([("offset", "٣")], "is no number"),
        ([("length", "-32")], "length '-32' .* is no number"),
        ([("length", "31")], r"float\[8\] is 32 bytes, its external data says 31"),
        ([("length", "999999999999")], "is 32 bytes, its external data says"),
        ([("offset", "0"), ("offset", "32")], "two entries 'offset'"),
    ],
)
def test_offsets_and_lengths(folder: Path, entries: list[tuple[str, str]], match: str) -> None:
    refused(written(folder, ("location", "w.bin"), *entries), match)


def test_size_bombs(folder: Path) -> None:
    with bounded_memory(1 << 27):
        refused(written(folder, ("location", "w.bin"), dims=(1 << 40,)), "the file has 64")
        refused(written(folder, ("location", "w.bin"), dims=(1 << 40, 1 << 40)), "more elements than can be counted")
        refused(written(folder, ("location", "w.bin"), ("length", str(1 << 42)), dims=(1 << 40,)), "the file has 64")
        refused(written(folder, ("location", "w.bin"), dims=(-8,)), "negative dimension")


def test_strings_have_no_external_data(folder: Path) -> None:
    refused(written(folder, ("location", "w.bin"), kind=TensorProto.STRING), "strings cannot be kept as raw bytes")


# -- attribute injection ---------------------------------------------------------------------------------------------


def test_attribute_injection(folder: Path) -> None:
    """Keys the standard does not know become nothing: onnx once set each of them on a Python object."""
    injected = [("__class__", "x"), ("parts", "../secret"), ("read", "x"), ("offset ", "5"), ("basepath", "/etc")]
    injected += [("checksum", "0")] + [(f"k{i}", "v") for i in range(1000)]
    path = written(folder, *injected, ("location", "w.bin"))
    assert weights(path).tolist() == list(range(8))
    tensor = onnx.load(path, load_external_data=False).graph.initializer[0]
    assert vars(external.extent_of(tensor)) == {"parts": ("w.bin",), "offset": 0, "length": None}
    refused(written(folder, ("location", "w.bin"), ("location", "../secret")), "two entries 'location'")
