"""Config files: inheritance, options on the command line, and what is refused."""

import ast
from pathlib import Path

import pytest

from kd2.config import framework_of, read
from kd2.distill import ConfigError


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "run.yaml") -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_file


def test_a_file_becomes_a_plain_dict(write):
    assert read(write("SOLVER: {MAX_ITER: 5}")) == {"SOLVER": {"MAX_ITER": 5}}


def test_a_file_overrides_its_base_key_by_key(write):
    write("SOLVER: {MAX_ITER: 5, GAMMA: 0.5}", "base.yaml")
    assert read(write("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 9}")) == {"SOLVER": {"MAX_ITER": 9, "GAMMA": 0.5}}


def test_a_base_is_relative_to_the_file_that_names_it(write):
    write("SEED: 1", "base.yaml")
    write("_BASE_: ../base.yaml", "deeper/middle.yaml")
    assert read(write("_BASE_: deeper/middle.yaml")) == {"SEED": 1}


def test_of_several_bases_the_last_wins(write):
    write("{SEED: 1, OUTPUT_DIR: one}", "one.yaml")
    write("SEED: 2", "two.yaml")
    assert read(write("_BASE_: [one.yaml, two.yaml]")) == {"SEED": 2, "OUTPUT_DIR": "one"}


def test_a_group_cannot_replace_a_value_of_the_base(write):
    write("SOLVER: 1", "base.yaml")
    with pytest.raises(ConfigError, match="run.yaml: SOLVER is a group of keys here and a value in its _BASE_ file"):
        read(write("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 9}"))


def test_a_base_that_leads_back_is_refused(write):
    with pytest.raises(ConfigError, match="run.yaml: its _BASE_ files lead back to itself"):
        read(write("_BASE_: run.yaml"))


def test_a_base_is_found_in_the_working_folder_too(write, tmp_path, monkeypatch):
    write("SEED: 1", "work/base.yaml")
    monkeypatch.chdir(tmp_path / "work")
    assert read(write("_BASE_: base.yaml")) == {"SEED": 1}


def test_a_base_that_is_no_file_name_is_refused(write):
    with pytest.raises(ConfigError, match="run.yaml: _BASE_ is 5, expected a file or a list of files"):
        read(write("_BASE_: 5"))


@pytest.mark.parametrize(
    "text", ["SEED: 1\nSEED: 2", "SOLVER: {MAX_ITER: 1, MAX_ITER: 2}", "KD: {LOSSES: {a: {}, a: {}}}"]
)
def test_a_key_that_stands_twice_in_one_mapping_is_refused(write, text):
    with pytest.raises(ConfigError, match=r"run.yaml: line \d: the key (SEED|MAX_ITER|a) stands twice in one mapping"):
        read(write(text))


def test_the_same_key_in_two_mappings_is_no_repetition(write):
    assert read(write("A: {X: 1}\nB: {X: 1}")) == {"A": {"X": 1}, "B": {"X": 1}}


def test_an_alias_stands_for_its_value(write):
    assert read(write("A: &a {X: 1}\nB: *a")) == {"A": {"X": 1}, "B": {"X": 1}}


def test_aliases_that_stand_for_billions_of_values_are_refused(write):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="run.yaml: expected at most 100000 values"):
        read(write("\n".join(lines)))


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 {X: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}" for i in range(1, 2000)),
        "KD:\n  LOSSES:\n    a0: &a0 {X: 1}\n"
        + "\n".join(f"    a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 12)),
    ],
    ids=["merge keys", "losses"],
)
def test_aliases_that_stand_for_many_values_are_refused_wherever_they_stand(write, text):
    with pytest.raises(ConfigError, match="run.yaml: expected at most 100000 values; its aliases repeat one another"):
        read(write(text))


