from pathlib import Path

from prometheus_client import generate_latest

from tasks.metrics import WorkerMetrics
from tasks.states import JobState


def test_every_name_of_the_interface_is_there_from_the_start(tmp_path: Path) -> None:
    """A series that appears late hides its first increase."""
    text = generate_latest(WorkerMetrics(version="1.2", store=tmp_path).registry).decode()
    for line in (
        'fleetsave_build_info{version="1.2"} 1.0',
        'fleetsave_jobs_total{op="save",outcome="lost"} 0.0',
        'fleetsave_jobs_total{op="managed-save",outcome="succeeded"} 0.0',
        'fleetsave_jobs_running{op="restore"} 0.0',
        'fleetsave_job_duration_seconds_count{op="start"} 0.0',
        'fleetsave_job_queue_wait_seconds_count{op="save"} 0.0',
        'fleetsave_guest_paused_seconds_count{op="save"} 0.0',
        'fleetsave_bytes_written_total{mode="direct",op="save"} 0.0',
        'fleetsave_bytes_read_total{mode="buffered",op="restore"} 0.0',
        'fleetsave_throughput_bytes_per_second_count{op="save"} 0.0',
        'fleetsave_cache_bypass_failures_total{op="save",reason="unsupported_filesystem"} 0.0',
        'fleetsave_cache_bypass_failures_total{op="save",reason="resident_pages"} 0.0',
        'fleetsave_page_cache_resident_bytes{op="save"} 0.0',
        'fleetsave_doorbells_total{result="bad_signature"} 0.0',
        'fleetsave_recoveries_total{kind="adopted"} 0.0',
        'fleetsave_recoveries_total{kind="discarded"} 0.0',
        'fleetsave_recoveries_total{kind="published"} 0.0',
        'fleetsave_recoveries_total{kind="resumed"} 0.0',
        'fleetsave_recoveries_total{kind="undecided"} 0.0',
        'fleetsave_jobs_total{op="dump",outcome="failed"} 0.0',
        'fleetsave_jobs_total{op="managed-save-remove",outcome="succeeded"} 0.0',
        'fleetsave_bytes_written_total{mode="direct",op="checkpoint"} 0.0',
        'fleetsave_bytes_written_total{mode="direct",op="dump"} 0.0',
        'fleetsave_guest_paused_seconds_count{op="checkpoint"} 0.0',
        "fleetsave_libvirt_up 0.0",
        "fleetsave_worker_last_poll_timestamp_seconds 0.0",
        f'fleetsave_store_free_bytes{{store="{tmp_path}"}} ',
        f'fleetsave_store_used_bytes{{store="{tmp_path}"}} ',
    ):
        assert f"\n{line}" in f"\n{text}", line
    assert "domain" not in text.replace("domains", "")
    assert 'bytes_read_total{mode="direct",op="managed-save-remove"}' not in text, "it moves nothing"


def test_store_that_is_gone_does_not_fail_the_scrape(tmp_path: Path) -> None:
    """It is not a number, and everything else still is."""
    text = generate_latest(WorkerMetrics(version="1", store=tmp_path / "gone").registry).decode()
    assert f'fleetsave_store_free_bytes{{store="{tmp_path}/gone"}} NaN' in text


def test_result_of_a_fall_back_is_counted_with_its_reasons() -> None:
    """Bytes by mode, one failure for each reason given; what nobody knows is no number."""
    metrics = WorkerMetrics(version="1", store=None)
    failures = ["fallback_buffered", "odd"]
    bypass = {"direct_bytes": 10, "buffered_bytes": 5, "resident_bytes": None, "failures": failures}
    result = {"bypass_cache": bypass, "guest_paused_seconds": None, "throughput_bytes_per_second": 2e8}
    metrics.job_ended("restore", JobState.SUCCEEDED, 3.0, result=result, error=None)
    value = metrics.registry.get_sample_value
    assert value("fleetsave_bytes_read_total", {"op": "restore", "mode": "buffered"}) == 5
    reason = {"op": "restore", "reason": "fallback_buffered"}
    assert value("fleetsave_cache_bypass_failures_total", reason) == 1
    assert value("fleetsave_guest_paused_seconds_count", {"op": "restore"}) == 0
    assert value("fleetsave_throughput_bytes_per_second_count", {"op": "restore"}) == 1


def test_job_that_failed_for_want_of_bypass_is_counted() -> None:
    """The error says the reason."""
    metrics = WorkerMetrics(version="1", store=None)
    error = {"class": "BypassError", "fields": {"reason": "unsupported_filesystem"}}
    metrics.job_ended("save", JobState.FAILED, 0.1, result=None, error=error)
    reason = {"op": "save", "reason": "unsupported_filesystem"}
    assert metrics.registry.get_sample_value("fleetsave_cache_bypass_failures_total", reason) == 1
