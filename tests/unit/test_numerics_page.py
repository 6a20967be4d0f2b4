"""docs/numerics.md ends with the vectors that the code prints."""

from loralith.verif.golden_tables import tables


def test_the_page_holds_the_vectors(repo):
    page = (repo / "docs" / "numerics.md").read_text()
    assert page.endswith("\n\n" + tables()), "run python -m loralith.verif.golden_tables and put its output at the end of docs/numerics.md"
