"""Functions of PostgreSQL and of its usual extensions that do more than compute, each with what it does and why it matters.

Rules it keeps:
- A name here is dangerous in whatever schema it is found: extensions are installed anywhere, and somebody's function of that name is no
  safer.
- A built-in that isn't here is safe only if it is in `builtins.SAFE_BY_KIND` (immutable or stable, every overload) or in `SAFE_VOLATILE`.
- Everything else, each function that someone created, is not known to be safe: the statement is `Call` too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidegate.policy.statement import StatementKind as K
from sidegate.sql.builtins import INFORMATION_FUNCTIONS, SAFE_BY_KIND


@dataclass(frozen=True, slots=True)
class Danger:
    """What calling it makes of the statement, and why, in words that fit after "because of"."""

    kinds: frozenset[K]
    why: str
    looks_at_arguments: bool = False


def _group(kind: K, why: str, names: str, *also: K) -> dict[str, Danger]:
    danger = Danger(frozenset({kind, *also}), why)
    return dict.fromkeys(names.split(), danger)


DANGEROUS: Final[dict[str, Danger]] = {
    **_group(
        K.SERVER,
        "files of the server",
        """pg_read_file pg_read_binary_file pg_ls_dir pg_ls_logdir pg_ls_waldir pg_ls_tmpdir pg_ls_archive_statusdir pg_ls_logicalmapdir
        pg_ls_logicalsnapdir pg_ls_replslotdir pg_ls_summariesdir pg_stat_file pg_current_logfile pg_hba_file_rules pg_ident_file_mappings
        pg_show_all_file_settings pg_file_write pg_file_sync pg_file_rename pg_file_unlink pg_logdir_ls pg_read_file_old pg_file_read
        pg_file_length pg_get_wal_summarizer_state pg_available_wal_summaries pg_wal_summary_contents
        pg_get_loaded_modules""",
    ),
    **_group(
        K.SERVER,
        "large objects, which no table's rules cover",
        """lo_close lo_creat lo_create lo_export lo_from_bytea lo_get lo_import lo_lseek lo_lseek64 lo_open lo_put lo_tell lo_tell64
        lo_truncate lo_truncate64 lo_unlink lo_manage lo_oid loread lowrite""",
    ),
    **_group(
        K.SERVER,
        "connections to other servers",
        """dblink dblink_connect dblink_connect_u dblink_disconnect dblink_open dblink_fetch dblink_close dblink_exec dblink_get_connections
        dblink_error_message dblink_send_query dblink_is_busy dblink_get_notify dblink_get_result dblink_cancel_query dblink_get_pkey
        dblink_build_sql_insert dblink_build_sql_delete dblink_build_sql_update dblink_current_query dblink_fdw_validator
        postgres_fdw_get_connections postgres_fdw_disconnect postgres_fdw_disconnect_all postgres_fdw_handler postgres_fdw_validator
        http http_get http_post http_put http_patch http_delete http_head urlencode_http aws_s3_import aws_s3_export
        table_import_from_s3 query_export_to_s3 lambda_invoke""",
    ),
    **_group(
        K.SERVER,
        "other sessions and the server's own processes",
        """pg_terminate_backend pg_cancel_backend pg_reload_conf pg_rotate_logfile pg_logfile_rotate pg_log_backend_memory_contexts
        pg_log_standby_snapshot pg_promote pg_switch_wal pg_wal_replay_pause pg_wal_replay_resume pg_create_restore_point pg_backup_start
        pg_backup_stop pg_start_backup pg_stop_backup pg_prewarm autoprewarm_start_worker autoprewarm_dump_now pg_background_launch""",
    ),
    **_group(
        K.SERVER,
        "what other sessions are doing, with the text of their statements",
        """pg_stat_get_activity pg_stat_get_backend_activity pg_stat_get_wal_senders pg_stat_get_wal_receiver pg_prepared_xact
        pg_stat_statements pg_stat_statements_reset pg_stat_statements_info pg_stat_kcache pg_stat_monitor""",
    ),
    **_group(
        K.SERVER,
        "statistics that hold values of columns",
        "pg_mcv_list_items pg_stats_ext_mcvlist_items",
    ),
    **_group(
        K.SERVER,
        "the counters that changed rows are measured with",
        """pg_stat_reset pg_stat_reset_shared pg_stat_reset_single_table_counters pg_stat_reset_single_function_counters pg_stat_reset_slru
        pg_stat_reset_replication_slot pg_stat_reset_subscription_stats pg_stat_reset_backend_stats pg_stat_force_next_flush
        pg_stat_clear_snapshot""",
    ),
    **_group(
        K.SERVER,
        "the server's catalogs, written directly",
        """binary_upgrade_add_sub_rel_state binary_upgrade_create_empty_extension binary_upgrade_logical_slot_has_caught_up
        binary_upgrade_replorigin_advance binary_upgrade_set_missing_value binary_upgrade_set_next_array_pg_type_oid
        binary_upgrade_set_next_heap_pg_class_oid binary_upgrade_set_next_heap_relfilenode binary_upgrade_set_next_index_pg_class_oid
        binary_upgrade_set_next_index_relfilenode binary_upgrade_set_next_multirange_array_pg_type_oid
        binary_upgrade_set_next_multirange_pg_type_oid binary_upgrade_set_next_pg_authid_oid binary_upgrade_set_next_pg_enum_oid
        binary_upgrade_set_next_pg_tablespace_oid binary_upgrade_set_next_pg_type_oid binary_upgrade_set_next_toast_pg_class_oid
        binary_upgrade_set_next_toast_relfilenode binary_upgrade_set_record_init_privs pg_import_system_collations pg_nextoid
        pg_stop_making_pinned_objects pg_extension_config_dump fmgr_c_validator fmgr_internal_validator fmgr_sql_validator
        plpgsql_validator plpgsql_call_handler plpgsql_inline_handler pg_surgery heap_force_kill heap_force_freeze""",
    ),
    **_group(
        K.SERVER,
        "raw pages of tables, around every rule on columns",
        """get_raw_page heap_page_items heap_page_item_attrs tuple_data_split bt_page_items bt_page_stats bt_metap brin_page_items
        brin_revmap_data gin_leafpage_items gist_page_items hash_page_items page_header fsm_page_contents pg_visibility pg_visibility_map
        pg_check_frozen pg_check_visible pg_truncate_visibility_map pgrowlocks pgstattuple verify_heapam pg_get_wal_records_info
        pg_get_wal_record_info pg_get_wal_block_info pg_get_wal_stats""",
    ),
    **_group(
        K.CALL,
        "statements or tables given as text, which run unseen",
        """query_to_xml query_to_xmlschema query_to_xml_and_xmlschema
        table_to_xml table_to_xmlschema table_to_xml_and_xmlschema schema_to_xml
        schema_to_xmlschema schema_to_xml_and_xmlschema database_to_xml database_to_xmlschema database_to_xml_and_xmlschema cursor_to_xml
        cursor_to_xmlschema ts_stat ts_rewrite crosstab crosstab2 crosstab3 crosstab4 crosstabn connectby xpath_table currtid2
        xpath_string_table""",
        K.SERVER,
    ),
    **_group(
        K.REPLICATION,
        "replication and logical decoding",
        """pg_create_logical_replication_slot pg_create_physical_replication_slot pg_copy_logical_replication_slot
        pg_copy_physical_replication_slot pg_drop_replication_slot pg_replication_slot_advance pg_sync_replication_slots
        pg_logical_emit_message pg_logical_slot_get_binary_changes pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes
        pg_logical_slot_peek_changes pg_replication_origin_advance pg_replication_origin_create pg_replication_origin_drop
        pg_replication_origin_progress pg_replication_origin_session_is_setup pg_replication_origin_session_progress
        pg_replication_origin_session_reset pg_replication_origin_session_setup pg_replication_origin_xact_reset
        pg_replication_origin_xact_setup pg_show_replication_origin_status pg_get_replication_slots""",
    ),
    **_group(
        K.LOCK,
        "advisory locks",
        """pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock
        pg_try_advisory_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared""",
    ),
    **_group(
        K.MAINTENANCE,
        "upkeep of indexes and statistics",
        """brin_desummarize_range brin_summarize_new_values brin_summarize_range gin_clean_pending_list pg_clear_attribute_stats
        pg_clear_relation_stats pg_restore_attribute_stats pg_restore_relation_stats""",
    ),
    **_group(K.UPDATE, "a sequence, which it moves", "nextval setval"),
    **_group(K.NOTIFY, "a notification to other sessions", "pg_notify"),
    **_group(K.SESSION, "a snapshot that other sessions may take over", "pg_export_snapshot"),
    "set_config": Danger(frozenset(), "a setting", looks_at_arguments=True),
}

# Volatile, and yet without effect or reach: clocks, chance, waiting, sizes and positions. Giving back the session's own advisory locks
# reaches nobody else's; drivers' pools do so whenever a connection comes back.
SAFE_VOLATILE: Final = frozenset(
    """array_sample array_shuffle bernoulli system clock_timestamp current_query currval lastval gen_random_uuid uuidv4 uuidv7 random
    random_normal setseed timeofday pg_sleep pg_sleep_for pg_sleep_until pg_blocking_pids pg_safe_snapshot_blocking_pids
    pg_collation_actual_version pg_database_collation_actual_version pg_control_checkpoint pg_control_init pg_control_recovery
    pg_control_system pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_current_wal_lsn pg_last_wal_receive_lsn
    pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_is_in_recovery pg_is_wal_replay_paused pg_get_wal_replay_pause_state
    pg_get_wal_resource_managers pg_database_size pg_indexes_size pg_relation_size pg_table_size pg_tablespace_size
    pg_total_relation_size pg_partition_ancestors pg_partition_tree pg_sequence_last_value pg_get_sequence_data pg_jit_available
    pg_lock_status pg_notification_queue_usage pg_isolation_test_session_is_blocked pg_last_committed_xact pg_xact_commit_timestamp
    pg_xact_commit_timestamp_origin pg_xact_status txid_status pg_get_backend_memory_contexts pg_get_shmem_allocations
    pg_get_shmem_allocations_numa pg_get_wait_events pg_get_aios pg_stat_get_backend_io pg_stat_get_backend_wal pg_stat_get_io
    pg_stat_get_recovery_prefetch pg_stat_get_xact_blocks_fetched pg_stat_get_xact_blocks_hit pg_stat_get_xact_function_calls
    pg_stat_get_xact_function_self_time pg_stat_get_xact_function_total_time pg_stat_get_xact_numscans
    pg_stat_get_xact_tuples_deleted pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_hot_updated
    pg_stat_get_xact_tuples_inserted pg_stat_get_xact_tuples_newpage_updated pg_stat_get_xact_tuples_returned
    pg_stat_get_xact_tuples_updated pg_stat_have_stats amvalidate pg_get_multixact_members
    pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared""".split()  # noqa: SIM905
)

SAFE: Final = (SAFE_BY_KIND | SAFE_VOLATILE | INFORMATION_FUNCTIONS) - DANGEROUS.keys()


@dataclass(frozen=True, slots=True)
class SecretColumns:
    """Of a catalog whose other columns may be read by SELECT. `may_be_shown`: plainly, and then masked."""

    names: frozenset[str]
    may_be_shown: bool = False


# The catalogs among LEAKY_RELATIONS whose secrets are in columns of their own. What else stands in them anybody may see in pg_roles and the
# like; pg_dump reads pg_subscription whenever a superuser runs it, and names each of its columns.
SECRET_COLUMNS: Final[dict[str, SecretColumns]] = {
    "pg_authid": SecretColumns(frozenset({"rolpassword"})),
    "pg_shadow": SecretColumns(frozenset({"passwd"})),
    "pg_user_mapping": SecretColumns(frozenset({"umoptions"})),
    "pg_user_mappings": SecretColumns(frozenset({"umoptions"})),
    "pg_subscription": SecretColumns(frozenset({"subconninfo"}), may_be_shown=True),
    "pg_stat_activity": SecretColumns(frozenset({"query"})),
}

# Relations of pg_catalog, and of extensions, that hold secrets, values of columns, or other sessions' statements.
LEAKY_RELATIONS: Final[dict[str, str]] = {
    "pg_authid": "password hashes",
    "pg_shadow": "password hashes",
    "pg_user_mapping": "passwords of other servers",
    "pg_user_mappings": "passwords of other servers",
    "user_mapping_options": "passwords of other servers",
    "_pg_user_mappings": "passwords of other servers",
    "pg_subscription": "connection strings with passwords",
    "pg_stat_wal_receiver": "connection strings",
    "pg_dblink_conn": "connection strings",
    "pg_largeobject": "the bytes of large objects",
    "pg_statistic": "values of columns, as statistics",
    "pg_statistic_ext_data": "values of columns, as statistics",
    "pg_stats": "values of columns, as statistics",
    "pg_stats_ext": "values of columns, as statistics",
    "pg_stats_ext_exprs": "values of columns, as statistics",
    "pg_stat_activity": "statements of other sessions, with their values",
    "pg_stat_statements": "statements of other sessions",
    "pg_prepared_xacts": "transactions of other sessions",
    "pg_hba_file_rules": "who may connect, from a file of the server",
    "pg_ident_file_mappings": "who may connect, from a file of the server",
    "pg_file_settings": "the server's configuration files",
}
