from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidegate.policy.decision import MaskStrategy
from sidegate.policy.reason import Reason
from sidegate.runtime.counts import MAX_LABEL_SETS, Counts
from sidegate.runtime.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a scraper reads."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_counts_appear_under_their_names_and_labels() -> None:
    metrics = Metrics("1.2.3")
    metrics.statements.add("Allow", "Read")
    metrics.statements.add("Allow", "Read")
    metrics.statements.add("Deny", "DDL")
    metrics.refusals.add(Reason.NO_GRANT)
    metrics.masked.add("column", amount=20_000)
    metrics.relayed.add("target", amount=4096)
    metrics.recorded.add(amount=17)
    metrics.jwks_refreshes.add("https://issuer.example", "Failed")
    metrics.sessions_open = 3
    assert value(metrics, "sidegate_statements_total", decision="Allow", kind="Read") == 2
    assert value(metrics, "sidegate_statements_total", decision="Deny", kind="DDL") == 1
    assert value(metrics, "sidegate_refusals_total", reason="NoGrant") == 1
    assert value(metrics, "sidegate_masked_values_total", source="column") == 20_000
    assert value(metrics, "sidegate_relayed_bytes_total", side="target") == 4096
    assert value(metrics, "sidegate_recording_bytes_total") == 17
    assert value(metrics, "sidegate_jwks_refreshes_total", issuer="https://issuer.example", outcome="Failed") == 1
    assert value(metrics, "sidegate_sessions_open") == 3


def test_what_alerts_watch_is_there_from_the_start_with_zero() -> None:
    metrics = Metrics("1.2.3")
    for reason in Reason:
        assert value(metrics, "sidegate_refusals_total", reason=reason.value) == 0
    assert value(metrics, "sidegate_recording_errors_total") == 0
    assert value(metrics, "sidegate_config_reload_failures_total") == 0


def test_hold_durations_fall_into_cumulative_buckets() -> None:
    metrics = Metrics("1.2.3")
    for seconds in (0.5, 1.0, 20.0, 100_000.0):
        metrics.holds.observe(seconds, "Approved")
    assert value(metrics, "sidegate_hold_seconds_bucket", outcome="Approved", le="1.0") == 2
    assert value(metrics, "sidegate_hold_seconds_bucket", outcome="Approved", le="30.0") == 3
    assert value(metrics, "sidegate_hold_seconds_bucket", outcome="Approved", le="3600.0") == 3
    assert value(metrics, "sidegate_hold_seconds_bucket", outcome="Approved", le="+Inf") == 4
    assert value(metrics, "sidegate_hold_seconds_count", outcome="Approved") == 4
    assert value(metrics, "sidegate_hold_seconds_sum", outcome="Approved") == 100_021.5


def test_only_the_revision_in_force_is_shown() -> None:
    metrics = Metrics("1.2.3")
    assert not [name for name, _ in samples(metrics) if name == "sidegate_config_info"]
    metrics.config_loaded("aaaa", 100.0)
    metrics.config_loaded("bbbb", 200.0)
    shown = [dict(labels)["revision"] for name, labels in samples(metrics) if name == "sidegate_config_info"]
    assert shown == ["bbbb"]
    assert value(metrics, "sidegate_config_loaded_timestamp_seconds") == 200.0


def test_build_and_process_are_described() -> None:
    found = samples(Metrics("1.2.3"))
    assert [dict(labels)["version"] for name, labels in found if name == "sidegate_build_info"] == ["1.2.3"]
    assert found["process_resident_memory_bytes", frozenset()] > 0


def test_a_family_cannot_be_filled_without_bound_and_known_labels_still_count() -> None:
    counts = Counts("x", "x", "issuer")
    counts.add("known")
    for number in range(3 * MAX_LABEL_SETS):
        counts.add(f"https://{number}.example")
    counts.add("known")
    assert len(counts.values) == MAX_LABEL_SETS + 1
    assert counts.values["known",] == 2
    assert counts.values["other",] == 2 * MAX_LABEL_SETS + 1


def test_an_enum_counts_under_its_value_even_in_a_full_family() -> None:
    counts = Counts("x", "x", "strategy")
    counts.add("Redact")
    for number in range(MAX_LABEL_SETS):
        counts.add(str(number))
    counts.add(MaskStrategy.REDACT)
    assert counts.values["Redact",] == 2


def test_a_label_that_is_missing_is_an_error_where_it_is_made() -> None:
    metrics = Metrics("1.2.3")
    with pytest.raises(ValueError, match="labels"):
        metrics.statements.add("Allow")
    with pytest.raises(ValueError, match="labels"):
        metrics.holds.observe(1.0)


def test_label_values_are_escaped() -> None:
    metrics = Metrics("1.2.3")
    metrics.jwks_refreshes.add('x"} 1\nforged_total 1', "Failed")
    assert not any(name == "forged_total" for name, _ in samples(metrics))


def test_every_metric_of_ours_begins_with_sidegate_and_has_help() -> None:
    metrics = Metrics("1.2.3")
    metrics.config_loaded("aaaa", 1.0)
    for family in metrics.collect():
        assert family.name.startswith("sidegate_")
        assert family.documentation
