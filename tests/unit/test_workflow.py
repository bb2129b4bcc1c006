from copy import deepcopy
from pathlib import Path

import pytest
import yaml

import pipeline.workflows
from pipeline.errors import ConfigError
from pipeline.workflow import load_workflow, load_workflows, read_training

SHIPPED = Path(pipeline.workflows.__file__).parent

PARCELS = {
    "name": "parcels",
    "owner": "logistics",
    "event_type": "com.post.question",
    "event_schema": "question",
    "data": {"text": {"type": "string"}},
    "model_input": "text",
    "training": "training.csv",
    "threshold": 0.5,
    "deadline_s": 10,
    "retry": {"attempts": 3, "ceiling_s": 60},
    "allowed_actions": ["answer", "hand_over"],
    "fallback_intent": "other",
    "intents": {
        "late": {"queue": "depot", "priority": "high", "action": "answer"},
        "other": {"queue": "desk", "priority": "low", "action": "hand_over"},
    },
}
TRAINING = "text,intent\nwhere is it,late\nhello,other\n"


def write(root, declared=PARCELS, training=TRAINING, folder="parcels"):
    place = root / folder
    place.mkdir()
    (place / "workflow.yaml").write_text(yaml.safe_dump(declared), "utf-8")
    (place / "training.csv").write_bytes(training.encode())
    return place


def changed(path, value):
    """PARCELS with one value set, or taken away when it is None."""
    declared = deepcopy(PARCELS)
    *parents, last = path.split(".")
    inner = declared
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return declared


def test_a_workflow_is_loaded_as_declared(tmp_path):
    workflow = load_workflow(write(tmp_path))
    assert (workflow.name, workflow.owner, workflow.threshold) == ("parcels", "logistics", 0.5)
    assert (workflow.retry.attempts, workflow.retry.ceiling_s) == (3, 60)
    assert workflow.queues == {"depot", "desk"}
    assert workflow.answer("late") == {"intent": "late", "queue": "depot", "priority": "high", "action": "answer"}


def test_a_loaded_workflow_cannot_be_changed(tmp_path):
    workflow = load_workflow(write(tmp_path))
    with pytest.raises(Exception, match="frozen"):
        workflow.threshold = 0.0
    with pytest.raises(TypeError):
        workflow.intents["late"] = workflow.intents["other"]


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("threshold", 1.01, "threshold: .*less than or equal to 1"),
        ("threshold", -0.01, "threshold: .*greater than or equal to 0"),
        ("threshold", float("nan"), "threshold: "),
        ("threshold", None, "threshold: must be stated"),
        ("owner", "", "owner: "),
        ("treshold", 0.5, "unknown key; did you mean 'threshold'?"),
        ("intents.late.prio", "high", r"intents\.late\.prio: unknown key"),
        ("intents.late.priority", "soon", r"intents\.late\.priority: "),
        ("intents.late.action", "refund_all", "intent late asks for the action refund_all, which allowed_actions"),
        ("fallback_intent", "unknown", "fallback_intent unknown is not among the intents"),
        ("safe_action", "close_account", "safe_action close_account is neither none nor among the allowed_actions"),
        ("allowed_actions", ["answer", "hand_over", "answer"], "names an action twice"),
        ("allowed_actions", [], "allowed_actions: "),
        ("model_input", "body", "model_input body must be a required string"),
        ("data.text.type", "number", "model_input text must be a required string"),
        ("data.text.required", False, "model_input text must be a required string"),
        ("deadline_s", 0, "deadline_s: "),
        ("deadline_s", float("inf"), "deadline_s: "),
        ("retry.attempts", None, r"retry\.attempts: must be stated"),
        ("retry.ceiling_s", None, r"retry\.ceiling_s: must be stated"),
        ("retry.ceiling_s", float("inf"), r"retry\.ceiling_s: "),
        ("retry.cap_s", 61, "base_s <= cap_s <= ceiling_s"),
        ("retry.jitter", 1, r"retry\.jitter: "),
        ("training", "../training.csv", "training: "),
        ("training", "lessons.csv", "lessons.csv"),
        ("rules", "rules.yaml", "rules names rules.yaml, which is not in"),
        ("name", "letters", "name letters must equal the folder's, parcels"),
        ("release", "abc", "release is worked out by Lockgate"),
    ],
)
def test_a_contradiction_is_refused_in_clear_words(tmp_path, path, value, complaint):
    folder = write(tmp_path, changed(path, value))
    with pytest.raises(ConfigError, match=complaint) as refusal:
        load_workflow(folder)
    assert str(folder) in str(refusal.value)