def test_a_merge_key_brings_the_keys_of_a_mapping_and_ones_own_win(write):
    assert read(write("A: &a {X: 1, Y: 2}\nB: {<<: *a, Y: 3}"))["B"] == {"X": 1, "Y": 3}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A: {<<: {X: 1, X: 2}}", "line 1: the key X stands twice in one mapping"),
        ("A: &a {X: 1}\nB: {<<: *a, <<: *a}", "line 2: the key << stands twice in one mapping"),
        ("A: &a {X: 1}\nB: {<<: [*a, *a]}", "line 2: << takes one mapping"),
    ],
)
def test_a_key_that_stands_twice_behind_a_merge_key_is_refused(write, text, found):
    with pytest.raises(ConfigError, match=f"run.yaml: {found}"):
        read(write(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SEED: 2020-01-01", r"SEED is datetime.date\(2020, 1, 1\) \(date\), expected a number"),
        ("SEED: !!binary aGVsbG8=", r"SEED is b'hello' \(bytes\), expected"),
        ("SEED: !!set {a}", r"SEED is \{'a'\} \(set\), expected"),
        ("KD: {LOSSES: {mgd: {WEIGHT: [0x11111111111111111]}}}", "KD.LOSSES.mgd.WEIGHT is 19676"),
        ("OUTPUT_DIR: 'a\n\n  b'", r"OUTPUT_DIR is 'a\\nb' \(str\), expected"),
        ('OUTPUT_DIR: "a\\0b"', r"OUTPUT_DIR is 'a\\x00b' \(str\), expected"),
        ("SOLVER: {~: 1}", "SOLVER has the key None, expected text; quotes make one"),
        ("on: 1", "the file has the key True, expected text"),
        ("? [a]\n: 1", "line 1: a key is a list or a mapping, expected text"),
        (f"A: {'[' * 40}{']' * 40}", r"A... is nested more than 30 times"),
        ("A: &a {B: *a}", r"is nested more than 30 times"),
        (f"A: {'[' * 4000}", "not a safe YAML mapping: maximum recursion depth exceeded"),
        ("A: 1\n---\nA: 2", "not a safe YAML mapping: expected a single document in the stream .* line 2"),
        ("#" * 200_001, "expected at most 200000 bytes of YAML"),
    ],
)
def test_what_no_config_has_is_refused(write, text, found):
    with pytest.raises(ConfigError, match=found) as error:
        read(write(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_than_utf_8_is_refused(write, tmp_path, encoding):
    Path(write("")).write_bytes("OUTPUT_DIR: Stra\u00dfe".encode(encoding))
    with pytest.raises(ConfigError, match="run.yaml: expected UTF-8 text"):
        read(str(tmp_path / "run.yaml"))


def test_a_byte_order_mark_is_no_part_of_the_text(write, tmp_path):
    Path(write("")).write_bytes("SEED: 1".encode("utf-8-sig"))
    assert read(str(tmp_path / "run.yaml")) == {"SEED": 1}


def test_bases_that_name_one_another_again_and_again_are_refused(write):
    write("SEED: 1", "0.yaml")
    for i in range(1, 10):
        write(f"_BASE_: [{i - 1}.yaml, {i - 1}.yaml]", f"{i}.yaml")
    with pytest.raises(ConfigError, match="expected at most 50 files together with all _BASE_ files"):
        read(write("_BASE_: 9.yaml"))


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("-2E+4", -2e4), ("1e", "1e"), ("e3", "e3")])
def test_a_number_with_an_exponent_needs_no_dot(write, text, value):
    assert read(write(f"X: {text}"))["X"] == value


def test_a_quoted_number_stays_text_below_free_keys(write):
    assert read(write("DATASETS: {CUSTOM: {voc: {SPLIT: '2012'}}}"))["DATASETS"]["CUSTOM"]["voc"]["SPLIT"] == "2012"


@pytest.mark.parametrize("value", ["b'a'", "{1, 2}", "1j", "..."])
def test_an_option_of_a_python_type_that_configs_lack_is_refused(write, value):
    with pytest.raises(ConfigError, match="^X is .*, expected a number, True, False, None or text"):
        read(write("SEED: 1"), ["X", value])


