"""Configs: what is refused, what is suggested, and that what is written is what is read."""

import json

import pytest

from jaxsep import config as configs
from jaxsep.errors import JaxsepError

SPLEETER = "configs/spleeter.py"


def test_sources_map_names_to_the_stems_they_sum():
    assert configs.parse_sources("vocals, accompaniment=drums+bass+other") == {
        "vocals": ("vocals",),
        "accompaniment": ("drums", "bass", "other"),
    }


@pytest.mark.parametrize("text", ["", "vocals,", "vocals,vocals", "acc=drums+drums", "=drums", "a=b+"])
def test_malformed_sources_are_refused(text):
    with pytest.raises(JaxsepError, match="sources="):
        configs.parse_sources(text)


def test_unknown_file_lists_what_there_is():
    with pytest.raises(JaxsepError, match=r"no_such\.py: no such config file; .*spleeter"):
        configs.load_config("no_such.py")


def test_unknown_variant_gets_a_suggestion():
    with pytest.raises(JaxsepError, match="did you mean 'demo'"):
        configs.load_config(f"{SPLEETER}:dmo")


def test_misspelt_key_gets_a_suggestion():
    with pytest.raises(AttributeError, match="learning_rate"):
        configs.load_config(SPLEETER).optim.learning_rte = 1.0


def test_wrong_type_is_refused():
    with pytest.raises(TypeError):
        configs.load_config(SPLEETER).steps = "many"


def test_unknown_field_of_a_part_gets_a_suggestion():
    config = configs.load_config(SPLEETER).unlock()
    config.front.hopp = 512
    from jaxsep import separator

    with pytest.raises(JaxsepError, match=r"front\.hopp is not a field of Stft .*did you mean 'hop'"):
        separator.build(config)


def test_unknown_part_names_the_choices():
    config = configs.load_config(SPLEETER)
    config.model.name = "spleter"
    from jaxsep import separator

    with pytest.raises(JaxsepError, match=r"model\.name='spleter' is unknown.*did you mean 'spleeter'"):
        separator.build(config)


def test_source_without_its_stem_is_refused():
    config = configs.load_config(f"{SPLEETER}:2stems")
    config.data.stems = "vocals,drums,bass"
    with pytest.raises(JaxsepError, match="'accompaniment' needs the stem 'other'"):
        configs.check(config)


@pytest.mark.parametrize("key", ["steps", "log_every", "eval_every", "save_every"])
def test_durations_below_one_are_refused(key):
    config = configs.load_config(SPLEETER)
    config[key] = 0
    with pytest.raises(JaxsepError, match=f"{key}=0"):
        configs.check(config)


def test_json_round_trip_keeps_every_value(tmp_path):
    config = configs.load_config(f"{SPLEETER}:demo")
    text = configs.to_json(config)
    (tmp_path / "config.json").write_text(text)
    again = configs.run_config(tmp_path)
    assert configs.to_json(again) == text
    assert json.loads(text)["model"]["channels"] == list(config.model.channels)
    with pytest.raises(AttributeError):
        again.stepz = 3


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(JaxsepError, match="not a run folder"):
        configs.run_config(tmp_path)


def test_a_damaged_run_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 1')
    with pytest.raises(JaxsepError, match=r"config\.json: damaged"):
        configs.run_config(tmp_path)


@pytest.mark.parametrize(("before", "now"), [(0.0, ()), (0.999, (0.999,)), ([0.9, 0.5], (0.9, 0.5))])
def test_runs_with_one_decay_or_none_are_read(tmp_path, before, now):
    text = json.loads(configs.to_json(configs.load_config(f"{SPLEETER}:demo")))
    text["optim"]["ema"] = before
    (tmp_path / "config.json").write_text(json.dumps(text))
    assert configs.run_config(tmp_path).optim.ema == now


def test_every_config_file_builds_and_is_consistent():
    for path in sorted(configs.configs_folder().glob("*.py")):
        module = configs.load_module(path)
        for variant in module.VARIANTS:
            config = module.get_config(variant)
            configs.check(config)
            assert (config.name, config.variant) == (path.stem, variant)
            assert config.paper.title and config.paper.year > 1990


def test_runs_of_before_a_key_was_added_are_read_as_they_were(tmp_path):
    """What lacks its newest keys gets them; a front end, a net or a head gets none that it does not have."""
    config = configs.load_config("conv_tasnet.py:demo")
    text = json.loads(configs.to_json(config))
    for section, key in (("", "context"), ("data", "shift"), ("loss", "pit"), ("inference", "shifts"), ("", "init")):
        del (text[section] if section else text)[key]
    del text["data"]["augment"]["hook"]
    (tmp_path / "config.json").write_text(json.dumps(text))
    assert configs.to_json(configs.run_config(tmp_path)) == configs.to_json(config)