CUSTOMER = {
    "name": "customer",
    "source": "customers",
    "key": "subject",
    "required": True,
    "max_age": "30d",
    "fields": ["id", "depotNo"],
    "same": {"id": "subject"},
}
DEPOT = {
    "name": "depot",
    "source": "depots",
    "key": "customer.depotNo",
    "required": False,
    "max_age": "forever",
    "fields": ["city"],
}


def with_context(*rules):
    return PARCELS | {"context": list(rules)}


def test_context_is_loaded_as_declared(tmp_path):
    customer, depot = load_workflow(write(tmp_path, with_context(CUSTOMER, DEPOT))).context
    assert (customer.topic, customer.required, customer.max_age) == ("context-customers", True, 30 * 86_400_000)
    assert customer.references == ("subject", "subject")
    assert (depot.key, depot.max_age, dict(depot.same)) == ("customer.depotNo", None, {})


@pytest.mark.parametrize(
    ("written", "ms"), [("90s", 90_000), ("30m", 1_800_000), ("12 h", 43_200_000), ("1d", 86_400_000)]
)
def test_an_age_is_written_with_its_unit(tmp_path, written, ms):
    assert load_workflow(write(tmp_path, with_context(CUSTOMER | {"max_age": written}))).context[0].max_age == ms


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"requird": True}, r"context\.0\.requird: unknown key"),
        ({"required": None}, r"context\.0\.required: "),
        ({"max_age": None}, r"context\.0\.max_age: None is no age: write 30m, 12h, 30d or forever"),
        ({"max_age": "0d"}, "'0d' is no age"),
        ({"max_age": 30}, "'?30'? is no age"),
        ({"max_age": "-1d"}, "'-1d' is no age"),
        ({"fields": []}, r"context\.0\.fields: "),
        ({"fields": ["id", "id"]}, "context customer names a field twice"),
        ({"source": "Customers"}, r"context\.0\.source: "),
        ({"key": "a.b.c"}, r"context\.0\.key: "),
        ({"key": "account"}, "context customer: account: must be subject, or a string among the data fields"),
        ({"key": "weight"}, "context customer: weight: must be subject, or a string among the data fields"),
        ({"key": "depot.city"}, "context customer: depot.city: no context depot is declared above it"),
        ({"key": "customer.id"}, "context customer: customer.id: no context customer is declared above it"),
        ({"same": {"id": "account"}}, "context customer: account: must be subject"),
        ({"same": {"id": ["subject", "account"]}}, "context customer: account: must be subject"),
        ({"same": {"id": []}}, r"context\.0\.same\.id: "),
        ({"name": "subject"}, "context subject must have another name"),
        ({"name": "context_notes"}, "context context_notes must have another name"),
    ],
    ids=lambda part: str(part) if isinstance(part, dict) else "",
)
def test_a_contradiction_in_context_is_refused_in_clear_words(tmp_path, rule, complaint):
    declared = with_context(CUSTOMER | rule)
    declared["data"] = PARCELS["data"] | {"weight": {"type": "number"}}
    with pytest.raises(ConfigError, match=complaint):
        load_workflow(write(tmp_path, declared))


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([CUSTOMER, CUSTOMER], "context customer is declared twice"),
        ([DEPOT, CUSTOMER], "context depot: customer.depotNo: no context customer is declared above it"),
        ([CUSTOMER | {"fields": ["id"]}, DEPOT], "customer.depotNo: depotNo is not among the fields of customer"),
        (
            [CUSTOMER | {"required": False}, DEPOT | {"required": True}],
            "context depot: customer.depotNo: required, but customer is not: one of them must change",
        ),
    ],
    ids=["twice", "order", "field", "required"],
)
def test_contexts_that_contradict_each_other_are_refused_in_clear_words(tmp_path, rules, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_workflow(write(tmp_path, with_context(*rules)))


@pytest.mark.parametrize("name", ["required", "max_age", "fields", "key"])
def test_what_context_is_worth_must_be_stated(tmp_path, name):
    rule = {key: value for key, value in CUSTOMER.items() if key != name}
    with pytest.raises(ConfigError, match=rf"context\.0\.{name}: must be stated"):
        load_workflow(write(tmp_path, with_context(rule)))


def test_every_fault_is_told_at_once(tmp_path):
    declared = changed("threshold", 2)
    declared["deadline_s"] = -1
    with pytest.raises(ConfigError, match=r"(?s)threshold.*deadline_s|deadline_s.*threshold"):
        load_workflow(write(tmp_path, declared))


def test_a_key_given_twice_is_refused(tmp_path):
    file = write(tmp_path) / "workflow.yaml"
    file.write_text(file.read_text("utf-8") + "threshold: 0.1\n", "utf-8")
    with pytest.raises(ConfigError, match="'threshold' stands here twice"):
        load_workflow(file.parent)


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    file = write(tmp_path) / "workflow.yaml"
    file.write_text("- name\n", "utf-8")
    with pytest.raises(ConfigError, match="expected `name: value` pairs, not list"):
        load_workflow(file.parent)


def test_a_folder_without_a_declaration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"workflow\.yaml cannot be read"):
        load_workflow(tmp_path)


