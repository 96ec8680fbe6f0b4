"""Work by its kinds."""

from budwood.records.workload import Workload


def test_every_kind_has_its_own_speed() -> None:
    """10 / 5 + 12 / 4 + 6 / 2 + 8 / 8 seconds."""
    work = Workload(passes=10, products=12, solves=6, moved=8)
    assert work.seconds(Workload(passes=5, products=4, solves=2, moved=8)) == 9
    assert work.flops == 28


def test_work_adds_up() -> None:
    work = Workload(passes=1, moved=2) + Workload(passes=3, solves=4)
    assert work == Workload(passes=4, solves=4, moved=2)
    assert work.times(0.5) == Workload(passes=2, solves=2, moved=1)
