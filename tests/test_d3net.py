"""D3Net against its transcription, and its counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription_dense as oracle
from dense_parity import assert_equal, count, randomised, shapes, spectrum

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.models.d3net import D3Net
from jaxsep.weights import d3net as weights

NARROW = D3Net(
    splits=(8,),
    top=24,
    first=(4, 3, 4),
    growth=((3, 4, 3, 3, 3), (2,) * 3, (2, 3, 2)),
    layers=((2, 3, 2, 2, 1), (1,) * 3, (2, 3, 2)),
    final_growth=3,
    final_layers=3,
)


def test_equal_to_the_transcription():
    """Bins above `top` included."""
    bands = {
        "low": (8, oracle.Net(4, (3, 4, 3, 3, 3), (2, 3, 2, 2, 1), 2, dilated=True)),
        "middle": (16, oracle.Net(3, (2,) * 3, (1,) * 3, 1, dilated=True)),
    }
    full = oracle.Net(4, (2, 3, 2), (2, 3, 2), 2, dilated=True)
    final = {"growth": 3, "layers": 3, "dilated": True}
    assert_equal(NARROW, spectrum(1, 12, 29, 2), lambda p, x: oracle.d3net(p, x, bands, full, final), bands, (2, 1, 1))


@pytest.mark.full
@pytest.mark.parametrize("source, poolings", [("vocals", (3, 2, 4)), ("bass", (3, 3, 4))])
def test_equal_to_the_transcription_at_full_width(source, poolings):
    config = configs.load_config("d3net.py")
    net, sizes = separator.build(config).net.nets[source], oracle.D3NET[source]
    z = spectrum(1, 16, 2049, 2)
    assert_equal(net, z, lambda p, x: oracle.d3net(p, x, **sizes), sizes["bands"], poolings, gradient=False)


PARTS = {
    "vocals": {"band0": 1_331_572, "middle": 658, "full": 1_614_993, "final": 12_810},
    "drums": {"band0": 1_231_714, "middle": 658, "full": 1_620_728, "final": 12_810},
    "bass": {"band0": 1_175_122, "middle": 804, "full": 1_224_690, "final": 11_832},
}


@pytest.mark.parametrize("source", PARTS)
def test_parameters(source):
    """Of each part as the config builds it; "other" is as vocals."""
    config = configs.load_config("d3net.py")
    nets = separator.build(config).net.nets
    assert nets["other"] == nets["vocals"]
    params = shapes(nets[source], jax.ShapeDtypeStruct((1, 256, 2049, 2), jnp.complex64))["params"]
    merge = params["merge"]
    parts = {
        "band0": count(params["band0"]),
        "middle": count([params["band1"], merge["match1"], merge["match_norm1"]]),
        "full": count(params["full"]),
        "final": count(merge["block"]),
    }
    assert parts == PARTS[source]
    assert count([merge["norm"], merge["filter"], merge["gate"]]) == 76
    assert count([params["input"], params["output"]]) == 7_298
    assert count(params) == configs.load_module("d3net.py").VARIANTS["paper"][source]


def test_bins_above_the_top_are_the_mixtures():
    """And nothing that the net has reaches them."""
    z = spectrum(1, 8, 29, 2)
    y = jax.jit(NARROW.apply, static_argnums=(2, 3))(randomised(NARROW, z), z, None, False)
    np.testing.assert_array_equal(y[:, :, 24:], jnp.abs(z)[:, :, 24:])
    assert float(jnp.abs(y[:, :, :24] - jnp.abs(z)[:, :, :24]).min()) > 0


def test_sources_take_the_same_lengths():
    nets = separator.build(configs.load_config("d3net.py")).net.nets.values()
    assert {net.lengths(250) for net in nets} == {(256, 256)}


@pytest.mark.parametrize(
    "fields, shape, message",
    [
        ({}, (6, 29), "6 frames, expected a multiple of 4"),
        ({}, (8, 20), "20 bins, fewer than model.top=24"),
        ({"splits": (6,)}, (8, 29), "a band of 6 bins, expected a multiple of 4"),
        ({"top": 25, "splits": (8,)}, (8, 29), "a band of 17 bins, expected a multiple of 2"),
        ({"splits": ()}, (8, 29), "need 2 entries each"),
    ],
)
def test_what_it_refuses(fields, shape, message):
    with pytest.raises(JaxsepError, match=message):
        NARROW.clone(**fields).init(jax.random.key(0), spectrum(1, *shape, 2), None, False)


# --- the authors' checkpoints --------------------------------------------------------------------------------------


class NNabla:
    """Writes a net as NNabla does, names and layouts as the authors' layers are called: one call per layer."""

    def __init__(self, file, net, variables):
        self.file, self.net, self.scope = file, net, []
        self.params, self.stats = variables["params"], variables.get("batch_stats", {})

    def leaf(self, name, array):
        self.file.create_dataset("/".join([*self.scope, name]), data=np.ascontiguousarray(array))

    def at(self, *path):
        inner = NNabla.__new__(NNabla)
        inner.__dict__ = {**self.__dict__, "scope": [*self.scope, *path]}
        return inner

    def conv(self, name, params):
        """PF.convolution: W [out in kh kw]."""
        self.at(name, "conv").leaf("W", np.transpose(params["kernel"], (3, 2, 0, 1)))
        self.at(name, "conv").leaf("b", params["bias"])

    def deconv(self, name, params):
        """PF.deconvolution: W [in out kh kw], ours [kh kw out in]."""
        self.at(name, "deconv").leaf("W", np.transpose(params["kernel"], (3, 2, 0, 1)))
        self.at(name, "deconv").leaf("b", params["bias"])

    def norm(self, name, params, stats):
        """PF.batch_normalization: [1 c 1 1]."""
        values = {"gamma": params["scale"], "beta": params["bias"], "mean": stats["mean"], "var": stats["var"]}
        for leaf, value in values.items():
            self.at(name, "bn").leaf(leaf, np.reshape(value, (1, -1, 1, 1)))

    def dense(self, params, stats):
        for i in range(len(params)):
            unit = self.at("layers", f"layer{i}", "bottleneck") if i else self.at("initial_layer", "bottleneck")
            unit.norm("norm1", params[f"layer{i}"]["norm"], stats[f"layer{i}"]["norm"])
            unit.conv("conv1", params[f"layer{i}"]["conv"])

    def d3(self, params, stats):
        for b in range(len(params)):
            block = self.at("layers", f"layer{b}") if b else self.at("initial_block")
            block.dense(params[f"block{b}"], stats[f"block{b}"])

    def u_net(self, params, stats):
        depth = sum(name.startswith("encoder") for name in params)
        for i in range(depth):
            self.at("ds_layers", f"dense_block{i}").d3(params[f"encoder{i}"], stats[f"encoder{i}"])
        self.at("bottleneck_block").d3(params["bottleneck"], stats["bottleneck"])
        for i in range(depth):
            up = self.at("us_layers", f"upsample{i}", "upsample")
            up.norm("norm", params[f"up_norm{i}"], stats[f"up_norm{i}"])
            up.deconv("transconv", params[f"up{i}"])
            self.at("us_layers", f"dense_block{depth + 1 + i}").d3(params[f"decoder{i}"], stats[f"decoder{i}"])

    def d3net(self):
        p, s = self.params, self.stats
        for name, value in (
            ("in_offset", p["input"]["offset"]),
            ("in_scale", p["input"]["scale"]),
            ("decode_scale", p["output"]["scale"]),
            ("decode_bias", p["output"]["bias"]),
        ):
            self.leaf(name, np.reshape(value, (1, 1, 1, -1)))
        for i in range(2):
            self.conv(f"features_init/{i}", p[f"band{i}"]["entry"])
            self.at("dense_band", str(i)).u_net(p[f"band{i}"], s[f"band{i}"])
        self.conv("features_init_full", p["full"]["entry"])
        self.at("dense_full").u_net(p["full"], s["full"])
        self.at("match_fm_conv", "1").norm("norm", p["merge"]["match_norm1"], s["merge"]["match_norm1"])
        self.at("match_fm_conv", "1").conv("conv", p["merge"]["match1"])
        self.at("final_dense").dense(p["merge"]["block"], s["merge"]["block"])
        gate = self.at("out_gate")
        gate.norm("bn", p["merge"]["norm"], s["merge"]["norm"])
        gate.conv("conv_filt/conv", p["merge"]["filter"])
        gate.conv("conv_gate/conv", p["merge"]["gate"])


