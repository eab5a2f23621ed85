from gradscope.sources import Place, place_of, places


def test_places_are_read_from_what_a_trace_holds():
    held = places({"sources": {"a/b.py": {"fc": 3, "": 1}, "c.py": {"x.y": 9}}})
    assert held == {
        "fc": Place(file="a/b.py", line=3),
        "": Place(file="a/b.py", line=1),
        "x.y": Place(file="c.py", line=9),
    }
    assert places({}) == places({"sources": None}) == places({"sources": {"a.py": [1]}}) == {}


def test_the_nearest_part_that_is_known_tells_the_place():
    held = places({"sources": {"m.py": {"layer1": 3, "": 1}}})
    assert place_of("layer1.relu#0", held).line == 3
    assert place_of("other", held).line == 1
    assert place_of("", held).line == 1
    assert place_of("other", {}) is None
