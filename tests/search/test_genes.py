"""Genes survive the disk, and one candidate is read without the others."""

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import members

from budwood.arch.selection import Selection
from budwood.search.genes import Genes, stored_bytes


@given(st.lists(members().map(lambda drawn: drawn[1]), min_size=1, max_size=5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_genes_survive_the_disk(tmp_path_factory: pytest.TempPathFactory, selections: list[Selection]) -> None:
    genes = Genes(tmp_path_factory.mktemp("genes"))
    genes.write(0, selections)
    genes.write(len(selections), selections[:1])
    opened = Genes.open(genes.folder)
    read = [opened.read(place) for place in range(len(selections))]
    assert read == selections
    assert [layer.neurons for one in read for layer in one.layers] == [
        layer.neurons for one in selections for layer in one.layers
    ]
    assert opened.read(len(selections)) == selections[0]
    for number in (-1, len(selections) + 1):
        with pytest.raises(ValueError, match=f"evaluation={number}: .* has no candidate of this number"):
            opened.read(number)


@pytest.fixture
def fine() -> list[Selection]:
    """Return candidates of a layer with 5,000 neurons."""
    layer = {"layer": 0, "groups": 1, "queries": 1, "pairs": 1}
    rows = [{**layer, "neurons": list(range(place, 20_000, 4))} for place in range(8)]
    return [Selection.from_dict({"hidden": 4, "layers": [row]}) for row in rows]


def test_a_candidate_is_a_row_group_of_its_own(fine, tmp_path) -> None:
    genes = Genes(tmp_path / "genes")
    genes.write(0, fine)
    (file,) = genes.folder.glob("*.parquet")
    assert pq.ParquetFile(file).num_row_groups == len(fine)
    assert file.stat().st_size == pytest.approx(stored_bytes(fine), rel=0.01)
    # Four bytes an index, before compression; as text they took more than five.
    assert stored_bytes(fine) < 4 * 5_000 * len(fine)


def test_what_an_interrupted_search_has_written_stays(fine, tmp_path) -> None:
    genes = Genes(tmp_path / "genes")
    with pytest.raises(ValueError, match="has no genes of a search"):
        Genes.open(genes.folder)
    genes.write(0, fine)
    (genes.folder / "00000008.partial").write_bytes(b"torn")
    first = genes.fingerprint
    genes.write(0, fine[:1])
    assert (genes.read(7), genes.fingerprint) == (fine[7], first)
    genes.write(8, fine)
    assert genes.fingerprint != first