@pytest.fixture
def narrow(monkeypatch):
    """A narrow config in place of the published one."""
    config = configs.load_config("d3net.py").copy_and_resolve_references()
    with config.unlocked():
        for field in ("splits", "top", "first", "growth", "layers", "blocks", "final_growth", "final_layers"):
            config.model[field] = getattr(NARROW, field)
        config.model_by_source = {"bass": {"splits": (12,)}}
        config.front.update(frame=64, hop=16, bins=33)
        config.block, config.data.segment = 8, 7 * 16
    monkeypatch.setattr(weights, "published", lambda: config.copy_and_resolve_references())
    return config


def write(path, nets, z):
    """An .h5 of these nets; returns their weights."""
    h5py = pytest.importorskip("h5py", reason="the extra weights brings h5py")
    drawn = {}
    with h5py.File(path, "w") as file:
        for source, net in nets.items():
            drawn[source] = randomised(net, z, seed=len(source))
            NNabla(file.create_group(source), net, drawn[source]).d3net()
    return drawn


@pytest.mark.parametrize("form", ["one file", "a file each"])
def test_checkpoints_are_read(narrow, tmp_path, form):
    """Every tensor in its place, whatever the order of the files; and nothing else is in them."""
    nets, z = separator.build(narrow).net.nets, spectrum(1, 8, 33, 2)
    parts = [["bass", "vocals"]] if form == "one file" else [["bass"], ["vocals"]]
    files, drawn = [], {}
    for number, part in enumerate(parts):
        files.append(tmp_path / f"{number}.h5")
        drawn |= write(files[-1], {source: nets[source] for source in part}, z)
    found = weights.read(files)
    assert found.config.sources == "vocals,bass"
    model = separator.build(found.config)
    y = jax.jit(lambda v, z: model.apply(v, z, method=lambda m, z: m.net(z, None, False)))(found.variables, z)
    for number, source in enumerate(("vocals", "bass")):
        expected = jax.jit(nets[source].apply, static_argnums=(2, 3))(drawn[source], z, None, False)
        np.testing.assert_allclose(y[:, number], expected, rtol=1e-5, atol=1e-6)


