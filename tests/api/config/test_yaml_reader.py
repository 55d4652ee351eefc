"""YAML as plain values: no shared objects, limits, and a place in every error."""

from __future__ import annotations

import pytest

from trackside.callbacks.errors import ConfigError
from trackside.config.yaml_reader import VALUE_LIMIT, read_text, read_yaml


def test_an_alias_is_the_value_of_its_anchor_and_not_the_same_object():
    values, places = read_yaml("a: &x {k: [1]}\nb: *x\n", "f.yaml")

    values["b"]["k"].append(2)

    assert values == {"a": {"k": [1]}, "b": {"k": [1, 2]}}
    assert places["b", "k"] == "f.yaml:1"


def test_a_merge_key_gives_what_the_map_lacks_and_the_first_of_several_wins():
    text = "a: &a {k: 1, l: 1}\nb: &b {l: 2, m: 2}\nc:\n  m: 3\n  <<: [*a, *b]\n"

    values, places = read_yaml(text, "f.yaml")

    assert values["c"] == {"k": 1, "l": 1, "m": 3}
    assert (places["c", "l"], places["c", "m"]) == ("f.yaml:1", "f.yaml:4")


BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))])
MERGES = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 10))]
)
CHAIN = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 300))])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, rf"f.yaml:\d+: a\d.*: with all its aliases the document has more than {VALUE_LIMIT} values"),
        (MERGES, rf"f.yaml:\d+: a\d.<<: with all its aliases the document has more than {VALUE_LIMIT} values"),
        (CHAIN, r"f.yaml:\d+: a\d+.0.0.0.0.0.0.0....: it is nested deeper than 100 levels"),
        ("[" * 50_000, r"f.yaml:1:\d+: this is not valid YAML: it is nested deeper than 100 levels"),
        ("a: 1\nb:\n " + "- " * 50_000, r"f.yaml:3:\d+: this is not valid YAML: it is nested deeper than 100 levels"),
        ("a: {b: " + "9" * 5000 + "}", r"f.yaml:1: a.b: this is not a value: Exceeds the limit"),
        ("a: !!bool x", r"f.yaml:1: a: this is not a value: 'x'"),
        ("a: 1\nb: !!python/object/apply:os.system [x]", r"f.yaml:2: b: the tag .*os.system is not allowed"),
        ("a: !!set {x}", r"f.yaml:1: a: the tag .*set is not allowed"),
        ("a: !mine 3", r"f.yaml:1: a: the tag !mine is not allowed"),
        ("a: 1\n---\nb: 1", r"f.yaml:2:1: this is not valid YAML: but found another document"),
        ("a:\n\tb: 1", r"f.yaml:2:1: this is not valid YAML: here is a tab; YAML is indented by spaces"),
        ("a:\n  b: 1\n c: 2", r"f.yaml:3:2: this is not valid YAML: this does not go on from the lines before it"),
        ("'doc'\nimport os", r"f.yaml:\d+:\d+: this is not valid YAML: this does not go on from what stands before"),
        ("a: 1\n\x07", r"f.yaml:2: this is not valid YAML: special characters are not allowed"),
        ("args:\n  ~: 1", r"f.yaml:2: args.~: a name is needed as key"),
        ("args: {[a]: 1}", r"f.yaml:1: args.\?: a name is needed as key"),
        ("args: {5: 1}", r"f.yaml:1: args.5: a name is needed as key"),
        ("model: {init_args: {true: 1}}", r"f.yaml:1: model.init_args.true: a name is needed as key"),
        ("model: {init_args: {x: {null: 1}}}", r"f.yaml:1: .*x.null: text, a number, true or false is needed as key"),
        ("args: &a {seed: 1, <<: *a}", r"f.yaml:1: args.<<: an alias of what it stands in"),
        ("args: {<<: 5}", r"f.yaml:1: args.<<: a map or a list of maps is needed"),
        ("callbacks: &a\n  csv: {path: *a}\n", r"f.yaml:2: callbacks.csv.path: an alias of what it stands in"),
        ("callbacks: &a\n  csv:\n  - *a\n", r"f.yaml:3: callbacks.csv.0: an alias of what it stands in"),
        ("x" * (2**20 + 1), r"f.yaml: a configuration has at most 1048576 characters"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text, expected):
    with pytest.raises(ConfigError, match=f"^{expected}"):
        read_yaml(text, "f.yaml")


def test_keys_within_a_value_may_be_numbers():
    values, _ = read_yaml("model: {init_args: {weights: {0: 1.0, 1: 2.0}}}", "f.yaml")

    assert values["model"]["init_args"]["weights"] == {0: 1.0, 1: 2.0}


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "*x", "!x y", "@", "a # b", "2024-01-01"])
def test_what_is_not_yaml_on_the_command_line_is_a_text(text):
    assert read_text(text) == text
