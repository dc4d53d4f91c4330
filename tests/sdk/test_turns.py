"""Jobs side by side in simulated time, on a clock that is made up."""

import threading
import time
from collections.abc import Set

import pytest
from leptonaicsdk import ContextKilledError, StateError
from leptonaicsdk.turns import Turns


class Clock:
    """Contexts that work for so many cycles each; noise of the host must not be seen in any."""

    def __init__(self, **work: list[int]):
        self.cycle = 0
        self._work = {int(name[1:]): iter(cycles) for name, cycles in work.items()}
        self._ends: dict[int, int] = {}
        self.seen: list[tuple[frozenset[int], int | None]] = []

    def start(self, context: int):
        self._ends[context] = self.cycle + next(self._work[context])

    def advance(self, contexts: Set[int], until: int | None) -> Set[int]:
        assert threading.current_thread() is threading.main_thread()
        self.seen.append((frozenset(contexts), until))
        ends = [self._ends[context] for context in contexts] + ([] if until is None else [until])
        self.cycle = max(self.cycle, min(ends))
        return {context for context in contexts if self._ends[context] <= self.cycle}


def job(turns: Turns, context: int, programs: int, log: list, host: float = 0.0):
    def work():
        for number in range(programs):
            time.sleep(host)
            turns.clock.start(context)
            log.append((context, number, turns.wait(context)))
        return f"job {context}"

    return work


def test_cycles_are_those_of_the_core_whatever_the_host_does():
    logs = []
    for host in (0.0, 0.01):
        clock, log = Clock(c0=[5, 5, 5], c3=[4, 7, 1]), []
        turns = Turns(clock)
        done = turns.run(job(turns, 0, 3, log), job(turns, 3, 3, log, host))
        assert done.results == ("job 0", "job 3")
        assert done.cycles == (15, 12)
        assert done.total == 15
        logs.append(log)
    assert logs[0] == [(3, 0, 4), (0, 0, 5), (0, 1, 10), (3, 1, 11), (3, 2, 12), (0, 2, 15)]
    assert logs[1] == logs[0]


def test_time_stands_still_until_all_wait():
    clock, log = Clock(c0=[5], c1=[5]), []
    turns = Turns(clock)
    turns.run(job(turns, 0, 1, log), job(turns, 1, 1, log, 0.02))
    assert clock.seen == [({0, 1}, None)]


def test_alone_the_caller_waits_itself():
    clock = Clock(c2=[8])
    turns = Turns(clock)
    clock.start(2)
    assert turns.wait(2) == 8
    turns.pause(10)
    assert clock.cycle == 18


def test_a_job_may_pause_while_others_work():
    clock, log = Clock(c0=[30]), []
    turns = Turns(clock)

    def watch():
        turns.pause(10)
        log.append(clock.cycle)
        turns.pause(40)

    done = turns.run(job(turns, 0, 1, log), watch)
    assert log == [10, (0, 0, 30)]
    assert done.cycles == (30, 50)


def test_an_exception_is_handed_on_when_the_others_have_ended():
    clock, log = Clock(c0=[5, 5]), []
    turns = Turns(clock)
    with pytest.raises(ZeroDivisionError):
        turns.run(lambda: 1 / 0, job(turns, 0, 2, log))
    assert log[-1] == (0, 1, 10)
    with pytest.raises(ExceptionGroup) as group:
        turns.run(lambda: 1 / 0, lambda: [][0])
    assert [type(error) for error in group.value.exceptions] == [ZeroDivisionError, IndexError]


def test_a_wait_is_ended_by_an_exception_from_another_job():
    clock, log = Clock(c0=[1000]), []
    turns = Turns(clock)

    def kill():
        turns.pause(7)
        turns.throw(0, ContextKilledError("context 0 was killed"))

    def killed():
        with pytest.raises(ContextKilledError, match="context 0 was killed"):
            job(turns, 0, 1, log)()
        return clock.cycle

    assert turns.run(killed, kill).results[0] == 7
    assert not log


def test_an_error_of_the_clock_or_an_interrupt_ends_every_job():
    for error in (RuntimeError("bus"), KeyboardInterrupt()):
        clock, ended = Clock(c0=[5], c1=[5]), []
        turns = Turns(clock)

        def advance(contexts, until, error=error):
            raise error

        def work(context, turns=turns, clock=clock, ended=ended):
            clock.start(context)
            try:
                turns.wait(context)
            finally:
                ended.append(context)

        clock.advance = advance
        with pytest.raises(type(error)):
            turns.run(lambda work=work: work(0), lambda work=work: work(1))
        assert ended == [0, 1]
        assert turns.run(lambda: 3).results == (3,)


def test_misuse():
    clock, log = Clock(c0=[5, 5], c1=[5]), []
    turns = Turns(clock)
    with pytest.raises(StateError, match="context 0 runs a program of another job"):
        turns.run(job(turns, 0, 1, log), job(turns, 0, 1, log))
    with pytest.raises(StateError, match=r"the core is running jobs already; run\(\) takes several at once"):
        turns.run(lambda: turns.run(lambda: 1))
    refused = []

    def outside():
        try:
            turns.check()
        except StateError as error:
            refused.append(str(error))

    def start():
        thread = threading.Thread(target=outside)
        thread.start()
        thread.join()

    turns.run(start)
    assert refused == ["the core is running jobs; what else is to use it must be one of them: run() takes several"]
    assert turns.run().total == 0
