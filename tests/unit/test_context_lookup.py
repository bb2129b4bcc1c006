"""Which keys are looked up, in which order, and where."""

import asyncio

import pytest

from pipeline.context.port import look_up
from pipeline.errors import FailureClass, StepError
from pipeline.records import Event
from pipeline.steps.enrich import Found, Missing
from pipeline.workflow import ContextRule


class Known:
    """A source of what it was given, which keeps what it was asked."""

    def __init__(self, **known):
        self.known = known
        self.asked = []

    async def lookup(self, key):
        self.asked.append(key)
        return Found(self.known[key], 0, "here") if key in self.known else Missing("nowhere")


def rule(name, source, key):
    return ContextRule(name=name, source=source, key=key, required=False, max_age="forever", fields=["x"])


CUSTOMER = rule("customer", "customers", "customer_id")
PRODUCT = rule("product", "products", "customer.product_id")


def found(rules, customers=None, products=None, subject="s-1", **data):
    event = Event("source", "1", "type", subject, None, data)
    sources = {"context-customers": customers or Known(), "context-products": products or Known()}
    return asyncio.run(look_up(event, rules, sources))


def test_a_key_is_taken_from_the_data_of_the_event():
    customers = Known(c1={"x": 1})
    assert found([CUSTOMER], customers, customer_id="c1") == {"customer": Found({"x": 1}, 0, "here")}


def test_a_key_may_be_the_subject_of_the_event():
    customers = Known()
    found([rule("customer", "customers", "subject")], customers)
    assert customers.asked == ["s-1"]


def test_a_key_may_come_from_what_was_found_before():
    customers, products = Known(c1={"product_id": "p1"}), Known(p1={"x": 2})
    assert found([CUSTOMER, PRODUCT], customers, products, customer_id="c1")["product"].value == {"x": 2}


@pytest.mark.parametrize("data", [{}, {"customer_id": None}, {"customer_id": ""}, {"customer_id": 7}])
def test_without_a_key_nothing_is_asked_and_nothing_found(data):
    customers, products = Known(), Known()
    assert found([CUSTOMER, PRODUCT], customers, products, **data) == {
        "customer": Missing("context-customers"),
        "product": Missing("context-products"),
    }
    assert customers.asked == products.asked == []


def test_a_source_that_cannot_say_is_never_taken_for_one_that_has_nothing():
    class Silent:
        async def lookup(self, key):
            raise StepError("context_unavailable", FailureClass.TRANSIENT)

    with pytest.raises(StepError, match="context_unavailable"):
        found([CUSTOMER], Silent(), customer_id="c1")
