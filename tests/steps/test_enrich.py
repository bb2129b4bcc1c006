from dataclasses import replace

import pytest

from pipeline.errors import FailureClass
from pipeline.outcome import Dead, Next, Review
from pipeline.records import Case, ContextField
from pipeline.steps.enrich import Found, Missing, Unreadable, enrich, referred
from tests.steps.cases import CUSTOMER, EVENT, NOW_MS, ORIGIN, PRODUCT, WITH_CONTEXT, WORKFLOW, WORKFLOWS

DAY_MS = 86_400_000
PLACE = "context-customers[3]@17"


def enriched(event, looked_up=None, workflow=WORKFLOW):
    return enrich(event, ORIGIN, {WORKFLOW.event_type: workflow}, looked_up or {}, NOW_MS)


def with_data(**changes):
    return replace(EVENT, data={**EVENT.data, **changes})


def test_an_event_becomes_a_case_of_its_workflow_and_release():
    assert enriched(EVENT) == Next(Case(EVENT, ORIGIN, WORKFLOW.name, WORKFLOW.release))


def test_an_event_of_an_unknown_type_is_dead():
    stranger = replace(EVENT, type="com.bank.other")
    assert enrich(stranger, ORIGIN, WORKFLOWS, {}, NOW_MS) == Dead("unknown_event_type", FailureClass.PERMANENT)


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, "nothing"), (True, "boolean"), (7, "number"), (0.5, "number"), ([], "array"), ({}, "object")],
    ids=["null", "true", "int", "float", "array", "object"],
)
def test_a_text_that_is_no_string_is_dead_with_the_field_named(value, found):
    assert enriched(with_data(text=value)) == Dead(f"data.text: expected string, got {found}")


def test_a_missing_text_is_dead():
    assert enriched(replace(EVENT, data={"channel": "chat"})) == Dead("data.text: expected string, got nothing")


def test_every_faulty_field_is_named_at_once():
    outcome = enriched(with_data(text=1, channel=False))
    assert outcome == Dead("data.text: expected string, got number; data.channel: expected string, got boolean")


def test_the_cause_does_not_repeat_what_the_customer_sent():
    assert "4929" not in enriched(with_data(text=["4929 1234"])).cause


@pytest.mark.parametrize("data", [{"text": "hello"}, {"text": "hello", "language": None}], ids=["missing", "null"])
def test_an_optional_field_may_be_missing_or_null(data):
    assert isinstance(enriched(replace(EVENT, data=data)), Next)


def test_an_empty_text_is_not_a_fault_of_the_machine():
    assert isinstance(enriched(with_data(text="")), Next)


def test_fields_that_the_workflow_does_not_know_are_kept():
    event = with_data(branch="Leeds")
    assert enriched(event).record.event == event


# -- context ------------------------------------------------------------------------------------------------


def customer(age_days=2, **changes):
    value = {"customer_id": "customer-7", "name": "Ada", "tier": "gold", "product_id": "p-1", **changes}
    known = {name: part for name, part in value.items() if part is not ...}
    return Found(known, NOW_MS - round(age_days * DAY_MS), PLACE)


def product(age_days=2, product_id="p-1"):
    value = {"product_id": product_id, "name": "Current account"}
    return Found(value, NOW_MS - age_days * DAY_MS, "context-products[0]@4")


def outcome(event=EVENT, rules=WITH_CONTEXT.context, **looked_up):
    found = {"customer": customer(), "product": product()} | looked_up
    return enriched(event, found, WORKFLOW.model_copy(update={"context": rules}))


SHOWN = {"customer_id": "customer-7", "tier": "gold", "product_id": "p-1"}


def test_what_was_found_travels_with_the_case_with_its_age_and_place():
    assert outcome().record.context == (
        ContextField("customer", SHOWN, PLACE, 2 * DAY_MS),
        ContextField("product", {"name": "Current account"}, "context-products[0]@4", 2 * DAY_MS),
    )


def test_only_declared_fields_reach_the_case():
    assert "Ada" not in repr(outcome().record)


@pytest.mark.parametrize(
    ("found", "code", "age_ms"),
    [
        (Missing("context-customers"), "context_missing:customer", None),
        (Unreadable(NOW_MS - DAY_MS, PLACE), "context_unreadable:customer", DAY_MS),
        (customer(customer_id="customer-8"), "context_mismatch:customer", 2 * DAY_MS),
        (customer(customer_id=7), "context_mismatch:customer", 2 * DAY_MS),
        (customer(customer_id=...), "context_mismatch:customer", 2 * DAY_MS),
        (customer(customer_id=None), "context_mismatch:customer", 2 * DAY_MS),
    ],
    ids=["missing", "unreadable", "mismatch", "of another type", "without identity", "null identity"],
)
def test_required_context_that_cannot_be_used_goes_to_people_and_shows_nothing(found, code, age_ms):
    review = outcome(customer=found)
    assert isinstance(review, Review)
    assert review.reasons == (code,)
    assert review.case.context[0] == ContextField("customer", None, found.place, age_ms)