def test_options_override_the_file(write):
    assert read(write("SOLVER: {MAX_ITER: 5}"), ["SOLVER.MAX_ITER", "7"]) == {"SOLVER": {"MAX_ITER": 7}}


def test_options_reach_groups_that_the_file_lacks(write):
    loaded = read(write("SEED: 1"), ["KD.LOSSES.hint.WEIGHT", "1e-3"])
    assert loaded == {"SEED": 1, "KD": {"LOSSES": {"hint": {"WEIGHT": 0.001}}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("True", True),
        ("[800, 832]", [800, 832]),
        ("(800,)", (800,)),
        ("{}", {}),
        ("a/b.pth", "a/b.pth"),
    ],
)
def test_an_option_is_the_python_literal_it_spells_or_text(write, text, value):
    assert read(write("SEED: 1"), ["SOLVER.OPTIMIZER_ARGS", text])["SOLVER"]["OPTIMIZER_ARGS"] == value


def test_an_odd_number_of_options_is_refused(write):
    with pytest.raises(ConfigError, match="expected KEY VALUE pairs, found 3 words: SEED 1 OUTPUT_DIR$"):
        read(write("SEED: 1"), ["SEED", "1", "OUTPUT_DIR"])


def test_an_option_below_a_value_is_refused(write):
    with pytest.raises(ConfigError, match="^SEED.X: SEED is a value, not a group of keys$"):
        read(write("SEED: 1"), ["SEED.X", "1"])


def test_the_anchors_of_detectron2s_base_file_are_read_without_evaluating_them(write):
    """The text as Base-RetinaNet.yaml has it."""
    code = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
    found = read(write(f'SIZES: !!python/object/apply:eval ["{code}"]'))["SIZES"]
    assert found == [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:eval [\"__import__('os').mkdir('{}')\"]",
        "!!python/object/apply:os.mkdir ['{}']",
        "!!python/object/new:os.mkdir ['{}']",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!!python/object/apply:eval {{a: '{}'}}",
        "!!python/object/apply:eval '{}'",
    ],
)
@pytest.mark.parametrize("place", ["SIZES: {}", "a: &x {}\nb: *x", "{}: 1", "_BASE_: {}"])
def test_no_text_of_a_file_is_evaluated(write, tmp_path, text, place):
    with pytest.raises(ConfigError, match="not a safe YAML mapping|a key is a list or a mapping"):
        read(write(place.replace("{}", text.format(tmp_path / "marker"))))
    assert not (tmp_path / "marker").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^config file .*nowhere.yaml: No such file or directory$"):
        read(str(tmp_path / "nowhere.yaml"))


def test_a_missing_base_is_named(write):
    with pytest.raises(ConfigError, match=r"^config file .*nowhere.yaml: No such file or directory$"):
        read(write("_BASE_: nowhere.yaml"))


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory$"):
        read(str(tmp_path))


def test_yaml_tags_that_run_code_are_refused_and_do_not_run(write, tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(ConfigError, match="not a safe YAML mapping: could not determine a constructor for the tag"):
        read(write(f"SEED: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trace}']]"))
    assert not trace.exists()


def test_text_that_is_no_yaml_is_refused_with_its_line(write):
    with pytest.raises(ConfigError, match="(?s)run.yaml: not a safe YAML mapping: .*line 2"):
        read(write("SEED: 1\nSOLVER: ]"))


def test_a_binary_file_is_refused(write, tmp_path):
    Path(write("")).write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="run.yaml: expected UTF-8 text"):
        read(str(tmp_path / "run.yaml"))


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "5"])
def test_a_file_that_is_no_mapping_is_refused(write, text):
    with pytest.raises(ConfigError, match="run.yaml: expected a mapping of keys"):
        read(write(text))


