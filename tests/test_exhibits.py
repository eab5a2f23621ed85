import json

import pytest

from gradscope.exhibits import Exhibit
from gradscope.findings import finite


def test_the_document_has_every_number_unrounded_and_vectors_as_lists():
    exhibit = Exhibit(title="States", heads=("t", "h", "norm"), rows=(("0", (1 / 3, float("nan")), 2 / 3),), note="n")
    document = json.loads(json.dumps(finite(exhibit.to_dict()), allow_nan=False))
    assert document == {
        "title": "States",
        "heads": ["t", "h", "norm"],
        "rows": [["0", [pytest.approx(1 / 3), "nan"], pytest.approx(2 / 3)]],
        "note": "n",
    }