def test_checkpoints_that_are_refused(narrow, tmp_path):
    """By name: what is missing, not expected, mis-shaped, there twice, or not a source."""
    h5py = pytest.importorskip("h5py", reason="the extra weights brings h5py")
    file, z = tmp_path / "vocals.h5", spectrum(1, 8, 33, 2)
    nets = separator.build(narrow).net.nets
    write(file, {"vocals": nets["vocals"]}, z)
    with pytest.raises(JaxsepError, match=r"has a net for .vocals., as .*vocals.h5 has"):
        weights.read([file, file])
    with h5py.File(file, "a") as content:
        del content["vocals/out_gate/conv_gate/conv/conv/b"]
        content["vocals/surplus"] = np.zeros(3)
        del content["vocals/in_scale"]
        content["vocals/in_scale"] = np.ones((1, 1, 1, 32))
    with pytest.raises(JaxsepError) as error:
        weights.read([file])
    message = str(error.value)
    assert "missing: vocals/out_gate/conv_gate/conv/conv/b" in message
    assert "not expected: vocals/surplus" in message
    assert "vocals/in_scale (1, 1, 1, 32) for params/input/scale (33,)" in message
    write(tmp_path / "piano.h5", {"piano": nets["vocals"]}, z)
    with pytest.raises(JaxsepError, match="has a net for 'piano', expected vocals,drums,bass,other"):
        weights.read([tmp_path / "piano.h5"])


def test_the_published_nets_have_the_authors_names():
    """Each variable of the four nets has a rule, and the other way round."""
    config = configs.load_config("d3net.py")
    z = jax.ShapeDtypeStruct((1, 16, 2049, 2), jnp.complex64)
    for net in list(separator.build(config).net.nets.values())[:3]:
        paths = jax.tree_util.tree_flatten_with_path(shapes(net, z))[0]
        assert {"/".join(key.key for key in path) for path, _ in paths} == set(weights.table(net))
