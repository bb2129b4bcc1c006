"""The schema files, their ids and their examples belong together: whoever changes one side alone is told what to do."""

import base64
import json
import shutil
from dataclasses import fields
from io import BytesIO
from pathlib import Path

import fastavro
import pytest
import yaml

from pipeline import records
from pipeline.codec import Codec
from pipeline.codec.schemas import Schemas, schema_fingerprint, schema_id
from pipeline.codec.values import SCHEMA_OF
from pipeline.errors import ConfigError
from pipeline.records import Case
from pipeline.share import share
from pipeline.topics import load_topics

FOLDER = share("schemas")
SCHEMAS = Schemas(FOLDER)
CODEC = Codec(SCHEMAS)
PAYLOADS = sorted((Path(__file__).parent / "payloads").glob("*.b64"))
EXAMPLES = sorted((FOLDER / "examples").glob("*/*.json"))
DECODE = {
    "case": CODEC.decode_case,
    "decision": CODEC.decode_decision,
    "review": CODEC.decode_review,
    "blocked": CODEC.decode_blocked,
    "audit": CODEC.decode_audit,
    "review_verdict": CODEC.decode_verdict,
    "decision_outcome": CODEC.decode_outcome,
}


def raw(name):
    return json.loads((FOLDER / f"{name}.avsc").read_text("utf-8"))


def records_in(node):
    """Every named type inside a schema, outermost first."""
    if isinstance(node, list):
        for part in node:
            yield from records_in(part)
    elif isinstance(node, dict):
        if node.get("type") in ("record", "enum"):
            yield node
        for part in (node.get("fields"), node.get("items"), node.get("values"), node.get("type")):
            yield from records_in(part)


def wire(schema, plain):
    out = BytesIO()
    out.write(schema.header)
    fastavro.schemaless_writer(out, schema.parsed, plain)
    return out.getvalue()


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
def test_bytes_that_were_once_written_are_read_for_ever(path):
    name = path.stem.partition(".")[0]
    data = base64.b64decode(path.read_text("ascii"))
    if name in DECODE:
        assert DECODE[name](data) == DECODE[name](CODEC.encode(DECODE[name](data)))
    else:
        assert CODEC.read(data)[0].name == name


def test_every_version_that_was_ever_written_has_a_payload_here():
    """When this fails after a new version of a schema: add tests/contract/payloads/NAME.vN.b64 with bytes of it."""
    versions = {f"{schema.name}.v{schema.version}" for schema in SCHEMAS.by_id.values()}
    assert {path.stem for path in PAYLOADS} == versions


@pytest.fixture
def copy(tmp_path):
    """A copy of the schemas that a test may change."""
    return shutil.copytree(FOLDER, tmp_path / "schemas")


def edit(folder, name, change):
    path = folder / f"{name}.avsc"
    schema = json.loads(path.read_text("utf-8"))
    change(schema)
    path.write_text(json.dumps(schema), "utf-8")
    return schema


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_example_round_trips(example):
    schema = SCHEMAS.newest(example.parent.name)
    plain = json.loads(example.read_text("utf-8"))
    data = wire(schema, plain)
    assert CODEC.read(data) == (schema, plain)
    if schema.name in DECODE:
        assert CODEC.encode(DECODE[schema.name](data)) == data


def test_every_schema_has_a_typical_a_minimal_and_a_nasty_example():
    found = {path.relative_to(FOLDER / "examples").with_suffix("").as_posix() for path in EXAMPLES}
    wanted = {f"{name}/{case}" for name in SCHEMAS.names for case in ("typical", "minimal", "nasty-unicode")}
    assert wanted <= found


def test_every_example_belongs_to_a_schema():
    assert {path.parent.name for path in EXAMPLES} == set(SCHEMAS.names)


def test_every_schema_is_used_by_a_topic_or_the_codec():
    of_topics = {topic.schema for topic in load_topics()}
    assert set(SCHEMAS.names) - of_topics - set(SCHEMA_OF.values()) == {"ticket"}, "ticket: for the entrance"
    assert of_topics - {"bytes", "event", "json"} == set(SCHEMA_OF.values())


@pytest.mark.parametrize("name", SCHEMAS.names)
def test_every_schema_lies_in_our_namespace_and_is_described(name):
    assert raw(name)["namespace"] == "lockgate"
    assert all("doc" in node for node in records_in(raw(name)) if node["type"] == "record")


@pytest.mark.parametrize("name", sorted(SCHEMA_OF.values()))
def test_schema_and_dataclass_have_the_same_fields(name):
    for node in records_in(raw(name)):
        if node["type"] == "record":
            kind = getattr(records, node["name"])
            assert [field["name"] for field in node["fields"]] == [field.name for field in fields(kind)]
        else:
            assert node["symbols"] == [member.value for member in getattr(records, node["name"])]


def test_a_type_that_stands_in_several_files_is_the_same_in_all():
    seen = {}
    for name in SCHEMAS.names:
        for node in records_in(raw(name)):
            bare = {key: value for key, value in node.items() if key != "namespace"}
            assert seen.setdefault(node["name"], bare) == bare, f"{node['name']} differs in {name}.avsc"


def test_an_edited_schema_is_refused_with_the_entry_to_add(copy):
    changed = edit(copy, "audit", lambda s: s["fields"].append({"name": "who", "type": "string", "default": ""}))
    with pytest.raises(ConfigError) as caught:
        Schemas(copy)
    print_ = schema_fingerprint(changed)
    assert "audit.v1.avsc" in str(caught.value)
    assert f"{{version: 2, id: {schema_id(print_)}, fingerprint: {print_}}}" in str(caught.value)