def test_a_record_found_under_another_key_than_the_subject_is_anothers():
    assert outcome(with_data(customer_id="customer-8"), customer=customer(customer_id="customer-8")).reasons == (
        "context_mismatch:customer",
    )


def test_an_identity_that_cannot_be_compared_is_not_the_same():
    assert outcome(replace(EVENT, subject=None)).reasons == ("context_mismatch:customer",)


def test_two_identities_that_are_both_unknown_are_not_the_same():
    rule = CUSTOMER.model_copy(update={"same": {"guardian": ("subject",)}})
    orphan = customer(guardian=None)
    assert outcome(replace(EVENT, subject=None), (rule,), customer=orphan).reasons == ("context_mismatch:customer",)


def test_stale_required_context_goes_to_people_who_see_it_with_its_age():
    review = outcome(customer=customer(age_days=31))
    assert review.reasons == ("context_stale:customer",)
    assert review.case.context[0] == ContextField("customer", SHOWN, PLACE, 31 * DAY_MS)


@pytest.mark.parametrize(("ms", "fresh"), [(30 * DAY_MS, True), (30 * DAY_MS + 1, False)])
def test_the_limit_itself_is_fresh(ms, fresh):
    assert isinstance(outcome(customer=replace(customer(), timestamp_ms=NOW_MS - ms)), Next if fresh else Review)


def test_what_has_no_age_is_not_fresh():
    review = outcome(customer=replace(customer(), timestamp_ms=None))
    assert review.reasons == ("context_stale:customer",)
    assert review.case.context[0].age_ms is None


def test_what_may_be_of_any_age_needs_none():
    rule = CUSTOMER.model_copy(update={"max_age": None})
    assert isinstance(outcome(rules=(rule,), customer=replace(customer(), timestamp_ms=None)), Next)


def test_a_record_from_a_clock_that_is_ahead_has_no_negative_age():
    assert outcome(customer=customer(age_days=-0.01)).record.context[0].age_ms == 0


def test_a_record_without_a_declared_field_is_incomplete():
    review = outcome(customer=customer(tier=..., age_days=31))
    assert review.reasons == ("context_incomplete:customer", "context_stale:customer")
    assert review.case.context[0].value == {"customer_id": "customer-7", "product_id": "p-1"}


def test_a_declared_field_may_be_null():
    assert outcome(customer=customer(tier=None)).record.context[0].value["tier"] is None


@pytest.mark.parametrize(
    ("found", "code", "age_ms"),
    [
        (Missing("context-products"), "context_missing:product", None),
        (product(age_days=366), "context_stale:product", 366 * DAY_MS),
        (Unreadable(NOW_MS, PLACE), "context_unreadable:product", 0),
        (product(product_id="p-2"), "context_mismatch:product", 2 * DAY_MS),
    ],
    ids=["missing", "stale", "unreadable", "mismatch"],
)
def test_optional_context_that_cannot_be_used_is_noted_and_the_case_goes_on(found, code, age_ms):
    went_on = outcome(product=found)
    assert isinstance(went_on, Next)
    assert went_on.record.context[1:] == (
        ContextField("product", None, found.place, age_ms),
        ContextField("context_notes", [code], "enrichment", None),
    )


def test_every_reason_is_given_and_notes_stay_in_the_case():
    required = PRODUCT.model_copy(update={"required": True, "key": "subject"})
    review = outcome(rules=(CUSTOMER, required), customer=Missing("c"), product=Missing("p"))
    assert review.reasons == ("context_missing:customer", "context_missing:product")
    noted = outcome(customer=customer(age_days=31), product=Missing("p"))
    assert noted.reasons == ("context_stale:customer",)
    assert noted.case.context[-1] == ContextField("context_notes", ["context_missing:product"], "enrichment", None)


def test_what_a_wrong_record_led_to_is_not_used():
    review = outcome(customer=customer(customer_id="customer-8"))
    assert review.case.context[1] == ContextField("product", None, "context-products", None)
    assert "Current account" not in repr(review.case)


def test_context_that_nobody_looked_up_is_missing():
    review = enriched(EVENT, {}, WITH_CONTEXT)
    assert review.reasons == ("context_missing:customer",)


def test_a_faulty_event_is_dead_whatever_its_context():
    assert isinstance(outcome(with_data(text=None), customer=Missing("c")), Dead)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("subject", "customer-7"),
        ("channel", "chat"),
        ("language", None),
        ("nothing", None),
        ("customer.tier", "gold"),
        ("customer.nothing", None),
        ("product.name", None),
    ],
)
def test_a_reference_stands_for_a_text_or_for_nothing(reference, text):
    assert referred(reference, EVENT, {"customer": customer(), "product": Missing("p")}) == text


@pytest.mark.parametrize("value", ["", 7, True, [], {}, None])
def test_a_key_that_is_empty_or_no_text_is_none(value):
    assert referred("channel", with_data(channel=value), {}) is None
