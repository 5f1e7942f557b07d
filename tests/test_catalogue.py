"""`jaxsep models --json`: exact counts and the names that row, file and config share."""

from jaxsep import catalogue
from jaxsep.config import configs_folder
from jaxsep.models import MODELS


def test_every_variant_has_a_row_with_counted_parameters():
    rows = {(row["name"], row["variant"]): row for row in catalogue.describe()}
    assert {name for name, _ in rows} == set(MODELS)
    assert {path.stem for path in configs_folder().glob("*.py")} == set(MODELS)
    for row in rows.values():
        assert list(row) == [
            *("name", "variant", "paper", "year", "params", "params_reference", "params_by_source"),
            *("params_reference_by_source", "sources", "sample_rate", "config"),
        ]
        assert row["params"] > 0 and row["params_reference"] in (None, row["params"])
        assert row["config"] == f"configs/{row['name']}.py:{row['variant']}"
    one, two, five = (rows["spleeter", variant] for variant in ("vocals", "2stems", "5stems"))
    assert one["params"] == 9_823_749
    assert two["params"] == 2 * one["params"] and five["params"] == 5 * one["params"]
    assert two["sources"] == ["vocals", "accompaniment"] and two["sample_rate"] == 44100
