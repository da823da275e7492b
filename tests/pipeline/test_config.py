from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model.config import ModelConfig
from pipeline.config import StreamConfig
from pipeline.config_file import dump_config, load_config
from pipeline.errors import ConfigError
from pipeline.inference.network_predictor import load_predictor

CONFIGS = Path(__file__).parents[2] / "configs"


def test_default_yaml_spells_out_exactly_the_code_defaults() -> None:
    text = (CONFIGS / "default.yaml").read_text()
    assert yaml.safe_load(text) == yaml.safe_load(dump_config(StreamConfig()))
    assert dump_config(load_config(CONFIGS / "default.yaml")) == dump_config(StreamConfig())
    comments = text[text.index("network: {}") : text.index("max_instances:")].replace("  #   ", "    ")
    block = comments[comments.index("    # ResNet") :]
    fields = yaml.safe_load(block[: block.rindex("    num_frames: 3") + 17])
    assert fields == ModelConfig().to_dict()


def test_the_dump_of_the_default_config_runs_and_so_does_default_yaml(tmp_path: Path) -> None:
    """The weights that ship are not the network of the code's defaults."""
    path = tmp_path / "dump.yaml"
    path.write_text(dump_config(StreamConfig()))
    for source in (path, CONFIGS / "default.yaml"):
        assert load_predictor(load_config(source)).facts.name == "default"


@pytest.mark.parametrize("side", ["360", "100"])
def test_a_size_that_the_weights_cannot_take_is_a_config_error(side: str) -> None:
    with pytest.raises(ConfigError, match=r"height: .* multiple of"):
        load_predictor(load_config(overrides=[f"model.network.height={side}"]))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads_and_its_dump_loads_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    copy = tmp_path / "dump.yaml"
    copy.write_text(dump_config(config))
    assert dump_config(load_config(copy)) == dump_config(config)


def test_other_configs_list_only_what_differs() -> None:
    defaults = yaml.safe_load(dump_config(StreamConfig()))
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.name == "default.yaml":
            continue
        tree = yaml.safe_load(path.read_text())
        untrained = tree["model"].get("weights", "") is None
        defaults["model"]["network"] = {  # a weights file has its own
            name: value if untrained else ... for name, value in ModelConfig().to_dict().items()
        }
        for section, values in tree.items():
            for key, value in values.items():
                for name, inner in value.items() if isinstance(value, dict) else [(None, value)]:
                    default = defaults[section][key] if name is None else defaults[section][key][name]
                    assert inner != default, f"{path.name}: {section}.{key}.{name} repeats the default"


def test_a_source_may_be_a_string_a_map_of_names_or_the_whole_section() -> None:
    assert StreamConfig(source="clip.mp4").source.inputs == {"source0": "clip.mp4"}  # type: ignore[arg-type]
    both = StreamConfig(source={"left": "a.mp4", "right": "b.mp4"})  # type: ignore[arg-type]
    assert both.source.inputs == {"left": "a.mp4", "right": "b.mp4"}
    section = load_config(values={"source": {"inputs": {"cam": "rtsp://host/x"}, "wait": True}})
    assert section.source.wait
    assert section.source.inputs == {"cam": "rtsp://host/x"}


def test_later_layers_win_and_keep_what_they_do_not_name(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("source: rtsp://camera/live\nwindow: {stride: 2}\npublish: {block: true}\n")
    config = load_config(
        path,
        overrides=["window.stride=3", "source.connect_timeout_seconds=4"],
        values={"publish": {"address": "tcp://127.0.0.1:5555"}},
    )
    assert config.window.stride == 3
    assert config.publish.block
    assert config.publish.address == "tcp://127.0.0.1:5555"
    assert config.source.inputs == {"source0": "rtsp://camera/live"}
    assert config.source.connect_timeout_seconds == 4.0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("window.strid=2", ["window.strid", "did you mean 'stride'"]),
        ("windows.stride=2", ["windows", "did you mean 'window'"]),
        ("window.stride=two", ["window.stride", "integer", "'two'"]),
        ("window.stride=6", ["window.stride 6", "num_frames = 3"]),
        ("window.stride=0", ["window.stride", "greater than or equal to 1"]),
        ("model.network.num_frames=0", ["model.network", "num_frames", "0"]),
        ("model.network.height=193", ["model.network", "height", "193"]),
        ("model.network.hight=192", ["model.network", "hight", "height"]),
        ("model.network.num_queries=many", ["model.network", "num_queries", "many"]),
        ("cadence.fps=0", ["cadence.fps", "source"]),
        ("cadence.fps=fast", ["cadence.fps", "source"]),
        ("source.inputs={'a b': x.mp4}", ["source.inputs", "'a b'", "not allowed"]),
        ("emission=never", ["emission", "'first', 'final' or 'both'"]),
        ("nonsense", ["--set", "section.key=value"]),
        ("window=[1, 2]", ["window"]),
    ],
)
def test_a_bad_key_or_value_is_an_error_that_names_it(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    for word in words:
        assert word in str(caught.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    for content, word in (
        (b"window: {strid: 1}", "strid"),
        (b"a: [", "YAML"),
        (b"- 1", "map of sections"),
        (b"\xff\xfe\x00", "text file"),
    ):
        path = tmp_path / "broken.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.yaml") as caught:
            load_config(path)
        assert word in str(caught.value)
    (tmp_path / "secret.yaml").write_text("source: {inputs: {a: rtsp://u:s3cr3t@h/x\nwindow: ][")
    (tmp_path / "deep.yaml").write_text("[" * 3000)
    for name in ("secret.yaml", "deep.yaml"):
        with pytest.raises(ConfigError, match=name) as caught:
            load_config(tmp_path / name)
        assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"absent\.yaml.*No such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_recording_of_several_sources_needs_their_names() -> None:
    values = {"source": {"inputs": {"a": "x.mp4", "b": "y.mp4"}}, "record": {"path": "out.mp4"}}
    with pytest.raises(ConfigError, match=r"\{source\}"):
        load_config(values=values)
    values["record"] = {"path": "out-{source}.mp4"}
    assert load_config(values=values).record.path == "out-{source}.mp4"


def test_limits_of_a_recording_need_files_that_rotate_and_room_for_one() -> None:
    for key in ("keep_files", "keep_bytes", "keep_seconds"):
        with pytest.raises(ConfigError, match=rf"record: .*{key}.*set max_seconds or max_bytes"):
            load_config(overrides=["record.path=x.mp4", f"record.{key}=200000"])
    with pytest.raises(ConfigError, match=r"keep_bytes 200000 is less than one file of max_bytes 300000"):
        load_config(overrides=["record.max_bytes=300000", "record.keep_bytes=200000"])
    assert load_config(overrides=["record.max_seconds=60", "record.keep_files=3"]).record.rotates


def test_holding_frames_and_finals_only_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"cadence\.hold.*emission: first or both"):
        load_config(overrides=["cadence.hold=true", "emission=final"])


def test_an_address_and_a_path_may_stand_for_their_sections() -> None:
    config = load_config(values={"publish": "tcp://127.0.0.1:5555", "record": "out.mp4"})
    assert config.publish.address == "tcp://127.0.0.1:5555"
    assert config.record.path == "out.mp4"
