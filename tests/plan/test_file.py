from __future__ import annotations

import hashlib
import json
import os
import resource
import threading
from dataclasses import replace

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jitrt.errors import PlanError
from jitrt.plan import file as file_module
from jitrt.plan.file import open_plan, read_plan, write_plan


@pytest.fixture
def path(tmp_path, file):
    path = tmp_path / "tiny.plan"
    write_plan(path, file)
    return path


def test_comes_back_as_it_went(path, file):
    back = read_plan(path)
    assert back.plan == file.plan
    assert back.images == file.images
    assert bytes(back.constants) == file.constants


def test_is_a_safetensors_file(path, file):
    with safe_open(path, "np") as stored:
        assert sorted(stored.keys()) == ["constants", "cubin.0"]
        assert stored.get_tensor("constants").tobytes() == file.constants
        body = json.loads(stored.metadata()["jitrt"])
    assert body["sha256"]["cubin.0"] == [hashlib.sha256(file.images["cubin.0"]).hexdigest()]
    assert body["plan"]["name"] == "tiny"


def test_equal_plans_give_equal_files(path, file, tmp_path):
    images = {"cubin.1": b"one", "cubin.0": b"zero", "a": b""}
    many, again = tmp_path / "many.plan", tmp_path / "again.plan"
    write_plan(many, replace(file, images=images))
    write_plan(again, replace(file, images=dict(sorted(images.items()))))
    assert many.read_bytes() == again.read_bytes()
    write_plan(path, read_plan(path))  # over itself, from its own mapping
    write_plan(again, file)
    assert path.read_bytes() == again.read_bytes()


def test_no_constants_and_no_cubins(tmp_path, file):
    path = tmp_path / "empty.plan"
    write_plan(path, replace(file, constants=b"", images={}))
    back = read_plan(path)
    assert len(back.constants) == 0
    assert back.images == {}


def refused(path) -> str:
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_any_changed_byte_is_found(path):
    good = path.read_bytes()
    for at in range(len(good)):
        for change in (0x01, 0x29):  # the second makes a tab of a blank, which JSON would not mind
            bad = bytearray(good)
            bad[at] ^= change
            path.write_bytes(bad)
            refused(path)


def test_every_truncation_is_found(path):
    good = path.read_bytes()
    for size in [*range(0, len(good), 7), len(good) - 1]:
        path.write_bytes(good[:size])
        refused(path)
    path.write_bytes(good[:-1])
    assert f"is truncated: {len(good) - 1} of {len(good)} bytes; copy it again" in refused(path)
    path.write_bytes(good[:100])
    assert "is truncated: 100 bytes, its header alone takes" in refused(path)


def test_bytes_too_many(path):
    path.write_bytes(path.read_bytes() + b"xy")
    assert "has 2 bytes too many" in refused(path)


def test_says_what_was_changed(path, file):
    good = path.read_bytes()
    for part, what in (
        (b'\\"arch\\":90', "its header"),
        (file.constants, "tensor 'constants'"),
        (b"\x7fELF", "tensor 'cubin.0'"),
    ):
        bad = bytearray(good)
        bad[good.index(part) + len(part) - 1] ^= 1
        path.write_bytes(bad)
        assert f"was changed since it was written (in {what})" in refused(path)


def test_a_prompt_shows_one_line(file, both):
    assert repr(file) == "PlanFile(Plan('tiny', sm_90, 1 layers, 2 launches))"
    assert repr(both) == f"PlanFile({file.plan!r}, Plan('tiny', sm_80, 1 layers, 2 launches))"


