"""`jaxsep models --json`: exact counts and the names that row, file and config share."""

from jaxsep import catalogue
from jaxsep.config import configs_folder
from jaxsep.models import MODELS

# (system, variant) -> source ("" = one net for all) -> (ours, reference). Where they differ, the
# reference's LSTMs (PyTorch, cuDNN) have a second bias: 4 * units for each direction and layer.
PUBLISHED = {
    ("spleeter", "vocals"): {"vocals": (9_823_749, 9_823_749)},
    ("cunet", "simple-dense"): {"": (9_844_847, 9_844_847)},
    ("cunet", "complex-dense"): {"": (12_159_875, 12_159_875)},
    ("cunet", "simple-cnn"): {"": (9_834_703, 9_834_703)},
    ("cunet", "complex-cnn"): {"": (10_416_275, 10_416_275)},
    ("lasaft", "small"): {"": (8_424_028, 8_424_028)},
    ("lasaft", "large"): {"": (31_541_908, 31_541_908)},
    ("lasaft", "light"): {"": (2_374_236, 2_374_236)},
    ("mmdensenet", "paper"): {"vocals": (339_468, 339_468)},
    ("mmdenselstm", "paper"): {"bass": (1_368_576, 1_370_784)},
    ("d3net", "paper"): {
        "vocals": (2_967_407, 2_967_407),
        "drums": (2_873_284, 2_873_284),
        "bass": (2_419_822, 2_419_822),
        "other": (2_967_407, 2_967_407),
    },
    ("open_unmix", "umx"): {"vocals": (8_887_204, 8_893_348)},
    ("open_unmix", "umxhq"): {"drums": (8_887_204, 8_893_348)},
    ("open_unmix", "umxl"): {"other": (28_244_900, 28_257_188)},
    ("blstm", "spleeter"): {"vocals": (8_628_048, 8_634_048)},
    ("phasen", "speech"): {"": (34_995_753, 35_000_553)},
    ("wave_unet", "m4"): {"": (10_263_390, 10_263_390)},
    ("wave_unet", "m6"): {"": (10_263_498, 10_263_498)},
    ("wave_unet", "m7"): {"": (20_594_652, 20_594_652)},
}


def test_every_variant_has_a_row_with_counted_parameters():
    rows = {(row["name"], row["variant"]): row for row in catalogue.describe()}
    assert {name for name, _ in rows} == set(MODELS)
    assert {path.stem for path in configs_folder().glob("*.py")} == set(MODELS)
    for row in rows.values():
        assert list(row) == [
            *("name", "variant", "paper", "year", "params", "params_reference", "params_by_source"),
            *("params_reference_by_source", "sources", "sample_rate", "config"),
        ]
        assert (row["params"] > 0 and row["params_reference"] is None) or row["params_reference"] >= row["params"]
        assert row["config"] == f"configs/{row['name']}.py:{row['variant']}"
    for (name, variant), nets in PUBLISHED.items():
        row = rows[name, variant]
        for source, counts in nets.items():
            keys = ("params_by_source", "params_reference_by_source") if source else ("params", "params_reference")
            found = tuple(row[key][source] if source else row[key] for key in keys)
            assert found == counts, (name, variant, source)
    one, two, five = (rows["spleeter", variant] for variant in ("vocals", "2stems", "5stems"))
    assert one["params"] == 9_823_749
    assert two["params"] == 2 * one["params"] and five["params"] == 5 * one["params"]
    assert two["sources"] == ["vocals", "accompaniment"] and two["sample_rate"] == 44100
