"""Work by its kinds."""

from budwood.records.workload import Workload


def test_every_kind_has_its_own_speed() -> None:
    """10 / 5 + 12 / 4 + 6 / 2 + 9 / 3 + 8 / 8 seconds."""
    work = Workload(passes=10, products=12, panels=6, entries=9, moved=8)
    assert work.seconds(Workload(passes=5, products=4, panels=2, entries=3, moved=8)) == 12
    assert work.flops == 22


def test_systems_of_twice_the_rows_have_half_as_much_beside_products() -> None:
    assert Workload.solving(12, 3) == Workload(products=12, panels=4)
    assert Workload.solving(12, 6) == Workload(products=12, panels=2)


def test_work_adds_up() -> None:
    work = Workload(passes=1, moved=2) + Workload(passes=3, panels=4)
    assert work == Workload(passes=4, panels=4, moved=2)
    assert work.times(0.5) == Workload(passes=2, panels=2, moved=1)
