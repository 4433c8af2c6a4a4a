import pickle

from tasks.errors import BrokerError, ConfigError, RefusedJobError, UsageError


def test_errors_survive_pickling_with_their_fields() -> None:
    """Celery and processes carry them."""
    for error in (
        UsageError("domain web", "it is on a, b", "one host", "choose with --host"),
        ConfigError("f.toml: host.uri", "is 3", "text"),
        BrokerError("broker", "refused", job_ids=["a", "b"]),
        RefusedJobError("host", "'a'", "'b'", reason="wrong_host"),
    ):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(copy), str(copy), copy.to_dict()) == (type(error), str(error), error.to_dict())


def test_broker_error_names_the_jobs_that_wait() -> None:
    """Five by id, the rest by number; all in the fields."""
    ids = [f"job{number}" for number in range(7)]
    error = BrokerError("broker", "connection refused", hint="start Redis", job_ids=ids)
    assert str(error) == (
        "broker: connection refused; waiting as queued: job0, job1, job2, job3, job4 and 2 more; start Redis"
    )
    assert error.to_dict()["fields"]["job_ids"] == ids
    assert (error.exit_code, error.is_transient) == (40, True)


def test_refused_job_carries_the_label_it_is_counted_under() -> None:
    """The reason is a value of doorbells_total."""
    assert RefusedJobError("x", "y", reason="expired").to_dict()["fields"]["reason"] == "expired"