def test_what_is_no_plan(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(4)}, path)
    assert "is a safetensors file but no jitrt plan; make one with Engine.save or `jitrt build`" in refused(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0[1,2,3] ")
    assert "is not a plan (its header is no JSON object)" in refused(path)
    path.write_bytes(b"\x04\0\0\0\0\0\0\0nope")
    assert "is not a plan, or its header is damaged" in refused(path)
    path.write_text("a text that is longer than eight bytes")
    assert "is not a plan (it does not start like a safetensors file)" in refused(path)
    path.write_bytes(b"")
    assert "is empty; copy or build it again" in refused(path)
    assert "there is no plan at" in refused(tmp_path / "missing.plan")
    assert "cannot read a plan from" in refused(tmp_path)


def forge(path, change) -> None:
    """Rewrite the file's header by `change(header, body)` and seal it again, as a forger would."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body = json.loads(header["__metadata__"]["jitrt"])
    change(header, body)
    body["digest"] = "0" * 64
    header["__metadata__"]["jitrt"] = json.dumps(body, sort_keys=True, separators=(",", ":"))
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(whole).hexdigest().encode()
    path.write_bytes(whole.replace(b"0" * 64, digest, 1) + data[8 + size :])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda header, body: body["plan"].update(version=7), "plan version 7, but this jitrt reads version 1"),
        (lambda header, body: body["plan"].update(arch="x"), 'plan.arch is "x"'),
        (lambda header, body: body.pop("plan"), "plan version None"),
        (lambda header, body: body["sha256"].pop("cubin.0"), "the list of checksums does not fit the tensors"),
        (lambda header, body: body.update(sha256=3), "the list of checksums does not fit the tensors"),
        (lambda header, body: header["cubin.0"].update(data_offsets=[9, 3]), "'cubin.0' has no place in the file"),
        (lambda header, body: header["cubin.0"].update(data_offsets="all"), "'cubin.0' has no place in the file"),
        (lambda header, body: header.update({"cubin.0": None}), "'cubin.0' has no place in the file"),
        (lambda header, body: header["cubin.0"].update(data_offsets=[0, 1 << 30]), "is truncated"),
    ],
)
def test_a_well_sealed_file_with_nonsense_in_it(path, change, complaint):
    forge(path, lambda header, body: None)
    read_plan(path)
    forge(path, change)
    assert complaint in refused(path)


def test_large_weights_are_checked_in_pieces_before_the_end_of_loading(path, file, monkeypatch):
    monkeypatch.setattr(file_module, "_CHUNK", 100)
    write_plan(path, file)
    assert bytes(read_plan(path).constants) == file.constants
    data = bytearray(path.read_bytes())
    data[data.index(file.constants) + 450] ^= 1
    path.write_bytes(data)
    opened, check = open_plan(path)  # the weights are still being hashed
    assert opened.plan == file.plan
    with pytest.raises(PlanError, match="in tensor 'constants'"):
        check()


def test_a_full_disk_leaves_the_old_plan(path, file):
    """A file size limit fails as a full disk does: in the middle of writing."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(PlanError, match=r"cannot write .*tiny.plan: .*; free 4 MiB, or save to another place"):
            write_plan(path, replace(file, constants=bytes(5_000_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_cannot_be_written(tmp_path, file):
    with pytest.raises(PlanError, match="No such file or directory; check that the folder exists and can be written"):
        write_plan(tmp_path / "nowhere" / "a.plan", file)
    (tmp_path / "taken.plan").mkdir()
    with pytest.raises(PlanError, match=r"taken.plan: it is a folder or device, not a file; save to another"):
        write_plan(tmp_path / "taken.plan", file)
    assert os.listdir(tmp_path) == ["taken.plan"]


def test_a_device_is_not_replaced_by_a_file(tmp_path, file):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlanError, match="it is a folder or device"):
        write_plan(tmp_path / "pipe", file)
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_cannot_be_known_of_an_error_is_passed_on(tmp_path, file, monkeypatch):
    def refuse(*_):
        raise SafetensorError("no reason given")

    monkeypatch.setattr("safetensors.numpy.save_file", refuse)
    with pytest.raises(PlanError, match=r"no reason given; check that the folder .* or pray"):
        write_plan(tmp_path / "a.plan", file, instead="pray")
    assert os.listdir(tmp_path) == []


def test_an_interrupted_write_leaves_nothing(path, file, monkeypatch):
    before = path.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_plan(path, replace(file, constants=b"other"))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_permissions_follow_the_umask(path):
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_cubin_may_not_take_the_weights_name(tmp_path, file):
    with pytest.raises(PlanError, match="cannot be named 'constants'"):
        write_plan(tmp_path / "a.plan", replace(file, images={"constants": b""}))


def test_writers_do_not_disturb_each_other_or_a_reader(path, file):
    files = [replace(file, constants=bytes([i]) * 512) for i in range(4)]
    failures = []

    def write(index: int) -> None:
        for _ in range(5):
            write_plan(path, files[index])

    def read() -> None:
        for _ in range(40):
            if len(set(bytes(read_plan(path).constants))) not in (1, 256):
                failures.append("mixed")

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(path.parent) == [path.name]


# -- several architectures ---------------------------------------------------------------------------------------------


@pytest.fixture
def both(file):
    """The plan for sm_80 and sm_90, with the same weights and a cubin of its own for each."""
    kernels = tuple(replace(kernel, image="cubin.1") for kernel in file.plan.kernels)
    older = replace(file, plan=replace(file.plan, arch=80, kernels=kernels), images={"cubin.1": b"older"})
    return replace(file, others=(older,))


def test_plans_for_several_architectures_share_a_file_and_their_weights(tmp_path, file, both):
    path = tmp_path / "both.plan"
    write_plan(path, both)
    back = read_plan(path)
    assert [(one.plan, one.images, bytes(one.constants)) for one in back.every] == [
        (one.plan, one.images, one.constants) for one in both.every
    ]
    with safe_open(path, "np") as stored:
        assert sorted(stored.keys()) == ["constants", "cubin.0", "cubin.1"]
    write_plan(path, back)
    assert read_plan(path).others[0].plan == both.others[0].plan


def test_weights_that_differ_are_kept_apart(tmp_path, file, both):
    path = tmp_path / "both.plan"
    other = bytes(reversed(file.constants))
    write_plan(path, replace(both, others=(replace(both.others[0], constants=other),)))
    assert [bytes(one.constants) for one in read_plan(path).every] == [file.constants, other]


def test_any_changed_byte_of_any_of_them_is_found(tmp_path, both):
    path = tmp_path / "both.plan"
    other = bytes(reversed(both.constants))
    write_plan(path, replace(both, others=(replace(both.others[0], constants=other),)))
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    for at in range(start, len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(PlanError):
            read_plan(path)


def test_two_cubins_of_one_name_are_refused(tmp_path, both):
    clash = replace(both.others[0], images={"cubin.0": b"something else"})
    with pytest.raises(PlanError, match=r"two different cubins are named 'cubin\.0'"):
        write_plan(tmp_path / "both.plan", replace(both, others=(clash,)))


@pytest.mark.parametrize(("device", "chosen"), [(80, 80), (86, 80), (90, 90), (100, 90), (75, 90)])
def test_the_plan_that_fits_a_device(both, device, chosen):
    """The first, if none does: the loader then says what it was built for."""
    assert both.fitting(device).plan.arch == chosen


@pytest.mark.parametrize("others", [3, [3]])
def test_a_list_of_further_plans_that_is_none(tmp_path, others):
    with pytest.raises(PlanError, match="its list of further plans is none; build the plan again"):
        file_module._parts(tmp_path / "both.plan", {"plan": {}, "others": others})
