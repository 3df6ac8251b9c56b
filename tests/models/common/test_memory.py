"""What memory there is: of the machine, of control groups of both versions, of limits; and the words of a refusal."""

import pytest

from cai.models.common import memory
from cai.models.common.memory import TooLarge, bytes_there, in_words, require_memory

GB = 2**30


def group(folder, names, limit, used, idle):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used, f"inactive_anon 7\n{names[3]} {idle}\nx 1"), strict=False):
        (folder / name).write_text(f"{value}\n")


V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")


@pytest.mark.parametrize(("line", "top", "names"), [("0::/a/b\n", "", V2), ("4:cpu,memory:/a/b\n", "memory", V1)])
def test_every_group_above_counts(tmp_path, line, top, names):
    proc, mount = tmp_path / "proc", tmp_path / "mount"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("3:cpuset:/\n" + line)
    group(mount / top / "a" / "b", names, "max" if names is V2 else 2**63 - 4096, 3 * GB, 0)
    group(mount / top / "a", names, 4 * GB, 3 * GB, GB // 2)
    group(mount / top, names, 100 * GB, 9 * GB, 0)
    assert list(memory._of_groups(proc, mount)) == [GB + GB // 2, 91 * GB]


def test_a_container_sees_its_own_group_at_the_top(tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/seen/from/outside\n")
    group(tmp_path / "mount", V2, 2 * GB, GB, 0)
    assert list(memory._of_groups(tmp_path / "proc", tmp_path / "mount")) == [GB]
    assert list(memory._of_groups(tmp_path / "nothing", tmp_path)) == []


def test_the_machine_itself(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:      70 kB\n")
    assert list(memory._of_machine(tmp_path)) == [70 * 1024]
    assert all(found > 0 for found in memory._of_machine(tmp_path / "no"))


def test_limits_of_the_process(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**40 if which == resource.RLIMIT_AS else -1, -1))
    (left,) = memory._of_limits()
    assert 0 < left < 2**40


def test_the_least_counts(monkeypatch):
    for name, found in (("machine", [5]), ("groups", [7, 3]), ("limits", [])):
        monkeypatch.setattr(memory, f"_of_{name}", lambda found=found: found)
    assert bytes_there() == 3
    monkeypatch.setattr(memory, "_of_groups", lambda: [-4])
    assert bytes_there() == 0


def test_a_refusal_says_what_is_asked_what_is_there_and_what_to_do(monkeypatch):
    monkeypatch.setattr(memory, "bytes_there", lambda device: GB)
    require_memory(GB, "this", "ask for less")
    with pytest.raises(TooLarge) as refused:
        require_memory(3 * 10**12, "this", "ask for less")
    assert str(refused.value) == (
        "this takes about 3.0 TB (3,000,000,000,000 bytes) of memory, and 1.1 GB (1,073,741,824 bytes) are there; ask "
        "for less"
    )
    assert isinstance(refused.value, MemoryError)
    monkeypatch.setattr(memory, "bytes_there", lambda device: None)
    require_memory(3 * 10**12, "this", "ask for less")
    assert in_words(12) == "12 bytes"
