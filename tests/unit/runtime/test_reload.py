from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sidegate.policy.config import (
    AddressConfig,
    ConfigError,
    GateConfig,
    PolicyConfig,
    Protocol,
    TargetConfig,
    encode_config,
)
from sidegate.runtime import reload
from sidegate.runtime.reload import ConfigFile, Watch
from sidegate.runtime.tls import file_state


def make_config(*policies: str, target: str = "shop-db") -> GateConfig:
    address = AddressConfig(host="127.0.0.1", port=5433)
    wanted = TargetConfig(
        namespace="shop", name=target, protocol=Protocol.POSTGRES, environment="production", address=address, port=5432
    )
    return GateConfig.sealed(wanted, tuple(PolicyConfig(namespace="shop", name=name) for name in policies))


class Told:
    """A config file and everything it told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.configs: list[GateConfig] = []
        self.problems: list[ConfigError] = []
        self.file = ConfigFile(path, self.configs.append, self.problems.append)

    def write(self, data: bytes) -> None:
        """As a careful writer does: all at once."""
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(data)
        os.replace(fresh, self.path)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "gate.json")


def test_a_config_is_taken_up_once(told: Told) -> None:
    config = make_config("one")
    told.write(encode_config(config))
    told.file.check()
    told.file.check()
    told.file.check(is_forced=True)
    assert told.configs == [config]
    assert told.file.current == config
    assert told.problems == []


def test_without_a_file_there_is_no_config_and_the_problem_is_told_once(told: Told) -> None:
    told.file.check()
    told.file.check()
    assert told.file.current is None
    assert [str(problem) for problem in told.problems] == [f"gate config `{told.path}` can't be read: No such file or directory"]
    assert told.problems[0].way_forward
    told.write(encode_config(make_config()))
    told.file.check()
    assert told.file.current == make_config()
    assert told.file.problem is None


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"{}",
        encode_config(make_config("one"))[:-1],
        encode_config(make_config("one")).replace(b'"one"', b'"two"'),  # its revision is not its content's
        encode_config(make_config("one")).replace(b'"target":', b'"unknown":1,"target":'),
    ],
    ids=["empty", "cut", "fields-missing", "last-byte-missing", "forged", "unknown-field"],
)
def test_a_broken_config_keeps_the_last_good_one_and_is_told(told: Told, broken: bytes) -> None:
    good = make_config("one")
    told.write(encode_config(good))
    told.file.check()
    told.write(broken)
    told.file.check()
    told.file.check()
    assert told.file.current == good
    assert told.configs == [good]
    assert len(told.problems) == 1
    assert told.file.problem is told.problems[0]
    better = make_config("one", "two")
    told.write(encode_config(better))
    told.file.check()
    assert told.configs == [good, better]
    assert told.file.problem is None


def test_a_broken_config_at_start_leaves_the_gate_without_one(told: Told) -> None:
    told.write(b"{}")
    told.file.check()
    assert told.file.current is None
    assert len(told.problems) == 1


def test_a_config_that_is_removed_keeps_the_last_good_one_and_is_told(told: Told) -> None:
    told.write(encode_config(make_config()))
    told.file.check()
    told.path.unlink()
    told.file.check()
    assert told.file.current == make_config()
    assert len(told.problems) == 1


def test_a_config_for_another_target_is_refused(told: Told) -> None:
    told.write(encode_config(make_config("one")))
    told.file.check()
    told.write(encode_config(make_config("one", target="billing-db")))
    told.file.check()
    assert told.file.current == make_config("one")
    assert "`shop/billing-db`" in str(told.problems[0])


def test_a_config_over_the_size_limit_is_refused_without_being_read_whole(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "MAX_CONFIG_BYTES", 100)
    told.write(encode_config(make_config("one")))
    told.file.check()
    assert told.file.current is None
    assert "over 100 bytes" in str(told.problems[0])


def test_a_config_map_switched_behind_its_symbolic_link_is_taken_up(tmp_path: Path) -> None:
    for version, policies in (("..v1", ("one",)), ("..v2", ("one", "two"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "gate.json").write_bytes(encode_config(make_config(*policies)))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "gate.json").symlink_to("..data/gate.json")
    told = Told(tmp_path / "gate.json")
    told.file.check()
    (tmp_path / "..data_tmp").symlink_to("..v2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    told.file.check()
    assert told.configs == [make_config("one"), make_config("one", "two")]


def test_a_file_written_twice_within_one_tick_of_its_time_stamp_is_read_again(told: Told) -> None:
    first, second = make_config("aaa"), make_config("bbb")
    assert len(encode_config(first)) == len(encode_config(second))
    told.path.write_bytes(encode_config(first))
    told.file.check()
    told.path.write_bytes(encode_config(second))
    told.file._seen = file_state(told.path)  # as if the time stamp had not moved
    told.file.check()
    assert told.file.current == second


async def test_the_watch_sees_a_change_by_itself(told: Told) -> None:
    arrived = asyncio.Event()
    file = ConfigFile(told.path, lambda _: arrived.set(), told.problems.append)
    watching = asyncio.create_task(Watch([file.check], interval_s=0.01).run())
    async with asyncio.timeout(10):
        while not told.problems:
            await asyncio.sleep(0.005)
        told.write(encode_config(make_config()))
        await arrived.wait()
    watching.cancel()
    assert file.current == make_config()


async def test_sighup_looks_at_once(told: Told) -> None:
    looked = asyncio.Semaphore(0)

    def check() -> None:
        told.file.check()
        looked.release()

    watch = Watch([check], interval_s=3600.0)
    loop = asyncio.get_running_loop()
    watch.poke_at_sighup(loop)
    watching = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(10):
            await looked.acquire()
            told.write(encode_config(make_config()))
            os.kill(os.getpid(), signal.SIGHUP)
            await looked.acquire()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        watching.cancel()
    assert told.configs == [make_config()]


async def test_an_error_of_whoever_is_told_ends_the_watch() -> None:
    def fail() -> None:
        raise RuntimeError("could not apply")

    with pytest.raises(RuntimeError, match="could not apply"):
        await Watch([fail]).run()
