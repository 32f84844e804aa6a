"""One configuration in YAML and on the command line, strict about keys and values."""

import pytest

from secateur.assignments import parse_assignment, parse_texts
from secateur.config import (
    RunConfig,
    build_config,
    differing_fields,
    read_yaml,
    resolve,
    to_yaml,
    without_folders,
)
from secateur.errors import ConfigError
from secateur.inputs import load_inputs


def test_an_unknown_key_suggests_the_nearest():
    with pytest.raises(
        ConfigError, match=r"unknown config key 'budget.kep'; known: band, keep, .*; did you mean 'keep'\?"
    ):
        build_config([{"budget": {"kep": 0.5}}])


def test_an_unknown_section_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown config section 'prunning'; known: .*; did you mean 'pruning'\?"):
        build_config([{"prunning": {"ridge": 0.5}}])


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("budget", "band", 0),
        ("budget", "keep", "half"),
        ("search", "measurements", 24),
        ("search", "initial_share", 1.0),
        ("search", "method", "evolution"),
        ("search", "finalists", 0),
        ("paper", "scale", 0),
        ("paper", "tokens", 127),
        ("pruning", "reconstruction", "ols"),
        ("pruning", "ridge", 0),
        ("space", "ffn_levels", 1),
        ("evaluation", "batch_tokens", 0),
        ("model", "device", "tpu"),
        ("data", "sequence_length", 7),
        ("data", "sources", "text.txt"),
    ],
)
def test_a_bad_value_is_named_with_its_place(section, field, value):
    with pytest.raises(ConfigError, match=rf"{section}\.{field}={value!r} is not allowed: ") as caught:
        build_config([{section: {field: value}}])
    assert "\n" not in str(caught.value)


def test_a_section_that_is_no_section_says_what_it_holds():
    with pytest.raises(ConfigError, match=r"config section 'budget' is 0.5, expected fields: keep, band"):
        build_config([{"budget": 0.5}])


def test_a_bad_seed_is_refused():
    with pytest.raises(ConfigError, match="seed=-1 is not allowed"):
        build_config([{"seed": -1}])


