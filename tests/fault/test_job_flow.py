"""Jobs on two hosts, with everything between them that can go wrong: by chance, and in every order."""

from itertools import permutations

import pytest
from hypothesis import settings

from tests.fault.job_flow import DOMAINS, HOSTS, JobFlow

TestJobFlow = JobFlow.TestCase
TestJobFlow.settings = settings(max_examples=60, stateful_step_count=50)


@pytest.mark.parametrize("is_prompt", [True, False])
@pytest.mark.parametrize("order", ["".join(order) for order in sorted(set(permutations("DDQQ")))])
def test_every_order_of_doorbells_and_questions_ends_well(order: str, is_prompt: bool) -> None:
    """A job's domain moves: whichever of two doorbells and two questions its old host hears first.

    Whether the host's words come one by one or all at the end: if it began, it is its job; if it was asked
    first, it never begins and the other host does it, once.
    """
    flow = JobFlow()
    flow.submit(domain=DOMAINS[0], is_rung=False)
    flow.migrate(domain=DOMAINS[0], host="beta")
    flow.report_inventory()
    for name in HOSTS:
        flow.apply_all(name)
    [job] = flow.list_jobs()
    old = flow.hosts["alpha"]
    for message in order:
        if message == "D":
            flow.ring(job)
        else:
            old.queue.append((job.job_id, job.attempt))
    while old.queue:
        flow.answer(old)
        if is_prompt:
            flow.send_all(old)
            flow.apply_all("alpha")
    flow.teardown()
    assert flow.claims[job.job_id] == ({1: ["alpha"]} if order[0] == "D" else {2: ["beta"]})
