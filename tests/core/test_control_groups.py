"""What containers and services may use: limits of control groups, of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from colbert_core import control_groups, hardware
from colbert_core.control_groups import memory_left, processor_quotas

NO_LIMIT = 9223372036854771712  # of version 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "membership"


def write(group: Path, **files: object) -> None:
    """Files of a group; of each name the first "_" is a dot, as in memory.max."""
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("_", ".", 1)).write_text(f"{text}\n")


def test_memory_is_what_each_group_leaves(root: Path, membership: Path) -> None:
    def limit(group: Path, most: object, used: int, pages: int) -> None:
        stat = f"anon 500\ninactive_file {pages}"
        write(group, memory_max=most, memory_current=used, memory_stat=stat)

    limit(root / "a.slice" / "b.service", 1000, 700, 90)
    limit(root / "a.slice", "max", 9999, 1)
    limit(root, 600, 590, 0)
    membership.write_text("1:name=systemd:/elsewhere\n0::/a.slice/b.service\n")
    assert memory_left(root, membership) == [390, 10]
    membership.write_text("0::/\n")  # as seen from within a container
    assert memory_left(root, membership) == [10]
    membership.write_text("1:name=systemd:/elsewhere\n")
    assert memory_left(root, membership) == []
    assert memory_left(root, root / "none") == []


def test_memory_by_version_1(root: Path, membership: Path) -> None:
    def limit(group: Path, most: int, used: int) -> None:
        stat = "inactive_file 3\ntotal_inactive_file 40"
        write(group, memory_limit_in_bytes=most, memory_usage_in_bytes=used, memory_stat=stat)

    limit(root / "memory" / "kubepods", 1000, 700)
    limit(root / "memory", NO_LIMIT, 800)
    membership.write_text("5:cpu:/kubepods\n4:hugetlb,memory:/kubepods\n0::/\n")
    assert memory_left(root, membership) == [340, NO_LIMIT - 760]
    membership.write_text("4:memory:/of/the/host\n")  # a container's is at the root
    limit(root / "memory", 500, 300)
    assert memory_left(root, membership) == [240]


def test_processors_are_what_each_group_may_use(root: Path, membership: Path) -> None:
    write(root / "a.slice" / "b.service", cpu_max="150000 100000")
    write(root / "a.slice", cpu_max="max 100000")
    membership.write_text("0::/a.slice/b.service\n")
    assert processor_quotas(root, membership) == [1.5]
    write(root, cpu_max="50000 100000")
    assert processor_quotas(root, membership) == [1.5, 0.5]


def test_processors_by_version_1(root: Path, membership: Path) -> None:
    write(root / "cpu" / "pod", cpu_cfs_quota_us=300000, cpu_cfs_period_us=100000)
    write(root / "cpu", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100000)
    membership.write_text("4:cpu,cpuacct:/pod\n3:cpuset:/\n")
    assert processor_quotas(root, membership) == [3.0]


def test_no_more_searches_at_once_than_a_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    count = hardware.processors()
    for quotas, expected in (([0.2], 1), ([1e9], count), ([2.5, 0.9], 1), ([], count)):
        monkeypatch.setattr(control_groups, "processor_quotas", lambda quotas=quotas: quotas)
        hardware.processors.cache_clear()
        assert hardware.processors() == hardware.searches_at_once("cpu") == expected
    hardware.processors.cache_clear()