@pytest.mark.parametrize(
    ("training", "complaint"),
    [
        ("message,label\nhello,other\n", "the first line must be text,intent"),
        ("", "the first line must be text,intent"),
        (TRAINING + "lost,gone\n", r"csv:4: unknown intent 'gone'; known: late, other"),
        (TRAINING + "lost,lat\n", "did you mean 'late'"),
        (TRAINING + " ,late\n", "csv:4: expected a message and its intent"),
        (TRAINING + "only a text\n", "csv:4: expected a message and its intent"),
        (TRAINING + "a,late,b\n", "csv:4: expected a message and its intent"),
        (TRAINING + "hello,late\n", "csv:4: this message stands here already, as other"),
        ("text,intent\nhello,other\n", "no message for late"),
        (TRAINING + '"open,late\n', "cannot be read"),
    ],
    ids=["header", "empty", "unknown", "misspelt", "blank", "short", "long", "twice", "untaught", "quote"],
)
def test_a_training_file_that_teaches_something_else_is_refused(tmp_path, training, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_workflow(write(tmp_path, training=training))


def test_training_keeps_commas_quotes_and_the_order(tmp_path):
    workflow = load_workflow(write(tmp_path, training=TRAINING + '"well, ""late"" it is",late\n'))
    assert [example.text for example in read_training(workflow)] == ["where is it", "hello", 'well, "late" it is']


def test_the_release_is_the_same_on_every_machine(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = load_workflow(write(tmp_path / "a"))
    there = load_workflow(write(tmp_path / "b", training=TRAINING.replace("\n", "\r\n")))
    assert here.release == there.release
    assert len(here.release) == 12
    assert set(here.release) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", ["workflow.yaml", "training.csv"])
def test_a_change_of_any_file_is_another_release(tmp_path, name):
    folder = write(tmp_path)
    before = load_workflow(folder).release
    content = (folder / name).read_text("utf-8")
    (folder / name).write_text(content.replace("where is it", "where").replace("0.5", "0.6"), "utf-8")
    assert load_workflow(folder).release != before


def test_a_further_file_or_another_name_is_another_release(tmp_path):
    folder = write(tmp_path)
    releases = [load_workflow(folder).release]
    (folder / "prompt").mkdir()
    (folder / "prompt" / "system.txt").write_text("be kind", "utf-8")
    releases.append(load_workflow(folder).release)
    (folder / "prompt" / "system.txt").rename(folder / "prompt" / "user.txt")
    releases.append(load_workflow(folder).release)
    assert len(set(releases)) == 3


def test_what_tools_leave_behind_is_no_part_of_the_release(tmp_path):
    folder = write(tmp_path)
    before = load_workflow(folder).release
    (folder / ".workflow.yaml.swp").write_text("x", "utf-8")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("x", "utf-8")
    assert load_workflow(folder).release == before


def test_workflows_are_found_by_their_event_type(tmp_path):
    write(tmp_path)
    write(tmp_path, changed("name", "letters") | {"event_type": "com.post.letter"}, folder="letters")
    found = load_workflows(tmp_path)
    assert {event_type: workflow.name for event_type, workflow in found.items()} == {
        "com.post.question": "parcels",
        "com.post.letter": "letters",
    }


def test_two_workflows_cannot_claim_one_event_type(tmp_path):
    write(tmp_path)
    write(tmp_path, changed("name", "letters"), folder="letters")
    with pytest.raises(ConfigError, match=r"event_type com\.post\.question belongs to letters already"):
        load_workflows(tmp_path)


def test_a_folder_of_no_workflows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no workflow"):
        load_workflows(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        load_workflows(tmp_path / "nowhere")


def test_the_shipped_workflow_is_sound():
    workflow = load_workflows(SHIPPED)["com.bank.message.received"]
    assert workflow.name == "ticket_triage"


def test_the_shipped_workflow_teaches_every_intent_with_at_least_25_messages():
    workflow = load_workflow(SHIPPED / "ticket_triage")
    taught = [example.intent for example in read_training(workflow)]
    assert min(taught.count(intent) for intent in workflow.intents) >= 25