@pytest.mark.parametrize("text", ["", "- a"])
def test_a_base_that_is_no_mapping_is_refused(write, text):
    write(text, "base.yaml")
    with pytest.raises(ConfigError, match="expected a mapping of keys"):
        read(write("_BASE_: base.yaml"))


def test_the_framework_is_read_from_the_file():
    assert framework_of({"FRAMEWORK": "torchvision"}, "run.yaml") == "torchvision"


def test_without_a_framework_it_is_detectron2():
    assert framework_of({}, "run.yaml") == "detectron2"


def test_an_unknown_framework_is_refused_with_a_near_name():
    with pytest.raises(ConfigError, match=r"^FRAMEWORK in run.yaml is 'torchvison'; did you mean torchvision\?$"):
        framework_of({"FRAMEWORK": "torchvison"}, "run.yaml")


def test_an_alias_is_a_value_of_its_own(write):
    loaded = read(write("a: &x {b: 1}\nc: *x\n"), ["c.b", "2"])
    assert loaded == {"a": {"b": 1}, "c": {"b": 2}}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["SEED", "1", "SEED", "2"], "KEY VALUE: SEED is given twice, the last counts"),
        (
            ["KD.LOSSES.a.SHARE", "1", "KD.LOSSES.a.WEIGHT", "2"],
            "KEY VALUE: KD.LOSSES.a.WEIGHT replaces KD.LOSSES.a.SHARE, given before it",
        ),
        (
            ["KD.LOSSES.a.SHARE", "1", "KD.LOSSES", "{}"],
            "KEY VALUE: KD.LOSSES replaces KD.LOSSES.a.SHARE, given before it",
        ),
        (["KD.LOSSES", "{}", "KD.LOSSES.a.SHARE", "1", "SEED", "2"], ""),
    ],
)
def test_of_two_pairs_for_one_thing_the_last_counts_with_a_warning(write, caplog, options, told):
    found = read(write("SEED: 0"), options)
    assert [record.message for record in caplog.records] == [told][: bool(told)]
    last = found
    for key in options[-2].split("."):
        last = last[key]
    assert last == ast.literal_eval(options[-1])


def test_a_group_as_a_value_would_drop_the_keys_of_the_file(write):
    with pytest.raises(
        ConfigError, match="^MODEL is given a group of keys, expected the keys in it, such as MODEL.KEY VALUE"
    ):
        read(write("MODEL: {DEVICE: cpu, WEIGHTS: a.pth}"), ["MODEL", "{'DEVICE': 'cuda'}"])


@pytest.mark.parametrize("key", ["KD.LOSSES", "KD.LOSSES.mgd", "SOLVER.OPTIMIZER_ARGS"])
def test_a_group_that_takes_any_keys_can_be_a_value(write, key):
    read(write("SEED: 1"), [key, "{'RATIO': 0.5}"])


@pytest.mark.parametrize(("base", "own"), [("WEIGHT", "SHARE"), ("SHARE", "WEIGHT")])
def test_of_share_and_weight_a_file_that_inherits_gives_the_one_that_counts(write, base, own):
    write(f"KD: {{LOSSES: {{mgd: {{{base}: 1, RATIO: 0.5}}}}}}", "base.yaml")
    found = read(write(f"_BASE_: base.yaml\nKD: {{LOSSES: {{mgd: {{{own}: 2}}}}}}"))["KD"]["LOSSES"]["mgd"]
    assert found == {own: 2, "RATIO": 0.5}


def test_a_weight_takes_back_how_a_share_is_measured(write):
    write("KD: {LOSSES: {mgd: {SHARE: 1, CALIBRATE_ITERS: 3}}}", "base.yaml")
    assert read(write("_BASE_: base.yaml\nKD: {LOSSES: {mgd: {WEIGHT: 2}}}"))["KD"]["LOSSES"]["mgd"] == {"WEIGHT": 2}