def test_an_edit_of_docs_alone_needs_no_new_id(copy):
    edit(copy, "audit", lambda s: s.update(doc="Better words."))
    Schemas(copy)


def test_a_schema_without_id_is_refused_with_the_entry_to_add(copy):
    (copy / "claim.avsc").write_text('{"type": "record", "name": "Claim", "fields": []}', "utf-8")
    with pytest.raises(ConfigError, match=r"claim.avsc has no entry in ids.yaml: add \{version: 1, id: \d+"):
        Schemas(copy)


def test_an_older_schema_that_was_changed_is_refused(copy):
    evolve_audit(copy)
    old = copy / "audit.v1.avsc"
    old.write_text(old.read_text("utf-8").replace('"kind"', '"sort"'), "utf-8")
    with pytest.raises(ConfigError, match="restore it from history"):
        Schemas(copy)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "should be a valid dictionary"),
        ("case: []", "case: List should have at least 1 item"),
        ("case: [{version: 1}]", "case.0.id: Field required"),
        ("case: [{version: 1, id: 1, fingerprint: x}]", "case.0.fingerprint: String should match"),
        ("case: [{version: 1, id: 1, fingerprint: x, more: 1}]", "case.0.more: Extra inputs"),
        ("case: [{version: 1, id: 1, fingerprint: x}]\ncase: []", "'case' stands here twice"),
        ("{", "line 1"),
    ],
)
def test_a_broken_ids_file_is_refused(copy, text, fault):
    (copy / "ids.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        Schemas(copy)
    assert "ids.yaml" in str(caught.value)
    assert fault in str(caught.value)


def test_versions_count_from_one(copy):
    ids = yaml.safe_load((copy / "ids.yaml").read_text("utf-8"))
    ids["audit"][0]["version"] = 2
    (copy / "ids.yaml").write_text(yaml.safe_dump(ids), "utf-8")
    with pytest.raises(ConfigError, match="version 2 of audit stands in place 1"):
        Schemas(copy)


@pytest.mark.parametrize(
    ("field_type", "fault"),
    [
        ("bytes", "bytes have no form in JSON"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, "bytes have no form in JSON"),
        ({"type": "fixed", "name": "F", "size": 2}, "fixed has no form in JSON"),
    ],
)
def test_a_schema_whose_values_are_no_json_is_refused(copy, field_type, fault):
    add_schema(copy, "claim", {"type": "record", "name": "Claim", "fields": [{"name": "f", "type": field_type}]})
    with pytest.raises(ConfigError, match=fault):
        Schemas(copy)


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "record", "name": "Claim", "fields": [{"name": "f", "type": "nonsense"}]}',
        '{"type": "record"}',
        '{"type": "record", "name": "Claim", "fields": [{"type": "string"}]}',
        '"strin"',
        "[]",
        "{",
    ],
)
def test_a_file_that_is_no_schema_is_refused_by_name(copy, text):
    (copy / "claim.avsc").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"claim\.avsc"):
        Schemas(copy)


def test_a_date_in_a_schema_of_the_entrance_is_read_as_its_number(copy):
    date = {"type": "int", "logicalType": "date"}
    add_schema(copy, "claim", {"type": "record", "name": "Claim", "fields": [{"name": "day", "type": date}]})
    codec = Codec(Schemas(copy))
    assert codec.read(codec.encode_event({"day": 20_000}, "claim"))[1] == {"day": 20_000}


def test_bytes_of_an_older_version_are_read_as_the_newest(copy):
    """Version 1 of case did not know checks; they were added with a default."""
    newest = json.loads((copy / "case.avsc").read_text("utf-8"))
    older = {**newest, "fields": [field for field in newest["fields"] if field["name"] != "checks"]}
    next(field for field in newest["fields"] if field["name"] == "checks")["default"] = []
    (copy / "case.v1.avsc").write_text(json.dumps(older), "utf-8")
    (copy / "case.avsc").write_text(json.dumps(newest), "utf-8")
    write_ids(copy, {"case": [older, newest]})
    codec = Codec(Schemas(copy))
    plain = json.loads((FOLDER / "examples/case/typical.json").read_text("utf-8"))
    old = next(schema for schema in codec.schemas.by_id.values() if schema.name == "case" and not schema.newest)
    case = codec.decode_case(wire(old, {key: value for key, value in plain.items() if key != "checks"}))
    assert isinstance(case, Case)
    assert case.checks == ()
    assert case.event.id == plain["event"]["id"]


def evolve_audit(folder):
    older = json.loads((folder / "audit.avsc").read_text("utf-8"))
    (folder / "audit.v1.avsc").write_text(json.dumps(older), "utf-8")
    newer = edit(folder, "audit", lambda s: s["fields"].append({"name": "who", "type": "string", "default": ""}))
    write_ids(folder, {"audit": [older, newer]})
    Schemas(folder)


def add_schema(folder, name, schema):
    (folder / f"{name}.avsc").write_text(json.dumps(schema), "utf-8")
    write_ids(folder, {name: [schema]})


def write_ids(folder, changed):
    ids = yaml.safe_load((folder / "ids.yaml").read_text("utf-8"))
    for name, versions in changed.items():
        prints = [schema_fingerprint(version) for version in versions]
        ids[name] = [
            {"version": place, "id": schema_id(print_), "fingerprint": print_}
            for place, print_ in enumerate(prints, start=1)
        ]
    (folder / "ids.yaml").write_text(yaml.safe_dump(ids), "utf-8")