def test_an_unknown_importance_is_refused_before_anything_is_loaded(save_model, tmp_path):
    """Not ten minutes in, when calibration is over."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"w{3 + number % 90} w{3 + number // 90} w7 w9" for number in range(2_000)))
    with pytest.raises(ConfigError, match="did you mean 'taylor'"):
        load_inputs(
            build_config(
                [
                    {
                        "model": {"name": str(save_model(tmp_path / "model")), "device": "cpu"},
                        "data": {"sources": [str(text)], "sequence_length": 16},
                        "budget": {"keep": 0.75, "band": 0.05},
                        "pruning": {"importance": "tailor"},
                    }
                ]
            )
        )


class TestMerging:
    def test_later_layers_win_field_by_field(self):
        config = build_config([{"budget": {"keep": 0.5, "band": 0.02}}, {"budget": {"keep": 0.6}}, {"seed": 3}])
        assert (config.budget.keep, config.budget.band, config.seed) == (0.6, 0.02, 3)

    def test_the_layers_are_not_changed(self):
        first = {"budget": {"keep": 0.5}}
        build_config([first, {"budget": {"keep": 0.6}}])
        assert first == {"budget": {"keep": 0.5}}

    def test_nothing_gives_the_defaults(self):
        assert build_config([]) == RunConfig()


class TestAssignments:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("budget.keep=0.5", {"budget": {"keep": 0.5}}),
            ("seed=7", {"seed": 7}),
            ("baselines.uniform=false", {"baselines": {"uniform": False}}),
            ("space.multiple_of=null", {"space": {"multiple_of": None}}),
            ("pruning.importance=wanda", {"pruning": {"importance": "wanda"}}),
            ("data.calibration=path/to.txt", {"data": {"calibration": ["path/to.txt"]}}),
            ("data.sources=[a.txt, b.txt]", {"data": {"sources": ["a.txt", "b.txt"]}}),
            ("data.sources=2024.txt", {"data": {"sources": ["2024.txt"]}}),
            ("data.sources=id:config:split", {"data": {"sources": ["id:config:split"]}}),
            ("model.name=a=b", {"model": {"name": "a=b"}}),
        ],
    )
    def test_values_are_read_as_yaml_and_a_source_may_stand_alone(self, text, expected):
        assert parse_assignment(text) == expected
        build_config([parse_assignment(text)])

    @pytest.mark.parametrize("text", ["budget.keep", "=0.5", "budget.=0.5", ".keep=1", "a.b.c=1", ""])
    def test_another_form_is_refused(self, text):
        with pytest.raises(ConfigError, match=r"is not of the form section\.field=value"):
            parse_assignment(text)

    def test_a_value_that_is_no_yaml_is_refused_in_one_line(self):
        with pytest.raises(ConfigError, match="the value is not YAML") as caught:
            parse_assignment("data.sources=[a, b")
        assert "\n" not in str(caught.value)

    def test_a_name_made_of_digits_is_still_a_name(self):
        """A revision is often a commit, and some commits are all digits."""
        assert build_config([parse_assignment("model.revision=1234567")]).model.revision == "1234567"


class TestYaml:
    def test_what_is_written_is_read_again(self, tmp_path):
        config = build_config(
            [{"data": {"sources": ["a.txt"]}, "budget": {"keep": 0.3}, "pruning": {"ridge": 1e-5}, "seed": 4}]
        )
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(config))
        assert build_config([read_yaml(path)]) == config

    def test_every_field_is_written(self):
        text = to_yaml(RunConfig())
        for section, field in RunConfig.model_fields.items():
            assert f"{section}:" in text
            for name in getattr(field.annotation, "model_fields", {}):
                assert f"  {name}:" in text

    @pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"a: b: c"])
    def test_a_file_that_cannot_be_read_is_refused_in_one_line(self, tmp_path, content):
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read_yaml(tmp_path / "config.yaml")
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_yaml(tmp_path / "config.yaml")

    @pytest.mark.parametrize(("content", "kind"), [("[1, 2]", "list"), ("word", "str"), ("", "NoneType")])
    def test_a_file_without_sections_is_refused(self, tmp_path, content, kind):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(ConfigError, match=f"is a {kind}, expected sections with fields"):
            read_yaml(tmp_path / "config.yaml")


def test_differing_fields_are_named_with_both_values():
    one = build_config([{"budget": {"keep": 0.5}}])
    other = build_config([{"budget": {"keep": 0.6}, "seed": 1}])
    assert differing_fields(one, other) == ["seed: 0 != 1", "budget.keep: 0.5 != 0.6"]
    assert differing_fields(one, one) == []


def test_what_is_published_names_no_folders(tmp_path):
    given = {
        "model": {"name": "/home/someone/tiny"},
        "data": {"sources": ["/home/someone/text.txt", "hub/id"]},
        "paper": {"perplexity": ["/home/someone/wiki.txt"], "multiple_choice": "/home/someone/mmlu"},
    }
    public = to_yaml(without_folders(build_config([given])))
    assert "someone" not in public
    for kept in ("tiny", "text.txt", "hub/id", "wiki.txt", "mmlu"):
        assert kept in public


class TestResolve:
    def test_names_of_files_become_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "text.txt").write_text("x")
        (tmp_path / "model").mkdir()
        config = resolve(build_config([{"model": {"name": "model"}, "data": {"sources": ["text.txt", "hub/id"]}}]))
        assert config.model.name == str(tmp_path / "model")
        assert config.data.sources == (str(tmp_path / "text.txt"), "hub/id")

    def test_the_demo_model_brings_its_text(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert resolve(RunConfig()).data.sources == ("demo",)
        assert resolve(RunConfig()).model.name == "demo"

    def test_another_model_needs_text(self):
        with pytest.raises(ConfigError, match="no text was given; add --data PATH"):
            resolve(build_config([{"model": {"name": "hub/id"}}]))

    def test_three_own_sources_are_enough(self):
        data = {"calibration": ["a"], "selection": ["b"], "evaluation": ["c"]}
        config = build_config([{"model": {"name": "hub/id"}, "data": data}])
        assert resolve(config) == config
        with pytest.raises(ConfigError, match="no text was given"):
            resolve(build_config([{"model": {"name": "hub/id"}, "data": {"calibration": ["a"], "selection": ["b"]}}]))

    def test_targets_of_the_paper_become_absolute_too(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "wiki.txt").write_text("x")
        (tmp_path / "mmlu").mkdir()
        paper = resolve(
            build_config([{"paper": {"perplexity": ["wiki.txt", "hub/id"], "multiple_choice": "mmlu"}}])
        ).paper
        assert paper.perplexity == (str(tmp_path / "wiki.txt"), "hub/id")
        assert paper.multiple_choice == str(tmp_path / "mmlu")

    def test_texts_of_groups_become_absolute_and_are_published_by_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "fi.txt").write_text("text")
        groups = parse_texts(["finnish=fi.txt", "other=org/set"], "--groups")
        config = resolve(build_config([{"model": {"name": "demo"}, "data": {"groups": {"finnish": "fi.txt"}}}]))
        assert groups == {"finnish": str(tmp_path / "fi.txt"), "other": "org/set"}
        assert config.data.groups == {"finnish": str(tmp_path / "fi.txt")}
        assert without_folders(config).data.groups == {"finnish": "fi.txt"}

    def test_resolving_twice_changes_nothing(self):
        once = resolve(RunConfig())
        assert resolve(once) == once
